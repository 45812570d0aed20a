#!/bin/sh
# Becomes a private libvirtd. Runs as root in a mount namespace of its own
# (`unshare -m`); $1 is the directory that holds everything the daemon writes,
# the rest is for libvirtd itself.
set -eu
base=$1
shift

# A private /run hides D-Bus and the system's libvirt too.
mount --bind "$base/run" /run
mount --bind "$base/etc" /etc/libvirt
mount --bind "$base/lib" /var/lib/libvirt
mount --bind "$base/cache" /var/cache/libvirt
mount --bind "$base/log" /var/log/libvirt
# A /dev/kvm that QEMU's user cannot open makes libvirt probe QEMU again at
# every call: seconds each.
if [ -e /dev/kvm ]; then
    mount --bind "$base/kvm" /dev/kvm
fi
exec libvirtd --config "$base/etc/libvirtd.conf" --pid-file "$base/libvirtd.pid" "$@"
