#!/usr/bin/env bash
# Starts, stops and looks at the server and the host agent: through systemd where it runs the
# machine and knows limen.service, else by pid files in the data directory.
#
#   limen-control.sh start|stop|restart|status
#
# Without systemd: LIMEN_BIN names the program (else `limen` in PATH, else the
# one that was built here), LIMEN_DATA_DIR its data; the server's other settings
# are taken from the environment as they are.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source=scripts/agent.sh
. "$(dirname "${BASH_SOURCE[0]}")/agent.sh"

unit=limen.service
agent_unit="limen-agent.service"
data=${LIMEN_DATA_DIR:-/var/lib/limen}
pid_file=$data/limen.pid
log=$data/server.log
agent_pid_file=$data/limen-agent.pid
agent_log=$data/agent.log

usage() {
    sed -n '5s/^#   //p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

has_systemd() {
    [[ -d /run/systemd/system ]] && systemctl cat "$unit" &>/dev/null
}

program() {
    if [[ -n ${LIMEN_BIN:-} ]]; then
        printf '%s\n' "$LIMEN_BIN"
    elif command -v limen; then
        :
    else
        printf '%s\n' "${CARGO_TARGET_DIR:-$project/target}/release/limen"
    fi
}

# Prints the server's pid; fails when it does not run. A number that was given to another process
# since is not taken for it: the server holds the lock of its data directory open.
running() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ && -d /proc/$pid ]] || return 1
    find "/proc/$pid/fd" -lname "$(realpath "$data")/lock" 2>/dev/null | grep -q . || return 1
    printf '%s\n' "$pid"
}

# The same of the agent, which holds nothing open: its program tells.
agent_running() {
    local pid
    pid=$(cat "$agent_pid_file" 2>/dev/null) && [[ $pid =~ ^[0-9]+$ ]] || return 1
    [[ $(readlink "/proc/$pid/exe" 2>/dev/null) =~ /limen-agent( \(deleted\))?$ ]] || return 1
    printf '%s\n' "$pid"
}

start_agent_too() {
    local agent
    ! agent_running >/dev/null || return 0
    start_agent "$(program)" "$agent_log"
    [[ -z $agent ]] || echo "$agent" >"$agent_pid_file"
}

stop_agent() {
    local pid
    if pid=$(agent_running); then
        kill -TERM "$pid" || die "Process $pid cannot be stopped; run this as its owner."
        # It gives its last answers within 3 s.
        timeout 10 tail --pid="$pid" -f /dev/null || kill -KILL "$pid"
    fi
    rm -f "$agent_pid_file"
}

start() {
    local pid limen tries=0 line
    if pid=$(running); then
        say "LIMEN is running already (process $pid)"
        start_agent_too
        return
    fi
    limen=$(program)
    [[ -x $limen ]] || die "There is no program at $limen; 'make build' builds it, LIMEN_BIN names another."
    [[ -d $data ]] || install -d -m 711 "$data" || die "$data cannot be made; run this as its owner, or set LIMEN_DATA_DIR."
    line=$(($({ wc -l <"$log"; } 2>/dev/null || echo 0) + 1))
    (
        umask 077
        LIMEN_DATA_DIR=$data setsid "$limen" serve </dev/null >>"$log" 2>&1 &
        echo $! >"$pid_file"
    )
    pid=$(cat "$pid_file")
    until tail -n "+$line" "$log" | grep -q 'answers on http'; do
        if [[ ! -d /proc/$pid ]]; then
            rm -f "$pid_file"
            tail -n "+$line" "$log" | tail -5 >&2
            die "The server did not start; its log is $log"
        fi
        ((++tries < 900)) || die "The server has not answered for 90 s; its log is $log"
        sleep 0.1
    done
    start_agent_too
    say "LIMEN runs (process $pid): $(tail -n "+$line" "$log" | sed -n 's/.*answers on \(http[^;]*\);.*/\1/p' | head -1)"
}

stop() {
    local pid tries=0
    stop_agent
    if ! pid=$(running); then
        rm -f "$pid_file"
        say "LIMEN is not running"
        return
    fi
    kill -TERM "$pid" || die "Process $pid cannot be stopped; run this as its owner."
    while [[ -d /proc/$pid ]]; do
        ((++tries < 300)) || die "Process $pid has not ended for 30 s. 'kill -KILL $pid' ends it; guests go on, and nothing recorded is lost."
        sleep 0.1
    done
    rm -f "$pid_file"
    say "LIMEN has stopped; its guests go on"
}

# Exits as systemctl does: 0 while it runs, 3 while it does not.
status() {
    local pid
    if pid=$(agent_running); then
        say "The host agent is running (process $pid); its log is $agent_log"
    else
        say "The host agent is not running"
    fi
    if pid=$(running); then
        say "LIMEN is running (process $pid); its log is $log"
    else
        say "LIMEN is not running"
        exit 3
    fi
}

(($# == 1)) || usage
case $1 in
start | stop | restart)
    if has_systemd; then
        as_root systemctl "$1" "$unit"
        systemctl --no-pager --lines=0 status "$unit" || [[ $1 == stop ]]
    elif [[ $1 == restart ]]; then
        stop
        start
    else
        "$1"
    fi
    ;;
status)
    if has_systemd; then
        systemctl --no-pager --lines=0 status "$agent_unit" || true
        exec systemctl --no-pager status "$unit"
    fi
    status
    ;;
*) usage ;;
esac
