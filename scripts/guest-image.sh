#!/usr/bin/env bash
# Makes LIMEN's small guest: a bootable disk or CD that greets on its serial
# console with the nonce given here. Mounts nothing and installs nothing: the
# kernel and the tools are taken from Debian's packages into the cache.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: scripts/guest-image.sh [--nonce NONCE --out FILE [--iso]]

Without --out it only fills the cache (about 30 MB from Debian's mirror, once).
  --nonce NONCE  1 to 64 characters of A-Z a-z 0-9 . _ -
  --out FILE     the raw disk (20 MiB), or with --iso the CD image, to write
  --iso          make a CD image in place of a disk
Both boot by BIOS and by UEFI (without secure boot) and need 96 MiB of memory.
LIMEN_CACHE_DIR moves the cache (default: .cache in the project).
USAGE
}

die() {
    echo "guest-image: $*" >&2
    exit 1
}

nonce='' out='' iso=0
while (($#)); do
    case $1 in
        --nonce) nonce=${2:-}; shift 2 || die "--nonce needs a value" ;;
        --out) out=${2:-}; shift 2 || die "--out needs a file" ;;
        --iso) iso=1; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown argument: $1" ;;
    esac
done
if [[ -n $out && ! $nonce =~ ^[A-Za-z0-9._-]{1,64}$ ]]; then
    die "--out needs --nonce with 1 to 64 characters of A-Z a-z 0-9 . _ -"
fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LIMEN_CACHE_DIR:-$here/../.cache}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
recipe=$(cat "${BASH_SOURCE[0]}" "$here"/guest/* | sha256sum | cut -c1-12)
base=$cache/guest-$recipe

# The partition of the disk starts at 1 MiB and holds a FAT file system, which
# is also the EFI system partition of the CD.
partition_mib=19
modules="virtio/virtio_ring virtio/virtio virtio/virtio_pci_modern_dev
    virtio/virtio_pci_legacy_dev virtio/virtio_pci block/virtio_blk acpi/button input/evdev"

tools() {
    export PATH="$1/usr/bin:$1/bin:$PATH" MTOOLS_SKIP_CHECK=1
    export LD_LIBRARY_PATH="$1/usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

# The clock ticks for ever once it is set (nohz=off highres=off): under software
# emulation an interrupt of a clock that is set anew for each one can be lost,
# and then a CPU sleeps for ever ("kthread timer wakeup didn't happen").
kernel_arguments() {
    echo "console=ttyS0 quiet mitigations=off no_timer_check nohz=off highres=off limen.nonce=$1"
}

syslinux_config() {
    printf 'DEFAULT limen\nLABEL limen\n KERNEL /vmlinuz\n INITRD /initrd.gz\n APPEND %s\n' \
        "$(kernel_arguments "$1")"
}

systemd_boot_entry() {
    printf 'title LIMEN guest\nlinux /vmlinuz\ninitrd /initrd.gz\noptions %s\n' \
        "$(kernel_arguments "$1")"
}

fetch() {
    local kernel packages
    kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image/ { print $2; exit }') || true
    [[ -n $kernel ]] || die "apt knows no linux-image-cloud-amd64; run 'apt-get update' on an amd64 Debian first"
    packages=("$kernel" busybox-static genisoimage isolinux libmagic1 mtools syslinux syslinux-common systemd-boot-efi)
    echo "guest-image: taking $kernel, busybox and boot loaders into $cache (nothing is installed)" >&2
    mkdir debs root
    (cd debs && apt-get download -qq -o APT::Sandbox::User=root "${packages[@]}" >&2) ||
        die "could not download from Debian's mirror; the cache needs it once"
    local deb
    for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done
}

make_initrd() {
    local module directory
    mkdir -p initrd/{bin,dev,lib,proc,sys}
    cp root/bin/busybox initrd/bin/
    install -m 755 "$here/guest/init" initrd/init
    install -m 755 "$here/guest/hello" initrd/bin/hello
    directory=$(echo root/lib/modules/*/kernel/drivers)
    for module in $modules; do
        cp "$directory/$module.ko" initrd/lib/
        basename "$module" >>initrd/lib/order
    done
    (cd initrd && find . | busybox cpio -o -H newc -R 0:0 2>/dev/null | gzip -9n) >initrd.gz
}

make_disk() {
    local volume="disk.img@@1M" sectors=$((partition_mib * 2048))
    truncate -s $((partition_mib + 1))M disk.img
    dd if=root/usr/lib/syslinux/mbr/mbr.bin of=disk.img conv=notrunc status=none
    # One active partition of type EF: first sector 2048, CHS fields unused.
    # shellcheck disable=SC2059
    printf "$(printf '\\x80\\xff\\xff\\xff\\xef\\xff\\xff\\xff\\x00\\x08\\x00\\x00\\x%02x\\x%02x\\x00\\x00' \
        $((sectors & 255)) $((sectors >> 8)))" | dd of=disk.img bs=1 seek=446 conv=notrunc status=none
    printf '\x55\xaa' | dd of=disk.img bs=1 seek=510 conv=notrunc status=none
    mformat -i "$volume" -v LIMEN -T "$sectors" -h 64 -s 32 -H 2048 ::
    mmd -i "$volume" ::/EFI ::/EFI/BOOT ::/loader ::/loader/entries
    mcopy -i "$volume" root/boot/vmlinuz-* ::/vmlinuz
    mcopy -i "$volume" initrd.gz ::/initrd.gz
    mcopy -i "$volume" root/usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
    echo 'timeout 0' | mcopy -i "$volume" - ::/loader/loader.conf
    syslinux --install --offset 1048576 disk.img
}

make_cd_tree() {
    mkdir cd
    cp root/usr/lib/ISOLINUX/isolinux.bin root/usr/lib/syslinux/modules/bios/ldlinux.c32 cd/
    cp root/boot/vmlinuz-* cd/vmlinuz
    cp initrd.gz cd/
}

fill_cache() {
    local work
    work=$(mktemp -d "$cache/guest.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    cd "$work"
    fetch
    tools "$work/root"
    make_initrd
    make_disk
    make_cd_tree
    rm -rf debs initrd initrd.gz root/boot root/lib/modules
    # What other versions of this script made, and nobody used for a week.
    find "$cache" -maxdepth 1 -name 'guest-????????????' -mtime +7 -exec rm -rf {} +
    chmod 755 .
    mv -T "$work" "$base"
    cd "$here"
    trap - EXIT
}

write_configs() {
    syslinux_config "$nonce" | mcopy -o -i "$1" - ::/syslinux.cfg
    systemd_boot_entry "$nonce" | mcopy -o -i "$1" - ::/loader/entries/limen.conf
}

write_disk() {
    cp --sparse=always "$base/disk.img" "$1"
    chmod 644 "$1"
    write_configs "$1@@1M"
}

write_cd() {
    local work
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    dd if="$base/disk.img" of="$work/efi.img" bs=1M skip=1 conv=sparse status=none
    write_configs "$work/efi.img"
    syslinux_config "$nonce" >"$work/isolinux.cfg"
    genisoimage -quiet -input-charset utf-8 -V LIMEN -r -J -o "$1" \
        -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
        -eltorito-alt-boot -e efi.img -no-emul-boot "$base/cd" "$work"
}

exec 9>"$cache/guest.lock"
flock 9
[[ -e $base/disk.img ]] || fill_cache
touch "$base"
flock -u 9
if [[ -n $out ]]; then
    tools "$base/root"
    if ((iso)); then write_cd "$out"; else write_disk "$out"; fi
fi
