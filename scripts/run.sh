#!/usr/bin/env bash
# `make run`: from a bare Debian 12 to a server on 127.0.0.1 with a real guest
# that has said hello. Ctrl-C stops the server; guests go on.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/agent.sh
. "$(dirname "${BASH_SOURCE[0]}")/agent.sh"
# shellcheck source=scripts/host.sh
. "$(dirname "${BASH_SOURCE[0]}")/host.sh"
cd "$project"

port=${PORT:-18443}
url=http://127.0.0.1:$port
user=${ADMIN_USER:-admin}
if ((EUID == 0)); then
    data=${LIMEN_DATA_DIR:-/var/lib/limen}
    vms=${LIMEN_VMS_DIR:-$data/vms}
else
    # QEMU cannot enter a home directory.
    data=${LIMEN_DATA_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/limen}
    vms=${LIMEN_VMS_DIR:-/var/lib/limen-$(id -un)}
fi
log=$data/server.log
limen=${LIMEN_BIN:-${CARGO_TARGET_DIR:-target}/release/limen}
server=
agent=
export PORT=$port BIND_ADDRESS=${BIND_ADDRESS:-127.0.0.1} ADMIN_USER=$user
export HYPERVISOR_URI=${HYPERVISOR_URI:-${LIBVIRT_URI:-qemu:///system}} LIMEN_DATA_DIR=$data LIMEN_VMS_DIR=$vms
unset LIBVIRT_URI

healthy() { curl -fsS --max-time 5 "$url/api/health" 2>/dev/null | grep -q '"hosts"'; }

# How to get in, and what to type first: the last lines.
show_door() {
    local file=$data/initial-admin-password password shown
    if [[ -n ${ADMIN_PASSWORD:-} ]]; then
        shown='the one in ADMIN_PASSWORD' password="\$ADMIN_PASSWORD"
    elif [[ -r $file ]]; then
        shown="in $file" password="\$(cat $file)"
        [[ ! -t 1 ]] || shown=$(<"$file")
    else
        shown='the one you chose' password='...'
    fi
    cat <<DOOR

  LIMEN     $url    try it by hand: $url/docs
  user      $user
  password  $shown

  token=\$(curl -s $url/api/auth/login --json "{\"username\":\"$user\",\"password\":\"$password\"}" | sed 's/.*"access_token": *"\([^"]*\).*/\1/')
  curl -s $url/api/vms -H "Authorization: Bearer \$token"
  curl -s $url/agent/metrics
DOOR
}

check_port() {
    local holder
    if healthy; then
        say "LIMEN is running already; this changed nothing."
        show_door
        exit 0
    fi
    [[ $port =~ ^[0-9]{1,5}$ ]] || die "PORT is \"$port\", which is no port. PORT=18443 make run"
    if (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
        holder=$(ss -Hltnp "sport = :$port" 2>/dev/null | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/\1 (process \2)/p' | head -1) || true
        die "Port $port is taken by ${holder:-a process of another user}. Stop it, or choose another port: PORT=18444 make run"
    fi
}

build() {
    local as_caller=()
    # Under sudo the tree stays the caller's.
    if ((EUID == 0)) && [[ -n ${SUDO_USER:-} ]]; then
        as_caller=(runuser -u "$SUDO_USER" -- env "PATH=$PATH" "HOME=$(getent passwd "$SUDO_USER" | cut -d: -f6)")
    fi
    [[ -x $limen ]] || say "Building the server; some minutes the first time"
    "${as_caller[@]}" cargo build --release --locked -p limen-http -p limen-agent
}

start_server() {
    ((EUID == 0)) || as_root install -d -m 711 "$vms"
    [[ -d $data ]] || install -d -m 711 "$data"
    start_agent "$limen" "$data/agent.log"
    # A session of its own: Ctrl-C reaches it once, through us.
    become_member
    setsid "${member[@]}" "$limen" serve >>"$log" 2>&1 &
    server=$!
    local tries=0
    until healthy; do
        if [[ ! -d /proc/$server ]] || ((++tries > 300)); then
            tail -5 "$log" >&2
            die "The server did not start; its log is $log"
        fi
        sleep 0.1
    done
}

# shellcheck disable=SC2317 # called by a trap
stop_server() {
    trap '' INT TERM HUP
    [[ -z $agent || ! -d /proc/$agent ]] || kill -TERM "$agent"
    [[ -n $server && -d /proc/$server ]] || return 0
    as_root kill -TERM "$server"
    wait "$server" || true
    printf '\n'
    say "The server has stopped; its guests go on. 'make run' starts it again."
}

check_port
check_machine
check_rust
[[ -e $limen ]] || say "This installs what is missing, builds the server and starts it; some minutes the first time"
scripts/setup.sh run
[[ -n ${LIMEN_BIN:-} ]] || build
open_kvm
start_libvirtd
admit_caller
network=limen
if ! why=$(start_network); then
    network=
    say "Guests get no network: the network limen does not start ($why)"
fi
trap 'exit 0' INT TERM HUP
trap stop_server EXIT
start_server
if [[ ! -e $data/greeted ]]; then
    if LIMEN=$limen LIMEN_URL=$url GUEST_NETWORK=$network scripts/greet.sh; then
        touch "$data/greeted"
    else
        say "The server runs, its first guest did not greet; the next start tries again"
    fi
fi
show_door
wait "$server" || true
die "The server ended by itself; its log is $log"
