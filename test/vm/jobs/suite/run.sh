# In the machine: installs the package, starts the service, and runs the suite against the installed programs, once for each runtime of
# the file `runtimes`. Arguments for nextest are lines of the file `arguments`.
set -u
mapfile -t arguments <arguments
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq -y ./pintle.deb >"$RESULTS/apt.txt" 2>&1 || { cat "$RESULTS/apt.txt"; exit 1; }
systemctl start pintle.service || exit 1
pintle check || true
# The suite looks for both programs in one directory.
mkdir installed
ln -s /usr/bin/pintle /usr/libexec/pintle/pintle-monitor installed/

export PINTLE_BIN_DIR=$PWD/installed PINTLE_TEST_SLOWNESS=8 INSTA_WORKSPACE_ROOT=$PWD/tree
status=0
for runtime in $(cat runtimes); do
    echo "suite: $runtime"
    PINTLE_TEST_RUNTIME=$runtime ./cargo-nextest nextest run --profile vm --config-file tree/.config/nextest.toml \
        --binaries-metadata binaries.json --cargo-metadata cargo.json --workspace-remap tree --target-dir-remap target \
        --no-pager --color never "${arguments[@]}" || status=$?
    cp target/nextest/vm/junit.xml "$RESULTS/junit-$runtime.xml" 2>/dev/null
done
systemctl is-active --quiet pintle.service || { echo "suite: the service did not live on"; status=1; }
# What is left on the machine itself: each test has compared its own world.
{
    echo "mounts"; grep -c . /proc/self/mountinfo; grep pintle /proc/self/mountinfo
    echo "cgroups"; find /sys/fs/cgroup -type d -name '*pintle-test*' -o -type d -name '*kubepods*'
    echo "processes"; pgrep -a 'pintle|conmon|runc|crun'
    echo "network"; ip -brief link
} >"$RESULTS/left.txt" 2>&1
if grep -q pintle-test "$RESULTS/left.txt"; then echo "suite: left behind:"; grep pintle-test "$RESULTS/left.txt"; status=1; fi
exit $status
