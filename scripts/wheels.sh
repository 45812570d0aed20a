#!/usr/bin/env bash
# Makes what of the Python package can be handed on: `make wheels`. It installs nothing.
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
    cat <<'USAGE'
Usage: scripts/wheels.sh [--sdist] [DIR]
Makes in DIR (target/wheels):
  limen-VERSION.tar.gz            the sources; pip builds them where Rust is
  portable/limen-VERSION-*.whl    without libvirt: the simulator, SQLite, PostgreSQL, servers. For every
                                  Linux of the manylinux tag in its name, which is checked
  libvirt/limen-VERSION-*.whl     with libvirt, for machines like this one
Both wheels are built from the unpacked sources, and each is installed and tried in an environment of
its own. With --sdist the sources alone are made.
USAGE
}

what=all
while [[ ${1:-} == -* ]]; do
    case $1 in
        --sdist) what=sdist ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
to=${1:-${CARGO_TARGET_DIR:-$project/target}/wheels}
mkdir -p "$to"
to=$(cd "$to" && pwd)

check_rust
venv=$LIMEN_CACHE_DIR/maturin
[[ -x $venv/bin/maturin ]] || {
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check maturin==1.16.0
}
rm -f "$to"/limen-*.tar.gz
say "The sources"
"$venv/bin/maturin" sdist --manifest-path "$project/limen-py/Cargo.toml" --out "$to"
[[ $what == all ]] || exit 0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
tar -xzf "$to"/limen-*.tar.gz -C "$scratch"
# wheel NAME OPTION...: builds it and tries it.
wheel() {
    local name=$1
    shift
    say "The wheel $name"
    rm -rf "${to:?}/$name"
    (cd "$scratch"/limen-* && CARGO_TARGET_DIR=$to/build PATH=$venv/bin:$PATH \
        "$venv/bin/maturin" build --release --out "$to/$name" "$@")
    python3 -m venv "$scratch/$name"
    "$scratch/$name/bin/pip" install --quiet --disable-pip-version-check --no-index "$to/$name"/*.whl
    (cd "$scratch" && "$name/bin/python" -I - "$name" <<'TRY')
import sys

import limen

with limen.Client("sim:///?vms=3", ":memory:") as client:
    operation = client.create_vm("web-1", vcpus=1, memory_mib=64, start=True).wait(timeout=60)
    assert client.get_vm(operation.vm_id).status.state == "running"
assert limen.has_libvirt() == (sys.argv[1] == "libvirt")
uri = "test:///default"
try:
    with limen.Client(uri, ":memory:") as client:
        assert limen.has_libvirt()
except limen.UnsupportedError as error:
    assert not limen.has_libvirt() and uri in str(error), error
TRY
}
wheel portable --no-default-features --auditwheel check
[[ $(echo "$to"/portable/*.whl) == *-manylinux_* ]] || die "The portable wheel is for this machine alone: it has no manylinux tag."
wheel libvirt --auditwheel skip --compatibility linux
find "$to" -maxdepth 2 -name 'limen-*' -printf '  %10s bytes  %P\n'
