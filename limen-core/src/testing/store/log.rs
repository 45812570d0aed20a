//! The numbered log, its readers, and what is taken away in time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fixture::{Fixture, ended, inserted, refused, session, token, updated};
use crate::error::ErrorKind;
use crate::model::{EventNumber, Fact, OperationKind, OperationState, VmId, VmRecord, VmState};
use crate::store::{Retention, Row, Store};

/// Event numbers are dense and each change's are together, under eight writers at once.
pub async fn event_numbers_are_dense_under_parallel_writers(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let mut tasks = Vec::new();
    for writer in 0..8 {
        let fixture = fixture.clone();
        tasks.push(tokio::spawn(async move {
            let mut numbers = Vec::new();
            for round in 0..10 {
                let rows = (0..2).map(|n| inserted(&fixture.vm(&format!("vm-{writer}-{round}-{n}")))).collect();
                numbers.push(fixture.write(rows).await.expect("commit").event);
            }
            numbers
        }));
    }
    let mut last: Vec<EventNumber> = Vec::new();
    for task in tasks {
        let numbers = task.await.expect("no panic");
        assert!(numbers.is_sorted(), "a writer's later change has the higher number");
        last.extend(numbers);
    }
    last.sort_unstable();
    let expected: Vec<EventNumber> = (1..=80).map(|change| 3 + 2 * change).collect();
    assert_eq!(last, expected);
    let events = fixture.events().await;
    assert_eq!(events.len(), 163);
    for pair in events[3..].chunks(2) {
        let change = |event: &crate::model::Event| match &event.fact {
            Fact::Vm { record } => record.name.rsplit_once('-').map(|(change, _)| change.to_owned()),
            _ => None,
        };
        let names = [change(&pair[0]), change(&pair[1])];
        assert!(names[0].is_some());
        assert_eq!(names[0], names[1], "the events of a change are together");
    }
}

/// A reader that follows the log never sees a number before all lower ones.
pub async fn a_follower_never_sees_a_gap(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let follower = {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            let mut next = 1;
            while next <= 83 {
                let batch = fixture.store.events_after(next - 1, 10).await.expect("events");
                for event in &batch.events {
                    assert_eq!(event.number, next);
                    next += 1;
                }
                if batch.events.is_empty() {
                    fixture.store.changed(next - 1, Duration::from_secs(5)).await;
                }
            }
        })
    };
    let mut writers = Vec::new();
    for writer in 0..8 {
        let fixture = fixture.clone();
        writers.push(tokio::spawn(async move {
            for round in 0..10 {
                fixture.insert_vm(&fixture.vm(&format!("vm-{writer}-{round}"))).await.expect("commit");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    tokio::time::timeout(Duration::from_secs(60), follower).await.expect("it sees all").expect("no gap");
}

/// A snapshot and the events after it give what a later snapshot shows.
pub async fn a_snapshot_and_the_events_after_it_have_no_gap(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let writer = {
        let fixture = fixture.clone();
        tokio::spawn(async move {
            for round in 0..30 {
                let vm = fixture.vm(&format!("vm-{round}"));
                fixture.write(vec![inserted(&vm), fixture.status(vm.id, VmState::ShutOff)]).await.expect("insert");
                let mut changed = vm.clone();
                changed.description = format!("round {round}");
                fixture
                    .write(vec![updated(&changed, 1), fixture.status(vm.id, VmState::Running)])
                    .await
                    .expect("update");
                if round % 3 == 0 {
                    let status = Row::StatusGone { host: fixture.host, vm: vm.id };
                    fixture.write(vec![Row::VmGone(vm.id), status]).await.expect("gone");
                }
            }
        })
    };
    let mut snapshots = Vec::new();
    while !writer.is_finished() {
        snapshots.push(fixture.store.snapshot().await.expect("snapshot"));
        tokio::task::yield_now().await;
    }
    writer.await.expect("no panic");
    let last = fixture.store.snapshot().await.expect("snapshot");
    let by_id = |vms: &[VmRecord]| vms.iter().map(|vm| (vm.id, vm.clone())).collect::<BTreeMap<_, _>>();
    let revisions = |statuses: &[(_, crate::hypervisor::HostVm, i64)]| {
        statuses.iter().map(|(_, seen, revision)| (seen.id, (seen.clone(), *revision))).collect::<BTreeMap<_, _>>()
    };
    let events = fixture.events().await;
    for snapshot in snapshots {
        let (mut vms, mut statuses) = (by_id(&snapshot.vms), revisions(&snapshot.statuses));
        for event in events.iter().filter(|event| event.number > snapshot.event) {
            match event.fact.clone() {
                Fact::Vm { record } => drop(vms.insert(record.id, record)),
                Fact::VmGone { id, .. } => drop(vms.remove(&id)),
                Fact::Status { seen, revision, .. } => drop(statuses.insert(seen.id, (seen, revision))),
                Fact::StatusGone { id, .. } => drop(statuses.remove(&id)),
                _ => {}
            }
        }
        assert_eq!(vms, by_id(&last.vms));
        assert_eq!(statuses, revisions(&last.statuses));
    }
}

/// A part of the log has at most the number of events asked for, in order, after the one named.
pub async fn the_log_is_read_in_parts(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let rows = (0..100).map(|number| inserted(&fixture.vm(&format!("vm-{number}")))).collect();
    fixture.write(rows).await.expect("commit");
    let batch = fixture.store.events_after(50, 10).await.expect("events");
    assert_eq!(batch.events.iter().map(|event| event.number).collect::<Vec<_>>(), (51..=60).collect::<Vec<_>>());
    assert_eq!(batch.oldest, 1);
    assert_eq!(fixture.store.events_after(0, 1000).await.expect("events").events.len(), 103);
    assert!(fixture.store.events_after(103, 10).await.expect("events").events.is_empty());
}

/// Everybody who waits for the log to grow is woken by a commit, at once when it has grown
/// already, and after the time given when it has not.
pub async fn everybody_who_waits_is_woken_by_a_commit(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let last = fixture.last().await;
    let started = Instant::now();
    fixture.store.changed(last - 1, Duration::from_secs(60)).await;
    fixture.store.changed(last, Duration::from_millis(50)).await;
    assert!(started.elapsed() >= Duration::from_millis(50));
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let store = Arc::clone(&fixture.store);
        waiting.push(tokio::spawn(async move { store.changed(last, Duration::from_secs(60)).await }));
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    fixture.insert_vm(&fixture.vm("web")).await.expect("commit");
    for waiter in waiting {
        waiter.await.expect("no panic");
    }
    assert!(started.elapsed() < Duration::from_secs(30), "nobody waited to the end");
}

/// What is older than its time goes (what names it, with it), a bounded number of rows a call, unfinished operations never;
/// the log keeps its numbers and tells the oldest it has.
pub async fn what_is_old_is_taken_away_in_bounded_parts(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let old = fixture.operation(OperationKind::CreateVm, VmId::generate());
    let live = fixture.operation(OperationKind::CreateVm, VmId::generate());
    fixture.begin(&old, false).await.expect("begin");
    fixture.begin(&live, false).await.expect("begin");
    fixture.update(&ended(&old, OperationState::Succeeded)).await.expect("end");
    let volume = fixture.volume(None, None, old.operation.id);
    fixture.write(vec![Row::Volume(volume.clone()), Row::VolumeGone(volume.id)]).await.expect("a volume and away");
    let ending = session(fixture.user.id);
    let spent = token(fixture.user.id, "spent");
    let mut lasting = token(fixture.user.id, "lasting");
    lasting.token.expires_at = None;
    let rows = [&spent, &lasting].map(|record| Row::Token(Box::new(record.clone())));
    fixture.write(rows.into_iter().chain([Row::Session(ending.clone())]).collect()).await.expect("session and tokens");
    for batch in 0..3 {
        let rows = (0..500).map(|number| inserted(&fixture.vm(&format!("vm-{batch}-{number}")))).collect();
        fixture.write(rows).await.expect("commit");
    }
    let now = super::fixture::now();
    let gone = fixture.store.prune(&Retention::default(), now).await.expect("prune");
    assert_eq!(gone.values().sum::<u64>(), 0, "{gone:?}");

    // What has ended is kept for a day, for who wonders what became of it.
    let hours = |hours| now + time::Duration::hours(hours);
    let gone = fixture.store.prune(&Retention::default(), hours(24)).await.expect("prune");
    assert_eq!(gone.values().sum::<u64>(), 0, "{gone:?}");
    let last = fixture.last().await;
    let soon = Retention { ended: Duration::ZERO, ..Retention::default() };
    let gone = fixture.store.prune(&soon, hours(2)).await.expect("prune");
    assert_eq!((gone["sessions"], gone["tokens"], gone.values().sum::<u64>()), (1, 1, 2));
    assert_eq!(fixture.last().await, last + 2, "a session or token that ended by itself is an event");
    assert_eq!(fixture.store.snapshot().await.expect("snapshot").tokens, [lasting]);
    let batch = fixture.store.events_after(last, 10).await.expect("events");
    assert_eq!(batch.events[0].fact, Fact::SessionGone { id: ending.id });
    assert_eq!(batch.events[1].fact, Fact::TokenGone { id: spent.token.id });

    let later = now + time::Duration::days(31);
    let last = fixture.last().await;
    let gone = fixture.store.prune(&Retention::default(), later).await.expect("prune");
    assert!(gone["events"] > 0 && gone["events"] <= 1000, "{gone:?}");
    assert_eq!((gone["sessions"], gone["tokens"], gone["operations"]), (0, 0, 0));
    let batch = fixture.store.events_after(0, 1).await.expect("events");
    assert_eq!(batch.oldest, i64::try_from(gone["events"]).expect("few") + 1);
    assert_eq!(batch.events[0].number, batch.oldest);
    assert_eq!(fixture.last().await, last, "numbers stay");
    while fixture.store.prune(&Retention::default(), later).await.expect("prune")["events"] > 0 {}
    let batch = fixture.store.events_after(0, 10).await.expect("events");
    assert!(batch.events.is_empty());
    assert_eq!(batch.oldest, fixture.last().await + 1);

    let short = Retention { operations: Duration::ZERO, ..Retention::default() };
    let gone = fixture.store.prune(&short, now + time::Duration::days(29)).await.expect("prune");
    assert_eq!(gone["operations"], 0, "operations are kept 30 days at least");
    assert_eq!(fixture.store.volume_maker(volume.id).await.expect("read"), Some(old.operation.id));
    let gone = fixture.store.prune(&Retention::default(), now + time::Duration::days(91)).await.expect("prune");
    assert_eq!(gone["operations"], 1);
    assert_eq!(fixture.store.volume_maker(volume.id).await.expect("read"), None, "it goes with its operation");
    refused(fixture.store.operation(old.operation.id).await, ErrorKind::NotFound);
    fixture.store.operation(live.operation.id).await.expect("unfinished operations stay");
    fixture.insert_vm(&fixture.vm("later")).await.expect("numbers go on");
}

/// After its end the Store answers that it is not available; ending it twice is one end.
pub async fn a_closed_store_is_unavailable(store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    fixture.store.close().await;
    fixture.store.close().await;
    refused(fixture.store.ping().await, ErrorKind::Unavailable);
    refused(fixture.insert_vm(&fixture.vm("web")).await, ErrorKind::Unavailable);
    refused(fixture.store.snapshot().await, ErrorKind::Unavailable);
}
