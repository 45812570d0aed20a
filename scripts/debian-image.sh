#!/usr/bin/env bash
# Makes a Debian 12 that boots, with systemd, libvirt, QEMU and PostgreSQL, in a
# file in the cache: what LIMEN's package is tried in. Prints where it is.
#
#   debian-image.sh
#
# Needs root for debootstrap's chroot; nothing is mounted here but below its own
# directory, and nothing is installed on this machine.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(
    systemd systemd-sysv libpam-systemd dbus udev linux-image-cloud-amd64 initramfs-tools
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils
    postgresql postgresql-client nginx-light
    curl jq net-tools ufw sudo procps iproute2 adduser ca-certificates
)
suite=bookworm

((EUID == 0)) || die "A Debian is made as root: sudo $0"
PATH=$PATH:/usr/sbin:/sbin
for program in debootstrap mkfs.ext4; do
    command -v "$program" >/dev/null || die "There is no $program; 'scripts/setup.sh' installs it."
done
key=$(printf '%s\n' "$suite" "${packages[@]}" | sha256sum | cut -c1-12)
image=$LIMEN_CACHE_DIR/debian-$key
if [[ ! -e $image/done ]]; then
    mirror=$(apt-cache policy | grep -oE 'https?://[^ ]+/debian\b' | head -1) || true
    [[ $mirror ]] || die "apt knows no Debian mirror here: add one to its sources."
    say "Making a Debian $suite out of packages of $mirror; this takes some minutes" >&2
    rm -rf "$LIMEN_CACHE_DIR"/debian-*
    mkdir -p "$image/root"
    trap 'rm -rf "$image/root"' EXIT
    # Its services must not start in the chroot.
    debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" "$suite" "$image/root" "$mirror" \
        >"$image/log" 2>&1 || die "debootstrap failed: $(tail -3 "$image/log")"
    cp -L "$image/root/vmlinuz" "$image/vmlinuz"
    cp -L "$image/root/initrd.img" "$image/initrd.img"
    rm -rf "$image"/root/var/cache/apt/archives/*.deb
    echo limen-booted >"$image/root/etc/hostname"
    echo '127.0.0.1 localhost limen-booted' >"$image/root/etc/hosts"
    echo '/dev/vda / ext4 defaults 0 1' >"$image/root/etc/fstab"
    truncate -s 6G "$image/disk.ext4"
    mkfs.ext4 -q -L root -d "$image/root" "$image/disk.ext4"
    touch "$image/done"
fi
echo "$image"
