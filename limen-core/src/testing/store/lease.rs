//! Leases and fences: one process at a time owns a host.

use std::sync::Arc;

use super::fixture::{Fixture, inserted, now, refused};
use crate::error::ErrorKind;
use crate::model::{HostId, OperationKind, VmId, VmState};
use crate::store::{Change, Fence, OperationWrite, Store};

/// A lease is made released on first use, and is taken by compare-and-set.
pub async fn a_lease_is_taken_by_compare_and_set(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let free = store.lease(fixture.host).await.expect("lease");
    assert_eq!((free.holder.as_deref(), free.fence.host, free.observed_at), (None, fixture.host, None));
    assert_eq!(store.lease(fixture.host).await.expect("lease"), free);
    let mine = store.take_lease(&free, "a").await.expect("take").expect("it is as seen");
    assert_eq!(mine.holder.as_deref(), Some("a"));
    assert!(mine.fence.value > free.fence.value);
    assert_eq!(store.take_lease(&free, "b").await.expect("take"), None, "it is no longer as seen");
    assert_eq!(store.lease(fixture.host).await.expect("lease"), mine);
    refused(store.lease(HostId::generate()).await, ErrorKind::NotFound);
}

/// Of many that take a lease at once, one gets it.
pub async fn one_of_many_gets_the_lease(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let free = fixture.store.lease(fixture.host).await.expect("lease");
    let mut tasks = Vec::new();
    for number in 0..8 {
        let (store, free) = (Arc::clone(&fixture.store), free.clone());
        tasks.push(tokio::spawn(async move { store.take_lease(&free, &format!("p{number}")).await }));
    }
    let mut taken = 0;
    for task in tasks {
        taken += usize::from(task.await.expect("no panic").expect("take").is_some());
    }
    assert_eq!(taken, 1);
}

/// A renewal rises the beat and keeps the fence; a lease that was taken over cannot be renewed,
/// nor taken by who saw an older beat.
pub async fn a_renewed_lease_is_not_the_one_seen_before(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let free = store.lease(fixture.host).await.expect("lease");
    let mine = store.take_lease(&free, "a").await.expect("take").expect("free");
    let observed = Some(now());
    let renewed = store.renew_lease(&mine, observed).await.expect("renew").expect("mine");
    assert!(renewed.beat > mine.beat);
    assert_eq!((renewed.fence, renewed.observed_at), (mine.fence, observed));
    assert_eq!(store.lease(fixture.host).await.expect("lease"), renewed);
    assert_eq!(store.take_lease(&mine, "b").await.expect("take"), None, "the beat went on");
    let after_lost_answer = store.renew_lease(&mine, observed).await.expect("renew").expect("still mine");
    assert!(after_lost_answer.beat > renewed.beat);

    let theirs = store.take_lease(&after_lost_answer, "b").await.expect("take").expect("it stood still");
    assert!(theirs.fence.value > mine.fence.value);
    assert_eq!(store.renew_lease(&after_lost_answer, observed).await.expect("renew"), None);
    store.release_lease(&after_lost_answer).await.expect("no effect");
    assert_eq!(store.lease(fixture.host).await.expect("lease"), theirs);
}

/// A released lease has no holder and is free to take.
pub async fn a_released_lease_is_free(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let free = store.lease(fixture.host).await.expect("lease");
    let mine = store.take_lease(&free, "a").await.expect("take").expect("free");
    store.release_lease(&mine).await.expect("release");
    let released = store.lease(fixture.host).await.expect("lease");
    assert_eq!(released.holder, None);
    assert_eq!(store.renew_lease(&mine, None).await.expect("renew"), None);
    let next = store.take_lease(&released, "b").await.expect("take").expect("free");
    assert!(next.fence.value > mine.fence.value);
}

/// Every lease is listed as it is; a host that nobody ever looked after has none, and listing makes none.
pub async fn every_lease_is_listed(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    assert_eq!(store.leases().await.expect("leases"), []);
    assert_eq!(store.leases().await.expect("leases"), []);
    let free = store.lease(fixture.host).await.expect("lease");
    assert_eq!(store.leases().await.expect("leases"), std::slice::from_ref(&free));
    let mine = store.take_lease(&free, "a").await.expect("take").expect("free");
    let renewed = store.renew_lease(&mine, Some(now())).await.expect("renew").expect("mine");
    assert_eq!(store.leases().await.expect("leases"), [renewed]);
}

/// A change under an old fence, or one of a lease that was released, is refused and writes nothing.
pub async fn an_old_fence_writes_nothing(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let free = store.lease(fixture.host).await.expect("lease");
    let mine = store.take_lease(&free, "a").await.expect("take").expect("free");
    let vm = VmId::generate();
    let row = fixture.operation(OperationKind::ChangePower, vm);
    fixture.begin(&row, false).await.expect("begin");
    let change = |fence: Fence, state| Change {
        fence: Some(fence),
        operation: Some(OperationWrite::Update(Box::new(row.clone()))),
        rows: vec![fixture.status(vm, state), inserted(&fixture.vm("web"))],
        ..Change::default()
    };
    let write = async |fence, state| store.commit(change(fence, state)).await;
    write(mine.fence, VmState::Running).await.expect("the owner writes");
    let theirs = store.take_lease(&mine, "b").await.expect("take").expect("it stood still");
    let before = fixture.last().await;
    refused(write(mine.fence, VmState::Paused).await, ErrorKind::Conflict);
    let unknown = Fence { host: HostId::generate(), value: 0 };
    refused(write(unknown, VmState::Paused).await, ErrorKind::Conflict);
    assert_eq!(fixture.last().await, before);
    let snapshot = store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.statuses[0].1.state, VmState::Running);
    let status = vec![fixture.status(vm, VmState::ShutOff)];
    let change = Change { fence: Some(theirs.fence), rows: status.clone(), ..Change::default() };
    store.commit(change.clone()).await.expect("the new owner writes");
    store.release_lease(&theirs).await.expect("release");
    refused(store.commit(change).await, ErrorKind::Conflict);
}

/// No take-over falls into a change that is being made under the fence of before.
pub async fn a_take_over_waits_for_a_change_under_the_fence(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut lease = fixture.store.lease(fixture.host).await.expect("lease");
    lease = fixture.store.take_lease(&lease, "a").await.expect("take").expect("free");
    for round in 0..20 {
        let rows = (0..5).map(|number| inserted(&fixture.vm(&format!("vm-{round}-{number}")))).collect();
        let change = Change { fence: Some(lease.fence), rows, ..Change::default() };
        let take = async {
            let taken = fixture.store.take_lease(&lease, "b").await.expect("take").expect("it stood still");
            (taken, fixture.last().await)
        };
        let (written, (taken, seen)) = tokio::join!(fixture.store.commit(change), take);
        match written {
            Ok(committed) => assert!(committed.event <= seen, "written after the take-over was seen"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
        }
        assert_eq!(fixture.last().await, seen);
        lease = taken;
    }
}
