//! The libvirt back end against a libvirtd and guests of its own.

mod consoles;
mod definitions;
mod faults;
mod remote;
mod volumes;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use limen_core::ErrorKind;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::hypervisor::{
    ByteSource, ConsoleKind, DefinitionChange, HostEvent, HostVm, Hypervisor, Mark, VmDefinition, VolumeRef, VolumeSpec,
};
use limen_core::model::{
    Disk, DiskMode, Firmware, ImageId, InstallId, Iso, Nic, OperationId, OwnerId, PowerAction, VmId, VmSpec, VmState,
    VolumeFormat, VolumeId,
};
use limen_support::guest::{self, Hello, Medium};
use limen_support::libvirt::PrivateLibvirt;
use limen_support::serial::read_until;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

use rustix::process::{Pid, Signal, kill_process};

const SOON: Duration = Duration::from_secs(5);
const BOOT: Duration = Duration::from_secs(240);

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("signal a process");
}

fn options(libvirt: &PrivateLibvirt) -> LibvirtOptions {
    LibvirtOptions::new(libvirt.uri(), libvirt.hidden_storage_dir().join("limen"))
}

async fn connect(libvirt: &PrivateLibvirt) -> LibvirtHypervisor {
    LibvirtHypervisor::connect(options(libvirt)).await.expect("begin to connect")
}

fn definition(name: &str) -> VmDefinition {
    VmDefinition {
        id: VmId::generate(),
        mark: Mark { install: InstallId::generate(), operation: OperationId::generate() },
        owner: OwnerId::generate(),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        spec: VmSpec {
            vcpus: 1,
            memory_mib: guest::MEMORY_MIB,
            firmware: Firmware::Bios,
            disks: Vec::new(),
            iso: None,
            nics: Vec::new(),
        },
        autostart: false,
    }
}

fn blank(format: VolumeFormat, capacity_bytes: u64) -> VolumeSpec {
    VolumeSpec { id: VolumeId::generate(), format, capacity_bytes, backing: None }
}

fn disk(volume: &VolumeSpec, mode: DiskMode) -> Disk {
    Disk { volume: volume.id, format: volume.format, size_bytes: volume.capacity_bytes, image: None, mode }
}

fn reference(volume: &VolumeSpec) -> VolumeRef {
    VolumeRef { id: volume.id, format: volume.format }
}

fn source(bytes: Vec<u8>) -> ByteSource {
    Box::new(std::io::Cursor::new(bytes))
}

fn guest_bytes(medium: Medium, nonce: &str) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().expect("make a file");
    guest::write(medium, nonce, file.path());
    std::fs::read(file.path()).expect("read the guest")
}

/// A volume that a guest with this nonce boots from.
async fn guest_disk(host: &LibvirtHypervisor, nonce: &str) -> VolumeSpec {
    let bytes = guest_bytes(Medium::Disk, nonce);
    let length = bytes.len() as u64;
    let volume = blank(VolumeFormat::Raw, length);
    host.create_volume(&volume).await.expect("create a volume");
    host.write_volume(reference(&volume), source(bytes), length).await.expect("fill the volume");
    volume
}

/// A VM with a guest in it.
async fn guest_vm(host: &LibvirtHypervisor, nonce: &str) -> VmDefinition {
    let volume = guest_disk(host, nonce).await;
    let mut vm = definition("guest");
    vm.spec.disks.push(disk(&volume, DiskMode::Full));
    host.create_definition(&vm).await.expect("define the guest");
    vm
}

async fn listed(host: &LibvirtHypervisor, id: VmId) -> Option<HostVm> {
    host.list().await.expect("list").into_iter().find(|vm| vm.id == id)
}

async fn wait_for_state(host: &LibvirtHypervisor, id: VmId, state: VmState) -> HostVm {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let vm = host.get(id).await.expect("get the VM");
        if vm.state == state {
            return vm;
        }
        assert!(Instant::now() < end, "not {state:?} within a minute: {vm:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for an event and lets others pass.
async fn wait_for_event(events: &mut broadcast::Receiver<HostEvent>, wanted: HostEvent, within: Duration) {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) if event == wanted => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(error) => panic!("no more events: {error}"),
            }
        }
    };
    tokio::time::timeout(within, wait).await.unwrap_or_else(|_| panic!("no {wanted:?} within {within:?}"));
}

/// Repeats `look` until it says yes.
async fn until(what: &str, within: Duration, mut look: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + within;
    while !look().await {
        assert!(Instant::now() < end, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
