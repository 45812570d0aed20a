#!/bin/sh
# Becomes the first process of a machine within the machine. Runs as root in
# namespaces of its own (`unshare -m -n`); $1 is the machine's directory.
set -eu
base=$1

mount --bind "$base/run" /run
mount --bind "$base/etc" /etc/libvirt
mount --bind "$base/lib" /var/lib/libvirt
mount --bind "$base/cache" /var/cache/libvirt
mount --bind "$base/log" /var/log/libvirt
if [ -e /dev/kvm ]; then
    mount --bind "$base/kvm" /dev/kvm
fi
ip link set lo up
touch "$base/up"
exec sleep infinity
