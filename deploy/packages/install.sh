#!/bin/sh
# Installs Pintle from this archive: install.sh [--prefix DIRECTORY] [--destdir DIRECTORY], or takes it out again: install.sh --uninstall.
# Run it again with a newer archive to upgrade: a server that runs is restarted, pods are not touched. Removal keeps pods and images.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
destdir=
action=install
while [ $# -gt 0 ]; do
    case "$1" in
    --prefix) prefix=${2:?--prefix wants a directory}; shift ;;
    --destdir) destdir=${2:?--destdir wants a directory}; shift ;;
    --uninstall) action=uninstall ;;
    *) sed -n 's/^# //p' "$0" | head -n 2 >&2; exit 64 ;;
    esac
    shift
done
live=
if [ -z "$destdir" ]; then
    [ "$(id -u)" = 0 ] || { echo "install.sh: not root" >&2; exit 77; }
    [ ! -d /run/systemd/system ] || live=yes
fi
cd "$here/files"
if [ $action = uninstall ]; then
    if [ -n "$live" ]; then systemctl --quiet disable --now pintle.socket pintle.service 2>/dev/null || true; fi
    find . ! -type d | while read -r file; do rm -f "$destdir$prefix/$file"; done
    # Only directories that are named for us; others are shared.
    rmdir "$destdir$prefix/libexec/pintle" "$destdir$prefix/share/pintle" "$destdir$prefix/share/doc/pintle/examples" \
        "$destdir$prefix/share/doc/pintle" 2>/dev/null || true
    if [ -n "$live" ]; then systemctl daemon-reload; fi
    exit 0
fi
# Beside its place and then renamed: a program that runs cannot be overwritten, and an interruption leaves no half of one.
find . ! -type d | while read -r file; do
    to="$destdir$prefix/$file"
    mkdir -p "$(dirname "$to")"
    cp -p "$file" "$to.new"
    mv -f "$to.new" "$to"
done
if [ -n "$live" ]; then
    systemctl daemon-reload
    systemd-tmpfiles --create "$prefix/lib/tmpfiles.d/pintle.conf" || true
    modprobe --quiet --all overlay br_netfilter || true
    for sysctl in /usr/lib/systemd/systemd-sysctl /lib/systemd/systemd-sysctl; do
        [ ! -x $sysctl ] || { $sysctl "$prefix/lib/sysctl.d/50-pintle.conf" || true; break; }
    done
    systemctl try-restart pintle.service
    echo "installed below $prefix; systemctl enable --now pintle starts it"
else
    echo "installed below $destdir$prefix"
fi
