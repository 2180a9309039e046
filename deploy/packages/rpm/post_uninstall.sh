# After an upgrade the new server takes over from the old one, pods as they are.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    if [ "$1" -ge 1 ]; then systemctl try-restart pintle.service || :; fi
fi
