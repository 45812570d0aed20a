//! What VMs count for, and the limits that refuse.

use std::sync::Arc;

use super::fixture::{Fixture, begun, ended, inserted, refused, updated};
use crate::error::{ErrorKind, QuotaFigures};
use crate::model::{
    Disk, DiskMode, Fact, GIB, HostId, OperationId, OperationKind, OperationState, OwnerId, Quota, Raised, Usage,
    VmRecord, VolumeFormat, VolumeId, VolumeRecord,
};
use crate::store::{Change, MemoryLimit, OperationWrite, Row, Snapshot, SpaceLimit, Store};

/// Every sum in `snapshot` that is not the sum over its VM records.
#[must_use]
pub fn miscounted(snapshot: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for owner in &snapshot.owners {
        let owned = snapshot.vms.iter().filter(|vm| vm.owner == owner.id);
        let (sum, used) = (owned.map(Usage::of).sum(), snapshot.used.get(&owner.id).copied());
        if used != Some(sum) {
            found.push(format!("owner {} is said to use {used:?} and uses {sum:?}", owner.name));
        }
    }
    for host in &snapshot.hosts {
        let on_host = snapshot.vms.iter().filter(|vm| vm.host == host.id);
        let sum: i64 = on_host.map(|vm| Usage::of(vm).memory_mib).sum();
        let used = snapshot.host_memory_mib.get(&host.id).copied();
        if used != Some(sum) {
            found.push(format!("the VMs of host {} are said to have {used:?} MiB and have {sum}", host.name));
        }
    }
    found
}

async fn used(fixture: &Fixture) -> Usage {
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!(miscounted(&snapshot), Vec::<String>::new());
    snapshot.used[&fixture.owner]
}

async fn limit(fixture: &Fixture, quota: Quota) {
    fixture.write(vec![Row::OwnerQuota { owner: fixture.owner, quota }]).await.expect("limits");
}

fn disk(size_bytes: u64) -> Disk {
    Disk { volume: VolumeId::generate(), format: VolumeFormat::Qcow2, size_bytes, image: None, mode: DiskMode::Full }
}

/// What an owner's VMs come to is counted while their records are there: from the insert, through
/// every change, until they are gone, once.
pub async fn what_vms_come_to_is_counted(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    assert_eq!(used(&fixture).await, Usage::default());
    let mut vm = fixture.vm("web");
    vm.spec.disks = vec![disk(3 * GIB), disk(GIB + 1)];
    let other = fixture.vm("mail");
    fixture.write(vec![inserted(&vm), inserted(&other)]).await.expect("two VMs");
    let two = Usage { vms: 2, vcpus: 2, memory_mib: 256, disk_gib: 5, snapshots: 0 };
    assert_eq!(used(&fixture).await, two);
    refused(fixture.insert_vm(&fixture.vm("web")).await, ErrorKind::AlreadyExists);
    assert_eq!(used(&fixture).await, two, "what is refused counts for nothing");

    vm.raised = Some(Raised { vcpus: 4, memory_mib: 64 });
    fixture.write(vec![updated(&vm, 1)]).await.expect("an update begins");
    assert_eq!(used(&fixture).await, Usage { vcpus: 5, ..two }, "the more of before and after");
    refused(fixture.write(vec![updated(&vm, 1)]).await, ErrorKind::Conflict);
    vm.raised = None;
    (vm.spec.vcpus, vm.spec.memory_mib) = (4, 64);
    fixture.write(vec![updated(&vm, 2)]).await.expect("the update ends");
    assert_eq!(used(&fixture).await, Usage { vcpus: 5, memory_mib: 192, ..two });

    fixture.write(vec![Row::VmGone(vm.id)]).await.expect("gone");
    let one = Usage { vms: 1, vcpus: 1, memory_mib: 128, disk_gib: 0, snapshots: 0 };
    assert_eq!(used(&fixture).await, one);
    fixture.write(vec![Row::VmGone(vm.id)]).await.expect("gone again");
    assert_eq!(used(&fixture).await, one, "given back once");
    fixture.write(vec![Row::VmGone(other.id), inserted(&fixture.vm("next"))]).await.expect("one for another");
    assert_eq!(used(&fixture).await, one);
}

/// A limit is read back and told; a figure that rises past it is refused with the figures and
/// nothing is written. What is past a limit already stays, may shrink, and may go.
pub async fn a_limit_refuses_what_rises_past_it(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let nobody = Row::OwnerQuota { owner: OwnerId::generate(), quota: Quota::default() };
    refused(fixture.write(vec![nobody]).await, ErrorKind::NotFound);
    let mut vm = fixture.vm("web");
    vm.spec.disks = vec![disk(2 * GIB)];
    fixture.insert_vm(&vm).await.expect("without limits");
    let quotas = [
        ("vms", 1, Quota { vms: Some(1), ..Quota::default() }),
        ("vcpus", 1, Quota { vcpus: Some(1), ..Quota::default() }),
        ("memory_mib", 128, Quota { memory_mib: Some(255), ..Quota::default() }),
        ("disk_gib", 2, Quota { disk_gib: Some(0), ..Quota::default() }),
    ];
    for (resource, used, quota) in quotas {
        limit(&fixture, quota).await;
        let last = fixture.last().await;
        let second = VmRecord { spec: vm.spec.clone(), ..fixture.vm("second") };
        let error = refused(fixture.insert_vm(&second).await, ErrorKind::QuotaExceeded);
        let index = Quota::RESOURCES.iter().position(|name| *name == resource).expect("a resource");
        let limit = quota.limits()[index].expect("a limit");
        assert_eq!(error.quota(), Some(&QuotaFigures { resource: resource.to_owned(), limit, used }));
        assert_eq!(fixture.last().await, last);
    }
    let quota = Quota { vms: Some(1), vcpus: Some(2), memory_mib: Some(100), snapshots: Some(0), disk_gib: None };
    limit(&fixture, quota).await;
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.owners[0].quota, quota);
    let told = fixture.events().await.into_iter().rev().find_map(|event| match event.fact {
        Fact::Owner { record } => Some(record.quota),
        _ => None,
    });
    assert_eq!(told, Some(quota));
    vm.spec.memory_mib = 129;
    refused(fixture.write(vec![updated(&vm, 1)]).await, ErrorKind::QuotaExceeded);
    (vm.spec.memory_mib, vm.spec.vcpus) = (127, 2);
    fixture.write(vec![updated(&vm, 1)]).await.expect("it shrinks, still past the limit, and another figure rises");
    fixture.write(vec![Row::VmGone(vm.id)]).await.expect("it may go");
    assert_eq!(used(&fixture).await, Usage::default());
}

/// Of many parallel operations so many reserve as the limit allows; one that ends undone gives back
/// what it reserved with its record.
pub async fn a_limit_holds_in_parallel(store: Arc<dyn Store>) {
    const LIMIT: i64 = 5;
    let fixture = Fixture::new(store).await;
    limit(&fixture, Quota { memory_mib: Some(LIMIT * 128 + 127), ..Quota::default() }).await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..25 {
        let fixture = fixture.clone();
        tasks.spawn(async move {
            let vm = fixture.vm(&format!("vm-{index}"));
            let row = fixture.operation(OperationKind::CreateVm, vm.id);
            let operation = Some(begun(&row, false));
            let change = Change { operation, rows: vec![inserted(&vm)], ..Change::default() };
            (vm, row, fixture.store.commit(change).await)
        });
    }
    let mut made = Vec::new();
    for (vm, row, answer) in tasks.join_all().await {
        match answer {
            Ok(_) => made.push((vm, row)),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::QuotaExceeded, "{error:?}");
                refused(fixture.store.operation(row.operation.id).await, ErrorKind::NotFound);
            }
        }
    }
    assert_eq!((made.len() as i64, used(&fixture).await.vms), (LIMIT, LIMIT));
    let mut tasks = tokio::task::JoinSet::new();
    for (vm, row) in made {
        let fixture = fixture.clone();
        tasks.spawn(async move {
            let operation = Some(OperationWrite::Update(Box::new(ended(&row, OperationState::Failed))));
            let change = Change { operation, rows: vec![Row::VmGone(vm.id)], ..Change::default() };
            fixture.store.commit(change.clone()).await.expect("undone");
            refused(fixture.store.commit(change).await, ErrorKind::Conflict);
        });
    }
    tasks.join_all().await;
    assert_eq!(used(&fixture).await, Usage::default());
}

/// The VMs of a host have no more memory together than a change allows, also in parallel; what is
/// there stays and may shrink.
pub async fn a_host_has_only_so_much_memory(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let change = |rows, host, mib| Change { rows, memory_limit: Some(MemoryLimit { host, mib }), ..Change::default() };
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..12 {
        let vm = fixture.vm(&format!("vm-{index}"));
        let (store, change) = (Arc::clone(&fixture.store), change(vec![inserted(&vm)], fixture.host, 3 * 128));
        tasks.spawn(async move { (vm, store.commit(change).await) });
    }
    let mut made = Vec::new();
    for (vm, answer) in tasks.join_all().await {
        match answer {
            Ok(_) => made.push(vm),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}"),
        }
    }
    assert_eq!((made.len(), used(&fixture).await.memory_mib), (3, 3 * 128));
    let mut vm = made.remove(0);
    vm.spec.memory_mib = 127;
    fixture.store.commit(change(vec![updated(&vm, 1)], fixture.host, 100)).await.expect("it may shrink");
    vm.spec.memory_mib = 128;
    let raise = change(vec![updated(&vm, 2)], fixture.host, 3 * 128 - 1);
    refused(fixture.store.commit(raise).await, ErrorKind::NoSpace);
    let elsewhere = change(vec![updated(&vm, 2)], HostId::generate(), 0);
    fixture.store.commit(elsewhere).await.expect("another host's limit");
    assert_eq!(used(&fixture).await.memory_mib, 3 * 128);
}

/// The disks that a host could not tell of yet have no more space together than a change allows, also
/// in parallel: those that are not filled, and those that were filled since.
pub async fn a_host_has_only_so_much_space(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let with_disk = |name: &str, bytes, as_of| {
        let vm = fixture.vm(name);
        let volume = fixture.volume(Some(vm.id), None, vm.created_by);
        let space_limit = Some(SpaceLimit { host: fixture.host, bytes, as_of });
        let rows = vec![inserted(&vm), Row::Volume(volume.clone())];
        (volume, Change { rows, space_limit, ..Change::default() })
    };
    const THREE: i64 = 3 << 30;
    let before = fixture.last().await;
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..12 {
        let (volume, change) = with_disk(&format!("vm-{index}"), THREE, before);
        let store = Arc::clone(&fixture.store);
        tasks.spawn(async move { (volume, store.commit(change).await) });
    }
    let mut made: Vec<VolumeRecord> = Vec::new();
    for (volume, answer) in tasks.join_all().await {
        match answer {
            Ok(_) => made.push(volume),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}"),
        }
    }
    assert_eq!(made.len(), 3);
    let try_one = async |name: &str, as_of| fixture.store.commit(with_disk(name, THREE, as_of).1).await;
    refused(try_one("open", fixture.last().await).await, ErrorKind::NoSpace);

    // Filled in a transaction with an event, as the end of an operation is.
    let filled = VolumeRecord { filled: true, ..made.remove(0) };
    let vm = fixture.vm("another");
    let rows = vec![Row::Volume(filled.clone()), inserted(&vm)];
    fixture.store.commit(Change { rows, ..Change::default() }).await.expect("filled");
    let after = fixture.last().await;
    refused(try_one("since", after - 1).await, ErrorKind::NoSpace);
    try_one("told", after).await.expect("the host has told of the one that is filled");
    refused(try_one("full", after).await, ErrorKind::NoSpace);
    let gone = Row::VolumeGone(made.remove(0).id);
    fixture.store.commit(Change { rows: vec![gone], ..Change::default() }).await.expect("gone");
    try_one("again", after).await.expect("what is gone counts no more");

    // A VM without disks asks for nothing, nor does a copy of an image.
    let space_limit = Some(SpaceLimit { host: fixture.host, bytes: -1, as_of: after });
    let copy = Row::Volume(fixture.volume(None, None, OperationId::generate()));
    let rows = vec![inserted(&fixture.vm("bare")), copy];
    fixture.store.commit(Change { rows, space_limit, ..Change::default() }).await.expect("no disk");
}
