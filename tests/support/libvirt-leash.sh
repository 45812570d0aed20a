#!/bin/sh
# Takes down a private libvirtd, its guests, networks and files ($1: its
# directory) once the test that owns it is gone. The processes are known by
# their mount namespace, which names the directory.
base=$1
mark=${base##*/}
cat >/dev/null

members() {
    grep -ls "/$mark/" /proc/[0-9]*/mountinfo | cut -d/ -f3
}
ask() {
    timeout -k 1 5 virsh -q -c "qemu+unix:///system?socket=$base/run/libvirt/libvirt-sock" "$@"
}

for pid in $(members); do kill -CONT "$pid"; done
if ask uri; then
    # At once: libvirt gives each QEMU seconds to end, and a bench has a hundred.
    for domain in $(ask list --uuid); do ask destroy "$domain" & done
    wait
    for network in $(ask net-list --uuid); do ask net-destroy "$network"; done
fi
groups=$(for pid in $(members); do sed -n 's/^0:://p' "/proc/$pid/cgroup"; done | grep -F qemu | sort -u)
for _ in 1 2 3 4 5; do
    pids=$(members)
    [ -n "$pids" ] || break
    for pid in $pids; do kill -9 "$pid"; done
    sleep 0.1
done
for group in $groups; do
    # libvirt makes the guest's group and one below it.
    find "/sys/fs/cgroup${group%%/libvirt*}" -depth -type d -exec rmdir {} +
done
rm -rf --one-file-system "$base"
