"""Opening the core, and closing it at the end of the process."""

from __future__ import annotations

import atexit
import json
import os
import sys
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._model import ERRORS
from ._value import ClosedError, ForkedError, LimenError

if TYPE_CHECKING:
    from . import _limen

_cores: weakref.WeakSet[_limen.Core] = weakref.WeakSet()


def open_core(
    hypervisor: str | Mapping[str, str],
    store: str,
    *,
    data_dir: str | os.PathLike[str] | None,
    admin: tuple[str, str] | None,
    passive: bool,
    memory_overcommit: float | None,
    free_space_gib: int,
    max_connections: int,
) -> _limen.Core:
    """Begins to open a core with the options of a client."""
    hosts = {"local": hypervisor} if isinstance(hypervisor, str) else hypervisor
    if not isinstance(hosts, Mapping):
        raise TypeError("hypervisor must be a URI, or the URIs of hosts by their names")
    options = {
        "hosts": list(hosts.items()),
        "store": store,
        "data_dir": None if data_dir is None else os.fspath(data_dir),
        "admin": admin,
        "passive": passive,
        "memory_overcommit": memory_overcommit,
        "free_space_gib": free_space_gib,
        "max_connections": max_connections,
    }
    return _opened("embed", options)


def open_remote(url: str, ca_file: str | os.PathLike[str] | None) -> _limen.Core:
    """Begins to speak to a server."""
    return _opened("connect", {"url": url, "ca_file": None if ca_file is None else os.fspath(ca_file)})


def _opened(way: str, options: Mapping[str, Any]) -> _limen.Core:
    # Half of the time of an import, for libvirt's libraries: it is loaded for the first client.
    from . import _limen

    core = _limen.Core(json.dumps({way: options}).encode())
    _cores.add(core)
    return core


@atexit.register
def _close_all() -> None:
    # Of a sub-interpreter that nobody ended before the process: who gives Python's lock away now never
    # gets it again. What is open is let go with its objects.
    if sys.is_finalizing():
        return
    for core in list(_cores):
        core.close()


def message_of(asker: Mapping[str, str] | None, args: Mapping[str, Any], key: str | None) -> bytes:
    """A call's arguments, and who asks, as the core takes them."""
    message: dict[str, Any] = {"args": args}
    if asker is not None:
        message["as"] = asker
    if key is not None:
        message["key"] = key
    return json.dumps(message).encode()


def error_of(failure: Mapping[str, Any]) -> LimenError:
    """The exception of a failure that the core tells."""
    own: dict[str, type[LimenError]] = {"closed": ClosedError, "forked": ForkedError}
    kind = failure["kind"]
    made = own.get(kind) or ERRORS.get(kind, LimenError)
    details = {name: value for name, value in failure.items() if name not in ("kind", "message") and value is not None}
    return made(failure["message"], details)


def result_of(answer: tuple[bool, Any]) -> Any:
    """What an answer is: JSON, or a list that is made already.

    Raises the exception of a failure.
    """
    succeeded, reply = answer
    if succeeded:
        return reply
    raise error_of(json.loads(reply))


def value_of(reply: Any) -> Any:
    """An answer as dictionaries and lists."""
    return json.loads(reply) if isinstance(reply, bytes) else reply


def given(**fields: Any) -> dict[str, Any]:
    """Those fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}
