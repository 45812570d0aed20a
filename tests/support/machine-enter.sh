#!/bin/sh
# Becomes the first process of a machine within the machine. Runs as root in
# namespaces of its own (`unshare -m -n`); $1 is the machine's directory, $2 the
# directory of the project, $3 the home of who has cargo.
set -eu
base=$1 project=$2 cargo_home=$3

# People, groups and their rights are of its own; `limen-builder` may use sudo, and
# has Rust and the project at home.
cp -a /etc "$base/all-etc"
mount --bind "$base/all-etc" /etc
home=$base/home
mkdir -p "$home/.cargo" "$home/.rustup" "$home/limen" "$home/cache"
useradd --no-create-home --home-dir "$home" --shell /bin/bash limen-builder
mkdir -p /etc/sudoers.d
echo 'limen-builder ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/limen-builder
chmod 755 "$base" "$home"
chown limen-builder:limen-builder "$home" "$home/cache"
for dir in .cargo .rustup; do
    [ ! -d "$cargo_home/$dir" ] || mount --bind "$cargo_home/$dir" "$home/$dir"
done
mount --bind "$project" "$home/limen"

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
