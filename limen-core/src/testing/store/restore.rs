//! A Store that is held against what a host remembers of it.

use std::sync::Arc;

use super::fixture::{Fixture, audit, inserted, refused, session};
use crate::error::ErrorKind;
use crate::model::{AuditQuery, Fact, OperationKind, OperationState, PageRequest, Restore, VmId, Witness};
use crate::store::{Change, OperationWrite, Row, Store};

async fn judge(store: &Arc<dyn Store>, witness: &Witness) -> Option<Restore> {
    store.judge(witness, "host", audit("store")).await.expect("judge")
}

/// A Store is its own witness: the last event and when that was made. Of another installation's
/// nothing is told.
pub async fn a_store_knows_how_far_it_has_got(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let witness = store.witness().await.expect("witness");
    let install = store.install().await.expect("install");
    assert_eq!((witness.install, witness.epoch, witness.event), (install.id, install.epoch, fixture.last().await));
    let last = store.events_after(witness.event - 1, 1).await.expect("events").events.remove(0);
    assert_eq!(i128::from(witness.at) * 1000, last.at.unix_timestamp_nanos());
    fixture.insert_vm(&fixture.vm("web")).await.expect("insert");
    assert_eq!(judge(store, &witness).await, None, "it has got further");
    let now = store.witness().await.expect("witness");
    assert!(now.is_newer_than(&witness));
    assert_eq!(judge(store, &now).await, None, "it is as far");
    let other = Witness { install: crate::model::InstallId::generate(), event: 1 << 40, ..now };
    assert_eq!(judge(store, &other).await, None, "it is another's");
    assert_eq!(store.witness().await.expect("witness"), now, "nothing was written");
    assert_eq!(store.snapshot().await.expect("snapshot").restores, []);
}

/// A Store that is older than a witness, or has another history, is restored: a new epoch begins,
/// events go on beyond what the host knows, sessions and leases end, operations are held; the same
/// witness tells nothing new from then on.
pub async fn a_restored_store_begins_a_new_epoch(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let free = store.lease(fixture.host).await.expect("lease");
    let mine = store.take_lease(&free, "a").await.expect("take").expect("free");
    fixture.write(vec![Row::Session(session(fixture.user.id))]).await.expect("session");
    let vm = VmId::generate();
    let mut row = fixture.operation(OperationKind::ChangePower, vm);
    row.journal.waiting = true;
    fixture.begin(&row, false).await.expect("begin");
    let now = store.witness().await.expect("witness");
    let seen = Witness { event: now.event + 40, at: now.at + 1, ..now };

    let restore = judge(store, &seen).await.expect("it is older than the host knows it");
    assert_eq!((restore.epoch, restore.store_event, restore.host_event), (now.epoch + 1, now.event, seen.event));
    assert_eq!((restore.kept_event, restore.operations_held, restore.sessions_ended), (now.event, 1, 1));
    assert!(restore.next_event > seen.event);
    assert_eq!(store.install().await.expect("install").epoch, restore.epoch);
    let snapshot = store.snapshot().await.expect("snapshot");
    assert_eq!(snapshot.restores, std::slice::from_ref(&restore));
    assert_eq!(snapshot.sessions, []);
    assert_eq!(snapshot.operations[0].state, OperationState::Held);
    let batch = store.events_after(now.event, 100).await.expect("events");
    let numbers: Vec<_> = batch.events.iter().map(|event| event.number).collect();
    assert_eq!(numbers, (restore.next_event..=snapshot.event).collect::<Vec<_>>());
    assert_eq!(batch.events[0].fact, Fact::Restored { restore: restore.clone() });
    let lease = store.lease(fixture.host).await.expect("lease");
    assert_eq!(lease.holder, None);
    assert!(lease.fence.value > mine.fence.value + 1);
    assert_eq!(store.renew_lease(&mine, None).await.expect("renew"), None);
    let held = store.operation(row.operation.id).await.expect("operation");
    assert_eq!((held.journal.held, held.journal.waiting), (Some(OperationState::Queued), false));
    let told = store.audit(&AuditQuery::default(), PageRequest::default()).await.expect("audit");
    assert_eq!(told.items.len(), 1);

    assert_eq!(judge(store, &seen).await, None, "it was noticed");
    let another = Witness { event: seen.event - 7, at: 3, ..seen };
    assert_eq!(judge(store, &another).await, None, "another host's memory of the same time");
    let beyond = Witness { event: snapshot.event + 1, ..seen };
    let second = judge(store, &beyond).await.expect("a host that knows more than was thought lost");
    assert_eq!(second.epoch, restore.epoch + 1);
    assert!(second.next_event > beyond.event);
    let later = Witness { epoch: second.epoch + 3, event: 1, ..seen };
    let third = judge(store, &later).await.expect("a later epoch was lost");
    assert_eq!(third.epoch, later.epoch + 1);
    assert!(third.next_event > second.next_event);
}

/// Another event under the number that a witness names is another history.
pub async fn another_history_is_a_restored_store(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let now = fixture.store.witness().await.expect("witness");
    fixture.insert_vm(&fixture.vm("web")).await.expect("insert");
    let other = Witness { event: now.event, at: now.at - 1, ..now };
    let restore = judge(&fixture.store, &other).await.expect("that event was another one");
    // Nobody can tell which numbers are whose.
    assert_eq!(restore.kept_event, 0);
    assert!(restore.lost(1) && restore.lost(now.event + 1) && !restore.lost(restore.next_event - 1));
}

/// Of many that judge at once, one notices.
pub async fn one_of_many_notices_a_restore(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let now = fixture.store.witness().await.expect("witness");
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let store = Arc::clone(&fixture.store);
            // Each from another host: they know of different events.
            let seen = Witness { event: now.event + 10 + number, ..now };
            tokio::spawn(async move { judge(&store, &seen).await })
        })
        .collect();
    let mut noticed = 0;
    for task in tasks {
        noticed += usize::from(task.await.expect("no panic").is_some());
    }
    assert_eq!(noticed, 1);
    assert_eq!(fixture.store.install().await.expect("install").epoch, now.epoch + 1);
}

/// A held operation keeps its locks, and is settled once: it goes on, or ends and releases them.
pub async fn a_held_operation_is_settled_once(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let store = &fixture.store;
    let (first, second) = (fixture.vm("a"), fixture.vm("b"));
    let mut rows = Vec::new();
    for vm in [&first, &second] {
        fixture.write(vec![inserted(vm)]).await.expect("insert");
        let row = fixture.operation(OperationKind::DeleteVm, vm.id);
        fixture.begin(&row, false).await.expect("begin");
        rows.push(row);
    }
    let settle = async |row: &crate::store::OperationRow| {
        let operation = Some(OperationWrite::Settle(Box::new(row.clone())));
        store.commit(Change { operation, ..Change::default() }).await
    };
    refused(settle(&rows[0]).await, ErrorKind::Conflict);
    let now = store.witness().await.expect("witness");
    judge(store, &Witness { event: now.event + 1, ..now }).await.expect("restored");
    for (vm, row) in [(&first, &rows[0]), (&second, &rows[1])] {
        let next = fixture.operation(OperationKind::DeleteVm, vm.id);
        let busy = refused(fixture.begin(&next, true).await, ErrorKind::Busy);
        assert_eq!(busy.operation_id(), Some(row.operation.id));
    }
    let mut resumed = store.operation(rows[0].operation.id).await.expect("operation");
    resumed.operation.state = resumed.journal.held.take().expect("where it was");
    settle(&resumed).await.expect("it goes on");
    refused(settle(&resumed).await, ErrorKind::Conflict);
    let mut ended = store.operation(rows[1].operation.id).await.expect("operation");
    ended.operation.state = OperationState::Failed;
    settle(&ended).await.expect("it ends");
    refused(settle(&ended).await, ErrorKind::Conflict);
    let locks = store.locks().await.expect("locks");
    assert_eq!(locks.iter().map(|(_, holder)| *holder).collect::<Vec<_>>(), [rows[0].operation.id]);
}
