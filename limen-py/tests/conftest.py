"""What the tests share: doors to LIMEN, and stores."""

from __future__ import annotations

import asyncio
import glob
import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import limen
import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parents[2]


class Awaited:
    """The blocking client, spoken to as if it were the other one: each call in a thread of its own."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        if not callable(found):
            return wrapped(found)

        if name in ("watch_events", "events", "with_token"):
            return lambda *args, **options: wrapped(found(*args, **options))
        if name == "all":
            return lambda: iterated(found())

        async def call(*args: Any, **options: Any) -> Any:
            return wrapped(await asyncio.to_thread(found, *args, **options))

        return call

    def __await__(self) -> Any:
        return self.wait().__await__()

    def __len__(self) -> int:
        return len(self._real)

    def __iter__(self) -> Any:
        return map(wrapped, self._real)

    def __getitem__(self, index: Any) -> Any:
        return wrapped(self._real[index])

    def __aiter__(self) -> Any:
        return iterated(iter(self._real))


def wrapped(real: Any) -> Any:
    kinds = (limen.Client, limen.Page, limen.Events, limen.Console, limen.Operation)
    return Awaited(real) if isinstance(real, kinds) else real


async def iterated(real: Iterator[Any]) -> Any:
    end = object()
    while (item := await asyncio.to_thread(next, real, end)) is not end:
        yield wrapped(item)


Scenario = Callable[[Any], Awaitable[None]]


@pytest.fixture(params=["sync", "async"])
def door(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a behaviour through each client: `door(scenario, *options, **options)`."""

    def run(scenario: Scenario, *args: Any, **options: Any) -> None:
        async def both() -> None:
            if request.param == "sync":
                client = await asyncio.to_thread(lambda: limen.Client(*args, **options))
                try:
                    await scenario(Awaited(client))
                finally:
                    await asyncio.to_thread(client.close)
            else:
                async with limen.AsyncClient(*args, **options) as other:
                    await scenario(other)

        asyncio.run(both())

    return run


def eventually(what: Callable[[], bool], seconds: float = 20) -> None:
    """Waits until `what` is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came to be so"
        time.sleep(0.02)


def required(back_end: str, why: str) -> None:
    """A back end that is not there fails the test where it is required, and skips it elsewhere."""
    if back_end in os.environ.get("LIMEN_REQUIRE_BACKENDS", "").split(","):
        pytest.fail(f"{back_end} is required: {why}")
    pytest.skip(why)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of the tests' own; the URL of an empty database, without its name."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        required("postgres", "PostgreSQL is not installed")
    bin_dir = Path(found[-1])
    base = Path(tempfile.mkdtemp(prefix="limen-py-postgres-"))
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        shutil.chown(base, "postgres", "postgres")
    initdb = [*as_user, str(bin_dir / "initdb"), "-D", str(base / "data"), "-U", "limen", "-A", "trust", "--no-sync"]
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["-c", "fsync=off", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={base}"]
    server = subprocess.Popen(
        [*as_user, str(bin_dir / "postgres"), "-D", str(base / "data"), "-p", str(port), *settings],
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        ready = [str(bin_dir / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        eventually(lambda: subprocess.run(ready, check=False).returncode == 0, 60)
        yield f"postgres://limen@127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty Store."""
    if request.param == "memory":
        return ":memory:"
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'limen.db'}"
    base = request.getfixturevalue("postgres")
    name = f"limen_{uuid.uuid4().hex}"
    psql = ["psql", "-q", "-d", f"{base}/postgres", "-c", f"CREATE DATABASE {name}"]
    subprocess.run(psql, check=True)
    return f"{base}/{name}"
