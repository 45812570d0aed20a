"""Values do not change, are equal by their contents, and show themselves."""

from __future__ import annotations

import copy
import json
import pickle
from datetime import datetime, timezone

import limen
import pytest
from limen.testing import Simulator


@pytest.fixture
def vm(limen_sim: Simulator) -> limen.Vm:
    operation = limen_sim.client.create_vm("web-1", vcpus=1, memory_mib=64, description="<b>&", labels={"a": "b"})
    return limen_sim.client.get_vm(str(operation.wait(timeout=60).vm_id))


def test_a_value_cannot_be_changed(vm: limen.Vm) -> None:
    with pytest.raises(AttributeError):
        vm.name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        vm.colour = "red"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        vm.labels["a"] = "c"  # type: ignore[index]
    vm.to_dict()["labels"]["a"] = "c"
    assert vm.labels == {"a": "b"}
    with pytest.raises(TypeError):
        limen.Vm()


def test_values_are_equal_by_their_contents(vm: limen.Vm) -> None:
    for same in (copy.copy(vm), copy.deepcopy(vm), pickle.loads(pickle.dumps(vm))):
        assert same == vm and hash(same) == hash(vm) and same is not vm
    assert vm != vm.spec and vm != vm.to_dict()
    assert limen.CreateDisk(size_gib=1) == limen.CreateDisk(size_gib=1) != limen.CreateDisk(size_gib=2)


def test_a_value_shows_all_of_itself(vm: limen.Vm) -> None:
    assert repr(vm).startswith("Vm(id='") and "name='web-1'" in repr(vm) and "memory_mib=64" in repr(vm)
    json.dumps(vm.to_dict())
    assert isinstance(vm.created_at, datetime) and vm.created_at.tzinfo is timezone.utc


def test_names_are_strings_and_unknown_ones_are_taken() -> None:
    assert limen.VmState("running") is limen.VmState.RUNNING
    assert f"{limen.VmState.RUNNING} {limen.VmState.RUNNING!s}" == "running running"
    future = limen.VmState("hibernating")
    assert future == "hibernating" and future is limen.VmState("hibernating") and future not in list(limen.VmState)


def test_a_page_is_a_table_in_a_notebook(limen_sim: Simulator, vm: limen.Vm) -> None:
    html = limen_sim.client.list_vms()._repr_html_()
    assert html.startswith("<table>") and "web-1" in html and "<td>64</td>" in html
    limen_sim.client.update_vm(vm.id, labels={"x": "<script>"}).wait(timeout=60)
    limen_sim.define_foreign("<script>alert(1)</script>")
    for _ in range(500):
        if len(page := limen_sim.client.list_vms()) == 2:
            break
    assert "<script>" not in page._repr_html_()
    assert "create_vm" in limen_sim.client.list_operations()._repr_html_()
    assert limen_sim.client.list_images()._repr_html_().count("<tr>") == 1


def test_errors_can_be_pickled_and_print_one_sentence(limen_sim: Simulator) -> None:
    with pytest.raises(limen.NotFoundError) as missing:
        limen_sim.client.get_vm("00000000-0000-0000-0000-000000000000")
    again = pickle.loads(pickle.dumps(missing.value))
    assert type(again) is limen.NotFoundError and str(again) == "There is no such VM."
    assert repr(again) == "NotFoundError('There is no such VM.')"
    assert missing.value.__cause__ is None and missing.value.__context__ is None
