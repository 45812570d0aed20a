# shellcheck shell=bash
# What `make run` does to the machine for its guests: starts libvirtd where
# none answers, opens /dev/kvm to QEMU, makes the network `limen`. Sourced
# after lib.sh; HYPERVISOR_URI names the hypervisor.

# Off the terminal, virsh does not look for an agent of polkit there.
libvirt() { as_root timeout 20 setsid -w virsh -q -c "$HYPERVISOR_URI" "$@"; }

# Debian's udev makes /dev/kvm root:kvm 0660. Where no udev runs it stays
# closed to QEMU's user, and libvirt examines QEMU again at every call.
open_kvm() {
    [[ -c /dev/kvm && ! -e /run/udev/control ]] || return 0
    getent group kvm >/dev/null || return 0
    [[ $(stat -c %G:%a /dev/kvm) != kvm:66[0-9] ]] || return 0
    say "Giving /dev/kvm to group kvm, as udev does"
    as_root chgrp kvm /dev/kvm
    as_root chmod 660 /dev/kvm
}

# Only the machine's own libvirtd is ever started; another is only asked.
start_libvirtd() {
    if libvirt uri &>/dev/null; then
        return
    fi
    [[ $HYPERVISOR_URI == qemu:///system ]] || die "No hypervisor answers at $HYPERVISOR_URI (HYPERVISOR_URI). Start it, or leave the variable out."
    say "Starting libvirtd; it stays when this ends"
    if [[ -d /run/systemd/system ]]; then
        as_root systemctl start virtlogd.socket libvirtd.service
    else
        # Daemons of their own session: no Ctrl-C reaches them. Without polkit
        # it is the socket's mode that admits group libvirt.
        mkdir -p "$LIMEN_CACHE_DIR"
        printf '%s\n' 'unix_sock_group = "libvirt"' 'unix_sock_rw_perms = "0770"' \
            'auth_unix_ro = "none"' 'auth_unix_rw = "none"' >"$LIMEN_CACHE_DIR/libvirtd.conf"
        [[ -S /run/libvirt/virtlogd-sock ]] || as_root setsid -w virtlogd -d
        as_root setsid -w libvirtd -d -f "$LIMEN_CACHE_DIR/libvirtd.conf"
    fi
    libvirt uri >/dev/null || die "libvirtd was started and does not answer. 'virsh -c $HYPERVISOR_URI uri' tells why."
}

# Sets `member` to what makes a command run as the caller in groups libvirt and
# kvm, whether or not the caller's login is in them yet; nothing for root.
# shellcheck disable=SC2034 # for those who source this
become_member() {
    local groups
    member=()
    ((EUID != 0)) || return 0
    groups=$(id -G | tr ' ' ,),$(getent group libvirt | cut -d: -f3),$(getent group kvm | cut -d: -f3)
    member=(sudo --preserve-env="PORT,BIND_ADDRESS,ADMIN_USER,ADMIN_PASSWORD,HYPERVISOR_URI,LIMEN_DATA_DIR,LIMEN_VMS_DIR"
        setpriv "--reuid=$(id -u)" "--regid=$(id -g)" "--groups=$groups" env "HOME=$HOME")
}

# Polkit admits by the user database, not by the groups of a process.
admit_caller() {
    local caller
    caller=$(id -un)
    if ((EUID != 0)) && ! id -nG "$caller" | grep -qw libvirt; then
        say "Adding $caller to group libvirt, who may use libvirtd ('sudo gpasswd -d $caller libvirt' takes it back)"
        as_root usermod -aG libvirt "$caller"
    fi
}

# Prints every IPv4 net that this machine knows, as address/length.
known_nets() {
    local name
    ip -4 -o address show | awk '{ print $4 }'
    ip -4 route show table all | awk '$1 ~ /^[0-9.]+(\/[0-9]+)?$/ { print $1 } $1 ~ /^(local|broadcast|unreachable|blackhole)$/ { print $2 }'
    for name in $(libvirt net-list --all --name); do
        libvirt net-dumpxml "$name" | sed -n "s/.*<ip .*address='\([0-9.]*\)'.*netmask='\([0-9.]*\)'.*/\1 \2/p" |
            awk '{ n = split($2, m, "."); for (i = 1; i <= n; i++) while (m[i]) { l += m[i] % 2; m[i] = int(m[i] / 2) } print $1 "/" l }'
    done
}

# Prints the first of our /24 nets (without its last number) that none of
# the nets on standard input overlaps.
free_net() {
    awk '
        function number(address,    p) { split(address, p, "."); return ((p[1] * 256 + p[2]) * 256 + p[3]) * 256 + p[4] }
        {
            split($1, part, "/")
            size = 2 ^ (32 - (part[2] == "" ? 32 : part[2]))
            from[++n] = int(number(part[1]) / size) * size
            to[n] = from[n] + size - 1
        }
        END {
            for (i = 150; i < 250; i++) {
                start = number("192.168." i ".0"); free = 1
                for (k = 1; k <= n; k++) if (from[k] <= start + 255 && to[k] >= start) free = 0
                if (free) { print "192.168." i; exit }
            }
        }'
}

# Makes and starts the network `limen`. Fails with a sentence on its output
# where that cannot be.
start_network() {
    local net xml
    libvirt net-list --all --name | grep -qx limen || {
        net=$(known_nets | free_net)
        [[ -n $net ]] || { echo "every net from 192.168.150.0/24 to 192.168.249.0/24 is in use"; return 1; }
        xml=$(mktemp)
        cat >"$xml" <<XML
<network>
  <name>limen</name>
  <forward mode='nat'/>
  <bridge stp='on' delay='0'/>
  <ip address='$net.1' netmask='255.255.255.0'>
    <dhcp><range start='$net.2' end='$net.254'/></dhcp>
  </ip>
</network>
XML
        libvirt net-define "$xml" >/dev/null 2>"$xml.error" || { sed 's/^error: //' "$xml.error" | tail -1; rm -f "$xml" "$xml.error"; return 1; }
        rm -f "$xml" "$xml.error"
    }
    libvirt net-list --name | grep -qx limen || libvirt net-start limen 2>&1 >/dev/null | sed -n 's/^error: //p' | tail -1
    libvirt net-list --name | grep -qx limen
}
