"""Looks at all VMs of a host, by LIMEN and by libvirt-python, in one run: the ratio is what counts.

    python look.py [URI]     (libvirt's test driver with 1,000 VMs unless a URI is given)

The look is the same: name, state and its reason, virtual CPUs and memory of each VM. libvirt-python asks
libvirt each time, in three ways: `info()` of each VM, which tells no reason; one bulk call, which tells
what figures the driver has (the test driver knows state and reason alone); and both, for all of it. LIMEN
answers from memory, at most two seconds old. Needs `libvirt-python` from PyPI.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import limen

VMS = 1000
ROUNDS = 15
SECONDS = 3


def test_host(directory: Path) -> str:
    """The URI of a test driver with many VMs."""
    domain = (
        "<domain type='test'><name>vm-{0}</name><uuid>00000000-0000-4000-8000-{0:012d}</uuid>"
        "<memory>65536</memory><vcpu>2</vcpu><os><type>hvm</type></os></domain>"
    )
    file = directory / "host.xml"
    file.write_text("<node>" + "".join(domain.format(number) for number in range(VMS)) + "</node>")
    return f"test://{file}"


def measured(look: Callable[[], list[Any]], count: int) -> float:
    """Milliseconds of the least disturbed look, as `timeit` has it."""
    assert len(look()) == count
    best, end = float("inf"), time.perf_counter() + SECONDS
    while (begun := time.perf_counter()) < end:
        look()
        best = min(best, time.perf_counter() - begun)
    return best * 1000


def imported(module: str) -> float:
    """Milliseconds that an import takes in a process of its own."""
    code = f"import time; t = time.perf_counter(); import {module}; print((time.perf_counter() - t) * 1000)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True) for _ in range(ROUNDS)]
    return median(float(run.stdout) for run in runs)


def main() -> None:
    import libvirt

    with tempfile.TemporaryDirectory() as directory:
        uri = sys.argv[1] if len(sys.argv) > 1 else test_host(Path(directory))
        connection = libvirt.open(uri)
        count = len(connection.listAllDomains())

        def one_by_one() -> list[Any]:
            looked = []
            for domain in connection.listAllDomains():
                state, _, memory, vcpus, _ = domain.info()
                looked.append((domain.name(), state, vcpus, memory))
            return looked

        def bulk() -> list[Any]:
            return [
                (domain.name(), figures["state.state"], figures["state.reason"])
                for domain, figures in connection.getAllDomainStats()
            ]

        def whole() -> list[Any]:
            looked = []
            for domain, figures in connection.getAllDomainStats():
                _, _, memory, vcpus, _ = domain.info()
                looked.append((domain.name(), figures["state.state"], figures["state.reason"], vcpus, memory))
            return looked

        with limen.Client(uri, ":memory:", data_dir=directory) as client:
            while sum(1 for _ in client.list_vms().all()) < count:
                time.sleep(0.05)

            def by_limen() -> list[Any]:
                looked = []
                for vm in client.list_vms().all():
                    spec = vm.spec or vm.observed_spec
                    status = vm.status
                    looked.append((vm.name, status.state, status.reason, spec and spec.vcpus, spec and spec.memory_mib))
                return looked

            def listed() -> list[Any]:
                return client.list_vms()  # type: ignore[return-value]

            figures = {
                "libvirt-python, info()": measured(one_by_one, count),
                "libvirt-python, bulk": measured(bulk, count),
                "libvirt-python, both": measured(whole, count),
                "limen, every field read": measured(by_limen, count),
                "limen, list_vms() alone": measured(listed, min(count, 1000)),
            }
    reference = figures["limen, every field read"]
    print(f"{count} VMs of {uri.split('?')[0].split('///')[0]}, the best of {SECONDS} s each:")
    for name, milliseconds in figures.items():
        print(f"  {name:28} {milliseconds:9.2f} ms  {milliseconds / reference:7.2f}")
    for module in ("libvirt", "limen"):
        print(f"  import {module:21} {imported(module):9.2f} ms")


if __name__ == "__main__":
    main()
