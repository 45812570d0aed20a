"""Keeps a number of VMs running: another is made when one goes away, as the events tell it.

    python scale_on_events.py 3
"""

from __future__ import annotations

import asyncio
import sys

import limen

LABEL = "role=worker"


async def level(client: limen.AsyncClient, wanted: int) -> int:
    """Makes and starts what is missing of `wanted` VMs; the event that it has seen everything up to."""
    page = await client.list_vms(label=LABEL)
    running = 0
    for vm in page:
        if vm.status.state in (limen.VmState.RUNNING, limen.VmState.CREATING):
            running += 1
        elif vm.operation is None and vm.status.state is not limen.VmState.DELETING:
            # Gone wrong, or somebody switched it off: it is replaced.
            await client.delete_vm(vm.id)
    for _ in range(wanted - running):
        # The number of the event makes a name that was never given out.
        name = f"worker-{await client.event()}-{running}"
        running += 1
        operation = await client.create_vm(name, vcpus=1, memory_mib=256, labels={"role": "worker"}, start=True)
        await operation.wait(timeout=60)
    return page.event or 0


async def keep(client: limen.AsyncClient, wanted: int, rounds: int | None = None) -> None:
    """Follows the events and levels after each that may matter."""
    position = await level(client, wanted)
    async for event in client.events(after=position):
        if event.kind in (limen.EventKind.STATUS, limen.EventKind.VM_GONE, limen.EventKind.STATUS_GONE):
            await level(client, wanted)
            if rounds is not None:
                rounds -= 1
                if rounds <= 0:
                    return


async def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    async with limen.AsyncClient("sim:///", ":memory:") as client:
        await keep(client, wanted, rounds=wanted * 2)
        for vm in await client.list_vms(label=LABEL):
            print(vm.name, vm.status.state)


if __name__ == "__main__":
    asyncio.run(main())
