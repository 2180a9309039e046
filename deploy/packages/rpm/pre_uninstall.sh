# The last version goes: the server stops, containers run on.
if [ "$1" = 0 ] && [ -d /run/systemd/system ]; then
    systemctl --no-reload disable --now pintle.socket pintle.service || :
fi
