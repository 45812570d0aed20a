#!/usr/bin/env bash
# Puts a server on the simulator through schemathesis: all checks, and nothing may be found.
# Wants `schemathesis` in PATH, and the server built (LIMEN_BIN, else cargo's release build).
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

least=${LIMEN_SCHEMATHESIS_CASES:-2000}
cd "$project"
binary=${LIMEN_BIN:-${CARGO_TARGET_DIR:-target}/release/limen}
work=$(mktemp -d)
server=
cleanup() {
    [[ -z $server ]] || kill "$server" 2>/dev/null || true
    [[ -z $server ]] || wait "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

export ADMIN_PASSWORD='a password for schemathesis'
env -u DATABASE_URL -u DB_HOST -u LIBVIRT_URI LIMEN_DATA_DIR="$work/data" LOG_LEVEL=error RATE_LIMIT_ENABLED=false \
    "$binary" serve --hypervisor-uri 'sim:///?vms=5&seed=1' --bind-address 127.0.0.1 --port 0 \
    >"$work/out" 2>"$work/log" &
server=$!
for _ in $(seq 100); do
    LIMEN_URL=$(sed -n 's/.*answers on \(http:[^;]*\);.*/\1/p' "$work/out")
    [[ -z $LIMEN_URL ]] || break
    sleep 0.1
done
[[ -n $LIMEN_URL ]] || die "The server did not start: $(cat "$work/log")"
export LIMEN_URL SCHEMATHESIS_HOOKS=tests/schemathesis_hooks.py PYTHONDONTWRITEBYTECODE=1

# An answer that does not end is waited for without end: watch_events has tests of its own.
schemathesis --config-file tests/schemathesis.toml run "$LIMEN_URL/api/swagger.json" --checks all --phases examples,coverage,fuzzing,stateful \
    --seed 20 --workers 1 --max-examples "${LIMEN_SCHEMATHESIS_EXAMPLES:-40}" --generation-database none \
    --exclude-operation-id watch_events --continue-on-failure --suppress-health-check all --warnings off \
    --no-color | tee "$work/said"

kill -0 "$server" || die "The server has ended: $(cat "$work/log")"
cases=$(sed -n 's/^ *\([0-9,]*\) generated.*/\1/p' "$work/said" | tr -d , | head -n 1)
((${cases:-0} >= least)) || die "schemathesis made only ${cases:-0} cases; at least $least are wanted."
say "schemathesis: $cases cases, nothing found"
