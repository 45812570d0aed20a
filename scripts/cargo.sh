#!/usr/bin/env bash
# Runs cargo as every script does: found where rustup puts it, tests as root
# (they start libvirtds of their own), with each back end required.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

check_rust
cd "$project"
export LIMEN_REQUIRE_BACKENDS=${LIMEN_REQUIRE_BACKENDS:-libvirt-test,libvirt-qemu,sqlite,postgres,sim}
if ((EUID != 0)) && [[ ${1:-} == test || ${1:-} == bench ]]; then
    # Cargo builds as the caller and runs what it built as root.
    kept=LIMEN_REQUIRE_BACKENDS,LIMEN_CACHE_DIR,LIMEN_BIN,LIMEN_AGENT_BIN,LIMEN_CAMPAIGN,RUST_BACKTRACE,RUST_TEST_THREADS,PATH
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="sudo --preserve-env=$kept"
fi
exec cargo "$@"
