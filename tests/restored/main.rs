//! A Store that was restored from a copy of before, at every step of every operation: it is noticed,
//! nothing on the host is touched for it, and each operation ends well, resumed or abandoned.

mod house;
mod site;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{
    AuditQuery, EventNumber, Operation, OperationKind, OperationState, PageRequest, PowerAction, Restored, VmState,
    Witness,
};
use limen_core::service::{Fault, FaultPoint, Moment, Told, operation_steps};
use limen_core::store::Store;
use limen_core::{Action, Context, ErrorKind, Hypervisor, Limen};
use limen_support::postgres::{self, PrivatePostgres, psql};
use limen_support::process;
use limen_support::world::{Scenario, Script, World, bare, blank, ended, forward, succeeded, vms};

use house::{Database, House};

fn ctx() -> Context {
    Context::local()
}

async fn restored(limen: &Limen) -> Restored {
    limen.get_restored(&ctx()).await.expect("what was restored")
}

/// Where an operation is when its database is dumped.
#[derive(Debug, Clone)]
struct Case {
    scenario: Scenario,
    at: FaultPoint,
    abandon: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for scenario in Scenario::ALL {
        let row = scenario.row();
        let (_, steps) = operation_steps().into_iter().find(|(name, _)| *name == row).expect("a row of the table");
        let name = row.split(' ').next().expect("a name");
        let kind = OperationKind::ALL.into_iter().find(|kind| kind.as_str() == name).expect("a kind");
        let point = |step| FaultPoint { kind, step, moment: Moment::BeforeForward };
        let points = steps.iter().flat_map(|(step, _)| forward(&point(step)));
        for at in points.chain([point("finish")]) {
            for abandon in [false, true] {
                cases.push(Case { scenario, at: at.clone(), abandon });
            }
        }
    }
    cases
}

/// Waits until the host is owned and was looked at a few times, its volumes too.
async fn looked_at(house: &House, limen: &Limen) {
    let shown = |limen: &Limen| {
        let limen = limen.clone();
        async move { limen.list_hosts(&ctx()).await.expect("hosts")[0].observed_at }
    };
    let mut last = None;
    for _ in 0..4 {
        let begun = tokio::time::Instant::now();
        while shown(limen).await <= last {
            assert!(begun.elapsed() < Duration::from_secs(30), "the host is not looked at");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        last = shown(limen).await;
    }
    tokio::time::sleep(house.world.timings.volumes * 2).await;
}

async fn play(mut house: House, case: &Case) {
    let quiet = house.limen().await;
    let subject = case.scenario.prepare(&quiet).await;
    quiet.crash().await;

    // The database is dumped in the middle of an operation.
    let script = Script::new(vec![(case.at.clone(), Fault::Crash)]);
    let limen = house.limen_with(Arc::clone(&script)).await;
    let operation = case.scenario.ask(&limen, subject).await.expect("recorded");
    tokio::select! {
        biased;
        () = script.crashed() => {}
        _ = ended(&limen, &operation) => panic!("{case:?} was never reached"),
    }
    limen.crash().await;
    house.dump().await;

    // It goes on, and so does the time that will be lost.
    let limen = house.limen().await;
    let finished = ended(&limen, &operation).await;
    let written = house.guests_write().await;
    let before_since = house.everything().await;
    let since = succeeded(&limen, limen.create_vm(&ctx(), blank("since")).await).await;
    let since = since.vm_id.expect("a VM");
    house.world.agrees(&limen, "the time that will be lost").await;
    let lost = limen.event();
    if case.abandon {
        limen.crash().await;
    } else {
        limen.shutdown().await;
    }

    let on_host = house.everything().await;
    house.restore().await;
    let copied = house.world.store.witness().await.expect("witness");
    let limen = house.limen().await;
    let told = restored(&limen).await;
    assert_eq!(told.restores.len(), 1, "{case:?}: {told:?}");
    let restore = &told.restores[0];
    assert_eq!((restore.epoch, restore.store_event, restore.kept_event), (2, copied.event, copied.event));
    assert!(restore.host_event > copied.event && restore.next_event > lost, "{restore:?} after {lost}");
    assert_eq!(told.held.iter().map(|held| held.id).collect::<Vec<_>>(), [operation.id], "{case:?}");
    assert_eq!(told.held[0].state, OperationState::Held);

    // Nothing is touched, however long it waits.
    looked_at(&house, &limen).await;
    assert_eq!(house.everything().await, on_host, "{case:?}");
    let told = restored(&limen).await;
    assert!(told.unrecorded.iter().any(|vm| vm.id == since), "{told:?}");
    assert_eq!(vms(&limen).await[&since].0, VmState::ShutOff.as_str(), "it is shown");
    let findings = limen.check(&ctx()).await.expect("a check").findings;
    assert!(findings.iter().any(|f| f.kind.as_str() == "operation_held"), "{findings:?}");
    resets(&limen, restore.kept_event, lost, restore.next_event).await;
    if let Some(vm) = operation.vm_id {
        let busy = limen.delete_vm(&ctx(), vm, None).await.expect_err("it is held");
        assert_eq!((busy.kind(), busy.operation_id()), (ErrorKind::Busy, Some(operation.id)));
    }
    let refused = limen.cancel_operation(&ctx(), operation.id).await.expect_err("it is held");
    assert_eq!(refused.kind(), ErrorKind::Conflict);

    if case.abandon {
        let given_up = limen.abandon_operation(&ctx(), operation.id).await.expect("abandoned");
        assert_eq!(given_up.state, OperationState::Failed);
        assert_eq!(given_up.error.map(|error| error.code), Some(ErrorKind::Abandoned));
        looked_at(&house, &limen).await;
        assert_eq!(house.everything().await, on_host, "{case:?}: abandoned");
    } else {
        limen.resume_operation(&ctx(), operation.id).await.expect("resumed");
        let resumed = ended(&limen, &operation).await;
        assert_eq!(resumed.state == OperationState::Succeeded, may_succeed(&resumed, case), "{resumed:?}");
        if finished.state == OperationState::Succeeded && resumed.state == OperationState::Succeeded {
            assert!(case.scenario.is_done(&limen, subject).await, "{case:?}");
        }
        let now = house.everything().await;
        for (volume, bytes) in written.iter().filter(|(volume, _)| now.contains_key(*volume)) {
            assert!(now[volume] == *bytes, "{case:?}: {volume} has lost what its guest wrote");
        }
    }
    for settle in [true, false] {
        let again = match settle {
            true => limen.resume_operation(&ctx(), operation.id).await,
            false => limen.abandon_operation(&ctx(), operation.id).await,
        };
        assert_eq!(again.expect_err("it is settled").kind(), ErrorKind::Conflict);
    }

    let told = limen.list_audit(&ctx(), &AuditQuery::default(), PageRequest::default()).await.expect("the audit").items;
    let settled = if case.abandon { Action::AbandonOperation } else { Action::ResumeOperation };
    for action in [Action::NoticeRestore, settled] {
        assert_eq!(told.iter().filter(|record| record.action == action).count(), 1, "{action}: {told:#?}");
    }

    // What an operator does then: delete what is missing, and see to what was made since.
    looked_at(&house, &limen).await;
    for vm in restored(&limen).await.missing {
        succeeded(&limen, limen.delete_vm(&ctx(), vm.id, None).await).await;
    }
    if case.scenario == Scenario::DeleteImage && case.abandon {
        for image in limen.list_images(&ctx(), Default::default()).await.expect("images").items {
            if !house.world.images_dir().join(image.id.to_string()).exists() {
                succeeded(&limen, limen.delete_image(&ctx(), image.id).await).await;
            }
        }
    }
    house.remove_by_hand(since, &before_since).await;
    house.world.agrees(&limen, &format!("{case:?}")).await;
    let findings = limen.check(&ctx()).await.expect("a check").findings;
    assert!(findings.is_empty(), "{case:?}: {findings:#?}");
    assert_eq!(restored(&limen).await.restores.len(), 1);
    limen.shutdown().await;
    house.world.store.close().await;
}

/// What was sent once is not sent again.
fn may_succeed(operation: &Operation, case: &Case) -> bool {
    let sent = ["send", "ask", "ask_and_wait"].contains(&case.at.step);
    let reached_end =
        case.at.step == "finish" && ["reset", "reboot"].iter().any(|word| case.scenario.row().ends_with(word));
    assert!(!sent || operation.error.as_ref().is_some_and(|error| error.code == ErrorKind::Interrupted));
    !sent && !reached_end
}

/// A stream that was in the time that was lost is told so; one from before, and one from now on, goes on.
async fn resets(limen: &Limen, kept: EventNumber, lost: EventNumber, next: EventNumber) {
    for number in [kept + 1, lost] {
        let error = limen.watch_events(&ctx(), number).await.expect_err("it is lost");
        assert_eq!((error.kind(), error.oldest()), (ErrorKind::Gone, Some(next)), "after {number}");
    }
    for number in [kept, next - 1] {
        let mut events = limen.watch_events(&ctx(), number).await.expect("it is there");
        let first = events.next().await.expect("open").expect("told");
        assert!(matches!(first, Told::Event(ref event) if event.number == next), "after {number}: {first:?}");
    }
}

async fn play_all(postgres: Option<(Arc<PrivatePostgres>, String)>) {
    let turns = Arc::new(tokio::sync::Semaphore::new(if postgres.is_some() { 6 } else { 12 }));
    let only = std::env::var("LIMEN_CASE").unwrap_or_default();
    let mut games = tokio::task::JoinSet::new();
    for case in cases().into_iter().filter(|case| format!("{case:?}").contains(&only)) {
        let (turns, postgres) = (Arc::clone(&turns), postgres.clone());
        games.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("turns stay open");
            let text = format!("{case:?}");
            let house = House::new(postgres.as_ref()).await;
            let game = tokio::spawn(async move { play(house, &case).await });
            match tokio::time::timeout(Duration::from_secs(120), game).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => panic!("{text}: {error}"),
                Err(_) => panic!("{text} did not end"),
            }
        });
    }
    let mut count = 0;
    while let Some(played) = games.join_next().await {
        played.expect("a case");
        count += 1;
    }
    println!("{count} cases");
}

fn postgres_server() -> (Arc<PrivatePostgres>, impl Future<Output = String>) {
    let server = Arc::new(PrivatePostgres::start());
    let url = server.create_database();
    let migrated = async move {
        Database::Postgres(url.clone()).open().await.close().await;
        url
    };
    (server, migrated)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_at_every_step_is_restored_on_sqlite() {
    play_all(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_at_every_step_is_restored_on_postgres() {
    let (server, migrated) = postgres_server();
    play_all(Some((server, migrated.await))).await;
}

/// A house with a VM, a dump of it, and a VM more in the time after.
async fn lost_time(house: &mut House) -> EventNumber {
    let limen = house.limen().await;
    succeeded(&limen, limen.create_vm(&ctx(), bare("first")).await).await;
    limen.shutdown().await;
    house.dump().await;
    let limen = house.limen().await;
    succeeded(&limen, limen.create_vm(&ctx(), bare("second")).await).await;
    let lost = limen.event();
    limen.shutdown().await;
    lost
}

async fn twice_and_moved(mut house: House) {
    let lost = lost_time(&mut house).await;
    // Moved: dumped as it is, and put back.
    let moved = house.directory.path().join("moved");
    house.world.store.close().await;
    house.database.dump(&moved).await;
    house.database = house.database.restored(&moved).await;
    house.world.store = house.database.open().await;
    let limen = house.limen().await;
    looked_at(&house, &limen).await;
    assert_eq!(restored(&limen).await.restores, [], "nothing was lost");
    house.world.agrees(&limen, "a move").await;
    limen.shutdown().await;

    // Restored, and restored again from the same copy after more was done.
    let mut last = lost;
    for round in 1..=2 {
        house.restore().await;
        let limen = house.limen().await;
        let told = restored(&limen).await;
        assert_eq!(told.restores.len(), 1, "the copy knows of none: {told:?}");
        assert_eq!(told.restores[0].epoch, 1 + round);
        assert!(told.restores[0].next_event > last, "no number is given out twice");
        resets(&limen, told.restores[0].kept_event, last, told.restores[0].next_event).await;
        succeeded(&limen, limen.create_vm(&ctx(), bare("third")).await).await;
        last = limen.event();
        limen.shutdown().await;
        // Noticed once: the next start finds nothing new.
        let limen = house.limen().await;
        looked_at(&house, &limen).await;
        assert_eq!(restored(&limen).await.restores.len(), 1);
        limen.shutdown().await;
    }
    house.world.store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_store_is_left_in_peace_and_a_second_restore_is_noticed() {
    twice_and_moved(House::new(None).await).await;
    let (server, migrated) = postgres_server();
    let migrated = migrated.await;
    twice_and_moved(House::new(Some(&(server, migrated))).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_witness_a_store_is_believed_and_witnessed_anew() {
    let mut house = House::new(None).await;
    lost_time(&mut house).await;
    house.restore().await;
    house.sim.outside().forget_witnesses();
    let limen = house.limen().await;
    looked_at(&house, &limen).await;
    let told = restored(&limen).await;
    assert_eq!((told.restores.len(), told.unrecorded.len()), (0, 1), "{told:?}");
    let install = house.world.store.install().await.expect("install");
    limen.shutdown().await;
    let kept = house.sim.read_witness(install.id).await.expect("read").expect("a witness");
    assert_eq!(kept, house.database.open().await.witness().await.expect("witness"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_away_at_the_start_is_asked_before_it_is_worked_on() {
    let mut house = House::new(None).await;
    lost_time(&mut house).await;
    let on_host = house.everything().await;
    house.restore().await;
    house.sim.disconnect();
    let limen = house.limen().await;
    // More is asked for than the host has ever seen of the Store.
    let shown = vms(&limen).await;
    let first = *shown.iter().find(|(_, (_, name))| name == "first").expect("the VM of the backup").0;
    let asked = limen.change_power(&ctx(), first, PowerAction::Start, None).await.expect("recorded");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(restored(&limen).await.restores, []);
    assert_eq!(limen.get_operation(&ctx(), asked.id).await.expect("there").state, OperationState::Queued);
    house.sim.reconnect();
    let begun = tokio::time::Instant::now();
    while restored(&limen).await.restores.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not noticed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(restored(&limen).await.held.len(), 1);
    looked_at(&house, &limen).await;
    assert_eq!(house.everything().await, on_host);
    limen.resume_operation(&ctx(), asked.id).await.expect("resumed");
    assert_eq!(ended(&limen, &asked).await.state, OperationState::Succeeded);
    assert_eq!(vms(&limen).await[&first].0, "running");
    limen.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_put_back_under_a_server_is_noticed() {
    let (server, migrated) = postgres_server();
    let server = (server, migrated.await);
    let mut house = House::new(Some(&server)).await;
    lost_time(&mut house).await;
    let limen = house.limen().await;
    looked_at(&house, &limen).await;
    let lost = limen.event();
    // The connections of the server stay open: the tables go and come under them, at once.
    let Database::Postgres(url) = house.database.clone() else { panic!("a PostgreSQL") };
    let copy = house.copy();
    let put_back = tokio::task::spawn_blocking(move || postgres::restore_at_once(&url, &copy));
    put_back.await.expect("put back");
    let begun = tokio::time::Instant::now();
    while restored(&limen).await.restores.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not noticed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told = restored(&limen).await;
    assert!(told.restores[0].next_event > lost);
    looked_at(&house, &limen).await;
    let told = restored(&limen).await;
    assert_eq!(told.unrecorded.len(), 1, "what was made since: {told:?}");
    let findings = limen.check(&ctx()).await.expect("a check").findings;
    assert!(findings.iter().all(|f| f.kind.as_str() == "vm_unrecorded"), "{findings:?}");
    limen.shutdown().await;
}

/// Tells a child which database it is to judge.
const VARIABLE: &str = "LIMEN_TEST_NOTICES";

/// A host that knows more of the Store than there is.
async fn ahead_of(store: &Arc<dyn Store>) -> SimHypervisor {
    let sim = SimHypervisor::new();
    let now = store.witness().await.expect("witness");
    sim.write_witness(&Witness { event: now.event + 5, ..now }).await.expect("written");
    sim
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_killed_while_it_notices_leaves_it_to_the_next() {
    let test = "a_process_killed_while_it_notices_leaves_it_to_the_next";
    if let Ok(url) = std::env::var(VARIABLE) {
        let store = Database::Postgres(url).open().await;
        let sim = ahead_of(&store).await;
        World::new(Arc::new(sim), store).limen(Script::new(Vec::new())).await;
        return;
    }
    let (server, migrated) = postgres_server();
    let server = (server, migrated.await);
    let mut house = House::new(Some(&server)).await;
    let Database::Postgres(url) = house.database.clone() else { panic!("a PostgreSQL") };
    let at = FaultPoint { kind: OperationKind::CreateVm, step: "define", moment: Moment::BeforeForward };
    let script = Script::new(vec![(at, Fault::Crash)]);
    let limen = house.limen_with(Arc::clone(&script)).await;
    let operation = limen.create_vm(&ctx(), bare("half")).await.expect("recorded");
    script.crashed().await;
    limen.crash().await;
    house.world.store.close().await;

    // Whoever notices waits half-way for the sessions.
    let patience = Duration::from_secs(60);
    let locks = |which: &str| {
        psql(&url, &format!("SELECT pid FROM pg_locks WHERE relation = 'sessions'::regclass AND {which}"))
    };
    let lock = {
        let url = url.clone();
        let sql = "BEGIN; LOCK TABLE sessions IN SHARE MODE; SELECT pg_sleep(25)";
        tokio::task::spawn_blocking(move || psql(&url, sql))
    };
    let held = "mode = 'ShareLock' AND granted";
    process::wait_for("a lock", patience, || (!locks(held).expect_success().is_empty()).then_some(()));
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(VARIABLE, &url)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("a child");
    process::wait_for("a notice", patience, || (!locks("NOT granted").expect_success().is_empty()).then_some(()));
    child.kill().expect("killed");
    child.wait().expect("it ends");
    let holder = locks(held).expect_success();
    psql(&url, &format!("SELECT pg_terminate_backend({})", holder.trim())).expect_success();
    drop(lock.await.expect("no panic"));
    assert_eq!(psql(&url, "SELECT epoch FROM install").expect_success().trim(), "1");
    assert_eq!(psql(&url, "SELECT count(*) FROM operations WHERE state = 'held'").expect_success().trim(), "0");

    house.world.store = house.database.open().await;
    house.sim = ahead_of(&house.world.store).await;
    let limen = house.limen().await;
    let told = restored(&limen).await;
    assert_eq!(told.restores.iter().map(|restore| restore.epoch).collect::<Vec<_>>(), [2]);
    assert_eq!(told.held.iter().map(|held| held.id).collect::<Vec<_>>(), [operation.id]);
    limen.shutdown().await;
}
