//! Operations: locks, cancelling, history, idempotency keys.

use std::sync::Arc;
use std::time::Duration;

use super::fixture::{Fixture, audit, begun, ended, inserted, refused, updated};
use crate::error::{ErrorKind, Result};
use crate::model::{
    AuditQuery, Fact, HostId, Operation, OperationId, OperationKind, OperationState, OwnerId, PageRequest, StepRecord,
    StepState, VmId,
};
use crate::store::{Change, Committed, IdempotencyKey, OperationQuery, OperationRow, OperationWrite, Row, Store};

/// An operation is kept with its journal, and all events of its change bear its id.
pub async fn an_operation_is_kept_with_its_journal(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = fixture.vm("web");
    let mut row = fixture.operation(OperationKind::CreateVm, vm.id);
    let before = fixture.last().await;
    let change = Change { operation: Some(begun(&row, false)), rows: vec![inserted(&vm)], ..Change::default() };
    fixture.store.commit(change).await.expect("begin");
    assert_eq!(fixture.store.operation(row.operation.id).await.expect("operation"), row);
    let events: Vec<_> = fixture.events().await.into_iter().filter(|event| event.number > before).collect();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.operation == Some(row.operation.id)));
    assert_eq!(events[1].fact, Fact::Operation { operation: row.operation.clone() });

    row.operation.state = OperationState::Running;
    row.operation.step = Some("define".to_owned());
    row.journal.steps.push(StepRecord {
        name: "define".to_owned(),
        state: StepState::Started,
        output: serde_json::json!({"hash": "h"}),
    });
    fixture.update(&row).await.expect("update");
    assert_eq!(fixture.store.operation(row.operation.id).await.expect("operation"), row);
    refused(fixture.store.operation(OperationId::generate()).await, ErrorKind::NotFound);
    let unknown = fixture.operation(OperationKind::CreateVm, vm.id);
    refused(fixture.update(&unknown).await, ErrorKind::NotFound);
    refused(fixture.begin(&row, false).await, ErrorKind::AlreadyExists);
}

/// A second operation on a VM is busy with the id of the first, whatever else is wrong with it;
/// when the first is finished, the VM is free.
pub async fn a_lock_is_busy_until_its_operation_is_finished(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = fixture.vm("web");
    fixture.insert_vm(&vm).await.expect("vm");
    let first = fixture.operation(OperationKind::UpdateVm, vm.id);
    fixture.begin(&first, false).await.expect("free");
    let second = fixture.operation(OperationKind::ChangePower, vm.id);
    let before = fixture.last().await;
    let change = Change { operation: Some(begun(&second, false)), rows: vec![updated(&vm, 7)], ..Change::default() };
    let error = refused(fixture.store.commit(change).await, ErrorKind::Busy);
    assert_eq!(error.operation_id(), Some(first.operation.id));
    assert_eq!(fixture.last().await, before);
    refused(fixture.store.operation(second.operation.id).await, ErrorKind::NotFound);
    let other = fixture.operation(OperationKind::ChangePower, VmId::generate());
    fixture.begin(&other, false).await.expect("another VM is free");

    let mut undoing = first.clone();
    undoing.operation.state = OperationState::Undoing;
    fixture.update(&undoing).await.expect("undoing");
    refused(fixture.begin(&second, false).await, ErrorKind::Busy);
    fixture.update(&ended(&first, OperationState::Failed)).await.expect("failed");
    fixture.begin(&second, false).await.expect("free again");
}

/// Locks are listed with who holds them, from the beginning of an operation to its end.
pub async fn the_locks_that_are_held_are_listed(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    assert_eq!(fixture.store.locks().await.expect("locks"), []);
    let (one, two) = (VmId::generate(), VmId::generate());
    let first = fixture.operation(OperationKind::UpdateVm, one);
    let second = fixture.operation(OperationKind::DeleteVm, two);
    fixture.begin(&first, false).await.expect("free");
    fixture.begin(&second, false).await.expect("free");
    let lock = |row: &OperationRow, vm: VmId| (format!("vm:{vm}"), row.operation.id);
    let mut both = vec![lock(&first, one), lock(&second, two)];
    both.sort();
    assert_eq!(fixture.store.locks().await.expect("locks"), both);
    fixture.update(&ended(&first, OperationState::Succeeded)).await.expect("ended");
    assert_eq!(fixture.store.locks().await.expect("locks"), [lock(&second, two)]);
}

/// Of operations that begin on one VM at the same time, one does; the others are busy with it.
pub async fn one_of_many_parallel_operations_gets_the_lock(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut vm = fixture.vm("web");
    fixture.insert_vm(&vm).await.expect("vm");
    vm.description = "changed".to_owned();
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let (fixture, vm) = (fixture.clone(), vm.clone());
        tasks.push(tokio::spawn(async move {
            let row = fixture.operation(OperationKind::UpdateVm, vm.id);
            let change =
                Change { operation: Some(begun(&row, false)), rows: vec![updated(&vm, 1)], ..Change::default() };
            (row.operation.id, fixture.store.commit(change).await)
        }));
    }
    let mut won = Vec::new();
    let mut lost = Vec::new();
    for task in tasks {
        match task.await.expect("no panic") {
            (id, Ok(_)) => won.push(id),
            (_, Err(error)) => lost.push(error),
        }
    }
    assert_eq!(won.len(), 1, "{lost:?}");
    for error in lost {
        assert_eq!((error.kind(), error.operation_id()), (ErrorKind::Busy, Some(won[0])), "{error:?}");
    }
}

/// A preempting operation takes the lock from one that waits, which is asked to cancel; one that
/// does not wait keeps it.
pub async fn a_waiting_operation_can_be_preempted(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let vm = VmId::generate();
    let mut first = fixture.operation(OperationKind::ChangePower, vm);
    first.operation.state = OperationState::Running;
    fixture.begin(&first, false).await.expect("free");
    let second = fixture.operation(OperationKind::ChangePower, vm);
    let error = refused(fixture.begin(&second, true).await, ErrorKind::Busy);
    assert_eq!(error.operation_id(), Some(first.operation.id));

    first.journal.waiting = true;
    fixture.update(&first).await.expect("waits");
    refused(fixture.begin(&second, false).await, ErrorKind::Busy);
    let before = fixture.last().await;
    fixture.begin(&second, true).await.expect("preempts");
    assert!(fixture.store.operation(first.operation.id).await.expect("first").operation.cancel_requested);
    let events: Vec<_> = fixture.events().await.into_iter().filter(|event| event.number > before).collect();
    assert_eq!(events.len(), 2);
    assert!(matches!(&events[0].fact, Fact::Operation { operation: Operation { id, cancel_requested: true, .. } }
        if *id == first.operation.id));

    fixture.update(&ended(&first, OperationState::Cancelled)).await.expect("cancelled");
    let third = fixture.operation(OperationKind::ChangePower, vm);
    let error = refused(fixture.begin(&third, false).await, ErrorKind::Busy);
    assert_eq!(error.operation_id(), Some(second.operation.id), "the first releases what it holds, no more");
}

/// A request to cancel stays, whatever the runner writes; it has no effect on a finished operation.
pub async fn a_request_to_cancel_is_kept(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let row = fixture.operation(OperationKind::CreateVm, VmId::generate());
    fixture.begin(&row, false).await.expect("begin");
    let cancel = |id| Change { operation: Some(OperationWrite::RequestCancel(id)), ..Change::default() };
    let before = fixture.last().await;
    let first = fixture.store.commit(cancel(row.operation.id)).await.expect("cancel").event;
    let again = fixture.store.commit(cancel(row.operation.id)).await.expect("again").event;
    assert_eq!((first, again), (before + 1, before + 1), "asked twice is asked once");

    let mut running = row.clone();
    running.operation.state = OperationState::Running;
    fixture.update(&running).await.expect("the runner writes");
    assert!(fixture.store.operation(row.operation.id).await.expect("operation").operation.cancel_requested);
    let shown = fixture.store.snapshot().await.expect("snapshot").operations;
    assert!(shown[0].cancel_requested);
    assert!(matches!(
        fixture.events().await.pop().expect("an event").fact,
        Fact::Operation { operation: Operation { cancel_requested: true, .. } }
    ));

    let other = fixture.operation(OperationKind::CreateVm, VmId::generate());
    fixture.begin(&other, false).await.expect("begin");
    fixture.update(&ended(&other, OperationState::Succeeded)).await.expect("end");
    let before = fixture.last().await;
    fixture.store.commit(cancel(other.operation.id)).await.expect("no effect");
    assert_eq!(fixture.last().await, before);
    assert!(!fixture.store.operation(other.operation.id).await.expect("operation").operation.cancel_requested);
    refused(fixture.store.commit(cancel(OperationId::generate())).await, ErrorKind::NotFound);
}

/// A finished operation does not change, but for going back to `undoing`.
pub async fn a_finished_operation_only_goes_back_to_undoing(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let row = fixture.operation(OperationKind::CreateVm, VmId::generate());
    fixture.begin(&row, false).await.expect("begin");
    fixture.update(&ended(&row, OperationState::Failed)).await.expect("end");
    for state in [OperationState::Running, OperationState::Succeeded, OperationState::Failed] {
        let mut again = row.clone();
        again.operation.state = state;
        refused(fixture.update(&again).await, ErrorKind::Conflict);
    }
    assert!(fixture.store.unfinished(fixture.host).await.expect("unfinished").is_empty());
    let mut undoing = row.clone();
    undoing.operation.state = OperationState::Undoing;
    fixture.update(&undoing).await.expect("a late effect");
    assert_eq!(fixture.store.unfinished(fixture.host).await.expect("unfinished"), [undoing]);
}

/// The unfinished operations of a host come oldest first; the snapshot shows those of all hosts.
pub async fn unfinished_operations_are_listed_oldest_first(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let rows: Vec<_> = (0..4).map(|_| fixture.operation(OperationKind::CreateVm, VmId::generate())).collect();
    for row in rows.iter().rev() {
        fixture.begin(row, false).await.expect("begin");
    }
    fixture.update(&ended(&rows[1], OperationState::Succeeded)).await.expect("end");
    let ids = |rows: &[OperationRow]| rows.iter().map(|row| row.operation.id).collect::<Vec<_>>();
    let unfinished = fixture.store.unfinished(fixture.host).await.expect("unfinished");
    assert_eq!(ids(&unfinished), ids(&[rows[0].clone(), rows[2].clone(), rows[3].clone()]));
    assert!(fixture.store.unfinished(HostId::generate()).await.expect("unfinished").is_empty());
    assert_eq!(fixture.store.snapshot().await.expect("snapshot").operations.len(), 3);
}

/// The history comes newest first, in pages without gap or repetition, by owner and by VM.
pub async fn the_history_is_paged_newest_first(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let (vm, stranger) = (VmId::generate(), OwnerId::generate());
    let mut ids = Vec::new();
    for number in 0..7 {
        let mut row = fixture.operation(OperationKind::ChangePower, if number < 3 { vm } else { VmId::generate() });
        if number == 5 {
            row.operation.owner = Some(stranger);
        }
        fixture.begin(&row, false).await.expect("begin");
        fixture.update(&ended(&row, OperationState::Succeeded)).await.expect("end");
        ids.insert(0, row.operation.id);
    }
    let all = history(&fixture, OperationQuery::default()).await;
    assert_eq!(all, ids);
    let of_vm = history(&fixture, OperationQuery { vm: Some(vm), ..OperationQuery::default() }).await;
    assert_eq!(of_vm, ids[4..]);
    let owners = |owners: Vec<OwnerId>| OperationQuery { owners: Some(owners), ..OperationQuery::default() };
    assert_eq!(history(&fixture, owners(vec![stranger])).await, [ids[1]]);
    assert_eq!(history(&fixture, owners(vec![stranger, fixture.owner])).await, ids);
    assert!(history(&fixture, owners(Vec::new())).await.is_empty());
    let both = OperationQuery { vm: Some(vm), ..owners(vec![stranger]) };
    assert!(history(&fixture, both).await.is_empty());
}

async fn history(fixture: &Fixture, mut query: OperationQuery) -> Vec<OperationId> {
    let mut ids = Vec::new();
    let mut request = PageRequest::first(2).expect("a page");
    loop {
        query.page = request;
        let page = fixture.store.operations(&query).await.expect("a page");
        assert!(page.items.len() <= 2);
        ids.extend(page.items.iter().map(|operation| operation.id));
        let Some(cursor) = page.next_cursor else { return ids };
        request = request.with_cursor(&cursor).expect("a cursor");
    }
}

async fn begin_with_key(fixture: &Fixture, digest: &str) -> (OperationId, Result<Committed>) {
    let vm = fixture.vm("web");
    let row = fixture.operation(OperationKind::CreateVm, vm.id);
    let key = IdempotencyKey { scope: "ada create_vm".to_owned(), key: "k".to_owned(), digest: digest.to_owned() };
    let change = Change {
        operation: Some(begun(&row, false)),
        idempotency: Some(key),
        rows: vec![inserted(&vm)],
        audit: vec![audit(&format!("vm:{}", vm.id))],
        ..Change::default()
    };
    (row.operation.id, fixture.store.commit(change).await)
}

/// The same key with the same digest stands for the first operation and writes nothing; with
/// another digest it is refused.
pub async fn an_idempotency_key_stands_for_one_operation(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    assert_eq!(fixture.store.remembered("ada create_vm", "k").await.expect("look-up"), None);
    let (first, answer) = begin_with_key(&fixture, "d1").await;
    let committed = answer.expect("the key is new");
    assert_eq!(committed.repeated, None);
    let (_, answer) = begin_with_key(&fixture, "d1").await;
    assert_eq!(answer.expect("repeated"), Committed { repeated: Some(first), ..committed });
    let (_, answer) = begin_with_key(&fixture, "d2").await;
    refused(answer, ErrorKind::Conflict);
    let remembered = fixture.store.remembered("ada create_vm", "k").await.expect("look-up");
    assert_eq!(remembered, Some(("d1".to_owned(), first)));
    assert_eq!(fixture.store.remembered("bob create_vm", "k").await.expect("look-up"), None);
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!((snapshot.vms.len(), snapshot.event), (1, committed.event));
    assert_eq!(snapshot.operations.len(), 1);
    assert_eq!(
        fixture.store.audit(&AuditQuery::default(), PageRequest::default()).await.expect("audit").items.len(),
        1
    );
}

/// The same key fifty times at once makes one operation; all others are told which.
pub async fn an_idempotency_key_holds_in_parallel(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut tasks = Vec::new();
    for _ in 0..50 {
        let fixture = fixture.clone();
        tasks.push(tokio::spawn(async move { begin_with_key(&fixture, "d").await }));
    }
    let mut made = Vec::new();
    let mut told = Vec::new();
    for task in tasks {
        let (id, answer) = task.await.expect("no panic");
        match answer.expect("no refusal").repeated {
            None => made.push(id),
            Some(earlier) => told.push(earlier),
        }
    }
    assert_eq!(made.len(), 1);
    assert_eq!(told, vec![made[0]; 49]);
    let snapshot = fixture.store.snapshot().await.expect("snapshot");
    assert_eq!((snapshot.vms.len(), snapshot.operations.len()), (1, 1));
}

/// A change of a hundred rows and its operation is one transaction for a reader too.
pub async fn a_reader_sees_all_of_a_change_or_nothing(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let reader = {
        let store = Arc::clone(&fixture.store);
        tokio::spawn(async move {
            loop {
                let snapshot = store.snapshot().await.expect("snapshot");
                assert_eq!(snapshot.vms.len() % 20, 0);
                assert_eq!(snapshot.event, 3 + i64::try_from(snapshot.vms.len()).expect("few"));
                if snapshot.vms.len() == 100 {
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    for batch in 0..5 {
        let rows: Vec<Row> = (0..20).map(|number| inserted(&fixture.vm(&format!("vm-{batch}-{number}")))).collect();
        fixture.write(rows).await.expect("commit");
    }
    tokio::time::timeout(Duration::from_secs(60), reader).await.expect("the reader ends").expect("no half change");
}
