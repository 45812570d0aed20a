"""LIMEN manages KVM/libvirt virtual machines from Python.

    import limen

    with limen.Client("qemu:///system", "sqlite:///var/lib/limen/limen.db", data_dir="/var/lib/limen") as client:
        operation = client.create_vm("web-1", vcpus=2, memory_mib=2048, start=True)
        operation.wait(timeout=60)
        for vm in client.list_vms().all():
            print(vm.name, vm.status.state)

Everything starts at `Client`, or at `AsyncClient` for an asyncio program: the whole of LIMEN in this
process, over libvirt or a simulator (`sim:///?vms=10`), and a Store of SQLite or PostgreSQL.
`limen.connect("http://host:18443", token=...)` gives the same client of a server instead. Every error is
a `LimenError`, with a class for each kind.

Values are sizes in the unit that their name ends with (`memory_mib`, `size_bytes`), times are
`datetime` in UTC, ids are strings of UUIDs, timeouts are seconds.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from . import _model
from ._client import Client
from ._model import *  # noqa: F403
from ._parts import Console, Events, Operation, Page
from ._secret import NewToken, Secret, Ticket
from ._value import ClosedError, ForkedError, LimenError, Name, Value

if TYPE_CHECKING:
    from ._async_client import AsyncClient
    from ._async_parts import AsyncConsole, AsyncEvents, AsyncOperation, AsyncPage

__all__ = [
    "AsyncClient",
    "AsyncConsole",
    "AsyncEvents",
    "AsyncOperation",
    "AsyncPage",
    "Client",
    "ClosedError",
    "Console",
    "Events",
    "ForkedError",
    "LimenError",
    "Name",
    "NewToken",
    "Operation",
    "Page",
    "Secret",
    "Ticket",
    "Value",
    "connect",
    "connect_async",
    "has_libvirt",
]
__all__ += _model.__all__

connect = Client.connect
"""`Client.connect`: the client of a server."""

_ASYNC = ("AsyncClient", "AsyncConsole", "AsyncEvents", "AsyncOperation", "AsyncPage")


def has_libvirt() -> bool:
    """Whether this build can reach libvirt."""
    from . import _limen

    return _limen.has_libvirt()


def connect_async(url: str, *, token: str | None = None, ca_file: str | os.PathLike[str] | None = None) -> AsyncClient:
    """`AsyncClient.connect`: the client of a server, for an asyncio program."""
    from ._async_client import AsyncClient

    return AsyncClient.connect(url, token=token, ca_file=ca_file)


def __getattr__(name: str) -> Any:
    # asyncio is half of the time of an import, and most programs have no use for it.
    if name in _ASYNC:
        from . import _async_client

        for each in _ASYNC:
            globals()[each] = getattr(_async_client, each)
        return globals()[name]
    raise AttributeError(f"module 'limen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ASYNC})
