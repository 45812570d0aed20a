//! Definitions: life, text, edits by others, UEFI.

use super::*;

fn hostile_labels() -> BTreeMap<String, String> {
    let texts =
        ["]]>", "<a b='c'>&amp;</a>", "한국어", "a\u{2028}b", "line\nline\ttab\rreturn", "  spaces  ", "--", ""];
    texts.iter().enumerate().map(|(n, text)| (format!("k{n}<&\"'"), (*text).to_owned())).collect()
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
