"""What the tests share: doors to LIMEN, and stores."""

from __future__ import annotations

import asyncio
import glob
import os
import secrets
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


ADMIN = ("admin", "correct horse battery staple")


class Server:
    """`limen serve` on a simulated host, on a port of its own, with nobody's limits."""

    def __init__(self, directory: Path, hypervisor: str = "sim:///", store: str = ":memory:", **settings: str) -> None:
        binary = os.environ.get("LIMEN_BIN") or ROOT / "target" / "release" / "limen"
        assert Path(binary).exists(), f"{binary} is not built: run cargo build --release -p limen-http"
        url = f"sqlite://{directory}/limen.db" if store == ":memory:" else store
        self.command = [str(binary), "serve"]
        self.settings = {
            "PATH": os.environ["PATH"],
            "BIND_ADDRESS": "127.0.0.1",
            "PORT": str(free_port()),
            "HYPERVISOR_URI": hypervisor,
            "DATABASE_URL": url,
            "LIMEN_DATA_DIR": str(directory),
            "JWT_SECRET": secrets.token_hex(32),
            "ADMIN_PASSWORD": ADMIN[1],
            "RATE_LIMIT_ENABLED": "false",
            "METRICS_INTERVAL": "1s",
            **settings,
        }
        self.directory = directory
        self.url = f"http://127.0.0.1:{self.settings['PORT']}"
        self.start()

    def start(self) -> None:
        """Starts it, and waits until it answers."""
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(self.command, env=self.settings, cwd=self.directory, stderr=log, stdout=log)

        def answers() -> bool:
            assert self.process.poll() is None, (self.directory / "log").read_text()[-2000:]
            try:
                limen.connect(self.url).close()
                return True
            except limen.UnavailableError:
                return False

        eventually(answers, 60)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Asks it to stop."""
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers: `serve("sim:///?vms=3", ":memory:", RATE_LIMIT_RPS="1")`."""
    servers: list[Server] = []

    def start(*args: Any, **settings: str) -> Server:
        directory = tmp_path / f"server-{len(servers)}"
        directory.mkdir()
        servers.append(Server(directory, *args, **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Door:
    """Runs a behaviour through a client: `door(scenario, *options, **options)`."""

    def __init__(self, kind: str, serve: Callable[..., Server] | None) -> None:
        self.is_async = kind.endswith("async")
        self.serve = serve

    @property
    def is_remote(self) -> bool:
        """The client is a server's, and its actor the user `admin`."""
        return self.serve is not None

    def __call__(self, scenario: Scenario, *args: Any, **options: Any) -> None:
        asyncio.run(self._run(scenario, *args, **options))

    async def _run(self, scenario: Scenario, *args: Any, **options: Any) -> None:
        server = await asyncio.to_thread(self.serve, *args, **options) if self.serve else None
        if self.is_async:
            made = limen.AsyncClient(*args, **options) if server is None else limen.connect_async(server.url)
            async with made as client:
                await scenario(client if server is None else await client.login(*ADMIN))
            return
        blocking = await asyncio.to_thread(lambda: limen.Client(*args, **options) if server is None else limen.connect(server.url))
        try:
            await scenario(Awaited(blocking if server is None else await asyncio.to_thread(blocking.login, *ADMIN)))
        finally:
            await asyncio.to_thread(blocking.close)


@pytest.fixture(params=["sync", "async"])
def embedded(request: pytest.FixtureRequest) -> Door:
    """Each client of a `Limen` of this process's own."""
    return Door(request.param, None)


@pytest.fixture(params=["sync", "async", "remote-sync", "remote-async"])
def door(request: pytest.FixtureRequest) -> Door:
    """Each client, of a `Limen` of this process's own and of a server's."""
    return Door(request.param, request.getfixturevalue("serve") if request.param.startswith("remote") else None)


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
    port = free_port()
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
