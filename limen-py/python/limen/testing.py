"""For tests of your own: LIMEN over a simulated host, faults on purpose, and what happens outside.

`pytest` users get a `Simulator` from the fixture `limen_sim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._client import Client
from ._model import ErrorKind

if TYPE_CHECKING:
    from ._async_client import AsyncClient

__all__ = ["Fault", "Simulator"]


class Fault:
    """What goes wrong with a call to the host."""

    __slots__ = ("_order",)

    def __init__(self, order: Any) -> None:
        self._order = order

    @classmethod
    def fails(cls, kind: ErrorKind | str = ErrorKind.INTERNAL) -> Fault:
        """The call answers this kind of error and has no effect."""
        return cls({"fails": kind})

    @classmethod
    def no_space(cls) -> Fault:
        """The disk is full."""
        return cls("no_space")

    @classmethod
    def hangs(cls, seconds: float | None = None) -> Fault:
        """The call hangs for so long, or until `Simulator.release`; then it is done."""
        return cls({"hangs": seconds})

    @classmethod
    def lands_late(cls, seconds: float) -> Fault:
        """The caller is told at once that it took too long; the effect lands so much later."""
        return cls({"lands_late": seconds})

    @classmethod
    def event_lost(cls) -> Fault:
        """The call is done, and none of the events that it leads to is sent."""
        return cls("event_lost")

    @classmethod
    def panics(cls) -> Fault:
        """The back end has a defect."""
        return cls("panics")

    @classmethod
    def connection_lost(cls) -> Fault:
        """The connection is lost instead, until `Simulator.reconnect`."""
        return cls("connection_lost")


class Simulator:
    """LIMEN over one simulated host, in memory: two of the same `seed` begin with the same VMs.

        with Simulator(vms=3, seed=7) as sim:
            sim.inject(Fault.no_space(), method="create_volume")
            with pytest.raises(limen.NoSpaceError):
                make_my_vm(sim.client)

    vms: how many VMs the host begins with, 0 to 10,000.
    seed: which.

    Other options are those of `limen.Client`.
    """

    def __init__(self, *, vms: int = 0, seed: int = 0, **options: Any) -> None:
        self.client = Client(f"sim:///?vms={vms}&seed={seed}", ":memory:", **options)
        """The client: give it to what is tested."""

    def async_client(self) -> AsyncClient:
        """A client for asyncio over the same core."""
        from ._async_client import AsyncClient

        return AsyncClient._over(self.client._core, self.client._as)

    def close(self) -> None:
        """Closes the client."""
        self.client.close()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _do(self, order: str | Mapping[str, Any]) -> Any:
        return self.client._call("simulate", {"host": None, "order": order})

    # What goes wrong.

    def inject(
        self, fault: Fault, *, method: str | None = None, vm: str | None = None, nth: int = 1, forever: bool = False
    ) -> None:
        """Scripts a fault: it hits the `nth` call from now on of `method` (of the trait `Hypervisor`:
        `create_definition`, `create_volume`, `change_power`, `list`, …; any of them when none is
        given), about the VM of this id where one is given; and all calls after it with `forever`.
        """
        self._do({"inject": {"method": method, "vm": vm, "nth": nth, "forever": forever, "fault": fault._order}})

    def clear_faults(self) -> None:
        """Forgets all faults that have not hit yet."""
        self._do("clear_faults")

    def release(self) -> None:
        """Lets all calls go on that hang without a time."""
        self._do("release")

    def lose_events(self, count: int) -> None:
        """The next `count` events of the host are lost."""
        self._do({"lose_events": count})

    def disconnect(self) -> None:
        """Cuts the connection to the host; guests go on."""
        self._do("disconnect")

    def reconnect(self) -> None:
        """Brings it back."""
        self._do("reconnect")

    def guests_obey(self, after: float = 0.0) -> None:
        """Guests that are asked to shut down or reboot do it so many seconds later."""
        self._do({"set_guests": after})

    def guests_ignore(self) -> None:
        """Guests that are asked to shut down or reboot never do."""
        self._do({"set_guests": None})

    def set_pool_bytes(self, size: int) -> None:
        """How many bytes of volumes the host can hold."""
        self._do({"set_pool_bytes": size})

    # What somebody with `virsh` does behind LIMEN's back.

    def start(self, vm: str) -> None:
        """`virsh start`. Raises `limen.NotFoundError`, as all of these."""
        self._do({"start": vm})

    def destroy(self, vm: str) -> None:
        """`virsh destroy`: cuts the power."""
        self._do({"destroy": vm})

    def suspend(self, vm: str) -> None:
        """`virsh suspend`: stops the vCPUs."""
        self._do({"suspend": vm})

    def undefine(self, vm: str) -> None:
        """`virsh undefine`."""
        self._do({"undefine": vm})

    def define_foreign(self, name: str) -> str:
        """`virsh define` of a VM that LIMEN did not make; returns its id."""
        vm: str = self._do({"define_foreign": name})
        return vm

    def edit(self, vm: str, *, vcpus: int | None = None, memory_mib: int | None = None) -> None:
        """`virsh edit`."""
        self._do({"edit": {"vm": vm, "vcpus": vcpus, "memory_mib": memory_mib}})

    def crash_guest(self, vm: str) -> None:
        """The guest's QEMU ends by itself."""
        self._do({"crash_guest": vm})

    def reboot_host(self) -> None:
        """The host loses its power and boots again."""
        self._do("reboot_host")

    # What was called.

    def calls(self) -> list[str]:
        """The last 100,000 calls to the host, as they came: `12 change_power <id> done`."""
        calls: list[str] = self._do("calls")
        return calls

    def clear_calls(self) -> None:
        """Empties that log."""
        self._do("clear_calls")
