//! Rows: what is unique, what is expected, what guards what.

use std::sync::Arc;

use super::fixture::{Fixture, audit, image, inserted, nic, refused, updated};
use crate::error::ErrorKind;
use crate::model::{
    AuditQuery, Disk, DiskMode, Fact, HostId, ImageId, ImagePhase, Iso, OperationKind, OwnerId, OwnerRecord,
    PageRequest, Quota, VmId, VmRecord, VmState, VolumeFormat, VolumeId,
};
use crate::store::{Change, Expect, Row, Store};

/// A fresh Store has an install id that stays, and an empty log whose oldest number is 1.
pub async fn a_fresh_store_is_empty_and_knows_its_installation(store: Arc<dyn Store>) {
    let install = store.install().await.expect("install");
    assert_eq!(store.install().await.expect("install"), install);
    let snapshot = store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.event, 0);
    assert!(snapshot.vms.is_empty() && snapshot.users.is_empty() && snapshot.hosts.is_empty());
    let batch = store.events_after(0, 100).await.expect("events");
    assert!(batch.events.is_empty());
    assert_eq!(batch.oldest, 1);
    store.ping().await.expect("ping");
}

/// What was written is read back as it was, texts of every script in it.
pub async fn records_are_read_back_as_written(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut vm = fixture.vm("web");
    vm.description = "한국어 설명 🦀 \u{10FFFF} <&]]> '\"\\ \\u0000 \u{1}\n".to_owned();
    vm.labels.insert("env".to_owned(), "운영".to_owned());
    vm.spec.nics.push(nic("52:54:00:00:00:01"));
    let seen = fixture.status(vm.id, VmState::Running);
    fixture.write(vec![inserted(&vm), seen]).await.expect("commit");
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.vms, [vm.clone()]);
    assert_eq!(snapshot.users.first(), Some(&fixture.user));
    assert_eq!(snapshot.statuses.len(), 1);
    assert_eq!(snapshot.statuses[0].1, fixture.seen(vm.id, VmState::Running));
    let events = fixture.events().await;
    assert!(events.iter().any(|event| event.fact == Fact::Vm { record: vm.clone() }));
}

/// A NUL character is refused as invalid, in names and in free text, and nothing is written.
pub async fn text_with_nul_is_refused(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    refused(fixture.insert_vm(&fixture.vm("a\0b")).await, ErrorKind::Invalid);
    let mut vm = fixture.vm("web");
    vm.description = "a\0b".to_owned();
    refused(fixture.insert_vm(&vm).await, ErrorKind::Invalid);
    assert!(fixture.store.snapshot().await.expect("snapshot").vms.is_empty());
    assert!(fixture.store.password_hash("ada\0").await.expect("look-up").is_none());
}

/// A VM's name is unique for its owner, free for another one, and free again when the VM is gone.
pub async fn a_vm_name_is_unique_per_owner(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let first = fixture.vm("web");
    fixture.insert_vm(&first).await.expect("the name is free");
    refused(fixture.insert_vm(&fixture.vm("web")).await, ErrorKind::AlreadyExists);

    let other = OwnerRecord {
        id: OwnerId::generate(),
        kind: "user".to_owned(),
        name: "bob".to_owned(),
        quota: Quota::default(),
    };
    let mut foreign = fixture.vm("web");
    foreign.owner = other.id;
    fixture.write(vec![inserted(&foreign), Row::Owner(other)]).await.expect("another owner");

    let mut renamed = fixture.vm("mail");
    fixture.insert_vm(&renamed).await.expect("another name");
    renamed.name = "web".to_owned();
    refused(fixture.write(vec![updated(&renamed, 1)]).await, ErrorKind::AlreadyExists);
    fixture.write(vec![updated(&renamed, 1), Row::VmGone(first.id)]).await.expect("free in the same change");
}

/// A MAC is unique in the whole Store, whatever its case, and free again when its VM gives it up.
pub async fn a_mac_is_unique_in_the_store(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let with = |name: &str, macs: &[&str]| {
        let mut vm = fixture.vm(name);
        vm.spec.nics = macs.iter().map(|mac| nic(mac)).collect();
        vm
    };
    let mut first = with("first", &["52:54:00:aa:00:01"]);
    let mut second = with("second", &["52:54:00:aa:00:02"]);
    fixture.write(vec![inserted(&first), inserted(&second)]).await.expect("two MACs");
    refused(fixture.insert_vm(&with("third", &["52:54:00:AA:00:01"])).await, ErrorKind::AlreadyExists);
    let twice = with("third", &["52:54:00:aa:00:03", "52:54:00:aa:00:03"]);
    refused(fixture.insert_vm(&twice).await, ErrorKind::AlreadyExists);
    std::mem::swap(&mut first.spec.nics, &mut second.spec.nics);
    fixture.write(vec![updated(&first, 1), updated(&second, 1)]).await.expect("two VMs may swap MACs");
    refused(fixture.insert_vm(&with("fourth", &["52:54:00:aa:00:02"])).await, ErrorKind::AlreadyExists);
    fixture.write(vec![Row::VmGone(first.id)]).await.expect("gone");
    fixture.insert_vm(&with("fifth", &["52:54:00:aa:00:02"])).await.expect("free again");
}

/// A row changes only from the version that the caller knows, to the next one; an insert only
/// where there is none.
pub async fn a_version_guards_a_row(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut vm = fixture.vm("web");
    fixture.insert_vm(&vm).await.expect("insert");
    refused(fixture.insert_vm(&vm).await, ErrorKind::AlreadyExists);
    let before = fixture.last().await;
    vm.description = "changed".to_owned();
    fixture.write(vec![updated(&vm, 1)]).await.expect("from version 1");
    let error = refused(fixture.write(vec![updated(&vm, 1)]).await, ErrorKind::Conflict);
    assert!(!error.to_string().is_empty());
    refused(fixture.write(vec![updated(&fixture.vm("absent"), 1)]).await, ErrorKind::Conflict);
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!((snapshot.vms[0].version, snapshot.vms[0].description.as_str()), (2, "changed"));
    assert_eq!(snapshot.event, before + 1, "a refused change leaves no event");
    let event = fixture.events().await.pop().expect("an event");
    assert_eq!(event.fact, Fact::Vm { record: snapshot.vms[0].clone() });

    let mut host = snapshot.hosts[0].clone();
    host.uri = "qemu:///system".to_owned();
    let row = |expect| Row::Host { record: Box::new(host.clone()), expect };
    fixture.write(vec![row(Expect::Version(1))]).await.expect("from version 1");
    refused(fixture.write(vec![row(Expect::Version(1))]).await, ErrorKind::Conflict);
    refused(fixture.write(vec![row(Expect::Absent)]).await, ErrorKind::AlreadyExists);
}

/// A change that is refused in one row writes none of the others.
pub async fn a_change_is_all_or_nothing(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    fixture.insert_vm(&fixture.vm("taken")).await.expect("insert");
    let before = fixture.last().await;
    let change = Change {
        rows: vec![inserted(&fixture.vm("new")), inserted(&fixture.vm("taken"))],
        audit: vec![audit("vm:new")],
        ..Change::default()
    };
    refused(fixture.store.commit(change).await, ErrorKind::AlreadyExists);
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!((snapshot.vms.len(), snapshot.event), (1, before));
    assert!(fixture.store.audit(&AuditQuery::default(), PageRequest::default()).await.expect("audit").items.is_empty());
}

/// A row that goes twice is a success each time, with one event.
pub async fn what_is_gone_may_go_again(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = fixture.vm("web");
    fixture.write(vec![inserted(&vm), fixture.status(vm.id, VmState::Running)]).await.expect("insert");
    let before = fixture.last().await;
    let gone = vec![
        Row::VmGone(vm.id),
        Row::StatusGone { host: fixture.host, vm: vm.id },
        Row::VolumeGone(VolumeId::generate()),
        Row::ImageGone(ImageId::generate()),
    ];
    let first = fixture.write(gone.clone()).await.expect("first").event;
    let second = fixture.write(gone).await.expect("second").event;
    assert_eq!((first, second), (before + 2, before + 2));
}

/// A VM needs an owner and a host that are there.
pub async fn a_vm_needs_its_owner_and_host(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut vm = fixture.vm("web");
    vm.owner = OwnerId::generate();
    refused(fixture.insert_vm(&vm).await, ErrorKind::Conflict);
    let mut vm = fixture.vm("web");
    vm.host = HostId::generate();
    refused(fixture.insert_vm(&vm).await, ErrorKind::Conflict);
}

/// A status that is the one stored writes no row and no event; another one rises the revision,
/// which rises also over an absence.
pub async fn a_status_is_written_when_it_differs(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = VmId::generate();
    let revision = async || fixture.store.snapshot().await.expect("snapshot").statuses[0].2;
    let first = fixture.write(vec![fixture.status(vm, VmState::ShutOff)]).await.expect("first").event;
    let one = revision().await;
    let same = fixture.write(vec![fixture.status(vm, VmState::ShutOff)]).await.expect("same").event;
    assert_eq!((same, revision().await), (first, one));
    let other = fixture.write(vec![fixture.status(vm, VmState::Running)]).await.expect("other").event;
    assert_eq!((other, revision().await), (first + 1, one + 1));
    let event = fixture.events().await.pop().expect("an event");
    let seen = fixture.seen(vm, VmState::Running);
    assert_eq!(event.fact, Fact::Status { host: fixture.host, seen, revision: one + 1, owner: None });
    fixture.write(vec![Row::StatusGone { host: fixture.host, vm }]).await.expect("gone");
    fixture.write(vec![fixture.status(vm, VmState::ShutOff)]).await.expect("back");
    assert!(revision().await > one + 1);
}

/// Whose a VM is stands in every event of it, to the last one, whatever goes first.
pub async fn events_of_a_vm_tell_its_owner(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let (one, two) = (fixture.vm("one"), fixture.vm("two"));
    let status = |vm: &VmRecord| fixture.status(vm.id, VmState::Running);
    let status_gone = |vm: &VmRecord| Row::StatusGone { host: fixture.host, vm: vm.id };
    fixture.write(vec![inserted(&one), status(&two)]).await.expect("one has no status, two no record");
    fixture.write(vec![status(&one), inserted(&two)]).await.expect("both have both");
    let before = fixture.last().await;
    fixture.write(vec![Row::VmGone(one.id)]).await.expect("the record goes first");
    fixture.write(vec![status_gone(&one)]).await.expect("then the status");
    fixture.write(vec![status_gone(&two)]).await.expect("the status goes first");
    fixture.write(vec![Row::VmGone(two.id)]).await.expect("then the record");
    let owner = fixture.owner;
    let events = fixture.events().await;
    let of_status: Vec<_> = events.iter().filter(|event| matches!(event.fact, Fact::Status { .. })).collect();
    let owners = of_status.iter().map(|event| match &event.fact {
        Fact::Status { owner, .. } => *owner,
        _ => None,
    });
    assert_eq!(owners.collect::<Vec<_>>(), [None, Some(owner)]);
    let gone: Vec<_> = events.into_iter().filter(|event| event.number > before).map(|event| event.fact).collect();
    let host = fixture.host;
    let expected = [
        Fact::VmGone { id: one.id, owner },
        Fact::StatusGone { host, id: one.id, owner: Some(owner) },
        Fact::StatusGone { host, id: two.id, owner: Some(owner) },
        Fact::VmGone { id: two.id, owner },
    ];
    assert_eq!(gone, expected);
}

/// Volumes make no event, are replaced by id, and tell their maker after they are gone.
pub async fn volumes_are_kept_without_events(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = VmId::generate();
    let operation = fixture.operation(OperationKind::CreateVm, vm);
    fixture.begin(&operation, false).await.expect("operation");
    let before = fixture.last().await;
    let mut volume = fixture.volume(Some(vm), None, operation.operation.id);
    fixture.write(vec![Row::Volume(volume.clone())]).await.expect("insert");
    volume.filled = true;
    fixture.write(vec![Row::Volume(volume.clone())]).await.expect("replace");
    assert_eq!(fixture.store.volumes(fixture.host).await.expect("volumes"), [volume.clone()]);
    assert!(fixture.store.volumes(HostId::generate()).await.expect("volumes").is_empty());
    fixture.write(vec![Row::VolumeGone(volume.id)]).await.expect("gone");
    assert!(fixture.store.volumes(fixture.host).await.expect("volumes").is_empty());
    assert_eq!(fixture.last().await, before);
    let maker = fixture.store.volume_maker(volume.id).await.expect("maker");
    assert_eq!(maker, Some(operation.operation.id));
    assert_eq!(fixture.store.volume_maker(VolumeId::generate()).await.expect("maker"), None);
}

/// A VM that needs an image, and a volume of one, are only inserted while the image is ready.
pub async fn an_image_must_be_ready_for_what_needs_it(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut adding = image("debian");
    adding.phase = ImagePhase::Adding;
    let id = adding.id;
    let row = |image: &crate::model::Image, expect| Row::Image { image: Box::new(image.clone()), expect };
    fixture.write(vec![row(&adding, Expect::Absent)]).await.expect("image");
    let mut vm = fixture.vm("web");
    vm.spec.iso = Some(Iso { image: id, volume: VolumeId::generate() });
    refused(fixture.insert_vm(&vm).await, ErrorKind::Conflict);
    let volume = fixture.volume(None, Some(id), vm.created_by);
    refused(fixture.write(vec![Row::Volume(volume.clone())]).await, ErrorKind::Conflict);

    let mut ready = adding.clone();
    ready.phase = ImagePhase::Ready;
    fixture.write(vec![row(&ready, Expect::Version(1))]).await.expect("ready");
    fixture.write(vec![Row::Volume(volume.clone()), inserted(&vm)]).await.expect("an image that is ready");
    let mut deleting = ready.clone();
    deleting.phase = ImagePhase::Deleting;
    refused(fixture.write(vec![row(&deleting, Expect::Version(2))]).await, ErrorKind::Conflict);

    fixture.write(vec![Row::VmGone(vm.id)]).await.expect("the VM gives it up");
    fixture.write(vec![row(&deleting, Expect::Version(2))]).await.expect("nobody needs it");
    fixture.write(vec![Row::Volume(volume)]).await.expect("a volume that is there may be replaced");
    fixture.write(vec![Row::ImageGone(id)]).await.expect("gone");
    assert!(fixture.store.volumes(fixture.host).await.expect("volumes").is_empty(), "its volume rows go with it");
    assert_eq!(fixture.events().await.pop().expect("an event").fact, Fact::ImageGone { id });
}

/// An image under a linked disk is guarded as an ISO is; one that was copied in full is not.
pub async fn a_linked_disk_guards_its_image(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    for (mode, guarded) in [(DiskMode::Linked, true), (DiskMode::Full, false)] {
        let base = image(&format!("base-{guarded}"));
        let mut vm = fixture.vm(&format!("vm-{guarded}"));
        let (volume, format) = (VolumeId::generate(), VolumeFormat::Qcow2);
        vm.spec.disks.push(Disk { volume, format, size_bytes: 1, image: Some(base.id), mode });
        let row = Row::Image { image: Box::new(base.clone()), expect: Expect::Absent };
        fixture.write(vec![inserted(&vm), row]).await.expect("insert");
        let mut deleting = base;
        deleting.phase = ImagePhase::Deleting;
        let row = Row::Image { image: Box::new(deleting), expect: Expect::Version(1) };
        let answer = fixture.write(vec![row]).await;
        if guarded {
            refused(answer, ErrorKind::Conflict);
        } else {
            answer.expect("a full copy needs its image no more");
        }
    }
}

/// A VM that is made and the image that it needs, deleted at the same time: one of both is
/// refused, never none.
pub async fn an_image_is_not_lost_to_a_race(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    for round in 0..20 {
        let base = image(&format!("base-{round}"));
        let row = Row::Image { image: Box::new(base.clone()), expect: Expect::Absent };
        fixture.write(vec![row]).await.expect("image");
        let mut vm = fixture.vm(&format!("vm-{round}"));
        vm.spec.iso = Some(Iso { image: base.id, volume: VolumeId::generate() });
        let mut deleting = base;
        deleting.phase = ImagePhase::Deleting;
        let row = Row::Image { image: Box::new(deleting), expect: Expect::Version(1) };
        let (made, deleted) = tokio::join!(fixture.insert_vm(&vm), fixture.write(vec![row]));
        assert!(made.is_ok() != deleted.is_ok(), "{made:?} {deleted:?}");
    }
}

/// The name of an image is unique, as that of a host is.
pub async fn names_of_images_and_hosts_are_unique(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let row = |name: &str| Row::Image { image: Box::new(image(name)), expect: Expect::Absent };
    fixture.write(vec![row("debian")]).await.expect("image");
    refused(fixture.write(vec![row("debian")]).await, ErrorKind::AlreadyExists);
    let mut host = fixture.store.snapshot().await.expect("snapshot").hosts[0].clone();
    host.id = HostId::generate();
    let row = Row::Host { record: Box::new(host), expect: Expect::Absent };
    refused(fixture.write(vec![row]).await, ErrorKind::AlreadyExists);
}
