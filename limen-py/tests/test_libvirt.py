"""Real libvirt: its test driver in this process, and a daemon of the test's own with a real guest."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import limen
import pytest
from conftest import ROOT, eventually, required

SUPPORT = ROOT / "tests" / "support"


def test_the_test_driver_is_managed(door: Any) -> None:
    if not limen.has_libvirt():
        required("libvirt-test", "this build has no libvirt")

    async def scenario(client: Any) -> None:
        operation = await client.create_vm("web-1", vcpus=2, memory_mib=64, start=True)
        vm = str((await operation.wait(timeout=60)).vm_id)
        assert (await client.get_vm(vm)).status.state == "running"
        # What the driver begins with is not LIMEN's.
        assert {one.name: one.managed for one in await client.list_vms()} == {"test": False, "web-1": True}
        await (await client.change_power(vm, "power_off")).wait(timeout=60)
        await (await client.delete_vm(vm)).wait(timeout=60)
        assert [one.name for one in await client.list_vms()] == ["test"]

    door(scenario, "test:///default", ":memory:")


def test_a_real_host_needs_a_directory() -> None:
    if not limen.has_libvirt():
        required("libvirt-test", "this build has no libvirt")
    with pytest.raises(limen.InvalidError) as wrong:
        limen.Client("qemu:///system", ":memory:")
    assert wrong.value.field == "data_dir"


@pytest.fixture
def libvirt() -> Iterator[Path]:
    """The directory of a libvirtd of the test's own, as those of the Rust tests are."""
    if os.geteuid() != 0 or shutil.which("libvirtd") is None or not limen.has_libvirt():
        required("libvirt-qemu", "a private libvirtd needs root, libvirt and a build with libvirt")
    base = Path(tempfile.mkdtemp(prefix="limen-py-libvirt-"))
    base.chmod(0o755)
    for name in ("run", "run/lock", "etc", "lib", "lib/images", "cache", "log", "storage"):
        (base / name).mkdir()
    for name in ("lib/images", "storage"):
        (base / name).chmod(0o711)
    (base / "etc/libvirtd.conf").write_text(
        'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\nauth_unix_ro = "none"\nauth_unix_rw = "none"\n'
        f'log_outputs = "2:file:{base}/libvirtd.log"\n'
    )
    (base / "etc/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
    if Path("/dev/kvm").exists():
        subprocess.run(["mknod", "-m", "666", base / "kvm", "c", "10", "232"], check=True)
    # Ends daemon, guests and files once its input ends, whatever becomes of the tests.
    leash = subprocess.Popen(["sh", SUPPORT / "libvirt-leash.sh", base], stdin=subprocess.PIPE)
    enter = ["unshare", "-m", "sh", SUPPORT / "libvirt-enter.sh", base]
    daemon = subprocess.Popen(enter, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (base / "run/libvirt/libvirt-sock").exists(), 60)
        yield base
    finally:
        assert leash.stdin is not None
        leash.stdin.close()
        daemon.wait(60)
        leash.wait(60)


def test_a_real_guest_is_made_started_greets_and_is_deleted(libvirt: Path, tmp_path: Path) -> None:
    nonce = uuid.uuid4().hex
    disk = tmp_path / "guest.raw"
    subprocess.run([ROOT / "scripts" / "guest-image.sh", "--nonce", nonce, "--out", disk], check=True)
    uri = f"qemu+unix:///system?socket={libvirt}/run/libvirt/libvirt-sock"
    with limen.Client(uri, f"sqlite://{tmp_path / 'limen.db'}", data_dir=libvirt / "storage") as client:
        eventually(lambda: client.list_hosts()[0].state == "up", 60)
        image = client.add_image("guest", limen.ImageFormat.RAW, disk).wait(timeout=60)
        operation = client.create_vm(
            "greeter", vcpus=1, memory_mib=96, disks=[limen.CreateDisk(image=image.image_id)], start=True
        )
        vm = str(operation.wait(timeout=120).vm_id)
        with client.open_console(vm, "serial") as console:
            greeting = console.read_until(f"LIMEN-GUEST hello nonce={nonce} ".encode(), timeout=120)
            assert greeting
            console.write(b"echo from $((6*7))\n")
            console.read_until(b"from 42", timeout=60)
        shown = client.get_vm(vm)
        assert shown.status.state == "running" and shown.spec is not None and shown.spec.vcpus == 1
        client.change_power(vm, "shutdown", timeout_s=120).wait(timeout=180)
        assert client.get_vm(vm).status.state == "shut_off"
        client.delete_vm(vm).wait(timeout=120)
        client.delete_image(str(image.image_id)).wait(timeout=60)
        deadline = time.monotonic() + 30
        while (report := client.check()).findings and time.monotonic() < deadline:
            time.sleep(1)
        assert report.findings == ()
    left = [file.name for file in (libvirt / "storage" / "vms").rglob("*") if file.is_file()]
    assert all(name.endswith(".witness") for name in left), left
