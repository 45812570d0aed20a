"""What only a client of a server meets: a server that is away, restarts or is none; tokens that end."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any

import limen
import pytest
from conftest import ADMIN, free_port

Answer = bytes
ID = "00000000-0000-0000-0000-000000000000"


def answer(status: int, body: Any, *headers: str) -> Answer:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} -", f"Content-Length: {len(text)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + text


HEALTH = answer(200, {"status": "ok", "version": "0", "store": "ok", "hosts": []})


class Scripted:
    """A server that answers what a test says, and keeps what it was asked; no answer hangs up."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.asked: list[str] = []
        outer = self

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode().strip()
                headers = []
                while (header := self.rfile.readline().decode().strip()) != "":
                    headers.append(header)
                outer.asked.append("\n".join([line, *headers]))
                self.wfile.write(outer.answers.pop(0) if outer.answers else b"")

        self.server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def client(self, *answers: Answer, token: str | None = "secret") -> limen.Client:
        self.answers = [HEALTH]
        client = limen.connect(self.url, token=token)
        self.answers = list(answers)
        self.asked.clear()
        return client


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    server = Scripted()
    yield server
    server.server.shutdown()


def test_who_is_no_limen_is_told_so(scripted: Scripted) -> None:
    for wrong in (answer(200, b"<html>It works</html>"), answer(404, b"nothing"), answer(200, {"status": "ok"})):
        scripted.answers = [wrong]
        with pytest.raises(limen.UnavailableError, match="is not LIMEN"):
            limen.connect(scripted.url)
    scripted.answers = [answer(502, b"<html>Bad Gateway</html>")]
    with pytest.raises(limen.UnavailableError, match="502"):
        limen.connect(scripted.url)
    with pytest.raises(limen.UnavailableError, match="Connection refused"):
        limen.connect(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    "url", ["", "limen", "ftp://a", "http://", "http://a/api", "http://u:p@a", "http://a?b", "http://a#b"]
)
def test_an_address_that_is_none_is_named(url: str) -> None:
    with pytest.raises(limen.InvalidError) as wrong:
        limen.connect(url)
    assert wrong.value.field == "url"


def test_certificates_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for file in (tmp_path / "none", tmp_path / "empty"):
        with pytest.raises(limen.InvalidError) as wrong:
            limen.connect("https://127.0.0.1:1", ca_file=file)
        assert wrong.value.field == "ca_file"


def test_a_change_without_an_answer_is_in_doubt_and_sent_once(scripted: Scripted) -> None:
    with scripted.client() as client:
        with pytest.raises(limen.InterruptedError, match="done or not"):
            client.create_vm("a", vcpus=1, memory_mib=64)
        assert len(scripted.asked) == 1 and scripted.asked[0].startswith("POST /api/vms ")
        with pytest.raises(limen.UnavailableError):
            client.get_vm(ID)


def test_who_is_told_to_wait_waits_and_asks_again(scripted: Scripted) -> None:
    problem = {"code": "rate_limited", "detail": "Too many requests."}
    later = answer(429, problem, "Retry-After: 1")
    with scripted.client(later, later, answer(200, {"vms": [], "refusals": {"known": 3}})) as client:
        begun = time.monotonic()
        assert client.refusals().known == 3
        assert time.monotonic() - begun > 1.9 and len(scripted.asked) == 3
        scripted.answers = [answer(429, problem, "Retry-After: 600")]
        with pytest.raises(limen.RateLimitedError) as refused:
            client.refusals()
        assert refused.value.retry_after == 600
        scripted.answers = [later] * 6
        scripted.asked.clear()
        with pytest.raises(limen.RateLimitedError):
            client.refusals()
        assert len(scripted.asked) == 5


def test_a_key_is_taken_where_http_takes_one(serve: Callable[..., Any]) -> None:
    client = limen.connect(serve().url).login(*ADMIN)
    for call in (client.delete_vm, client.update_vm, client.delete_image):
        with pytest.raises(limen.InvalidError) as wrong:
            call(ID, idempotency_key="k")
        assert wrong.value.field == "idempotency_key"


def test_a_token_goes_to_its_server_alone(scripted: Scripted) -> None:
    other = Scripted()
    with scripted.client(answer(307, b"", f"Location: {other.url}/api/auth/me")) as client:
        with pytest.raises(limen.LimenError):
            client.get_me()
        assert "authorization: Bearer secret" in scripted.asked[0] and not other.asked
        assert "secret" not in repr(client) + str(vars(type(client)))
    other.server.shutdown()


def test_what_was_changed_is_asked_for_by_its_event(scripted: Scripted) -> None:
    operation = {"id": ID, "state": "succeeded"}
    with scripted.client(answer(200, operation, "X-Limen-Event: 41"), answer(200, {"items": []})) as client:
        client.delete_vm(ID)
        client.list_hosts()
        assert "x-limen-event" not in scripted.asked[0] and "x-limen-event: 41" in scripted.asked[1]


@pytest.mark.parametrize("name", ["", ".", "..", "../../health", "a b", "a/b", "a?b#c", "호스트"])
def test_a_name_is_never_a_path(serve: Callable[..., Any], name: str) -> None:
    client = limen.connect(serve().url).login(*ADMIN)
    with pytest.raises(limen.NotFoundError):
        client.host_metrics(name)


def test_events_end_with_the_server_and_go_on_from_where_they_were(serve: Callable[..., Any]) -> None:
    server = serve("sim:///")
    client = limen.connect(server.url).login(*ADMIN)
    client.create_vm("a", vcpus=1, memory_mib=64).wait(timeout=60)
    events = client.events(after=0)
    told = [next(events).number for _ in range(3)]
    assert told == [1, 2, 3]
    for end in (server.stop, server.kill):
        end()
        with pytest.raises(limen.UnavailableError):
            for event in events:
                told.append(event.number)
        server.start()
        assert events.position == told[-1]
        # The session outlived the server.
        client.create_vm("b" if end == server.stop else "c", vcpus=1, memory_mib=64).wait(timeout=60)
        events = client.events(after=events.position)
        told.append(next(events).number)
        assert told == list(range(1, len(told) + 1))


def test_a_server_that_is_away_and_a_client_that_is_closed(serve: Callable[..., Any]) -> None:
    server = serve("sim:///?vms=3")
    client = limen.connect(server.url).login(*ADMIN)
    page = client.list_vms(limit=1)
    server.kill()
    for call in (client.list_vms, page.next_page, client.health, client.check, client.get_metrics):
        with pytest.raises(limen.UnavailableError):
            call()
    with pytest.raises(limen.UnavailableError):
        client.create_vm("a", vcpus=1, memory_mib=64)
    server.start()
    assert len(list(page.all())) == 3
    events = client.events(after=0)
    next(events)
    client.close()
    for call in (client.list_vms, lambda: list(events)):
        with pytest.raises(limen.ClosedError):
            call()


def test_tokens_that_are_none_or_have_ended(serve: Callable[..., Any]) -> None:
    server = serve("sim:///?vms=3")
    client = limen.connect(server.url)
    assert client.health().store
    for wrong in (client, client.with_token("limen_none"), limen.connect(server.url, token="x.y.z")):
        with pytest.raises(limen.UnauthenticatedError):
            wrong.list_vms()
        with pytest.raises(limen.UnauthenticatedError):
            next(wrong.events(after=0))
        with pytest.raises(limen.UnauthenticatedError):
            wrong.open_console(ID)
    admin = client.login(*ADMIN)
    ends = datetime.now(timezone.utc) + timedelta(seconds=2)
    token = client.with_token(admin.create_token("brief", expires_at=ends).secret)
    events = token.events(after=token.event())
    with pytest.raises(limen.UnauthenticatedError):
        events.next(timeout=20)
    with pytest.raises(limen.UnauthenticatedError):
        token.list_vms()


def test_a_console_that_is_closed_or_lost(serve: Callable[..., Any]) -> None:
    server = serve("sim:///")
    client = limen.connect(server.url).login(*ADMIN)
    vm = client.create_vm("a", vcpus=1, memory_mib=64, start=True).wait(timeout=60).vm_id
    console = client.open_console(vm)
    assert console.read(timeout=20)
    text = b"x" * 200_000 + b"end\n"
    writing = threading.Thread(target=console.write, args=(text,))
    writing.start()
    assert console.read_until(b"end", timeout=60).count(b"x") >= 200_000
    writing.join(60)
    client.change_power(vm, "power_off").wait(timeout=60)
    while console.read(timeout=20):
        pass
    with pytest.raises(limen.NotFoundError):
        client.open_console(ID)
    client.change_power(vm, "start").wait(timeout=60)
    console = client.open_console(vm)
    assert console.read(timeout=20)
    server.kill()
    with pytest.raises(limen.UnavailableError):
        while console.read(timeout=20):
            pass


def test_many_at_once_do_not_block_each_other(serve: Callable[..., Any]) -> None:
    server = serve("sim:///?vms=10")

    async def many() -> None:
        async with limen.connect_async(server.url) as nobody:
            client = await nobody.login(*ADMIN)
            asks = [client.list_vms() if number % 2 else client.get_me() for number in range(1000)]
            waiting = asyncio.create_task(client.events(after=await client.event()).next())
            assert len(await asyncio.gather(*asks)) == 1000
            assert not waiting.done()
            waiting.cancel()

    asyncio.run(many())


def test_a_server_with_a_certificate_of_its_own(serve: Callable[..., Any], tmp_path: Path) -> None:
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subject = ["-subj", "/CN=localhost", "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", "key", "-out", "cert"]
    subprocess.run([*make, *subject], check=True, cwd=tmp_path, capture_output=True)
    server = serve("sim:///?vms=3")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    port = relay(context, int(server.settings["PORT"]))
    with pytest.raises(limen.UnavailableError, match="certificate|issuer|Unknown"):
        limen.connect(f"https://127.0.0.1:{port}")
    client = limen.connect(f"https://127.0.0.1:{port}", ca_file=tmp_path / "cert").login(*ADMIN)
    assert len(client.list_vms()) == 3
    vm = client.list_vms(state="running")[0].id
    with client.open_console(vm) as console:
        assert console.read(timeout=20)


def relay(context: Any, to: int) -> int:
    """A proxy that speaks TLS before a server; its port."""
    def carry(source: Any, sink: Any) -> None:
        try:
            while part := source.recv(65536):
                sink.sendall(part)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            try:
                client = context.wrap_socket(self.request, server_side=True)
            except OSError:
                return
            with socket.create_connection(("127.0.0.1", to)) as server:
                threading.Thread(target=carry, args=(server, client), daemon=True).start()
                carry(client, server)
                time.sleep(0.2)

    proxy = ThreadingTCPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    port: int = proxy.server_address[1]
    return port
