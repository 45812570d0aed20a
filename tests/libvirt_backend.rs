//! The libvirt back end against a libvirtd and guests of its own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use limen_core::ErrorKind;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::hypervisor::{ByteSource, ConsoleKind, HostVm, Hypervisor, Mark, VmDefinition, VolumeRef, VolumeSpec};
use limen_core::model::{
    Disk, DiskMode, Firmware, InstallId, OperationId, OwnerId, PowerAction, VmId, VmSpec, VmState, VolumeFormat,
    VolumeId,
};
use limen_support::guest::{self, Hello, Medium};
use limen_support::libvirt::PrivateLibvirt;
use limen_support::serial::read_until;
use tokio::io::AsyncReadExt;

const BOOT: Duration = Duration::from_secs(90);

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_lives_from_its_definition_to_its_removal_without_a_trace() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let info = host.host_info().await.expect("host info");
    assert!(info.cpus > 0 && info.memory_mib > 0 && info.free_bytes > 0, "{info:?}");

    let nonce = guest::nonce();
    let vm = guest_vm(&host, &nonce).await;
    host.create_definition(&vm).await.expect("the same definition again is a success");
    let seen = listed(&host, vm.id).await.expect("it is listed");
    assert_eq!((seen.mark, seen.state), (Some(vm.mark), VmState::ShutOff));
    assert_eq!(seen.name, vm.domain_name());
    let other = VmDefinition { mark: Mark { operation: OperationId::generate(), ..vm.mark }, ..vm.clone() };
    let error = host.create_definition(&other).await.expect_err("another operation's definition");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(listed(&host, vm.id).await.expect("listed").definition_hash, seen.definition_hash);

    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut serial = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open the serial console");
    let hello = read_until(&mut serial, BOOT, Hello::find).await.expect("the guest greets");
    assert_eq!((hello.nonce, hello.uuid), (nonce, vm.id.to_string()));
    assert_eq!(listed(&host, vm.id).await.expect("listed").definition_hash, seen.definition_hash);

    for (action, state) in [
        (PowerAction::Pause, VmState::Paused),
        (PowerAction::Resume, VmState::Running),
        (PowerAction::Save, VmState::Saved),
        (PowerAction::Start, VmState::Running),
    ] {
        host.change_power(vm.id, action).await.unwrap_or_else(|error| panic!("{action:?}: {error:?}"));
        assert_eq!(listed(&host, vm.id).await.expect("listed").state, state, "{action:?}");
        host.change_power(vm.id, action).await.unwrap_or_else(|error| panic!("{action:?} again: {error:?}"));
    }
    host.change_power(vm.id, PowerAction::PowerOff).await.expect("power off");
    wait_for_state(&host, vm.id, VmState::ShutOff).await;
    assert_eq!(listed(&host, vm.id).await.expect("listed").definition_hash, seen.definition_hash);

    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    host.remove_definition(vm.id).await.expect("remove");
    host.remove_definition(vm.id).await.expect("remove again");
    assert!(listed(&host, vm.id).await.is_none());
    assert_eq!(host.get(vm.id).await.expect_err("it is gone").kind(), ErrorKind::NotFound);
    let volumes = host.list_volumes().await.expect("list volumes");
    assert_eq!(volumes.len(), 1, "volumes are not the definition's: {volumes:?}");
    host.remove_volume(volumes[0].volume).await.expect("remove the volume");
    host.remove_volume(volumes[0].volume).await.expect("remove the volume again");
    let left = libvirt.dir().join("lib/images/limen");
    assert_eq!(std::fs::read_dir(left).expect("read the directory").count(), 0, "a file is left");
    assert_eq!(libvirt.virsh(&["list", "--all", "--name"]).expect_success().trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_are_filled_read_resized_and_removed() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let bytes: Vec<u8> = (0..9_000_001_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let volume = blank(VolumeFormat::Raw, bytes.len() as u64);
    let of = reference(&volume);
    assert_eq!(host.read_volume(of).await.err().expect("no volume yet").kind(), ErrorKind::NotFound);
    host.create_volume(&volume).await.expect("create");
    host.create_volume(&volume).await.expect("create again");
    for _ in 0..2 {
        host.write_volume(of, source(bytes.clone()), bytes.len() as u64).await.expect("fill");
        let mut read = Vec::new();
        host.read_volume(of).await.expect("read").read_to_end(&mut read).await.expect("read to the end");
        assert!(read == bytes, "{} bytes came back", read.len());
    }
    let short = host.write_volume(of, source(bytes[..100].to_vec()), 200).await;
    assert_eq!(short.expect_err("it ends early").kind(), ErrorKind::Invalid);

    host.resize_volume(of, 64 << 20).await.expect("resize");
    host.resize_volume(of, 1 << 20).await.expect("smaller is left as it is");
    let overlay = VolumeSpec { backing: Some(of), ..blank(VolumeFormat::Qcow2, 64 << 20) };
    host.create_volume(&overlay).await.expect("create an overlay");
    host.resize_volume(reference(&overlay), 128 << 20).await.expect("resize the overlay");
    let mut sizes: Vec<_> = host
        .list_volumes()
        .await
        .expect("list")
        .into_iter()
        .map(|v| (v.volume.format.as_str(), v.capacity_bytes))
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [("qcow2", 128 << 20), ("raw", 64 << 20)]);

    let mut vm = definition("overlay");
    vm.spec.disks.push(disk(&overlay, DiskMode::Linked));
    host.create_definition(&vm).await.expect("define over an overlay");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    assert!(xml.contains(&format!("{}.raw'/>", volume.id)), "the chain is written out: {xml}");
    assert!(xml.contains("<backingStore/>"), "and closed: {xml}");
    host.remove_definition(vm.id).await.expect("remove");
    for volume in [reference(&overlay), of] {
        host.remove_volume(volume).await.expect("remove a volume");
    }
    assert!(host.list_volumes().await.expect("list").is_empty());
}
