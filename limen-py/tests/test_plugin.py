"""The plugin for pytest, and the simulator's other side."""

from __future__ import annotations

import limen
import pytest
from conftest import eventually
from limen.testing import Fault, Simulator


def test_the_fixture_is_there_for_everybody(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_an_empty_host(limen_sim):
            assert len(limen_sim.client.list_vms()) == 0

        @pytest.mark.limen_sim(vms=3, seed=7)
        def test_three_vms(limen_sim):
            from time import sleep
            while len(limen_sim.client.list_vms()) < 3:
                sleep(0.01)
        """
    )
    pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("fault", "method", "error"),
    [
        (Fault.no_space(), "create_volume", limen.NoSpaceError),
        (Fault.fails("unsupported"), "create_definition", limen.UnsupportedError),
        (Fault.panics(), "create_volume", limen.InternalError),
    ],
)
def test_a_fault_fails_the_operation_and_leaves_nothing(
    limen_sim: Simulator, fault: Fault, method: str, error: type[limen.LimenError]
) -> None:
    client = limen_sim.client
    limen_sim.inject(fault, method=method)
    operation = client.create_vm("a", vcpus=1, memory_mib=64, disks=[limen.CreateDisk(size_gib=1)])
    with pytest.raises(error) as failed:
        operation.wait(timeout=60)
    assert failed.value.operation_id == operation.id
    assert len(client.list_vms()) == 0 and client.check().findings == ()
    assert any(method in call for call in limen_sim.calls())
    limen_sim.clear_calls()


def test_what_happens_outside_shows(limen_sim: Simulator) -> None:
    client = limen_sim.client
    vm = str(client.create_vm("a", vcpus=1, memory_mib=64, start=True).wait(timeout=60).vm_id)

    def state() -> str:
        return client.get_vm(vm).status.state

    for happens, comes in (
        (limen_sim.suspend, "paused"),
        (limen_sim.destroy, "shut_off"),
        (limen_sim.start, "running"),
        (limen_sim.crash_guest, "crashed"),
    ):
        happens(vm)
        eventually(lambda comes=comes: state() == comes)  # type: ignore[misc]
    limen_sim.edit(vm, vcpus=4)
    eventually(lambda: getattr(client.get_vm(vm).observed_spec, "vcpus", 0) == 4)
    foreign = limen_sim.define_foreign("theirs")
    eventually(lambda: any(one.id == foreign and not one.managed for one in client.list_vms()))
    with pytest.raises(limen.ConflictError):
        client.delete_vm(foreign)
    limen_sim.undefine(vm)
    eventually(lambda: state() == "missing")
    with pytest.raises(limen.NotFoundError):
        limen_sim.start("00000000-0000-0000-0000-000000000000")
    with pytest.raises(limen.InvalidError):
        limen_sim.inject(Fault.no_space(), method="none")


def test_a_host_that_is_away_comes_back(limen_sim: Simulator) -> None:
    client = limen_sim.client
    limen_sim.disconnect()
    operation = client.create_vm("a", vcpus=1, memory_mib=64)
    with pytest.raises(limen.TimeoutError):
        operation.wait(timeout=0.3)
    limen_sim.reconnect()
    operation.wait(timeout=60)
    limen_sim.lose_events(1)
    limen_sim.guests_obey(0.1)
    limen_sim.set_pool_bytes(1 << 30)
    limen_sim.reboot_host()
    limen_sim.inject(Fault.hangs(), method="create_definition")
    late = client.create_vm("b", vcpus=1, memory_mib=64)
    eventually(lambda: any("create_definition" in call and call.endswith("open") for call in limen_sim.calls()))
    limen_sim.clear_faults()
    limen_sim.release()
    late.wait(timeout=60)
