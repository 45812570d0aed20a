#!/usr/bin/env bash
# Builds LIMEN's Debian package out of what is built: `make deb`. It installs nothing.
#
#   deb.sh [--to DIR] [OPTIONS OF install.sh]
#
# The package has what `install.sh --root` puts below a directory, its units where a
# package has them, and runs `install.sh --configure` when it is installed. It
# starts and enables nothing. Purging it keeps /var/lib/limen: disks of guests are there.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

to=${CARGO_TARGET_DIR:-$project/target}/deb
if [[ ${1:-} == --to ]]; then
    to=${2:?--to needs a directory}
    shift 2
fi

PATH=$PATH:/usr/sbin:/sbin
[[ $(command -v dpkg-deb) && $(command -v readelf) ]] || die "There is no dpkg-deb or no readelf here: packages are built on Debian, with binutils."
version=$(sed -n '/^\[workspace.package\]/,/^$/s/^version = "\(.*\)"/\1/p' "$project/Cargo.toml")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tree=$scratch/limen
mkdir -m 755 "$tree" "$tree/DEBIAN"

"$project/scripts/install.sh" --root "$tree" "$@" >/dev/null
# Units of packages; what is left in /etc is the operator's.
install -d -m 755 "$tree/usr/lib/systemd/system"
find "$tree/etc/systemd/system" -maxdepth 1 -type f -exec mv -t "$tree/usr/lib/systemd/system" {} +
# How much of the log is kept depends on the machine.
rm -r "$tree/etc/systemd/journald.conf.d"
install -D -m 755 -t "$tree/usr/lib/limen/scripts" "$project"/scripts/{install.sh,limen-control.sh}
install -m 644 -t "$tree/usr/lib/limen/scripts" "$project"/scripts/{lib.sh,agent.sh}
doc=$tree/usr/share/doc/limen
install -D -m 644 -t "$doc" "$project"/{README.md,SECURITY.md,NOTICE.md} "$project"/docs/*.md
for part in en ko monitoring; do
    install -D -m 644 -t "$doc/$part" "$project/docs/$part"/*
done
gzip -9nc "$project/CHANGELOG.md" >"$doc/changelog.gz"
{
    echo "LIMEN may be used under either of these two licences, as you like."
    printf '\n%s\n\n' 'Apache License 2.0: see /usr/share/common-licenses/Apache-2.0. MIT:'
    cat "$project/LICENSE-MIT"
} >"$doc/copyright"
find "$doc" -type f -exec chmod 644 {} +

# The packages of the libraries that the programs ask for. A program that is a
# script, as in tests, asks for none.
libraries() {
    local needed file package
    needed=$(readelf -d "$tree"/usr/bin/* 2>/dev/null | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u)
    for file in $needed; do
        file=$(ldconfig -p | sed -n "s|.*$file .*x86-64.* => ||p" | head -1)
        # dpkg may know it by the name of before /usr was merged.
        file=$(realpath "$file")
        package=$(dpkg -S "$file" 2>/dev/null || dpkg -S "${file#/usr}" 2>/dev/null) || die "No package has $file."
        echo "${package%%:*}"
    done | sort -u | while read -r package; do
        printf '%s (>= %s), ' "$package" "$(dpkg-query -Wf '${source:Upstream-Version}' "$package")"
    done
}
depends=$(libraries)

cat >"$tree/DEBIAN/control" <<CONTROL
Package: limen
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: LIMEN <limen@localhost>
Installed-Size: $(du -sk "$tree" | cut -f1)
Depends: ${depends}libvirt-daemon-system, adduser
Recommends: qemu-system-x86, qemu-utils
Suggests: postgresql, postgresql-client, nginx
Section: admin
Priority: optional
Description: manager of KVM virtual machines
 LIMEN manages the virtual machines of a libvirt host over HTTP: create,
 start, watch, reach their consoles, and keep them apart by users, quotas
 and an audit. Guests go on when it is stopped or removed. Its host agent tells
 the figures of the machine to it and to Prometheus.
CONTROL

find "$tree/etc" -type f -printf '/etc/%P\n' | sort >"$tree/DEBIAN/conffiles"

# script NAME: one of dpkg's scripts, from standard input.
script() {
    { printf '%s\n' '#!/bin/sh' 'set -e'; cat; } >"$tree/DEBIAN/$1"
    chmod 755 "$tree/DEBIAN/$1"
}
units=$(find "$tree/usr/lib/systemd/system" -type f -printf '%f\n' | sort | tr '\n' ' ')
script postinst <<POSTINST
[ "\$1" = configure ] || exit 0
/usr/lib/limen/scripts/install.sh --configure
# An upgrade: what runs is started anew; guests go on.
[ -z "\$2" ] || [ ! -d /run/systemd/system ] || systemctl try-restart $units
POSTINST
script prerm <<PRERM
[ "\$1" = remove ] || exit 0
[ ! -d /run/systemd/system ] || systemctl disable --now $units
PRERM
script postrm <<'POSTRM'
case $1 in
remove | purge)
    rm -f /etc/systemd/journald.conf.d/limen.conf
    ;;
esac
if [ "$1" = purge ]; then
    rm -rf /etc/limen
    cd /etc/systemd/system && rm -rf limen.service.d limen-agent.service.d limen-backup.service.d
    # Its files keep their number; the next installation takes them over.
    ! getent passwd limen >/dev/null || deluser --quiet --system limen
    ! getent group limen >/dev/null || delgroup --quiet --system limen
    [ ! -d /var/lib/limen ] || echo "limen: the disks of guests are still in /var/lib/limen; remove it by hand when nobody needs them." >&2
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
POSTRM

mkdir -p "$to"
package=$to/limen_${version}_$(dpkg --print-architecture).deb
dpkg-deb -Zzstd --root-owner-group --build "$tree" "$package" >/dev/null
say "Built $package; install it with: apt install $package"
