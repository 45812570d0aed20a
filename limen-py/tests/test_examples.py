"""The examples do what they say."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import limen
import pytest
from conftest import ROOT
from limen.testing import Simulator

EXAMPLES = ROOT / "limen-py" / "examples"
sys.path.insert(0, str(EXAMPLES))


def test_the_report_tells_what_needs_somebody(limen_sim: Simulator) -> None:
    from nightly_report import report

    client = limen_sim.client
    vm = str(client.create_vm("web-1", vcpus=1, memory_mib=64, start=True).wait(timeout=60).vm_id)
    limen_sim.crash_guest(vm)
    while client.get_vm(vm).status.state != "crashed":
        pass
    text = report(client)
    assert text.startswith("1 VMs: 1 crashed") and "see to web-1: it is crashed" in text and "64 of" in text


def test_the_report_is_a_program(tmp_path: Path) -> None:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, EXAMPLES / "nightly_report.py", *args]
        return subprocess.run(command, check=False, text=True, capture_output=True, timeout=60)

    assert run().returncode == 2
    refused = run("sim:///", "nowhere")
    assert refused.returncode == 1 and refused.stderr.startswith("nightly_report: store must be")
    done = run("sim:///", f"sqlite://{tmp_path / 'limen.db'}")
    assert done.returncode == 0 and "0 VMs" in done.stdout, done.stderr


def test_scaling_replaces_what_goes_away(limen_sim: Simulator) -> None:
    from scale_on_events import keep

    async def scenario() -> None:
        client = limen_sim.async_client()
        keeping = asyncio.ensure_future(keep(client, 3))

        async def running() -> list[limen.Vm]:
            for _ in range(3000):
                assert not keeping.done(), keeping
                vms = list(await client.list_vms(label="role=worker", state="running"))
                if len(vms) == 3:
                    return vms
                await asyncio.sleep(0.02)
            raise AssertionError("three never ran")

        first = await running()
        limen_sim.crash_guest(first[0].id)
        for _ in range(3000):
            now = {vm.id for vm in await running()}
            if first[0].id not in now:
                break
            await asyncio.sleep(0.02)
        assert first[0].id not in now and {first[1].id, first[2].id} <= now
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    asyncio.run(scenario())
