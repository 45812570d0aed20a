#!/usr/bin/env bash
# Everything that must hold before a change goes in: `make test`, and CI.
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

run_examples() {
    local example
    for example in examples/*.rs; do
        example=$(basename "$example" .rs)
        echo "-- $example"
        cargo run --quiet --example "$example"
    done
}

# schemathesis in an environment of its own, from PyPI.
run_schemathesis() {
    local venv=$LIMEN_CACHE_DIR/venv
    [[ -x $venv/bin/pip ]] || python3 -m venv "$venv"
    [[ -x $venv/bin/schemathesis ]] || "$venv/bin/pip" install --quiet --disable-pip-version-check schemathesis==4.32.5
    PATH=$venv/bin:$PATH tests/schemathesis.sh
}

# More at once than processors only makes booting guests miss their deadlines.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$(nproc)}

stage setup scripts/setup.sh
stage shell shellcheck -x .ci/run scripts/*.sh scripts/guest/* tests/*.sh tests/support/*.sh
stage fmt cargo fmt --all --check
stage core cargo build -p limen-core --no-default-features
stage build cargo build -p limen-http
stage clippy cargo clippy --workspace --all-targets -- -D warnings
RUSTDOCFLAGS=-Dwarnings stage doc cargo doc --workspace --no-deps
# What `make run` builds; tests/harmless.rs runs it.
stage release cargo build --release --locked -p limen-http
stage guest scripts/guest-image.sh
stage test cargo test --workspace
stage examples run_examples
[[ ! -e tests/schemathesis.sh ]] || stage schemathesis run_schemathesis
