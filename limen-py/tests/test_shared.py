"""The behaviours that every door of LIMEN has in common: `tests/behaviours/steps.json`, which the test
`behaviours` of Rust runs on the library and on plain HTTP."""

from __future__ import annotations

import json
from typing import Any

import limen
import pytest
from conftest import ADMIN, ROOT, Awaited, Door
from limen import _limen
from test_surface import PARTS

SCENARIOS = json.loads((ROOT / "tests" / "behaviours" / "steps.json").read_text())

# Methods that no shared step calls, and where they are tried instead.
ELSEWHERE = {
    "add_image": "test_behaviours: a server takes none",
    "event": "test_behaviours: numbers differ with the door",
    "open_console": "test_behaviours: bytes are no JSON",
    "wait_for_event": "test_behaviours",
    "watch_events": "test_behaviours: it does not end",
}


def test_the_steps_call_every_method() -> None:
    called = {step["call"] for scenario in SCENARIOS for step in scenario["steps"]}
    assert called == set(_limen.methods()) - set(PARTS) - set(ELSEWHERE)


def plain(value: Any) -> Any:
    """An answer as JSON has it."""
    value = value._real if isinstance(value, Awaited) else value
    if hasattr(value, "next_cursor"):
        return {"items": [plain(one) for one in value], "next_cursor": value.next_cursor}
    if isinstance(value, tuple):
        return [plain(one) for one in value]
    if isinstance(value, limen.NewToken):
        return {"token": plain(value.token), "secret": value.secret}
    return value.to_dict() if hasattr(value, "to_dict") else value


def filled(value: Any, saved: dict[str, Any]) -> Any:
    """With what was saved in the place of `$name`."""
    if isinstance(value, dict):
        return {name: filled(one, saved) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, saved) for one in value]
    return saved[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def fits(shown: Any, wanted: Any) -> bool:
    """Whether all that is wanted is shown; a list has neither more nor fewer items."""
    if isinstance(wanted, dict):
        return isinstance(shown, dict) and all(name in shown and fits(shown[name], one) for name, one in wanted.items())
    if isinstance(wanted, list):
        return isinstance(shown, list) and len(shown) == len(wanted) and all(map(fits, shown, wanted))
    return bool(shown == wanted)


def arguments(step: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    args: dict[str, Any] = filled(step["args"], saved)
    if "disks" in args:
        args["disks"] = [limen.CreateDisk(**disk) for disk in args["disks"]]
    if step["call"] == "create_user" and "quota" in args:
        args["quota"] = limen.Quota(**args["quota"])
    return args


def found(shown: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        shown = shown[part]
    return shown


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario["name"])
def test_each_door_behaves_alike(door: Door, scenario: dict[str, Any]) -> None:
    async def run(client: Any) -> None:
        if not door.is_remote:
            client = await client.login(*ADMIN)
        saved: dict[str, Any] = {}
        for number, step in enumerate(scenario["steps"]):
            where = f"step {number}, {step['call']}"
            call = getattr(client, step["call"])
            if "error" in step:
                with pytest.raises(limen.LimenError) as wrong:
                    await call(**arguments(step, saved))
                assert wrong.value.kind == step["error"], (where, wrong.value)
                if "field" in step:
                    assert wrong.value.field == step["field"], (where, wrong.value)
                continue
            shown = plain(await call(**arguments(step, saved)))
            wanted = filled(step.get("expect", {}), saved)
            assert not wanted or fits(shown, wanted), (where, shown, wanted)
            for name, pointer in step.get("save", {}).items():
                saved[name] = found(shown, pointer)

    options = {} if door.is_remote else {"admin": ADMIN}
    door(run, "sim:///", ":memory:", **options)
