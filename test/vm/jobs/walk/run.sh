# In the machine: the package's whole life on a node that has pods. Every step says what it shows; the first that does not hold ends the walk.
set -u
. ./steps.sh
export DEBIAN_FRONTEND=noninteractive

serve_an_image

step "the package is installed, and starts nothing"
ledger >"$RESULTS/ledger-before.txt"
files >"$RESULTS/files-before.txt"
quietly apt-get install -y ./pintle.deb
holds "the service is disabled" test "$(systemctl is-enabled pintle.service)" = disabled
holds "and not running" test "$(systemctl is-active pintle.service)" = inactive
holds "manual pages are found" man --where pintle pintle-run
holds "packets are forwarded" test "$(cat /proc/sys/net/ipv4/ip_forward)" = 1
holds "bridged packets pass the firewall" test "$(cat /proc/sys/net/bridge/bridge-nf-call-iptables)" = 1

step "systemctl enable --now pintle && pintle run IMAGE -- echo hi"
# What a cluster brings: its network, and where its images are.
mkdir -p /etc/cni/net.d
cp /usr/share/doc/pintle/examples/10-pintle-bridge.conflist /etc/cni/net.d/
printf 'image:\n  registries:\n    "%s": { plain_http: true }\n' "$REGISTRY" >/etc/pintle/conf.d/registry.yaml
quietly systemctl enable --now pintle
said=$(pintle run "$IMAGE" -- echo hi)
holds "it says hi" test "$said" = hi

step "pods run"
for name in ship boat raft; do start_counter $name; done
census >"$RESULTS/census.txt"
holds "three monitors and three containers" test "$(wc -l <"$RESULTS/census.txt")" = 6

step "systemctl restart"
quietly systemctl restart pintle
nobody_noticed

step "kill -9"
before=$(main_pid)
kill -9 "$before"
holds "another server serves" eventually another_server "$before"
nobody_noticed

step "a server whose threads go on, but that can record nothing, is replaced by the watchdog"
mkdir -p /run/systemd/system/pintle.service.d
printf '[Service]\nWatchdogSec=20\n' >/run/systemd/system/pintle.service.d/walk.conf
quietly systemctl daemon-reload
quietly systemctl restart pintle
before=$(main_pid)
freeze_thread "$before" pods-db
holds "what only reads is answered" pintle image list
holds "the journal tells of the watchdog" eventually told "Watchdog timeout"
thaw
holds "another server serves" eventually another_server "$before"
rm -r /run/systemd/system/pintle.service.d
quietly systemctl daemon-reload
quietly systemctl restart pintle
nobody_noticed

step "the configuration is read again"
before=$(main_pid)
quietly systemctl reload pintle
holds "by the same server" test "$(main_pid)" = "$before"
nobody_noticed

step "upgrade, downgrade and reinstallation of the package"
for package in pintle-upgrade.deb pintle.deb; do
    before=$(main_pid)
    quietly apt-get install -y --allow-downgrades ./$package
    holds "a new server serves after $package" test "$(main_pid)" != "$before" -a "$(systemctl is-active pintle.service)" = active
    nobody_noticed
done
quietly apt-get install -y --reinstall ./pintle.deb
nobody_noticed

step "systemctl daemon-reexec"
before=$(main_pid)
quietly systemctl daemon-reexec
holds "the server goes on" test "$(main_pid)" = "$before"
nobody_noticed

step "an upgrade that was interrupted half-way"
quietly dpkg --unpack ./pintle-upgrade.deb
quietly systemctl restart pintle
nobody_noticed
quietly dpkg --configure --pending
nobody_noticed

step "socket activation"
quietly systemctl stop pintle.service
# The pods' clients, who ask all the time, are the first callers.
quietly systemctl start pintle.socket
said=$(pintle run "$IMAGE" -- echo hi)
holds "a call starts the server" test "$said" = hi
quietly systemctl restart pintle.service
nobody_noticed
quietly systemctl stop pintle.socket pintle.service
quietly systemctl start pintle.service
nobody_noticed

step "pods end, and nothing is left of them"
for name in ship boat raft; do end_counter $name; done
holds "no process" test -z "$(census)"
# The parent of pods that name none, and the place of network namespaces, are the server's.
ledger | grep -vxE '/sys/fs/cgroup/pintle|/run/netns' >"$RESULTS/ledger-after.txt"
holds "no mount, cgroup, address, rule or scope" diff -u "$RESULTS/ledger-before.txt" "$RESULTS/ledger-after.txt"

step "the package is removed while a pod runs, and comes back"
start_counter wreck
kill -9 "$(cat clients/wreck)"
census >"$RESULTS/census.txt"
quietly apt-get remove -y pintle
holds "the server is gone" test "$(systemctl is-active pintle.service)" != active
holds "the pod is not" diff "$RESULTS/census.txt" <(census)
quietly apt-get install -y ./pintle.deb
holds "what was enabled is enabled" test "$(systemctl is-enabled pintle.service)" = enabled
quietly systemctl start pintle
holds "the pod was not touched" diff "$RESULTS/census.txt" <(census)

step "a purge leaves nothing"
quietly apt-get purge -y pintle
holds "no process" eventually nobody
rm -f /etc/cni/net.d/10-pintle-bridge.conflist
ledger >"$RESULTS/ledger-after.txt"
holds "no mount, cgroup, address, rule or scope" diff -u "$RESULTS/ledger-before.txt" "$RESULTS/ledger-after.txt"
files >"$RESULTS/files-after.txt"
holds "no file" diff -u "$RESULTS/files-before.txt" "$RESULTS/files-after.txt"

step "no unit has failed"
holds "systemctl --failed is empty" test -z "$(systemctl --failed --no-legend --plain | grep -v '^job.service')"
echo "walk: $passed passed, 0 failed"
