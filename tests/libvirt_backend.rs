//! The libvirt back end against a libvirtd and guests of its own.

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

fn hostile_labels() -> BTreeMap<String, String> {
    let texts =
        ["]]>", "<a b='c'>&amp;</a>", "한국어", "a\u{2028}b", "line\nline\ttab\rreturn", "  spaces  ", "--", ""];
    texts.iter().enumerate().map(|(n, text)| (format!("k{n}<&\"'"), (*text).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn definitions_keep_hostile_text_and_outside_edits_to_the_byte() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let volume = blank(VolumeFormat::Qcow2, 1 << 20);
    let iso = blank(VolumeFormat::Raw, 1 << 20);
    for volume in [&volume, &iso] {
        host.create_volume(volume).await.expect("create a volume");
    }
    let mut vm = definition("hostile");
    vm.labels = hostile_labels();
    vm.spec.disks.push(disk(&volume, DiskMode::Full));
    vm.spec.iso = Some(Iso { image: ImageId::generate(), volume: iso.id });
    host.create_definition(&vm).await.expect("define hostile text");
    let id = vm.id.to_string();
    let dump = || libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success();
    let xml = dump();
    assert_eq!(xml.matches("<disk ").count(), 2, "{xml}");
    assert_eq!(xml.matches("<interface ").count(), 0, "{xml}");
    let file = libvirt.dir().join("validate.xml");
    std::fs::write(&file, &xml).expect("write a file");
    libvirt.virsh(&["define", "--validate", &file.to_string_lossy()]).expect_success();

    let hash = host.get(vm.id).await.expect("get").definition_hash;
    let labels = DefinitionChange { labels: Some(vm.labels.clone()), ..DefinitionChange::default() };
    let same = host.change_definition(vm.id, "another", &labels).await.expect("the same labels are no change");
    assert_eq!(same, hash);
    for (labels, field) in [("a\u{1}b", "labels"), ("a\0b", "labels"), ("\u{fffe}", "labels")] {
        let labels = Some([("key".to_owned(), labels.to_owned())].into());
        let change = DefinitionChange { labels, ..DefinitionChange::default() };
        let error = host.change_definition(vm.id, &hash, &change).await.expect_err("a control character");
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some(field)));
    }
    let mut nul = definition("nul");
    nul.spec.nics.push(Nic { mac: "52:54:00:00:00:01".to_owned(), network: "a\0b".to_owned() });
    assert_eq!(host.create_definition(&nul).await.expect_err("a NUL").kind(), ErrorKind::Invalid);

    // What LIMEN knows nothing of: another's metadata, a QEMU argument, a device.
    let edited = xml
        .replace("<domain type=", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' type=")
        .replace("<metadata>", "<metadata><x:y xmlns:x='urn:else'><x:z a='1'> text &amp; more </x:z></x:y>")
        .replace("<on_crash>", "<cputune><shares>512</shares></cputune><on_crash>")
        .replace("</domain>", "<qemu:commandline><qemu:arg value='-no-user-config'/></qemu:commandline></domain>");
    libvirt.define(&edited);
    let before = dump();
    assert!(before.contains("urn:else") && before.contains("-no-user-config"), "{before}");
    let seen = listed(&host, vm.id).await.expect("listed");
    assert_ne!(seen.definition_hash, hash, "an outside edit shows at the next look");
    let change = DefinitionChange {
        title: Some("새 이름".to_owned()),
        labels: Some([("only".to_owned(), "one".to_owned())].into()),
        vcpus: Some(3),
        memory_mib: Some(128),
        autostart: Some(true),
    };
    let refused = host.change_definition(vm.id, &hash, &change).await.expect_err("the hash is old");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(dump(), before);
    host.change_definition(vm.id, &seen.definition_hash, &change).await.expect("change");
    let ours = |line: &&str| {
        !["<title>", "limen:label", "<vcpu", "<memory ", "<currentMemory "].iter().any(|mark| line.contains(mark))
    };
    let after = dump();
    let lines = |xml: &str| xml.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&after), lines(&before), "all else is as it was");
    let shown = listed(&host, vm.id).await.expect("listed");
    assert_eq!((shown.vcpus, shown.memory_mib, shown.autostart, shown.mark), (3, 128, true, Some(vm.mark)));
    assert!(after.contains("<title>새 이름</title>") && after.contains("value=\"one\""), "{after}");

    // libvirt tells nobody of this one.
    libvirt.virsh(&["setvcpus", &id, "2", "--config"]).expect_success();
    until("a silent edit shows", Duration::from_secs(3), async || {
        listed(&host, vm.id).await.is_some_and(|seen| seen.vcpus == 2)
    })
    .await;
    host.remove_definition(vm.id).await.expect("remove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_behind_its_back_is_told() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let mut events = host.subscribe();
    // A define whose client is gone lands later, and bears the mark that it was made with.
    let mut vm = definition("late");
    vm.autostart = true;
    host.create_definition(&vm).await.expect("define");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    host.remove_definition(vm.id).await.expect("remove");
    assert!(listed(&host, vm.id).await.is_none());
    libvirt.define(&xml);
    until("a late definition shows", SOON, async || {
        listed(&host, vm.id).await.is_some_and(|seen| seen.mark == Some(vm.mark))
    })
    .await;
    let error = host
        .create_definition(&VmDefinition { mark: Mark { operation: OperationId::generate(), ..vm.mark }, ..vm.clone() })
        .await;
    assert_eq!(error.expect_err("it is there").kind(), ErrorKind::AlreadyExists);

    let id = vm.id.to_string();
    for (command, state) in [("start", VmState::Running), ("suspend", VmState::Paused), ("destroy", VmState::ShutOff)] {
        libvirt.virsh(&[command, &id]).expect_success();
        wait_for_event(&mut events, HostEvent::VmChanged(vm.id), SOON).await;
        assert_eq!(listed(&host, vm.id).await.expect("listed").state, state);
    }
    libvirt.virsh(&["start", &id]).expect_success();
    signal(libvirt.qemu_pids()[0], Signal::KILL);
    until("a crash shows", SOON, async || {
        listed(&host, vm.id).await.is_some_and(|seen| seen.state == VmState::Crashed)
    })
    .await;
    // Undefined while it runs it lives on as a transient one, until it is removed.
    host.change_power(vm.id, PowerAction::Start).await.expect("start after a crash");
    libvirt.virsh(&["undefine", &id]).expect_success();
    assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Running);
    host.remove_definition(vm.id).await.expect("remove a transient one");
    assert!(listed(&host, vm.id).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_or_hangs_is_found_again() {
    let libvirt = PrivateLibvirt::start();
    let quick = LibvirtOptions {
        look_deadline: Duration::from_secs(3),
        change_deadline: Duration::from_secs(4),
        ..options(&libvirt)
    };
    let host = LibvirtHypervisor::connect(quick).await.expect("begin to connect");
    let vm = definition("daemon");
    host.create_definition(&vm).await.expect("define");
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut events = host.subscribe();
    let mut again = Vec::new();
    for _ in 0..3 {
        libvirt.kill9();
        wait_for_event(&mut events, HostEvent::Disconnected, SOON).await;
        let began = Instant::now();
        assert_eq!(host.list().await.expect_err("nobody is there").kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < Duration::from_millis(500), "it answers at once: {:?}", began.elapsed());
        let began = Instant::now();
        libvirt.restart();
        wait_for_event(&mut events, HostEvent::Connected, SOON).await;
        again.push(began.elapsed());
        assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Running);
    }
    println!("connected again after {again:?}, the daemon's own start included");

    // A guest that dies while nobody looks gives no event; the list tells.
    libvirt.kill9();
    wait_for_event(&mut events, HostEvent::Disconnected, SOON).await;
    for pid in libvirt.qemu_pids() {
        signal(pid, Signal::KILL);
    }
    libvirt.restart();
    wait_for_event(&mut events, HostEvent::Connected, SOON).await;
    assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Crashed);

    libvirt.sigstop();
    let began = Instant::now();
    let (list, change, other) = tokio::join!(
        host.list(),
        host.change_power(vm.id, PowerAction::Pause),
        host.remove_definition(VmId::generate()),
    );
    assert_eq!(list.expect_err("it hangs").kind(), ErrorKind::Timeout);
    for error in [change.expect_err("it hangs"), other.expect_err("it hangs")] {
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(7), "each by its deadline: {:?}", began.elapsed());
    wait_for_event(&mut events, HostEvent::Disconnected, Duration::from_secs(20)).await;
    assert_eq!(host.list().await.expect_err("it is away").kind(), ErrorKind::Unavailable);
    libvirt.sigcont();
    wait_for_event(&mut events, HostEvent::Connected, SOON).await;
    assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Crashed);
    host.remove_definition(vm.id).await.expect("remove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_daemon_is_no_error_and_close_is_for_good() {
    let libvirt = PrivateLibvirt::start();
    libvirt.kill9();
    let options = LibvirtOptions { connect_wait: Duration::from_millis(200), ..options(&libvirt) };
    let host = LibvirtHypervisor::connect(options).await.expect("nobody is there, which is no error");
    assert_eq!(host.list().await.expect_err("nobody is there").kind(), ErrorKind::Unavailable);
    assert!(host.capability().volumes && !host.capability().uefi);
    let mut events = host.subscribe();
    libvirt.restart();
    wait_for_event(&mut events, HostEvent::Connected, Duration::from_secs(10)).await;
    assert!(host.list().await.expect("list").is_empty());
    until("the firmware is known", Duration::from_secs(30), async || host.capability().uefi).await;
    host.close().await;
    assert_eq!(host.list().await.expect_err("it is closed").kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_vm_delays_nobody() {
    let libvirt = PrivateLibvirt::start();
    let quick = LibvirtOptions { change_deadline: Duration::from_secs(6), ..options(&libvirt) };
    let host = LibvirtHypervisor::connect(quick).await.expect("begin to connect");
    let (hung, well) = (definition("hung"), definition("well"));
    host.create_definition(&hung).await.expect("define");
    host.change_power(hung.id, PowerAction::Start).await.expect("start");
    let pid = libvirt.qemu_pids()[0];
    host.create_definition(&well).await.expect("define");
    host.change_power(well.id, PowerAction::Start).await.expect("start");
    signal(pid, Signal::STOP);

    // Calls on the hung one take what they can get; two at once wait for each other.
    let stuck = async {
        tokio::join!(host.change_power(hung.id, PowerAction::Pause), host.change_power(hung.id, PowerAction::Pause))
    };
    let others = async {
        let mut slow = 0;
        for n in 0..20 {
            let began = Instant::now();
            let action = if n % 2 == 0 { PowerAction::Pause } else { PowerAction::Resume };
            host.change_power(well.id, action).await.expect("the other VM obeys");
            assert_eq!(host.list().await.expect("list").len(), 2);
            slow += u32::from(began.elapsed() > Duration::from_secs(1));
        }
        slow
    };
    let ((first, second), slow) = tokio::join!(stuck, others);
    for result in [first, second] {
        assert_eq!(result.expect_err("it hangs").kind(), ErrorKind::Timeout);
    }
    assert!(slow < 5, "another VM was delayed {slow} times of 20");
    let stats = host.stats().await.expect("stats");
    assert!(stats.iter().any(|(id, _)| *id == well.id), "{stats:?}");
    assert!(stats.iter().all(|(id, _)| *id != hung.id), "a VM that does not answer is left out: {stats:?}");

    // libvirt itself waits 10 s before it kills a QEMU that does not end when it is asked.
    if let Err(error) = host.change_power(hung.id, PowerAction::PowerOff).await {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }
    wait_for_state(&host, hung.id, VmState::ShutOff).await;
    for vm in [hung, well] {
        host.remove_definition(vm.id).await.expect("remove");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serial_consoles_are_shared_byte_exact_and_many() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let nonce = guest::nonce();
    let vm = guest_vm(&host, &nonce).await;
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut first = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open");
    read_until(&mut first, BOOT, |said| said.contains(guest::PROMPT).then_some(())).await.expect("a prompt");
    let mut second = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open another");
    // Both see the echo and the answer of what one of them types.
    let sum = "echo $((41+1))-limen\n";
    second.write_all(sum.as_bytes()).await.expect("type");
    for console in [&mut first, &mut second] {
        read_until(console, BOOT, |said| said.contains("42-limen").then_some(())).await.expect("the answer");
    }
    // Every byte of a long answer arrives, in order.
    second
        .write_all(b"i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo all-$((1+1))\n")
        .await
        .expect("type");
    let said = |said: &str| said.contains("all-2").then(|| said.to_owned());
    let (one, other) = tokio::join!(read_until(&mut first, BOOT, said), read_until(&mut second, BOOT, said));
    for heard in [one.expect("all of it"), other.expect("all of it")] {
        let wanted: String = (0..3000).map(|n| format!("line {n}\r\n")).collect();
        assert!(heard.contains(&wanted), "{} bytes, not every line in its place", heard.len());
    }
    drop(second);
    let mut third = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open a third");
    drop(first);
    third.write_all(b"echo $((5+5))-third\n").await.expect("type");
    read_until(&mut third, BOOT, |said| said.contains("10-third").then_some(())).await.expect("the answer");
    drop(third);
    // The session is over with its last reader, and a new one can be had.
    let again = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open again");

    let mut many = vec![again];
    let mut quiet = Vec::new();
    for n in 0..8 {
        let idle = definition(&format!("idle{n}"));
        host.create_definition(&idle).await.expect("define");
        host.change_power(idle.id, PowerAction::Start).await.expect("start");
        quiet.push(idle.id);
    }
    for n in 0..50 {
        let id = quiet[n % quiet.len()];
        many.push(host.open_console(id, ConsoleKind::Serial).await.expect("open one of many"));
    }
    let began = Instant::now();
    for _ in 0..20 {
        host.list().await.expect("list");
    }
    println!("list beside {} serial consoles: {:?}", many.len(), began.elapsed() / 20);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for id in quiet {
        host.remove_definition(id).await.expect("remove");
    }
    host.remove_definition(vm.id).await.expect("remove");
    for mut console in many {
        let mut rest = Vec::new();
        tokio::time::timeout(SOON, console.read_to_end(&mut rest)).await.expect("it ends with its VM").expect("read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uefi_leaves_no_nvram_and_nothing_listens() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let listeners = || {
        let output = std::process::Command::new("ss").args(["-Hltn"]).output().expect("run ss");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().filter_map(|line| line.split_whitespace().nth(3)).filter(|at| at.contains(":59")).count()
    };
    let before = listeners();
    let nonce = guest::nonce();
    let volume = guest_disk(&host, &nonce).await;
    let mut vm = definition("uefi");
    vm.spec.firmware = Firmware::Uefi;
    vm.spec.memory_mib = guest::UEFI_MEMORY_MIB;
    vm.spec.disks.push(disk(&volume, DiskMode::Full));
    host.create_definition(&vm).await.expect("define");
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut serial = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open");
    let hello = read_until(&mut serial, BOOT, Hello::find).await.expect("the guest greets");
    assert_eq!((hello.firmware.as_str(), hello.nonce), ("efi", nonce));
    assert_eq!(listeners(), before, "a VNC port is open");
    let mut vnc = host.open_console(vm.id, ConsoleKind::Vnc).await.expect("open");
    let mut version = [0; 12];
    vnc.read_exact(&mut version).await.expect("read");
    assert_eq!(&version, b"RFB 003.008\n");

    let directory = libvirt.dir().join("lib/images/limen");
    let nvram = directory.join(format!("{}_VARS.fd", vm.id));
    assert!(nvram.exists(), "the NVRAM is where the VM's UUID says");
    host.change_power(vm.id, PowerAction::Save).await.expect("save");
    host.remove_definition(vm.id).await.expect("remove");
    assert!(!nvram.exists(), "the NVRAM is left");
    let saved = std::fs::read_dir(libvirt.dir().join("lib/qemu/save")).map_or(0, Iterator::count);
    assert_eq!(saved, 0, "saved memory is left");
    host.remove_volume(reference(&volume)).await.expect("remove the volume");
    assert_eq!(std::fs::read_dir(directory).expect("read the directory").count(), 0, "a file is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_raw_volume_is_never_believed_to_be_anything_else() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    // The header of a qcow2 over a file of the host, as a guest may write it on its disk.
    let secret = libvirt.dir().join("secret");
    std::fs::write(&secret, "canary".repeat(1000)).expect("write a file");
    let trap = libvirt.dir().join("trap.qcow2");
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
        .args([&secret, &trap])
        .status();
    assert!(made.expect("run qemu-img").success());
    let bytes = std::fs::read(&trap).expect("read the trap");
    let length = bytes.len() as u64;
    let volume = blank(VolumeFormat::Raw, length);
    let of = reference(&volume);
    host.create_volume(&volume).await.expect("create");
    host.write_volume(of, source(bytes.clone()), length).await.expect("fill");
    libvirt.restart();
    until("the daemon is back", SOON, async || host.list().await.is_ok()).await;
    host.resize_volume(of, length + 4096).await.expect("resize");
    let mut read = Vec::new();
    host.read_volume(of).await.expect("read").read_to_end(&mut read).await.expect("read to the end");
    assert!(read.len() as u64 == length + 4096 && read.starts_with(&bytes), "{} bytes", read.len());
    let listed = host.list_volumes().await.expect("list");
    assert_eq!((listed.len(), listed[0].capacity_bytes), (1, length + 4096), "the size is that of the file");
    let mut vm = definition("trap");
    vm.spec.disks.push(disk(&volume, DiskMode::Linked));
    host.create_definition(&vm).await.expect("define");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    assert!(!xml.contains("secret") && xml.contains("type='raw'"), "{xml}");
    host.remove_definition(vm.id).await.expect("remove");
    host.remove_volume(of).await.expect("remove the volume");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_many_costs_few_calls() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let template = definition("many");
    host.create_definition(&template).await.expect("define");
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &template.id.to_string()]).expect_success();
    let count = 200;
    let ids: Vec<VmId> = (1..count).map(|_| VmId::generate()).collect();
    for id in &ids {
        let own = xml.replace(&template.id.to_string(), &id.to_string());
        libvirt.define(&own.replace(&template.domain_name(), &format!("many-{}", id.0.simple())));
    }
    let began = Instant::now();
    assert_eq!(host.list().await.expect("list").len(), count);
    let first = began.elapsed();
    let rounds = 20;
    let began = Instant::now();
    for _ in 0..rounds {
        assert_eq!(host.list().await.expect("list").len(), count);
    }
    println!("list of {count}: first {first:?}, then {:?} each", began.elapsed() / rounds);
}
