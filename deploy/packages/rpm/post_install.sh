# Nothing is enabled or started, unless a preset of the distribution says so.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" = 1 ]; then systemctl preset pintle.service pintle.socket || :; fi
    systemd-tmpfiles --create pintle.conf || :
    modprobe --quiet --all overlay br_netfilter || :
    /usr/lib/systemd/systemd-sysctl /usr/lib/sysctl.d/50-pintle.conf || :
fi
