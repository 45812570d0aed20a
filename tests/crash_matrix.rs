//! Every operation, at every step: the step fails, is done twice, is undone twice; the process
//! ends before and after it, and again in recovery. Whatever happens, the operation ends by itself
//! and Store, host and files agree.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{OperationKind, OperationState};
use limen_core::service::{Fault, FaultPoint, Moment, operation_steps};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{ErrorKind, Secret};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{Scenario, Script, World, back, ended, forward};

/// What a case does: the faults of each process in turn, and how the operation may end.
#[derive(Debug, Clone)]
struct Case {
    scenario: Scenario,
    lives: Vec<Vec<(FaultPoint, Fault)>>,
    ends: &'static [OperationState],
}

const GOOD: &[OperationState] = &[OperationState::Succeeded];
const BAD: &[OperationState] = &[OperationState::Failed];
const EITHER: &[OperationState] = &[OperationState::Succeeded, OperationState::Failed];

fn kind_of(row: &str) -> OperationKind {
    let name = row.split(' ').next().expect("a name");
    OperationKind::ALL.into_iter().find(|kind| kind.as_str() == name).expect("a kind")
}

/// All cases of a scenario.
fn cases(scenario: Scenario) -> Vec<Case> {
    let row = scenario.row();
    let (_, steps) = operation_steps().into_iter().find(|(name, _)| *name == row).expect("a row of the table");
    let point = |step, moment| FaultPoint { kind: kind_of(row), step, moment };
    let mut cases = Vec::new();
    let mut add = |ends, lives: Vec<Vec<(FaultPoint, Fault)>>| cases.push(Case { scenario, lives, ends });
    let crash = |point: FaultPoint| vec![(point, Fault::Crash)];
    let broken_end = (point("finish", Moment::BeforeForward), Fault::Fail(ErrorKind::NoSpace));
    for &(step, nature) in &steps {
        let here = point(step, Moment::BeforeForward);
        for at in forward(&here) {
            let ends = match nature {
                "forward-only" => GOOD,
                _ => BAD,
            };
            add(ends, vec![vec![(at.clone(), Fault::Fail(ErrorKind::NoSpace))]]);
            let ends = if nature == "once" { BAD } else { GOOD };
            add(ends, vec![crash(at.clone())]);
            if nature != "once" {
                add(GOOD, vec![vec![(at.clone(), Fault::Repeat)]]);
                // The process ends again in recovery, at this step and at the end.
                for again in forward(&here).into_iter().chain([point("finish", Moment::BeforeForward)]) {
                    add(GOOD, vec![crash(at.clone()), crash(again)]);
                }
            }
        }
        if nature == "undoable" {
            for at in back(&here) {
                // A step without an undo reaches no such point; the run tells which were left.
                add(BAD, vec![vec![broken_end.clone(), (at.clone(), Fault::Repeat)]]);
                add(BAD, vec![vec![broken_end.clone(), (at.clone(), Fault::Fail(ErrorKind::Unavailable))]]);
                add(BAD, vec![vec![broken_end.clone(), (at.clone(), Fault::Crash)]]);
                add(BAD, vec![vec![broken_end.clone(), (at.clone(), Fault::Crash)], crash(at.clone())]);
            }
        }
    }
    // A step that is sent once is recorded as done by the end itself.
    let (first, last) = (steps[0].1, steps[steps.len() - 1].1);
    let [before_end, after_end] = forward(&point("finish", Moment::BeforeForward));
    add(if last == "once" { BAD } else { GOOD }, vec![crash(before_end)]);
    add(GOOD, vec![crash(after_end)]);
    if first == "undoable" {
        for at in back(&point("end_undo", Moment::BeforeUndo)) {
            add(BAD, vec![vec![broken_end.clone(), (at, Fault::Crash)]]);
        }
    } else if first == "forward-only" {
        // Nothing else may fail the end of what can only go forward.
    } else {
        add(EITHER, vec![vec![broken_end]]);
    }
    cases
}

/// Plays a case; answers the points that were reached.
async fn play(mut world: World, case: &Case) -> Vec<FaultPoint> {
    // No process waits for the lease of the dead one before it.
    world.holder = Some("the only one");
    let quiet = world.limen(Script::new(Vec::new())).await;
    let subject = case.scenario.prepare(&quiet).await;
    quiet.crash().await;
    let mut reached = Vec::new();
    let mut operation = None;
    for faults in case.lives.iter().cloned().chain([Vec::new()]) {
        let crashes = faults.iter().any(|(_, fault)| *fault == Fault::Crash);
        let script = Script::new(faults);
        let limen = world.limen(Arc::clone(&script)).await;
        let recorded = match operation {
            None => case.scenario.ask(&limen, subject).await.expect("the operation is recorded"),
            Some(recorded) => recorded,
        };
        if crashes {
            let finished = ended(&limen, &recorded);
            tokio::select! {
                biased;
                () = script.crashed() => {}
                _ = finished => {}
            }
        } else {
            let recorded = ended(&limen, &recorded).await;
            assert!(case.ends.contains(&recorded.state), "{case:?}: {recorded:?}");
            world.agrees(&limen, &format!("{case:?}")).await;
            if recorded.state == OperationState::Succeeded {
                assert!(case.scenario.is_done(&limen, subject).await, "{case:?}: succeeded without its effect");
            }
        }
        reached.extend(script.reached());
        limen.crash().await;
        operation = Some(recorded);
    }
    world.store.close().await;
    reached
}

/// Plays all cases on worlds that `make` makes, some at a time, and checks that every point of the
/// table was reached.
async fn play_all<F: Future<Output = World> + Send + 'static>(make: impl Fn() -> F + Send + Sync + Clone + 'static) {
    let turns = Arc::new(tokio::sync::Semaphore::new(12));
    let mut games = tokio::task::JoinSet::new();
    let only = std::env::var("LIMEN_CASE").unwrap_or_default();
    for case in Scenario::ALL.into_iter().flat_map(cases).filter(|case| format!("{case:?}").contains(&only)) {
        let (turns, make) = (Arc::clone(&turns), make.clone());
        games.spawn(async move {
            let _turn = turns.acquire_owned().await.expect("turns stay open");
            let text = format!("{case:?}");
            let row = case.scenario.row();
            let world = make().await;
            let played =
                tokio::time::timeout(Duration::from_secs(120), tokio::spawn(async move { play(world, &case).await }));
            match played.await {
                Ok(Ok(reached)) => (row, reached),
                Ok(Err(error)) => panic!("{text}: {error}"),
                Err(_) => panic!("{text} did not end"),
            }
        });
    }
    let mut count = 0;
    let mut reached: BTreeSet<(&'static str, &'static str, String)> = BTreeSet::new();
    while let Some(played) = games.join_next().await {
        let (row, points) = played.expect("a case");
        count += 1;
        reached.extend(points.into_iter().map(|point| (row, point.step, format!("{:?}", point.moment))));
    }
    for (row, steps) in operation_steps() {
        for (step, _) in steps {
            for moment in ["BeforeForward", "AfterForward"] {
                assert!(reached.contains(&(row, step, moment.to_owned())), "{row} {step} {moment} was never reached");
            }
        }
    }
    println!("{count} cases, {} points", reached.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_every_operation_on_sqlite() {
    play_all(|| async {
        let store = SqliteStore::in_memory().await.expect("a Store");
        World::new(Arc::new(SimHypervisor::new()), Arc::new(store))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_every_operation_on_postgres() {
    let postgres = Arc::new(PrivatePostgres::start());
    let settings = PoolSettings { max_open: 5, ..PoolSettings::default() };
    let migrated = postgres.create_database();
    PostgresStore::connect(&Secret::new(&migrated), &settings).await.expect("a Store").close().await;
    play_all(move || {
        let (postgres, migrated) = (Arc::clone(&postgres), migrated.clone());
        async move {
            let made = tokio::task::spawn_blocking(move || postgres.copy_database(&migrated));
            let url = Secret::new(made.await.expect("a database"));
            let store = PostgresStore::connect(&url, &settings).await.expect("a Store");
            World::new(Arc::new(SimHypervisor::new()), Arc::new(store))
        }
    })
    .await;
}
