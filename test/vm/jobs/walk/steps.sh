# The words of the walk: what a step is, what holds, and what is counted.

REGISTRY=127.0.0.1:5000
IMAGE=$REGISTRY/busybox:latest
passed=0

step() { echo "== $1"; }

failed() {
    echo "walk: FAILED: $1"
    tail -n 5 clients/*.log 2>/dev/null
    journalctl --boot --unit pintle.service --no-pager | grep -v 'left-over process\|unclean termination\|remains running' | tail -n 40
    echo "walk: $passed passed, 1 failed"
    exit 1
}

# holds WORDS COMMAND…: the command succeeds.
holds() {
    local words=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
        echo "   $words"
    else
        echo "$output"
        failed "$words ($*)"
    fi
}

# A command whose output is of interest only when it fails.
quietly() {
    local output
    output=$("$@" 2>&1) || { echo "$output"; failed "$*"; }
}

# Until it succeeds; the machine is slow.
eventually() {
    local tries
    for tries in {1..120}; do
        "$@" && return 0
        sleep 0.5
    done
    return 1
}

main_pid() { systemctl show --property MainPID --value pintle.service; }

another_server() {
    [ "$(systemctl is-active pintle.service)" = active ] && [ "$(main_pid)" != "$1" ] && [ "$(main_pid)" != 0 ]
}

# The journal of the service has these words.
told() { journalctl --boot --unit pintle.service --no-pager | grep -q "$1"; }

# Stops one thread of a process and no other: strace holds it at its next system call, and is held itself.
freeze_thread() {
    local task
    for task in /proc/"$1"/task/*; do
        [ "$(cat "$task/comm")" = "$2" ] || continue
        strace -o /dev/null -p "${task##*/}" 2>strace.log &
        frozen=$!
        eventually grep -q attached strace.log || failed "strace holds the thread $2"
        kill -STOP $frozen
        return
    done
    failed "there is a thread $2"
}

thaw() { kill -KILL "$frozen"; }

serve_an_image() {
    mkdir -p registry layout root/bin
    cp /bin/busybox root/bin/
    for name in sh echo sleep; do ln -s busybox root/bin/$name; done
    printf 'version: 0.1\nlog: { level: warn, accesslog: { disabled: true } }\nstorage: { filesystem: { rootdirectory: %s } }\nhttp: { addr: "%s" }\n' \
        "$PWD/registry" "$REGISTRY" >registry.yml
    docker-registry serve registry.yml >registry.log 2>&1 &
    rmdir layout
    quietly umoci init --layout layout
    quietly umoci new --image layout:busybox
    quietly umoci insert --image layout:busybox root/bin /bin
    quietly umoci config --image layout:busybox --config.env PATH=/bin --config.cmd sh
    eventually skopeo copy --quiet --dest-tls-verify=false oci:layout:busybox "docker://$IMAGE" 2>/dev/null || failed "the registry is filled"
}

# A pod that counts. Its client lives through restarts of the server, as a kubelet does.
start_counter() {
    mkdir -p clients counts
    pintle run --name "$1" "$IMAGE" -- sh -c 'i=0; while :; do i=$((i + 1)); echo $i; sleep 0.3; done' >"counts/$1" 2>"clients/$1.log" &
    echo $! >"clients/$1"
    eventually test -s "counts/$1" || { cat "clients/$1.log"; failed "the pod $1 runs"; }
}

end_counter() {
    kill -TERM "$(cat "clients/$1")"
    wait "$(cat "clients/$1")"
    local last
    last=$(tail -n 1 "counts/$1")
    holds "the log of $1 has every line of $last" diff <(seq "$last") "counts/$1"
}

# Who is what is on record: monitors, their children, and when they began.
census() {
    local monitor pid
    for monitor in $(pgrep -x pintle-monitor); do
        for pid in $monitor $(pgrep -P "$monitor"); do
            sed -n 's/^\([0-9]*\) (\(.*\)) /\1 \2 /p' "/proc/$pid/stat" 2>/dev/null | awk '{ print $1, $2, $22 }'
        done
    done | sort -n
}

nobody() { [ -z "$(census)" ]; }

# No container died, each writes on, and the server answers.
nobody_noticed() {
    local name
    holds "no process of a pod has gone or come" diff "$RESULTS/census.txt" <(census)
    for name in ship boat raft; do
        wc -l <"counts/$name" >"counts/$name.then"
        holds "$name counts on" eventually counted_on "$name"
    done
    holds "the server answers" pintle image list
}

counted_on() { [ "$(wc -l <"counts/$1")" -gt "$(cat "counts/$1.then")" ]; }

# What pods leave on a machine when they leave something.
ledger() {
    echo "mounts"
    awk '{ print $5 }' /proc/self/mountinfo | sort
    echo "cgroups"
    find /sys/fs/cgroup -type d -path '*pintle*' ! -path '*/pintle.service*' -o -type d -path '*kubepods*' | sort
    echo "interfaces"
    # The bridge is the plugin's, which leaves it for the next pod.
    ip -oneline link show | awk '{ print $2 }' | grep -v '^pintle0:' | sort
    echo "network namespaces"
    ls /run/netns 2>/dev/null
    echo "addresses that are leased"
    ls /var/lib/cni/networks/*/10.* /var/lib/cni/results/* 2>/dev/null
    echo "rules"
    # The plugins' own chains stay, empty.
    iptables-save 2>/dev/null | grep -v '^[#:*]' | grep -vE '^COMMIT|CNI-(HOSTPORT|FORWARD|ADMIN)' | sort
    echo "scopes"
    systemctl list-units --all --plain --no-legend --type=scope | awk '{ print $1 }' | grep -v '^session-\|^init.scope'
    return 0
}

# Every file that a package may leave.
files() {
    find /etc /usr /opt /run /var/lib /root -xdev \( -path /var/lib/dpkg -o -path /var/lib/apt -o -path /run/systemd -o -path /run/udev \
        -o -path /var/lib/systemd -o -path /run/log -o -path /var/lib/cni -o -path /run/netns -o -path /var/lib/ucf \) -prune -o -print |
        grep -vE '^/etc/cni|^/run/(xtables.lock|mount|lock|runc|crun)|^/usr/share/(mime|applications)|/ld.so.cache$' | sort
}
