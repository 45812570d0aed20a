# shellcheck shell=bash
# The host agent beside a server that no systemd starts. Sourced after lib.sh by
# those who start such a server; AGENT_URL says where the server looks for it.

# Prints address and port that the agent is to listen on; fails where AGENT_URL is another machine's.
agent_place() {
    [[ ${AGENT_URL:-http://127.0.0.1:9000} =~ ^http://(127\.0\.0\.1|localhost|\[::1\])(:([0-9]{1,5}))?/?$ ]] || return 1
    local address=${BASH_REMATCH[1]/localhost/127.0.0.1}
    address=${address//[\[\]]/}
    printf '%s %s\n' "$address" "${BASH_REMATCH[3]:-80}"
}

# start_agent PROGRAM LOG [COMMAND...]: starts the agent beside the server program PROGRAM, through
# COMMAND where there is one, in a session of its own, and waits until it answers. Its number is then
# in $agent. Where it cannot be had, says why and goes on: the server needs none.
start_agent() {
    local program log=$2 place line tries=0
    program=$(dirname "$1")/limen-agent
    shift 2
    agent=
    place=$(agent_place) || return 0
    # One that answers there already is as good.
    ! curl -fsS --max-time 2 "${AGENT_URL:-http://127.0.0.1:9000}/health" 2>/dev/null | grep -q sample_age_seconds || return 0
    if [[ ! -x $program ]]; then
        say "There is no $program, so no host agent is started."
        return
    fi
    line=$(($({ wc -l <"$log"; } 2>/dev/null || echo 0) + 1))
    (
        umask 077
        # PORT and the like are the server's.
        exec env -u PORT -u BIND_ADDRESS -u TLS_CERT_FILE -u TLS_KEY_FILE setsid "$@" "$program" \
            --bind-address "${place% *}" --port "${place#* }" </dev/null >>"$log" 2>&1
    ) &
    agent=$!
    until tail -n "+$line" "$log" 2>/dev/null | grep -q 'answers on http'; do
        if [[ ! -d /proc/$agent ]] || ((++tries > 100)); then
            say "The host agent does not run: $(tail -n "+$line" "$log" 2>/dev/null | tail -1); its log is $log"
            agent=
            return
        fi
        sleep 0.1
    done
}
