# shellcheck shell=bash
# What the scripts share. Source it; it sets the shell's options.
set -euo pipefail

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export LIMEN_CACHE_DIR=${LIMEN_CACHE_DIR:-$project/.cache}

say() { printf '%s\n' "limen: $*"; }

# One sentence about what is wrong, and one about the way out.
die() {
    printf '%s\n' "limen: $*" >&2
    exit 1
}

# A system step: as root, through sudo when the caller is not.
as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "\"$1\" needs root and there is no sudo. Run this as root, or install sudo."
    fi
}

# Puts cargo on PATH: the caller's own under sudo, else rustup's usual place.
find_cargo() {
    local home=$HOME
    if ((EUID == 0)) && [[ -n ${SUDO_USER:-} ]]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        # rustup's cargo picks its toolchain from the home of its owner.
        [[ -d $home/.rustup ]] && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        [[ -d $home/.cargo ]] && export CARGO_HOME=${CARGO_HOME:-$home/.cargo}
    fi
    if [[ -x $home/.cargo/bin/cargo ]]; then
        PATH=$home/.cargo/bin:$PATH
    fi
    export PATH
}

check_rust() {
    local wanted version install='https://rustup.rs installs a newer one: curl -sSf https://sh.rustup.rs | sh'
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$project/Cargo.toml")
    find_cargo
    [[ -n $(command -v cargo) && -n $(command -v rustc) ]] ||
        die "Rust is not installed (looked in PATH and ~/.cargo/bin); LIMEN needs $wanted. $install"
    # An override of the project's directory counts, so ask there.
    version=$(cd "$project" && rustc --version 2>/dev/null | cut -d' ' -f2) ||
        die "rustc does not run. 'rustup default stable' sets a toolchain."
    dpkg --compare-versions "$version" ge "$wanted" ||
        die "Rust $version is too old; LIMEN needs $wanted. 'rustup update stable', or $install"
}

check_machine() {
    local gib memory
    [[ $(uname -m) == x86_64 ]] || die "This is $(uname -m); these scripts know x86_64 only. The README tells how to build by hand."
    command -v apt-get >/dev/null || die "There is no apt-get here; these scripts know Debian 12. The README tells how to build by hand."
    gib=$(($(stat -fc '%a * %S' "$project") >> 30))
    ((gib >= 6)) || [[ -n ${LIMEN_SKIP_DISK_CHECK:-} ]] ||
        die "Only $gib GiB are free at $project; building LIMEN and its guests needs 6. Free some, or move the project."
    memory=$(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
    ((memory >= 1500)) ||
        die "Only $memory MiB of memory are available; building LIMEN needs 1500. Stop something, or add swap."
}
