#!/usr/bin/env bash
# Installs LIMEN as a service of systemd, or removes it. It starts nothing.
#
#   install.sh [--root DIR] [--bin FILE]
#   install.sh --configure
#   install.sh --uninstall [--root DIR]
#
# --configure is the part that a package leaves to the machine: the user, who owns
# what, and how much of the log is kept.
# --root DIR installs below DIR and makes no user: for packages and tests.
# --bin FILE is the program; without it, the one that was built here. The agent,
# limen-agent, stands beside it.
# A second run is an upgrade: settings that are there stay. What --uninstall
# keeps are settings, secrets, data and the user: `limen` may own guests' disks.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

root=
action=install
limen=${CARGO_TARGET_DIR:-$project/target}/release/limen
while (($#)); do
    case $1 in
    --root)
        root=${2:?--root needs a directory}
        shift
        ;;
    --bin)
        limen=${2:?--bin needs a file}
        shift
        ;;
    --configure) action=configure ;;
    --uninstall) action=uninstall ;;
    *) die "$1 is no option. install.sh [--root DIR] [--bin FILE], --configure, or --uninstall" ;;
    esac
    shift
done

agent=$(dirname "$limen")/limen-agent
units=$root/etc/systemd/system
journald=$root/etc/systemd/journald.conf.d
programs=$root/usr/bin

# Whether this is the machine itself, with systemd at work.
is_live() { [[ -z $root && -d /run/systemd/system ]]; }

# A size of journald.conf in bytes; nothing for what is none.
bytes() {
    local -A factor=([K]=1024 [M]=$((1 << 20)) [G]=$((1 << 30)) [T]=$((1 << 40)))
    [[ $1 =~ ^([0-9]+)([KMGT]?)B?$ ]] || return 0
    echo $((10#${BASH_REMATCH[1]} * ${factor[${BASH_REMATCH[2]:-x}]:-1}))
}

# A span of journald.conf in seconds; nothing for what is none.
seconds() {
    local -A factor=([min]=60 [h]=3600 [day]=86400 [week]=604800 [month]=2629800 [year]=31557600)
    [[ $1 =~ ^([0-9]+)(min|h|day|week|month|year|s?)s?$ ]] || return 0
    echo $((10#${BASH_REMATCH[1]} * ${factor[${BASH_REMATCH[2]:-s}]:-1}))
}

# The value that journald has for a setting without LIMEN's file.
known() {
    local files=("$root/etc/systemd/journald.conf" "$journald"/*.conf) file
    for file in "${files[@]}"; do
        [[ ! -f $file || $file == "$journald/limen.conf" ]] || sed -n "s/^[[:space:]]*$1[[:space:]]*=[[:space:]]*//p" "$file"
    done | tail -n 1
}

# setting NAME VALUE UNIT lt|gt: LIMEN's line, or none where there is one that is stricter already.
setting() {
    local name=$1 value=$2 unit=$3 stricter=$4 there ours
    there=$("$unit" "$(known "$name")")
    ours=$("$unit" "$value")
    if [[ -n $there ]] && { [[ $stricter == lt && $there -gt 0 && $there -lt $ours ]] || [[ $stricter == gt && $there -gt $ours ]]; }; then
        echo "# $name: there is a stricter one already"
    else
        echo "$name=$value"
    fi
}

journald_settings() {
    echo '# Written by install.sh of LIMEN: how much of the log is kept.'
    echo '[Journal]'
    setting SystemMaxUse 1G bytes lt
    setting SystemKeepFree 100M bytes gt
    setting MaxRetentionSec 14day seconds lt
    echo 'Compress=yes'
}

make_user() {
    getent group libvirt >/dev/null || die "There is no group libvirt: install libvirt-daemon-system first."
    getent passwd limen >/dev/null ||
        useradd --system --home-dir /var/lib/limen --no-create-home --shell /usr/sbin/nologin limen
    # libvirt asks polkit, which asks whether the user, not the process, is of the group.
    usermod --append --groups libvirt limen
}

install_all() {
    [[ -n $root ]] || ((EUID == 0)) || die "Installing needs root: sudo $0"
    [[ -x $limen ]] || die "There is no program at $limen. 'make build' builds it, --bin names another."
    [[ -x $agent ]] || die "There is no program at $agent, beside limen. 'make build' builds both."
    install -D -m 755 "$limen" "$programs/limen"
    install -D -m 755 "$agent" "$programs/limen-agent"
    install -D -m 644 -t "$units" "$project"/scripts/{limen.service,limen-agent.service,limen-backup.service,limen-backup.timer}
    install -d -m 755 "$units/limen.service.d"
    # The backup has the server's settings; a directory that is there is the operator's. systemd
    # follows no relative link here.
    [[ -e $units/limen-backup.service.d || -L $units/limen-backup.service.d ]] ||
        ln -s /etc/systemd/system/limen.service.d "$units/limen-backup.service.d"
    [[ -e $units/limen.service.d/settings.conf ]] ||
        install -m 644 "$project/scripts/limen.service.d/settings.conf" "$units/limen.service.d/settings.conf"
    configure_all
    say "Installed; nothing was started. Settings: $units/limen.service.d/settings.conf"
    say "Start it, now and at each boot: systemctl enable --now limen.service"
}

configure_all() {
    local owner=()
    if [[ -z $root ]]; then
        make_user
        owner=(-o limen -g limen)
    fi
    install -d -m 700 "$root/etc/limen"
    install -d -m 711 "${owner[@]}" "$root/var/lib/limen"
    install -d -m 755 "$journald"
    journald_settings >"$journald/limen.conf"
    chmod 644 "$journald/limen.conf"
    if is_live; then
        systemctl daemon-reload
        systemctl try-restart systemd-journald.service
    fi
}

uninstall_all() {
    if [[ -z $root ]]; then
        ((EUID == 0)) || die "Removing needs root: sudo $0 --uninstall"
        ! is_live || systemctl disable --now limen.service limen-agent.service limen-backup.timer || true
    fi
    rm -f "$programs"/{limen,limen-agent} "$units"/{limen.service,limen-agent.service,limen-backup.service,limen-backup.timer} "$journald/limen.conf"
    [[ ! -L $units/limen-backup.service.d ]] || rm "$units/limen-backup.service.d"
    ! is_live || systemctl daemon-reload
    say "Removed. Kept: settings ($units/limen.service.d, $root/etc/limen) and data ($root/var/lib/limen); guests go on."
}

"${action}_all"
