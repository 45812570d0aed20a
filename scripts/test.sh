#!/usr/bin/env bash
# Everything that must hold before a change goes in: `make test`, and CI. It
# tests what `make run` builds: one profile, so nothing is compiled twice.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$project"
shopt -s nullglob
begun=$SECONDS
summary=()
current=
beside=

report() {
    local code=$?
    [[ -z $beside ]] || kill -- "-$beside" 2>/dev/null || true
    printf '\n'
    printf '%s\n' "${summary[@]}"
    if ((code)); then
        printf '  %-12s FAILED\n' "$current"
        say "Tests failed after $((SECONDS - begun)) s, at: $current"
    else
        say "All tests passed in $((SECONDS - begun)) s"
    fi
}
trap report EXIT
# Without these bash would leave by the trap above as if all had been done.
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# stage NAME COMMAND...: runs it, says how long it took, ends all when it fails.
stage() {
    local started=$SECONDS
    current=$1
    shift
    printf '\n\e[1m== %s\e[0m\n' "$current"
    "$@"
    summary+=("$(printf '  %-12s %5d s' "$current" $((SECONDS - started)))")
}

cargo() { scripts/cargo.sh "$@"; }

# Programs of tests that mostly wait: they run beside the others, and on their own would take a third of
# the time. Those that hold the whole machine to something, or to a deadline, run alone.
waiting=(consoles doctor guides http hypervisor_conformance metrics package service_files)
alone=(faults harmless)

run_tests() {
    local name log code=0 others=()
    for name in $(cargo metadata --format-version 1 --no-deps |
        jq -r '.packages[] | select(.name != "limen-py") | .targets[] | select(.kind == ["test"]) | .name'); do
        [[ " ${waiting[*]} ${alone[*]} " == *" $name "* ]] || others+=("--test=$name")
    done
    log=$(mktemp)
    # In a group of its own, to be ended with all that it started.
    setsid bash -c '"$@" && scripts/cargo.sh test --release --workspace --exclude limen-py --doc' - \
        scripts/cargo.sh "${tests[@]}" "${waiting[@]/#/--test=}" &>"$log" &
    beside=$!
    echo "Beside these run ${waiting[*]} and the examples of the documentation; what they say comes after."
    cargo "${tests[@]}" --lib --bins "${others[@]}"
    wait "$beside" || code=$?
    beside=
    cat "$log"
    rm "$log"
    ((code == 0)) || return 1
    cargo "${tests[@]}" "${alone[@]/#/--test=}"
}

# As they were built with the tests: `cargo run` would build with other features, all anew.
run_examples() {
    local example
    for example in examples/*.rs; do
        example=$(basename "$example" .rs)
        echo "-- $example"
        "${CARGO_TARGET_DIR:-$project/target}/release/examples/$example"
    done
}

# schemathesis in an environment of its own, from PyPI.
run_schemathesis() {
    local venv=$LIMEN_CACHE_DIR/venv
    [[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
    [[ -x $venv/bin/schemathesis ]] || "$venv/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
    PATH=$venv/bin:$PATH tests/schemathesis.sh
}

# The Python package as its users get it, by pip into a new environment; then its tests.
run_python() {
    local venv=$LIMEN_CACHE_DIR/python
    find_cargo
    export LIMEN_REQUIRE_BACKENDS=${LIMEN_REQUIRE_BACKENDS:-libvirt-test,libvirt-qemu,sqlite,postgres,sim}
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check mypy==2.4.1 pytest==9.2.0
    "$venv/bin/pip" install --quiet --disable-pip-version-check ./limen-py
    # A private libvirtd needs root here too.
    local as=()
    ((EUID == 0)) || as=(sudo "--preserve-env=LIMEN_REQUIRE_BACKENDS,LIMEN_CACHE_DIR,PATH")
    (cd limen-py && "${as[@]}" "$venv/bin/python" -B -m pytest -p no:cacheprovider)
}

# More at once than processors only makes booting guests miss their deadlines.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)}

stage setup scripts/setup.sh
stage shell shellcheck -x .ci/run scripts/*.sh scripts/guest/* tests/*.sh tests/*/*.sh
stage fmt cargo fmt --all --check
stage clippy cargo clippy --release --workspace --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings stage doc cargo doc --release --workspace --no-deps
# Each as its users build it: limen-core alone needs no libvirt, and what ships has no more features
# than it asks for itself.
stage core cargo check --release -p limen-core --no-default-features
ship() {
    cargo check --release --locked -p limen-http
    cargo check --release --locked -p limen-agent
}
stage ship ship
# limen-py has no tests of Rust's: pip builds it, as its users do.
tests=(test --release --workspace --exclude limen-py)
stage build cargo "${tests[@]}" --no-run
stage guest scripts/guest-image.sh
# `make run` is tested with the server that is tested, not with one more of its own.
export LIMEN_BIN=${LIMEN_BIN:-${CARGO_TARGET_DIR:-$project/target}/release/limen}
stage test run_tests
stage examples run_examples
stage python run_python
stage schemathesis run_schemathesis
