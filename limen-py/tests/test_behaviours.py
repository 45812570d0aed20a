"""What a client does: the blocking one and the one for asyncio, of a `Limen` in this process and of a
server, alike."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import limen
import pytest


async def made(client: Any, name: str = "web-1", **options: Any) -> str:
    operation = await client.create_vm(name, vcpus=2, memory_mib=64, **options)
    finished = await operation.wait(timeout=60)
    assert finished.state is limen.OperationState.SUCCEEDED
    return str(finished.vm_id)


def test_a_vm_is_made_changed_started_and_deleted_on_every_store(door: Any, store: str) -> None:
    async def scenario(client: Any) -> None:
        vm = await made(client, disks=[limen.CreateDisk(size_gib=1)], networks=["default"], labels={"tier": "web"})
        shown = await client.get_vm(vm)
        assert (shown.name, shown.status.state, shown.spec.vcpus) == ("web-1", limen.VmState.SHUT_OFF, 2)
        assert shown.spec.disks[0].size_bytes == 1 << 30 and shown.spec.disks[0].format == "qcow2"
        assert shown.labels == {"tier": "web"} and shown.spec.nics[0].network == "default"

        changed = await client.update_vm(vm, name="web-2", memory_mib=128, expected=shown.etag)
        await changed.wait(timeout=60)
        with pytest.raises(limen.PreconditionFailedError):
            await client.update_vm(vm, name="web-3", expected=shown.etag)
        assert (await client.get_vm(vm)).name == "web-2"

        await (await client.change_power(vm, limen.PowerAction.START)).wait(timeout=60)
        running = await client.list_vms(state="running")
        assert [(one.id, one.status.state) for one in running] == [(vm, "running")]
        with pytest.raises(limen.InvalidError):
            await client.update_vm(vm, vcpus=0)

        await (await client.delete_vm(vm)).wait(timeout=60)
        with pytest.raises(limen.NotFoundError):
            await client.get_vm(vm)
        kinds = [operation.kind for operation in await client.list_operations(vm=vm)]
        assert kinds == ["delete_vm", "change_power", "update_vm", "create_vm"]

    door(scenario, "sim:///", store)


def test_pages_follow_one_another(door: Any) -> None:
    async def scenario(client: Any) -> None:
        await client.check()
        everything = [vm.id async for vm in (await client.list_vms(limit=3)).all()]
        assert len(everything) == 10 and everything == sorted(set(everything))
        page = await client.list_vms(limit=4)
        assert len(page) == 4 and page[0] == next(iter(page)) and page[-1].id == everything[3]
        assert [vm.id for vm in page[1:3]] == everything[1:3]
        second = await page.next_page()
        assert [vm.id for vm in second] == everything[4:8]
        last = await second.next_page()
        assert len(last) == 2 and last.next_cursor is None and await last.next_page() is None
        with pytest.raises(limen.InvalidError) as wrong:
            await client.list_vms(limit=1001)
        assert wrong.value.field == "limit"

    door(observed(scenario), "sim:///?vms=10", ":memory:")


def observed(scenario: Any) -> Any:
    """The scenario, once the host's VMs are shown."""

    async def later(client: Any) -> None:
        for _ in range(1000):
            if (await client.list_hosts())[0].state == "up" and len(await client.list_vms()):
                return await scenario(client)
            await asyncio.sleep(0.02)
        raise AssertionError("the host was never observed")

    return later


def test_events_come_in_order_and_from_where_one_left_off(door: Any) -> None:
    async def scenario(client: Any) -> None:
        vm = await made(client)
        numbers = []
        first = None
        async for event in client.events(after=0):
            numbers.append(event.number)
            if event.kind == "vm":
                assert isinstance(event.object, limen.EventVm) and event.id == vm and event.object.name == "web-1"
                first = event
                break
        assert first is not None and numbers == list(range(1, first.number + 1))

        events = client.watch_events(first.number)
        following = await events.next(timeout=20)
        assert following.number == first.number + 1 and events.position == following.number
        await events.close()
        assert await events.next() is None

        quiet = client.events(after=await client.event())
        with pytest.raises(limen.TimeoutError, match=r"within 1\.5 s"):
            await quiet.next(timeout=1.5)
        await client.change_power(vm, "start")
        told = await quiet.next(timeout=20)
        assert told.kind in ("operation", "vm", "status")
        await quiet.close()
        with pytest.raises(limen.GoneError):
            await client.events(after=10**9).next()
        with pytest.raises(limen.InvalidError):
            await client.events(after=-1).next()

    door(scenario, "sim:///", ":memory:")


def test_an_operation_is_waited_for_and_tells_why_it_failed(embedded: Any) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(limen.NoSpaceError):
            await client.create_vm("big", vcpus=1, memory_mib=64, disks=[limen.CreateDisk(size_gib=65536)])
        vm = await made(client, start=True)
        await client._call("simulate", {"host": None, "order": {"set_guests": None}})
        asked = await client.change_power(vm, "shutdown", timeout_s=1)
        assert not asked.is_finished
        with pytest.raises(limen.TimeoutError) as late:
            await asked.wait(timeout=0.1)
        assert late.value.operation_id == asked.id
        with pytest.raises(limen.BusyError) as busy:
            await client.change_power(vm, "start")
        assert busy.value.operation_id == asked.id and busy.value.is_retryable and busy.value.retry_after == 1.0
        with pytest.raises(limen.TimeoutError) as failed:
            await asked.wait(timeout=60)
        assert "guest" in str(failed.value)
        ended = await client.get_operation(asked.id)
        assert ended.state == "failed" and ended.error.code == "timeout" and ended.is_finished

    embedded(scenario, "sim:///", ":memory:")


def test_a_key_makes_a_change_repeatable(door: Any) -> None:
    async def scenario(client: Any) -> None:
        first = await client.create_vm("a", vcpus=1, memory_mib=64, idempotency_key="k")
        again = await client.create_vm("a", vcpus=1, memory_mib=64, idempotency_key="k")
        assert first.id == again.id
        with pytest.raises(limen.ConflictError):
            await client.create_vm("a", vcpus=2, memory_mib=64, idempotency_key="k")

    door(scenario, "sim:///", ":memory:")


def test_wrong_arguments_are_named(door: Any) -> None:
    async def scenario(client: Any) -> None:
        for field, call in {
            "vcpus": lambda: client.create_vm("a", vcpus="two", memory_mib=64),
            "memory_mib": lambda: client.create_vm("a", vcpus=1, memory_mib=-1),
            "name": lambda: client.create_vm("no spaces", vcpus=1, memory_mib=64),
            "disks[0].size_gib": lambda: client.create_vm(
                "a", vcpus=1, memory_mib=64, disks=[limen.CreateDisk(size_gib=0)]
            ),
            "id": lambda: client.get_vm("web-1"),
            "action": lambda: client.change_power("00000000-0000-0000-0000-000000000000", "fly"),
            "timeout": lambda: client.wait_operation("00000000-0000-0000-0000-000000000000", timeout=-1.0),
            "expected": lambda: client.delete_vm("00000000-0000-0000-0000-000000000000", expected="new"),
            "from": lambda: client.list_audit(since=datetime(2026, 1, 1)),
        }.items():
            with pytest.raises(limen.InvalidError) as wrong:
                await call()
            assert wrong.value.field == field, (field, wrong.value, wrong.value.field)
        with pytest.raises(TypeError):
            await client.create_vm("a", vcpus=object(), memory_mib=64)
        with pytest.raises(TypeError):
            await client.create_vm("a", cpus=1, memory_mib=64)

    door(scenario, "sim:///", ":memory:")


PASSWORD = "correct horse battery"


def test_users_and_tokens_may_do_what_they_may(door: Any) -> None:
    async def scenario(client: Any) -> None:
        quota = limen.Quota(vms=1)
        ada = await client.create_user("ada", PASSWORD, role=limen.Role.USER, quota=quota)
        assert (ada.name, ada.role, ada.quota) == ("ada", "user", quota)
        with pytest.raises(limen.UnauthenticatedError):
            await client.login("ada", "wrong" * 4)
        as_ada = await client.login("ada", PASSWORD)
        assert (await as_ada.get_me()).id == ada.id
        with pytest.raises(limen.ForbiddenError):
            await as_ada.list_users()
        await made(as_ada)
        with pytest.raises(limen.QuotaExceededError) as full:
            await as_ada.create_vm("web-2", vcpus=1, memory_mib=64)
        assert (full.value.resource, full.value.limit, full.value.used) == ("vms", 1, 1)
        assert (await as_ada.get_quota()).used.vms == 1
        changed = await client.update_user(ada.id, quota={"vms": None})
        assert changed.quota.vms is None

        new = await as_ada.create_token("ci", role="viewer", expires_at=datetime.now(timezone.utc) + timedelta(hours=1))
        assert new.secret.startswith("limen_") and new.secret not in repr(new)
        assert [token.id for token in await as_ada.list_tokens()] == [new.token.id]
        by_token = client.with_token(new.secret)
        assert len(await by_token.list_vms()) == 1
        with pytest.raises(limen.ForbiddenError):
            await by_token.create_vm("web-3", vcpus=1, memory_mib=64)
        await as_ada.delete_token(new.token.id)
        with pytest.raises(limen.UnauthenticatedError):
            await by_token.list_vms()

        await as_ada.change_password(PASSWORD, PASSWORD * 2)
        await as_ada.logout()
        with pytest.raises(limen.UnauthenticatedError):
            await as_ada.get_me()
        audit = await client.list_audit(actor="user:ada", action=limen.Action.CREATE_VM)
        assert "accepted" in {record.outcome for record in audit}
        assert (await client.list_audit(until=datetime(2020, 1, 1, tzinfo=timezone.utc))).items == ()

    door(scenario, "sim:///", ":memory:")


def test_images_are_added_from_bytes_and_files(embedded: Any, tmp_path: Path) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(limen.InvalidError) as missing:
            await client.add_image("none", "raw", tmp_path / "none")
        assert missing.value.field == "source"
        file = tmp_path / "disk.raw"
        file.write_bytes(bytes(1 << 20))
        operation = await (await client.add_image("blank", limen.ImageFormat.RAW, file)).wait(timeout=60)
        image = await client.get_image(operation.image_id)
        assert (image.name, image.size_bytes, image.phase) == ("blank", 1 << 20, "ready")
        with pytest.raises(limen.InvalidError):
            await client.add_image("wrong", "qcow2", b"this is no disk")
        disk = limen.CreateDisk(image=image.id, mode=limen.DiskMode.LINKED)
        vm = await made(client, disks=[disk])
        with pytest.raises(limen.ConflictError):
            await client.delete_image(image.id)
        await (await client.delete_vm(vm)).wait(timeout=60)
        await (await client.delete_image(image.id)).wait(timeout=60)
        assert (await client.list_images()).items == ()

    embedded(scenario, "sim:///", ":memory:", data_dir=tmp_path / "data")


def test_a_console_is_read_and_written(door: Any) -> None:
    async def scenario(client: Any) -> None:
        vm = await made(client)
        with pytest.raises(limen.ConflictError):
            await client.open_console(vm)
        await (await client.change_power(vm, "start")).wait(timeout=60)
        console = await client.open_console(vm, limen.ConsoleKind.SERIAL)
        greeting = await console.read(timeout=20)
        assert greeting
        await console.write(b"hello, console\n")
        assert b"hello, console" in await console.read_until(b"console", timeout=20)
        with pytest.raises(limen.TimeoutError, match=r"b'never said' did not come within 0\.2 s"):
            await console.read_until(b"never said", timeout=0.2)
        await console.close()
        with pytest.raises(limen.ConflictError):
            await console.write(b"x")

    door(scenario, "sim:///", ":memory:")


def test_everything_else_answers(door: Any) -> None:
    async def scenario(client: Any) -> None:
        health = await client.health()
        assert health.store and health.hosts[0].name == "local"
        await client.ping_store()
        assert (await client.list_networks())[0].name == "default"
        host = (await client.list_hosts())[0]
        assert host.info.virt_type == "test" and host.metrics.cpus > 0
        sample = await client.host_metrics(host.name)
        assert sample.host == host.name and sample.cpus > 0 and sample.age_seconds >= 0 and not sample.stale
        on = (await client.list_vms(state="running"))[0]
        stats = await client.vm_stats(on.id)
        assert stats.vm_id == on.id and stats.memory_mib > 0 and not stats.stale
        assert all(nic.received.bytes >= 0 for nic in stats.nics)
        assert (await client.refusals()).known == 0
        figures = await client.get_metrics()
        assert dict(figures.vms)[limen.VmState.RUNNING] + dict(figures.vms)["shut_off"] >= 1
        assert (await client.check()).findings == ()
        restored = await client.get_restored()
        assert restored.restores == () and restored.held == ()
        await client.wait_for_event(await client.event())
        with pytest.raises(limen.UnavailableError):
            await client.wait_for_event(10**9, timeout=0.05)
        vm = (await client.list_vms())[0]
        if door.is_remote:
            ticket = await client.create_ticket(vm.id, "serial")
            assert ticket.secret and ticket.expires_at > datetime.now(timezone.utc)
        else:
            with pytest.raises(limen.ForbiddenError):
                await client.create_ticket(vm.id, "serial")
        for change in (client.resume_operation, client.abandon_operation, client.cancel_operation):
            with pytest.raises(limen.NotFoundError):
                await change("00000000-0000-0000-0000-000000000000")

    door(observed(scenario), "sim:///?vms=10", ":memory:")


@pytest.mark.parametrize(
    ("options", "error", "field"),
    [
        (("sim:///?vms=many", ":memory:"), limen.InvalidError, "hypervisor"),
        (("sim:///", "mysql://"), limen.InvalidError, "store"),
        (("sim:///", "sqlite:///proc/limen.db"), limen.LimenError, None),
        (("sim:///", "postgres://nobody@127.0.0.1:1/none"), limen.UnavailableError, None),
        (({}, ":memory:"), limen.InvalidError, "hypervisor"),
    ],
)
def test_options_that_cannot_be_used_are_named(embedded: Any, options: Any, error: Any, field: str | None) -> None:
    async def scenario(client: Any) -> None:
        raise AssertionError("it was opened")

    with pytest.raises(error) as wrong:
        embedded(scenario, *options)
    assert wrong.value.field == field


def test_several_hosts_have_names(embedded: Any) -> None:
    async def scenario(client: Any) -> None:
        assert [host.name for host in await client.list_hosts()] == ["a", "b"]
        vm = await made(client, host="b")
        assert (await client.get_vm(vm)).host == "b"

    embedded(scenario, {"a": "sim:///", "b": "sim:///"}, ":memory:")
