"""The VMs of a list come from memory, not from JSON: nobody may be able to tell."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from pathlib import Path
from typing import Any, cast

import pytest

import limen
from conftest import required


def listed(client: limen.Client) -> list[limen.Vm]:
    """VMs of every kind of record, out of a list."""
    made = client.create_vm(
        "made-here",
        vcpus=3,
        memory_mib=512,
        description="한국어 \\ \" \u2028",
        disks=[limen.CreateDisk(size_gib=1)],
        labels={"key": "value"},
        start=True,
    ).wait(timeout=60)
    assert made.vm_id is not None
    # A change of the definition that waits for the next boot shows in both specs.
    client.update_vm(made.vm_id, vcpus=2).wait(timeout=60)
    return list(client.list_vms())


def true_one(vm: Any) -> Any:
    """The same value, made of JSON."""
    return type(vm)._of(vm.to_dict()) if type(vm) is vm.__class__ else vm.__class__._of(vm.to_dict())


@pytest.fixture
def client() -> Any:
    with limen.Client("sim:///?vms=6&seed=3", ":memory:") as client:
        while len(client.list_vms()) < 6:
            pass
        yield client


def parts(vm: limen.Vm) -> list[Any]:
    return [part for part in (vm, vm.spec, vm.observed_spec, vm.status) if part is not None]


def test_they_are_what_json_makes_of_them(client: limen.Client) -> None:
    vms = listed(client)
    assert len(vms) == 7 and len({vm.status.state for vm in vms}) > 1
    seen: set[str] = set()
    for vm in vms:
        for part in parts(vm):
            true = true_one(part)
            assert type(true) is part.__class__ and type(part) is not type(true)
            seen.add(type(true).__name__)
            for field in type(true)._fields:
                if field in ("etag", "event"):
                    continue
                ours, theirs = getattr(part, field), getattr(true, field)
                assert ours == theirs and ours.__class__ is theirs.__class__, field
            assert part == true and true == part and part == copy.copy(part) and not part != true
            assert hash(part) == hash(true) and repr(part) == repr(true) and {part: 1}[true] == 1
            assert pickle.loads(pickle.dumps(part)) == part and copy.deepcopy(part) == part
            assert isinstance(part, type(true)) and isinstance(part, limen.Value)
            assert set(type(true)._fields) <= set(dir(part))
        assert vm != vm.status and vm.status != vms[0].id
    assert seen == {"Vm", "VmSpec", "VmStatus"}, seen
    assert len({*vms}) == len(vms) and vms[0] != vms[1]


def test_those_that_limen_did_not_make_too() -> None:
    if not limen.has_libvirt():
        required("libvirt-test", "this build has no libvirt")
    with limen.Client("test:///default", ":memory:") as client:
        while not len(page := client.list_vms()):
            pass
        (vm,) = page
        true = true_one(vm)
        assert not vm.managed and vm.spec is None and vm.owner is None and true.spec is None
        assert vm.observed_spec is not None and vm.observed_spec == true.observed_spec
        assert (vm.observed_spec.vcpus, vm.observed_spec.memory_mib) == (2, 8192)
        assert vm.observed_spec.to_dict() == true.observed_spec.to_dict() and vm == true and repr(vm) == repr(true)


def test_they_are_as_get_vm_tells_and_as_a_server_does(client: limen.Client, tmp_path: Path) -> None:
    for vm in listed(client):
        one = client.get_vm(vm.id).to_dict()
        told = vm.to_dict()
        for data in (one, told):
            data["status"].pop("observed_at")
        assert {name: value for name, value in one.items() if name not in ("etag", "event")} == told
        assert json.loads(json.dumps(told)) == told


def test_they_never_change_and_have_no_more_than_their_class(client: limen.Client) -> None:
    vm = client.list_vms()[0]
    for part in parts(vm):
        for change in (lambda part=part: setattr(part, "name", "x"), lambda part=part: delattr(part, "name")):
            with pytest.raises(AttributeError, match="cannot be changed: name"):
                change()
        with pytest.raises(AttributeError, match="vcpu"):
            part.vcpu
        with pytest.raises(TypeError):
            cast(Any, type(part))()
    told = vm.to_dict()
    told["status"]["state"] = "elsewhere"
    assert vm.to_dict()["status"]["state"] == vm.status.state


def test_programs_tell_them_by_their_class(client: limen.Client) -> None:
    page = client.list_vms()
    match page[0]:
        case limen.Vm(name=name, status=limen.VmStatus(state=state)):
            assert (name, state) == (page[0].name, page[0].status.state)
        case other:
            pytest.fail(repr(other))

    @functools.singledispatch
    def kind(value: object) -> str:
        return "something"

    @kind.register
    def _(value: limen.Vm) -> str:
        return "a VM"

    assert kind(page[0]) == "a VM" and page[:2] == page.items[:2] and page[-1] in page
    assert "<table" in page._repr_html_() and page[0].name in page._repr_html_()
    assert isinstance(page[0].status.state, limen.VmState) and page[0].status.state in list(limen.VmState)
