"""The client for an asyncio program."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ._aio import _Aio
from ._async_parts import AsyncConsole, AsyncEvents, AsyncOperation, AsyncPage
from ._model import (
    Action,
    AuditOutcome,
    AuditRecord,
    CheckReport,
    ConflictError,
    ConsoleKind,
    CreateDisk,
    Figures,
    Firmware,
    Health,
    Host,
    HostSample,
    Image,
    ImageFormat,
    Network,
    PowerAction,
    Quota,
    QuotaView,
    Refusals,
    Restored,
    Role,
    TimeoutError,
    Token,
    User,
    Vm,
    VmSample,
    VmState,
)
from ._open import given, open_core, open_remote
from ._secret import NewToken, Ticket
from ._value import Value

if TYPE_CHECKING:
    from ._limen import Core

T = TypeVar("T", bound=Value)


class AsyncClient(_Aio):
    """LIMEN in this process, for an asyncio program: no server is needed. `connect` makes a client of a
    server, with the same methods.

        async with limen.AsyncClient("sim:///?vms=10", ":memory:") as client:
            operation = await client.create_vm("web-1", vcpus=2, memory_mib=1024)
            await operation.wait(timeout=60)
            for vm in await client.list_vms():
                print(vm.name, vm.status.state)

    Every method bears the name that the same operation has in the Rust library, in the HTTP API and in
    the audit. Reads are answered from memory. What changes a host returns an `AsyncOperation` at once:
    it is recorded, and goes on whether or not anybody waits for it.

    One client may be used by any number of threads and tasks at once. A server and other programs may
    work with the same Store: the first to open it works on its hosts, the others record what is to be
    done. No client can be used, or opened, in a process that was forked after one was opened.

    hypervisor: a host's URI (`qemu:///system`, `test:///default`, `sim:///?vms=10&seed=7`), or a
        mapping of the names of hosts to theirs; a single host is called `local`, as a server calls it.
    store: `sqlite://PATH`, `postgres://USER:PASSWORD@HOST:PORT/NAME`, or `:memory:`, which is forgotten
        at the end.
    data_dir: where images and the volumes of VMs are, in `images` and `vms`; QEMU's user must be able
        to pass through it. Needed with libvirt's real hosts.
    token: an API token: the client may then do what the token may. Without one it may do everything, as
        the owner of the machine.
    admin: name and password of the first user, where the Store has none yet.
    passive: record and read only, and leave the hosts to another process.
    memory_overcommit: the memory of all VMs of a host may be this many times the host's; None for no
        limit.
    free_space_gib: what the disks of a new VM must leave free on the host, in GiB.
    max_connections: connections to the Store, at most.

    Raises `limen.InvalidError`, which names the option, `limen.UnavailableError` when the Store cannot
    be reached, and `limen.UnsupportedError` when this build has no libvirt: at the first call that is
    awaited, `async with` first of all. A host that cannot be reached is no error: it is `unknown` until
    it can.
    """

    __slots__ = ()

    def __init__(
        self,
        hypervisor: str | Mapping[str, str],
        store: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        token: str | None = None,
        admin: tuple[str, str] | None = None,
        passive: bool = False,
        memory_overcommit: float | None = 1.5,
        free_space_gib: int = 2,
        max_connections: int = 10,
    ) -> None:
        self._core = open_core(
            hypervisor,
            store,
            data_dir=data_dir,
            admin=admin,
            passive=passive,
            memory_overcommit=memory_overcommit,
            free_space_gib=free_space_gib,
            max_connections=max_connections,
        )
        self._as = None if token is None else {"token": token}
        # sync: self._call("open", {})

    @classmethod
    def connect(
        cls, url: str, *, token: str | None = None, ca_file: str | os.PathLike[str] | None = None
    ) -> AsyncClient:
        """A client of a server instead: the same methods, answers and errors, over HTTP.

        url: `http://HOST:PORT` or `https://HOST:PORT`, as `limen serve` tells it.
        token: an API token (`limen token add`, `create_token`). Without one the client may `login`, and
            ask for `health`.
        ca_file: certificates in PEM that are trusted besides the machine's own.

        A server does more for its callers than this process can know. What changed something and got no
        answer raises `limen.InterruptedError`: it may be done or not. A server that takes no more requests
        for now is asked again, after the time that it names. Images are added on the server's machine:
        `add_image` raises `limen.UnsupportedError`.

        Raises `limen.InvalidError`, which names the argument, and `limen.UnavailableError` when no LIMEN
        answers there: at the first call that is awaited, `async with` first of all.
        """
        client = cls._over(open_remote(url, ca_file), None if token is None else {"token": token})
        # sync: client._call("open", {})
        return client

    @classmethod
    def _over(cls, core: Core, asker: Mapping[str, str] | None) -> AsyncClient:
        client = object.__new__(cls)
        client._core = core
        client._as = asker
        return client

    async def __aenter__(self) -> AsyncClient:
        await self._call("open", {})  # async only
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes it, and every client that shares its core. Idempotent; takes a few seconds where a
        host or the Store hangs. Guests and unfinished operations go on: the latter when the Store is
        opened again, or at once where another process has it open.
        """
        await self._close()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._core.closed

    def with_token(self, token: str) -> AsyncClient:
        """A client over the same core that may do what this API token may."""
        return type(self)._over(self._core, {"token": token})

    # Events, and how this process is.

    async def event(self) -> int:
        """The number of the last event that this client shows."""
        number: int = await self._call("event", {})
        return number

    async def wait_for_event(self, number: int, *, timeout: float = 5.0) -> None:
        """Returns once this client shows event `number`: to read what was written elsewhere.

        Raises `limen.UnavailableError` after `timeout` seconds.
        """
        await self._call("wait_for_event", {"number": number, "timeout": timeout})

    def watch_events(self, after: int | None = None) -> AsyncEvents:
        """Follows the events after number `after`: 0 from the first one on, None for those that come
        after the first look. List first, then follow from the list's `event`: nothing is missed and
        nothing told twice.

        What goes wrong is raised by the iteration: `limen.GoneError` when the log does not reach back
        to `after` (`oldest` is the oldest number that it has), `limen.UnavailableError` when the Store
        is away or too many streams are open, `limen.InvalidError` when `after` is negative.
        """
        return AsyncEvents(self, after)

    def events(self, after: int | None = None) -> AsyncEvents:
        """The same as `watch_events`."""
        return self.watch_events(after)

    async def health(self) -> Health:
        """Whether the Store answers and each host can be worked with; within about a second whatever
        hangs."""
        return Health._of(await self._call("health", {}))

    async def ping_store(self) -> None:
        """Asks the Store for its least answer.

        Raises `limen.UnavailableError`, after some seconds at most.
        """
        await self._call("ping_store", {})

    async def refusals(self) -> Refusals:
        """How often somebody was refused since this process began."""
        return Refusals._of(await self._call("refusals", {}))

    async def get_metrics(self) -> Figures:
        """The figures for monitoring, all from memory."""
        return Figures._of(await self._call("get_metrics", {}))

    async def check(self) -> CheckReport:
        """Compares the Store, the hosts, the files of images and memory, and reports every
        disagreement. Changes nothing. Takes as long as the slowest host takes for its lists, and about
        two seconds more where something was found.

        Raises `limen.ForbiddenError`.
        """
        return CheckReport._of(await self._call("check", {}))

    async def get_restored(self) -> Restored:
        """What is to be seen to after the Store was restored from a copy of before.

        Raises `limen.ForbiddenError`.
        """
        return Restored._of(await self._call("get_restored", {}))

    # VMs.

    async def list_vms(
        self,
        *,
        state: VmState | str | None = None,
        host: str | None = None,
        owner: str | None = None,
        name: str | None = None,
        label: str | None = None,
        limit: int = 1000,
        cursor: str | None = None,
    ) -> AsyncPage[Vm]:
        """A page of VMs by id, from memory: those that fit everything that is given.

        `host` is a name, `owner` an id, `label` a key alone or `key=value`. `limit` is 1 to 1000;
        `cursor` is the `next_cursor` of the page before.

        Raises `limen.InvalidError`.
        """
        query = given(state=state, host=host, owner=owner, name=name, label=label)

        async def more(cursor: str | None) -> AsyncPage[Vm]:
            args = {"query": query, "page": {"limit": limit, "cursor": cursor}}
            return AsyncPage(await self._call("list_vms", args), Vm._of, more)

        return await more(cursor)

    async def get_vm(self, id: str) -> Vm:
        """One VM, from memory, with its `etag`.

        Raises `limen.NotFoundError`, also for one that is not in the actor's sight.
        """
        return Vm._of(await self._call("get_vm", {"id": id}))

    async def vm_stats(self, id: str) -> VmSample:
        """The last figures of a running VM, with their rates and their age; no call to a host.

        Raises `limen.NotFoundError`, `limen.ConflictError` where the VM does not run,
        `limen.UnsupportedError` where no figures are read, and `limen.UnavailableError` while the
        VM has told none.
        """
        return VmSample._of(await self._call("vm_stats", {"id": id}))

    async def create_vm(
        self,
        name: str,
        *,
        vcpus: int,
        memory_mib: int,
        description: str = "",
        disks: Sequence[CreateDisk] = (),
        iso: str | None = None,
        networks: Sequence[str] = (),
        firmware: Firmware | str = Firmware.BIOS,
        autostart: bool = False,
        labels: Mapping[str, str] | None = None,
        host: str | None = None,
        start: bool = False,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Makes a VM: its volumes, their contents, its definition, and starts it where asked. The VM
        is there, `creating`, at once (its id is the operation's `vm_id`), and gone again when it fails.

        name: letters, digits, `.`, `_`, `-`; 1 to 63 characters, the first a letter or digit; not a
            UUID; unique among the owner's.
        vcpus: virtual CPUs, 1 to 512.
        memory_mib: memory in MiB, 16 to 16,777,216.
        description: free text, at most 4 KiB of UTF-8.
        disks: at most 16; `limen.CreateDisk(size_gib=20)` is a blank one.
        iso: the id of an ISO image for the drive.
        networks: one NIC for each network of the host that is named, at most 16.
        labels: at most 64; key 1 to 63 bytes, value at most 255 bytes of UTF-8.
        host: by name; the only or first one when none is given.
        start: whether to start it once it is made; when that fails the VM is undone.
        idempotency_key: the same key with the same request answers with the same operation for 24
            hours; 1 to 255 visible ASCII characters.

        Raises `limen.InvalidError`, `limen.AlreadyExistsError` (the name), `limen.QuotaExceededError`,
        `limen.NoSpaceError`, `limen.UnsupportedError`, and `limen.UnavailableError` while the host was
        never reached.
        """
        create = {
            "name": name,
            "description": description,
            "vcpus": vcpus,
            "memory_mib": memory_mib,
            "disks": [disk.to_dict() for disk in disks],
            "networks": list(networks),
            "firmware": firmware,
            "autostart": autostart,
            "labels": dict(labels or {}),
            "start": start,
            **given(iso=iso, host=host),
        }
        return AsyncOperation._at(self, await self._call("create_vm", {"create": create}, idempotency_key))

    async def update_vm(
        self,
        id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        autostart: bool | None = None,
        vcpus: int | None = None,
        memory_mib: int | None = None,
        expected: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Changes what is given, and nothing else; `labels` are all labels anew. vCPUs and memory (MiB)
        count from the next boot.

        expected: the `etag` of the VM as it was read: it is changed only when its record is still that.

        Raises `limen.PreconditionFailedError` when it is not, `limen.AlreadyExistsError` (the name),
        `limen.QuotaExceededError`, `limen.NoSpaceError`, `limen.NotFoundError`, `limen.BusyError`.
        """
        update = given(
            name=name,
            description=description,
            labels=None if labels is None else dict(labels),
            autostart=autostart,
            vcpus=vcpus,
            memory_mib=memory_mib,
        )
        args = {"id": id, "update": update, "expected": expected}
        return AsyncOperation._at(self, await self._call("update_vm", args, idempotency_key))

    async def delete_vm(self, id: str, *, expected: str | None = None, idempotency_key: str | None = None) -> AsyncOperation:
        """Deletes a VM: cuts its power, removes its definition and the volumes that it owns. It takes
        the place of an operation that waits for the guest. `expected` is as for `update_vm`.

        Raises `limen.PreconditionFailedError`, `limen.NotFoundError`, `limen.BusyError`.
        """
        args = {"id": id, "expected": expected}
        return AsyncOperation._at(self, await self._call("delete_vm", args, idempotency_key))

    async def change_power(
        self, id: str, action: PowerAction | str, *, timeout_s: int | None = None, idempotency_key: str | None = None
    ) -> AsyncOperation:
        """Starts, shuts down, powers off, reboots, resets, pauses, resumes or saves a VM.

        `shutdown` and `reboot` ask the guest: they succeed when it is off or was reset, and fail with
        `limen.TimeoutError` after `timeout_s` seconds (1 to 3600; 90 when none is given), leaving it
        as it is. `power_off` and `reset` take the place of an operation that waits for the guest.

        Raises `limen.ConflictError` when the action has no meaning in the VM's state,
        `limen.NotFoundError`, `limen.BusyError`.
        """
        args = {"id": id, "action": action, "timeout_s": timeout_s}
        return AsyncOperation._at(self, await self._call("change_power", args, idempotency_key))

    async def create_ticket(self, id: str, kind: ConsoleKind | str) -> Ticket:
        """A ticket that opens a VM's console at a server on the same Store, once, within 30 seconds.

        Raises `limen.ForbiddenError` for an actor that is no user, `limen.NotFoundError`.
        """
        return Ticket._of(await self._call("create_ticket", {"id": id, "kind": kind}))

    async def open_console(self, id: str, kind: ConsoleKind | str = ConsoleKind.SERIAL) -> AsyncConsole:
        """Opens a VM's console: `serial` are the raw bytes of its first serial port, `vnc` is RFB, already
        authenticated.

        Raises `limen.ConflictError` when the VM is off, `limen.NotFoundError`,
        `limen.UnavailableError`.
        """
        return AsyncConsole(self, await self._call("open_console", {"id": id, "kind": kind}))

    # Images.

    async def list_images(self, *, limit: int = 1000, cursor: str | None = None) -> AsyncPage[Image]:
        """A page of images by id, from memory."""
        return await self._page("list_images", {}, limit, cursor, Image._of)

    async def get_image(self, id: str) -> Image:
        """One image.

        Raises `limen.NotFoundError`.
        """
        return Image._of(await self._call("get_image", {"id": id}))

    async def add_image(
        self,
        name: str,
        format: ImageFormat | str,
        source: bytes | str | os.PathLike[str],
        *,
        idempotency_key: str | None = None,
    ) -> AsyncOperation:
        """Adds an image: the bytes of the file `source`, or `source` itself. They are received and
        checked before this returns; its id is the operation's `image_id`.

        Raises `limen.InvalidError` when the bytes are not of the format or refer to another file,
        `limen.AlreadyExistsError` (the name), `limen.NoSpaceError`, and `limen.UnsupportedError` when
        the client has no `data_dir`.
        """
        body = bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else None
        path = None if isinstance(source, (bytes, bytearray, memoryview)) else os.path.abspath(source)
        args = {"add": {"name": name, "format": format}, "path": path}
        return AsyncOperation._at(self, await self._call("add_image", args, idempotency_key, body))

    async def delete_image(self, id: str, *, idempotency_key: str | None = None) -> AsyncOperation:
        """Deletes an image and its copies on hosts.

        Raises `limen.ConflictError` when a VM needs it, `limen.NotFoundError`.
        """
        return AsyncOperation._at(self, await self._call("delete_image", {"id": id}, idempotency_key))

    # Hosts.

    async def list_hosts(self) -> tuple[Host, ...]:
        """All hosts, with what they have and their figures; no call to a host."""
        return tuple(map(Host._of, await self._call("list_hosts", {})))

    async def host_metrics(self, name: str) -> HostSample:
        """The last figures of the host of this name, with their age; no call to a host.

        Raises `limen.NotFoundError`, `limen.UnsupportedError` where nobody tells them, and
        `limen.UnavailableError` while nobody has.
        """
        return HostSample._of(await self._call("host_metrics", {"name": name}))

    async def list_networks(self) -> tuple[Network, ...]:
        """The networks of all hosts, as read within the last seconds."""
        return tuple(map(Network._of, await self._call("list_networks", {})))

    # Operations.

    async def list_operations(
        self, *, vm: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> AsyncPage[AsyncOperation]:
        """A page of operations, newest first; of one VM where its id is given."""
        return await self._page("list_operations", {"vm": vm}, limit, cursor, lambda data: AsyncOperation._at(self, data))

    async def get_operation(self, id: str) -> AsyncOperation:
        """One operation as it is now.

        Raises `limen.NotFoundError`.
        """
        return AsyncOperation._at(self, await self._call("get_operation", {"id": id}))

    async def wait_operation(self, id: str, *, timeout: float) -> AsyncOperation:
        """Waits until the operation is finished, for `timeout` seconds at most, and returns it as it is
        then, failed or not. `AsyncOperation.wait` raises what went wrong.

        Raises `limen.NotFoundError`.
        """
        return AsyncOperation._at(self, await self._call("wait_operation", {"id": id, "timeout": timeout}))

    async def cancel_operation(self, id: str) -> AsyncOperation:
        """Asks an operation to stop and to take back what it did. It may end otherwise when it was
        about to finish.

        Raises `limen.ConflictError` when it is finished or can only be driven forward any more.
        """
        return AsyncOperation._at(self, await self._call("cancel_operation", {"id": id}))

    async def resume_operation(self, id: str) -> AsyncOperation:
        """Lets an operation go on that is held since the Store was restored.

        Raises `limen.ConflictError` when it is not held.
        """
        return AsyncOperation._at(self, await self._call("resume_operation", {"id": id}))

    async def abandon_operation(self, id: str) -> AsyncOperation:
        """Gives an operation up that is held since the Store was restored; no host is touched.

        Raises `limen.ConflictError` when it is not held.
        """
        return AsyncOperation._at(self, await self._call("abandon_operation", {"id": id}))

    # Users, sessions, tokens, quotas.

    async def login(self, name: str, password: str) -> AsyncClient:
        """A client over the same core that may do what this user may, in a session of 24 hours.

        Raises `limen.UnauthenticatedError`, and `limen.UnavailableError` when too many logins wait.
        """
        session = await self._call("login", {"name": name, "password": password})
        return type(self)._over(self._core, {"session": session["session"]})

    async def logout(self) -> None:
        """Ends this client's own session. Idempotent."""
        await self._call("logout", {})

    async def get_me(self) -> User:
        """This client's own user.

        Raises `limen.NotFoundError` for one that is no user.
        """
        return User._of(await self._call("get_me", {}))

    async def change_password(self, current: str, new: str) -> None:
        """Changes one's own password, 12 characters to 128 bytes; all other sessions of one's own end.

        Raises `limen.InvalidError`.
        """
        await self._call("change_password", {"current": current, "new": new})

    async def list_users(self, *, limit: int = 1000, cursor: str | None = None) -> AsyncPage[User]:
        """A page of users by id.

        Raises `limen.ForbiddenError`.
        """
        return await self._page("list_users", {}, limit, cursor, User._of)

    async def get_user(self, id: str) -> User:
        """One user.

        Raises `limen.NotFoundError`, `limen.ForbiddenError`.
        """
        return User._of(await self._call("get_user", {"id": id}))

    async def create_user(
        self,
        name: str,
        password: str,
        *,
        role: Role | str = Role.USER,
        disabled: bool = False,
        quota: Quota | None = None,
    ) -> User:
        """Makes a user. The password has 12 characters to 128 bytes.

        Raises `limen.InvalidError`, `limen.AlreadyExistsError`, `limen.ForbiddenError`.
        """
        create = {
            "name": name,
            "password": password,
            "role": role,
            "disabled": disabled,
            "quota": {} if quota is None else quota.to_dict(),
        }
        return User._of(await self._call("create_user", {"create": create}))

    async def update_user(
        self,
        id: str,
        *,
        password: str | None = None,
        role: Role | str | None = None,
        disabled: bool | None = None,
        quota: Mapping[str, int | None] | None = None,
    ) -> User:
        """Changes what is given. A new password, and disabling, end the user's sessions. `quota` names
        the limits that change: `{"vms": 5, "vcpus": None}` takes the limit of vCPUs away.

        Raises `limen.ConflictError` when it would leave no enabled admin or change one's own role,
        `limen.InvalidError`, `limen.NotFoundError`.
        """
        update = given(password=password, role=role, disabled=disabled, quota=None if quota is None else dict(quota))
        return User._of(await self._call("update_user", {"id": id, "update": update}))

    async def delete_user(self, id: str) -> None:
        """Deletes a user who owns no VM; all their sessions end.

        Raises `limen.ConflictError`, `limen.NotFoundError`.
        """
        await self._call("delete_user", {"id": id})

    async def create_token(
        self, name: str, *, role: Role | str | None = None, vm: str | None = None, expires_at: datetime | None = None
    ) -> NewToken:
        """Makes an API token of one's own; its secret is told this once.

        role: what it may do at most; one's own role when none is given, and never more.
        vm: the id of the one VM that it is for.
        expires_at: when it ends by itself, with a time zone; None for never.

        Raises `limen.ForbiddenError` for a client that is no user in a session (`login`),
        `limen.InvalidError`, `limen.AlreadyExistsError`, and `limen.ConflictError` for more than 100.
        """
        ends = None if expires_at is None else expires_at.isoformat()
        create = {"name": name, "role": role, "vm": vm, "expires_at": ends}
        return NewToken._of(await self._call("create_token", {"create": create}))

    async def list_tokens(self, *, limit: int = 1000, cursor: str | None = None) -> AsyncPage[Token]:
        """A page of API tokens: one's own; an admin's are all."""
        return await self._page("list_tokens", {}, limit, cursor, Token._of)

    async def delete_token(self, id: str) -> None:
        """Deletes an API token: it is good no more.

        Raises `limen.NotFoundError`.
        """
        await self._call("delete_token", {"id": id})

    async def get_quota(self) -> QuotaView:
        """One's own limits, and what is in use.

        Raises `limen.NotFoundError` for an actor that owns nothing.
        """
        return QuotaView._of(await self._call("get_quota", {}))

    # The audit.

    async def list_audit(
        self,
        *,
        actor: str | None = None,
        user: str | None = None,
        action: Action | str | None = None,
        resource: str | None = None,
        outcome: AuditOutcome | str | None = None,
        request_id: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> AsyncPage[AuditRecord]:
        """A page of the audit, newest first: the records that fit everything that is given.

        `actor` is a label (`user:ada`, `token:ada/backup`, `local`), `user` an id, `resource` one thing
        (`vm:<id>`) or a kind of them (`vm`). `since` is inclusive, `until` is not; both need a time
        zone.

        Raises `limen.ForbiddenError`, `limen.InvalidError`.
        """
        query = given(
            actor=actor,
            user=user,
            action=action,
            resource=resource,
            outcome=outcome,
            request_id=request_id,
        )
        query.update(given(**{"from": since and since.isoformat(), "to": until and until.isoformat()}))
        return await self._page("list_audit", {"query": query}, limit, cursor, AuditRecord._of)

    async def _page(
        self,
        method: str,
        args: Mapping[str, Any],
        limit: int,
        cursor: str | None,
        make: Callable[[dict[str, Any]], T],
    ) -> AsyncPage[T]:
        async def more(cursor: str | None) -> AsyncPage[T]:
            data = await self._call(method, {**args, "page": {"limit": limit, "cursor": cursor}})
            return AsyncPage(data, make, more)

        return await more(cursor)
