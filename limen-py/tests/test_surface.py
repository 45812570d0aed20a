"""One LIMEN: what there is in Rust is there in Python, under the same name and with the same fields."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import limen
import pytest
from conftest import ROOT
from limen import _limen, _model

CORE = ROOT / "limen-core" / "src"

# Public methods of `Limen` that no program in Python calls, and why.
NOT_HERE = {
    "builder": "the constructor of a client",
    "shutdown": "close",
    "crash": "for tests of the core",
    "count_unknown": "a door counts what came to it alone",
    "read_agent": "a door asks it before it passes an agent's answer on",
    "authenticate": "each call does, of a client in a session",
    "reauthenticate": "streams do",
    "user_of_session": "tells clients of a server apart",
    "is_token": "a door tells tokens from sessions by it",
    "authenticate_token": "each call does, of a client with a token",
    "user_of_token": "tells clients of a server apart",
    "list_vm_samples": "what Prometheus scrapes of a server; vm_stats tells of one VM",
    "next_samples": "part of list_vm_samples",
    "samples_version": "part of list_vm_samples",
    "use_ticket": "a server's side of create_ticket",
}

# Methods of the core's table that are parts of others, and whose.
PARTS = {
    "open": "the constructor",
    "read_console": "Console.read",
    "write_console": "Console.write",
    "next_events": "Events",
    "close_stream": "Events and Console",
    "simulate": "limen.testing",
}


def methods_of_limen() -> set[str]:
    found: set[str] = set()
    for path in (CORE / "service").rglob("*.rs"):
        for block in re.findall(r"^impl Limen \{\n(.*?)^\}", path.read_text(), flags=re.M | re.S):
            found |= set(re.findall(r"^    pub (?:async )?fn (\w+)", block, flags=re.M))
    return found


def test_every_method_of_the_core_is_a_method_of_both_clients() -> None:
    core = methods_of_limen()
    assert {"create_vm", "list_vms", "wait_operation", "get_restored"} <= core, "the sources are read wrongly"
    assert set(NOT_HERE) <= core, "a method that is left out is there no more"
    here = set(_limen.methods()) - set(PARTS)
    assert here == core - set(NOT_HERE)
    for client in (limen.Client, limen.AsyncClient):
        public = {name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")}
        assert here <= public, here - public
        assert public - here == {"close", "connect", "events", "with_token"}


def test_every_method_of_the_core_is_one_of_its_client_of_a_server() -> None:
    remote = (CORE / "remote" / "typed.rs").read_text()
    there = set(re.findall(r"^    pub async fn (\w+)", remote, flags=re.M))
    # HTTP takes no images.
    assert there == methods_of_limen() - set(NOT_HERE) - {"add_image"}
    assert set(re.findall(r"/// \[`Limen::(\w+)`\]", remote)) == there


def test_both_clients_take_the_same_arguments() -> None:
    for name, method in inspect.getmembers(limen.Client, inspect.isfunction):
        if name.startswith("_") and name != "__init__":
            continue
        other = inspect.signature(getattr(limen.AsyncClient, name))
        assert str(inspect.signature(method)) == str(other).replace("Async", ""), name


def fields_of(struct: str) -> set[str]:
    for path in CORE.rglob("*.rs"):
        if found := re.search(rf"^pub struct {struct} \{{\n(.*?)^\}}", path.read_text(), flags=re.M | re.S):
            return set(re.findall(r"^    pub (\w+):", found[1], flags=re.M))
    raise AssertionError(struct)


@pytest.mark.parametrize(
    ("method", "struct", "renamed"),
    [
        ("list_vms", "VmQuery", {}),
        ("create_vm", "CreateVm", {}),
        ("update_vm", "UpdateVm", {}),
        ("list_audit", "AuditQuery", {"from": "since", "to": "until"}),
        ("create_user", "CreateUser", {}),
        ("update_user", "UpdateUser", {}),
        ("create_token", "CreateToken", {}),
        ("add_image", "AddImage", {}),
    ],
)
def test_every_field_of_an_argument_is_an_argument(method: str, struct: str, renamed: dict[str, str]) -> None:
    arguments = set(inspect.signature(getattr(limen.Client, method)).parameters)
    missing = {renamed.get(name, name) for name in fields_of(struct)} - arguments
    assert not missing


def test_what_is_generated_is_up_to_date() -> None:
    made = subprocess.run([sys.executable, ROOT / "limen-py" / "generate.py", "--check"], check=False, text=True, capture_output=True)
    assert made.returncode == 0, made.stderr


def test_every_kind_of_error_is_a_class() -> None:
    kinds = dict(_limen.error_kinds())
    assert {code: made.is_retryable for code, made in _model.ERRORS.items()} == kinds
    for code, made in _model.ERRORS.items():
        assert made.kind == code and issubclass(made, limen.LimenError)
        assert made.__name__ == "".join(part.title() for part in code.split("_")) + "Error"
    assert issubclass(limen.TimeoutError, TimeoutError)
    assert issubclass(limen.InvalidError, ValueError)


def test_everything_public_is_documented_and_exported() -> None:
    for name in limen.__all__:
        found = getattr(limen, name)
        assert inspect.getdoc(found), name
        if inspect.isclass(found):
            for part, member in vars(found).items():
                if not part.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{part}"
    assert set(_model.__all__) <= set(limen.__all__)


def test_the_types_are_those_that_mypy_knows(tmp_path: Path) -> None:
    examples = sorted((ROOT / "limen-py" / "examples").glob("*.py"))
    assert examples
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version", "3.10", "--cache-dir", str(tmp_path)]
    for what in (["-p", "limen"], list(map(str, examples))):
        checked = subprocess.run([*command, *what], check=False, text=True, capture_output=True, cwd=tmp_path)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_method_has_a_route_of_the_document() -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    operations = {each["operationId"] for path in document["paths"].values() for each in path.values() if "operationId" in each}
    here = set(_limen.methods()) - set(PARTS)
    # What has no route of its own, and how a client of a server answers it.
    elsewhere = {
        "add_image": "refused",
        "event": "a header of list_vms",
        "wait_for_event": "a header of list_vms",
        "ping_store": "health",
        "wait_operation": "get_operation",
        "open_console": "/vnc and /serial, which are no operations of the document",
        "refusals": "get_metrics",
    }
    named = {"vm_stats": "get_vm_stats", "host_metrics": "get_host_metrics"}
    assert {named.get(name, name) for name in here - set(elsewhere)} <= operations
    assert not set(elsewhere) & operations
    # And the other way: a route that no method is.
    assert operations - {named.get(name, name) for name in here} == {"health_live", "health_ready"}
