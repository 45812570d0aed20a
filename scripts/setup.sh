#!/usr/bin/env bash
# Installs what building, running and testing LIMEN needs on Debian 12 and is
# not there yet. Starts and enables no service, touches no kernel and no boot
# loader, and leaves apt's configuration as it was. Does nothing, without the
# network, when all is there.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: scripts/setup.sh [run]
  run   only what `make run` needs; else what the tests need too (PostgreSQL, nginx)
USAGE
}

purpose=${1:-test}
case $purpose in
    run | test) ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
esac

check_machine
check_rust

missing=()
# need PACKAGE TEST...: the package is needed when the test fails.
need() {
    local package=$1
    shift
    "$@" &>/dev/null || missing+=("$package")
}
has() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }

need ca-certificates test -e /etc/ssl/certs/ca-certificates.crt
need gcc has cc
need libc6-dev test -e /usr/include/stdlib.h
need pkg-config has pkg-config
need libvirt-dev test -e /usr/include/libvirt/libvirt.h
need libvirt-daemon-system test -e /lib/systemd/system/libvirtd.service
need libvirt-clients has virsh
need qemu-system-x86 has qemu-system-x86_64
need qemu-utils has qemu-img
need ovmf test -e /usr/share/OVMF/OVMF_CODE.fd
need dnsmasq-base has dnsmasq
need iproute2 has ss
need curl has curl
if [[ $purpose == test ]]; then
    need nginx has nginx
    need debootstrap has debootstrap
    need postgresql compgen -G '/usr/lib/postgresql/*/bin/postgres'
    need python3-venv python3 -c 'import ensurepip, venv'
    need shellcheck has shellcheck
    need jq has jq
    need openssl has openssl
    need libfaketime compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'
    need sudo has sudo
    need iptables has iptables
    need procps has pkill
    need systemd has systemd-analyze
fi

if ((${#missing[@]} == 0)); then
    exit 0
fi

say "To install, without starting or enabling anything: ${missing[*]}"
((EUID == 0)) || say "This asks sudo for the installation; nothing else needs root."

mkdir -p "$LIMEN_CACHE_DIR"
log=$LIMEN_CACHE_DIR/setup.log
: >"$log"

# Counts what apt-get does: in place on a terminal, else every tenth package.
progress() {
    local tty=0
    [[ -t 1 ]] && tty=1
    awk -v total="${count:-0}" -v tty="$tty" '
        function show(what, n) {
            if (!total) return
            if (tty) printf "\r    %s %d of %d  ", what, n, total
            else if (n == total || n % int(total / 10 + 1) == 0) printf "    %s %d of %d\n", what, n, total
            fflush()
        }
        /^Get:/ { show("fetched", ++fetched) }
        /^Setting up/ { show("installed", ++installed) }
        END { if (tty && total) print "" }'
}

# Runs apt-get, and waits while another process holds its locks.
apt() {
    local tries=0 holder
    until as_root env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -y \
        -o DPkg::Lock::Timeout=5 "$@" 2>&1 | tee -a "$log" | progress; do
        holder=$(tail -20 "$log" | sed -n 's/.*It is held by process \(.*\)/\1/p' | tail -1)
        [[ -n $holder ]] || return 1
        ((++tries < 120)) || die "Gave up waiting for process $holder, which holds apt's lock"
        ((tries > 1)) || say "Waiting for another installation to end: process $holder"
        sleep 5
        : >"$log"
    done
}

failed() {
    tail -15 "$log" >&2
    die "$* All that apt-get said is in $log"
}

# Where another suite's qemu-utils is installed (backports), Debian 12's QEMU
# cannot join it: QEMU is then taken from that suite, through lists of our own.
options=(--no-install-recommends)
scratch=$(mktemp -d)
chmod 755 "$scratch"
qemu_from_backports() {
    local mirror
    mirror=$(apt-cache policy | grep -oE 'https?://[^ ]+/debian\b' | head -1) || true
    [[ $mirror ]] || die "QEMU has to come from bookworm-backports, and apt knows no Debian mirror: add one to its sources."
    mkdir -p "$scratch/parts" "$scratch/lists/partial"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
        "$mirror" bookworm "$mirror" bookworm-backports >"$scratch/sources.list"
    options+=(-o "Dir::Etc::sourcelist=$scratch/sources.list" -o "Dir::Etc::sourceparts=$scratch/parts"
        -o "Dir::State::lists=$scratch/lists" -o "APT::Sandbox::User=root")
    missing=("${missing[@]/%qemu-system-x86/qemu-system-x86/bookworm-backports}")
    missing+=(qemu-system-common/bookworm-backports qemu-system-data/bookworm-backports seabios/bookworm-backports)
}

enabled_units() {
    find /etc/systemd/system /etc/rc[2-5].d -type l 2>/dev/null | sort
}

# The files that keep services from starting; what was there is put back.
policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/limen-setup.conf
restore() {
    local enabled=()
    mapfile -t enabled < <(enabled_units | comm -13 "$scratch/enabled" -)
    as_root rm -f "$policy" "$cluster" "${enabled[@]}"
    [[ ! -e $policy.limen-saved && ! -L $policy.limen-saved ]] || as_root mv "$policy.limen-saved" "$policy"
    rm -rf "$scratch"
}

hold_services() {
    enabled_units >"$scratch/enabled" || true
    # A run that was killed has left the saved file.
    if [[ ! -e $policy.limen-saved && ( -e $policy || -L $policy ) ]]; then
        as_root mv "$policy" "$policy.limen-saved"
    fi
    trap restore EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    if [[ " ${missing[*]} " == *" postgresql "* ]]; then
        as_root mkdir -p "${cluster%/*}"
        echo 'create_main_cluster = false' | as_root tee "$cluster" >/dev/null
    fi
}

# What would happen; it must not include a kernel or a boot loader.
plan() {
    apt-get -s install "${options[@]}" "${missing[@]}" 2>&1 | tee -a "$log"
}

hold_services
if [[ " ${missing[*]} " == *" qemu-system-x86 "* ]] &&
    [[ $(dpkg-query -Wf '${Version}' qemu-utils 2>/dev/null) == *~bpo12* ]]; then
    say "qemu-utils is from bookworm-backports; QEMU will be too"
    qemu_from_backports
fi
update() {
    say "Fetching the package lists"
    apt update "${options[@]:1}" || failed "Could not fetch Debian's package lists."
}

planned=$(plan) || { update && planned=$(plan); } ||
    failed "apt-get sees no way to install these."
if harmful=$(grep -oE '^Inst (linux-image|linux-headers|grub|shim|systemd-boot|initramfs-tools|efibootmgr)[^ ]*' <<<"$planned"); then
    die "apt-get would install ${harmful//$'\n'/, }, which changes how this machine boots. Install the packages by hand, without it."
fi
count=$(grep -c '^Inst ' <<<"$planned") ||
    failed "apt-get has nothing to install, yet something is missing."
say "Packages to install: $count"
if ! apt install "${options[@]}" "${missing[@]}"; then
    # Package lists of last week name files that the mirror has no more.
    grep -qE '404 |Unable to fetch|Failed to fetch' "$log" || failed "The installation failed."
    update
    apt install "${options[@]}" "${missing[@]}" || failed "The installation failed."
fi
say "Installed; nothing was started or enabled"
