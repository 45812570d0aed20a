#!/usr/bin/env bash
# LIMEN's package in a Debian that really boots: systemd as process 1, with libvirt
# and PostgreSQL. What happens inside is in booted/inside.sh, whose lines `ok` and
# `not ok` are the outcome. A part of `make campaign`; some ten minutes without KVM, which LIMEN_BOOTED_ACCEL=kvm uses.
#
#   booted.sh PACKAGE...
#
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

(($#)) || die "Which package? 'make deb' builds one."
PATH=$PATH:/usr/sbin:/sbin
image=$("$project/scripts/debian-image.sh")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cp --sparse=always "$image/disk.ext4" "$scratch/disk.ext4"
cat >"$scratch/inside.service" <<'UNIT'
[Unit]
After=multi-user.target libvirtd.service postgresql.service

[Service]
Type=oneshot
ExecStartPre=mount -o ro /dev/vdb /mnt
ExecStart=/mnt/inside.sh
ExecStopPost=-systemctl poweroff --force
StandardOutput=file:/dev/ttyS0
StandardError=file:/dev/ttyS0
UNIT
# No mount is needed to put it there.
debugfs -w -f - "$scratch/disk.ext4" >/dev/null 2>&1 <<DEBUGFS
write $scratch/inside.service /etc/systemd/system/inside.service
mkdir /etc/systemd/system/default.target.wants
symlink /etc/systemd/system/default.target.wants/inside.service /etc/systemd/system/inside.service
DEBUGFS

mkdir "$scratch/given"
cp "$project"/tests/booted/*.sh "$scratch/given"
cp "$@" "$scratch/given"
truncate -s 256M "$scratch/given.ext4"
mkfs.ext4 -q -d "$scratch/given" "$scratch/given.ext4"

# A /dev/kvm that is there may still not work, as inside another machine.
accel=${LIMEN_BOOTED_ACCEL:-tcg,thread=multi}
say "Booting a Debian of its own ($accel)"
log=${LIMEN_BOOTED_LOG:-$scratch/log}
: >"$log"
timeout 2400 qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 3072 -nodefaults -no-reboot -display none \
    -kernel "$image/vmlinuz" -initrd "$image/initrd.img" -append 'root=/dev/vda rw quiet console=ttyS0' \
    -drive "file=$scratch/disk.ext4,format=raw,if=virtio,cache=unsafe" \
    -drive "file=$scratch/given.ext4,format=raw,if=virtio,readonly=on" \
    -nic none -serial "file:$log" &
machine=$!
shown=0
# Shows lines as they come.
follow() {
    local lines
    lines=$(wc -l <"$log")
    ((lines <= shown)) || sed -n "$((shown + 1)),${lines}p" "$log" | tr -d '\r' | grep -aE '^(ok|not ok|#|1\.\.)' || true
    shown=$lines
}
while kill -0 "$machine" 2>/dev/null; do
    follow
    sleep 2
done
follow
wait "$machine" || die "The machine did not come to its end; its last lines: $(tail -n 5 "$log")"
planned=$(tr -d '\r' <"$log" | sed -n 's/^1\.\.\([0-9]*\)$/\1/p')
good=$(tr -d '\r' <"$log" | grep -ac '^ok ') || true
bad=$(tr -d '\r' <"$log" | grep -ac '^not ok ') || true
if ((bad > 0)) || [[ $planned != "$good" ]]; then
    die "In the Debian that boots $bad of $((good + bad)) failed${planned:+, of $planned that there are}: $(tail -n 5 "$log")"
fi
say "All $good hold in a Debian that boots"
