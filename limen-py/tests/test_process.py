"""A client in its process: signals, threads, forks, the end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import limen
import pytest
from limen.testing import Simulator


def script(text: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text), *args]
    # A shell has its background jobs ignore Ctrl-C, and so would their children.
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def output_of(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=120)
    assert "panicked" not in err and "Fatal" not in err, err
    return out, err


BLOCKING = {
    "wait": "client.change_power(vm, 'shutdown', timeout_s=600).wait()",
    "wait_operation": "client.wait_operation(client.change_power(vm, 'shutdown', timeout_s=600).id, timeout=600.0)",
    "events": "[None for _ in client.events()]",
    "wait_for_event": "client.wait_for_event(10**9, timeout=600.0)",
    "console": "client.open_console(vm).read_until(b'never said')",
    "create_vm": "sim.inject(Fault.hangs(), method='list_networks'); client.create_vm('b', vcpus=1, memory_mib=64, networks=['none'])",
}


@pytest.mark.parametrize("call", BLOCKING.values(), ids=BLOCKING)
def test_an_interrupt_ends_every_blocking_call_and_the_client_goes_on(call: str) -> None:
    process = script(
        f"""
        import limen
        from limen.testing import Fault, Simulator
        with Simulator() as sim:
            client = sim.client
            vm = client.create_vm("a", vcpus=1, memory_mib=64, start=True).wait(timeout=60).vm_id
            sim.guests_ignore()
            print("ready", flush=True)
            try:
                {call}
            except KeyboardInterrupt:
                sim.release()
                print(client.get_vm(vm).name, flush=True)
        """
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    # Until the call blocks: a signal before it would prove nothing.
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert output_of(process) == ("a\n", "") and process.returncode == 0


def test_the_interpreter_is_free_while_a_call_blocks(limen_sim: Simulator) -> None:
    client = limen_sim.client
    counted = 0
    operation = client.create_vm("a", vcpus=1, memory_mib=64, start=True).wait(timeout=60)
    limen_sim.guests_ignore()
    asked = client.change_power(str(operation.vm_id), "shutdown", timeout_s=1)
    waiting = threading.Thread(target=lambda: client.wait_operation(asked.id, timeout=60.0))
    waiting.start()
    while waiting.is_alive():
        counted += 1
    waiting.join()
    assert counted > 1000, "no other thread ran while one waited"


def test_sixteen_threads_and_a_loop_share_one_client(limen_sim: Simulator) -> None:
    client = limen_sim.client
    wrong: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for turn in range(5):
                name = f"vm-{thread}-{turn}"
                vm = str(client.create_vm(name, vcpus=1, memory_mib=16).wait(timeout=120).vm_id)
                assert client.get_vm(vm).name == name
                client.delete_vm(vm).wait(timeout=120)
        except BaseException as error:
            wrong.append(error)

    async def loop() -> None:
        other = limen_sim.async_client()
        for _ in range(20):
            pages = await asyncio.gather(*(other.list_vms() for _ in range(50)))
            assert len(pages) == 50

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    asyncio.run(loop())
    for thread in threads:
        thread.join()
    assert not wrong, wrong
    assert len(client.list_vms()) == 0 and client.check().findings == ()


def test_a_thousand_awaits_do_not_block_each_other(limen_sim: Simulator) -> None:
    async def scenario() -> None:
        client = limen_sim.async_client()
        operation = await client.create_vm("a", vcpus=1, memory_mib=64, start=True)
        vm = str((await operation).vm_id)
        limen_sim.guests_ignore()
        asked = await client.change_power(vm, "shutdown", timeout_s=3600)
        waiting = [asyncio.ensure_future(asked.wait()) for _ in range(1000)]
        await asyncio.sleep(0)
        # While a thousand wait, another one is answered.
        assert (await client.get_vm(vm)).name == "a"
        assert not any(one.done() for one in waiting)
        await (await client.change_power(vm, "power_off"))
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(one) for one in ended} == {limen.CancelledError}

    asyncio.run(scenario())


def test_a_dropped_await_does_not_drop_the_change(limen_sim: Simulator) -> None:
    async def scenario() -> None:
        client = limen_sim.async_client()
        task = asyncio.ensure_future(client.create_vm("kept", vcpus=1, memory_mib=64))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(1000):
            if [vm.status.state for vm in await client.list_vms(name="kept")] == ["shut_off"]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the change was dropped")

    asyncio.run(scenario())


def test_giving_up_waiting_loses_no_event(limen_sim: Simulator) -> None:
    async def scenario() -> None:
        client = limen_sim.async_client()
        start = await client.event()
        events = client.events(after=start)
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(events.next(), 0.05)
        await (await client.create_vm("a", vcpus=1, memory_mib=64))
        numbers = []
        while len(numbers) < 3:
            event = await events.next(timeout=20)
            assert event is not None
            numbers.append(event.number)
        assert numbers == [start + 1, start + 2, start + 3]

    asyncio.run(scenario())


def test_a_closed_client_says_so(limen_sim: Simulator) -> None:
    client = limen_sim.client
    vm = str(client.create_vm("a", vcpus=1, memory_mib=64, start=True).wait(timeout=60).vm_id)
    events = client.events()
    failed: list[BaseException] = []

    def follow() -> None:
        try:
            while True:
                events.next()
        except limen.LimenError as error:
            failed.append(error)

    thread = threading.Thread(target=follow)
    thread.start()
    time.sleep(0.2)
    client.close()
    client.close()
    thread.join(20)
    # Either end may come first: of the stream, or of the service under it.
    assert [type(error) for error in failed] in ([limen.ClosedError], [limen.UnavailableError])
    assert client.closed
    with pytest.raises(limen.ClosedError):
        client.get_vm(vm)
    with pytest.raises(limen.ClosedError):
        client.events().next()
    events.close()


def test_a_fork_of_a_process_with_a_client_is_refused() -> None:
    process = script(
        """
        import json, os, limen
        client = limen.Client("sim:///", ":memory:")
        for turn in range(20):
            child = os.fork()
            if child == 0:
                said = []
                for call in (client.list_vms, lambda: limen.Client("sim:///", ":memory:"), lambda: limen.connect("http://127.0.0.1:1")):
                    try:
                        call()
                    except limen.ForkedError as error:
                        said.append("forked" in str(error))
                os._exit(0 if said == [True] * 3 else 1)
            assert os.waitpid(child, 0)[1] == 0
        print(client.health().store)
        """
    )
    assert output_of(process) == ("True\n", "") and process.returncode == 0


def test_a_child_opens_the_first_client() -> None:
    process = script(
        """
        import json, os, limen
        child = os.fork()
        ended = os.waitpid(child, 0)[1] if child else None
        with limen.Client("sim:///?vms=1", ":memory:") as own:
            print(json.dumps([ended, own.health().store]), flush=True)
        """
    )
    out, err = output_of(process)
    assert out.splitlines() == ["[null, true]", "[0, true]"] and err == ""


@pytest.mark.parametrize("end", ["pass", "sys.exit(3)", "raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGINT)"])
def test_a_process_ends_with_calls_in_flight(end: str) -> None:
    process = script(
        f"""
        import asyncio, os, signal, sys, threading, limen
        client = limen.Client("sim:///?vms=100", ":memory:")
        for _ in range(8):
            threading.Thread(target=lambda: [None for _ in client.events()], daemon=True).start()
        async def main():
            other = limen.AsyncClient("sim:///", ":memory:")
            asyncio.ensure_future(other.events().next())
            await asyncio.gather(*(other.list_vms() for _ in range(100)))
        asyncio.run(main())
        print("done", flush=True)
        {end}
        """
    )
    out, _ = output_of(process)
    assert out == "done\n"
    assert process.returncode in (0, 3, -signal.SIGINT), process.returncode


def test_the_end_gives_the_host_back(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path / 'limen.db'}"
    first = script(
        """
        import sys, limen
        client = limen.Client("sim:///", sys.argv[1])
        client.create_vm("a", vcpus=1, memory_mib=64).wait(timeout=60)
        print(client.list_hosts()[0].owner)
        """,
        store,
    )
    out, _ = output_of(first)
    with limen.Client("sim:///", store) as client:
        # A lease that was not given back would keep others away for 6 s; it is nobody's now.
        begun = client.list_hosts()[0].owner
        assert begun != out.strip()
        assert [vm.name for vm in client.list_vms()] == ["a"]


def test_two_processes_share_a_store(tmp_path: Path) -> None:
    store = f"sqlite://{tmp_path / 'limen.db'}"
    with limen.Client("sim:///", store) as owner:
        process = script(
            """
            import sys, limen
            with limen.Client("sim:///", sys.argv[1], passive=True) as client:
                operation = client.create_vm("from-elsewhere", vcpus=1, memory_mib=64)
                print(operation.wait(timeout=60).state)
            """,
            store,
        )
        assert output_of(process)[0] == "succeeded\n"
        for _ in range(1000):
            if [vm.name for vm in owner.list_vms()] == ["from-elsewhere"]:
                return
            time.sleep(0.02)
        raise AssertionError("the owner never showed it")


IN_AN_INTERPRETER = """
import limen
with limen.Client("sim:///?vms=3", ":memory:") as client:
    while not len(page := client.list_vms()):
        pass
    state = page[0].status.state
    # Its classes are its own.
    print(isinstance(page[0], limen.Vm), state is limen.VmState(str(state)), page[0].labels)
"""


def test_a_subinterpreter_with_its_own_lock_is_refused() -> None:
    process = script(
        """
        import sys
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        exec(sys.argv[1])
        print(interpreters.run_string(interpreters.create(), sys.argv[1]))
        # This one is left to the end of the process.
        left = interpreters.create()
        print(interpreters.run_string(left, sys.argv[1]))
        """,
        IN_AN_INTERPRETER,
    )
    out, err = output_of(process)
    if sys.version_info >= (3, 12):
        assert "does not support loading in subinterpreters" in out + err
    else:
        # They all share the lock.
        assert out == "True True {}\n" + "True True {}\nNone\n" * 2


def test_the_import_brings_no_more_than_it_must() -> None:
    code = "import sys, limen; print(json.dumps(sorted(sys.modules)))".replace("import sys", "import json, sys")
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert not {"asyncio", "uuid", "inspect", "logging", "dataclasses", "socket", "pytest", "limen._limen"} & set(loaded)
