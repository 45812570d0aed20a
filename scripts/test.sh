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

report() {
    local code=$?
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
stage test cargo "${tests[@]}"
stage examples run_examples
stage python run_python
stage schemathesis run_schemathesis
