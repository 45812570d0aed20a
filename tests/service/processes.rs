//! Several processes on one Store, and one after another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::hypervisor::sim::{Fault, Guest, Method, On, SimHypervisor};
use limen_core::model::{CreateVm, HostState, OperationState, PowerAction, VmState};
use limen_core::service::{HostConfig, Timings};
use limen_core::{ErrorKind, Limen};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{QUICK, Script, World, bare, ended};

use crate::{Db, Rig, create, ctx, eventually, rig, state, store};

pub(crate) async fn a_second_process_takes_over(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    let other = world.limen(Script::new(Vec::new())).await;
    let id = create(&other, bare("one")).await;
    limen.wait_for_event(other.event(), Duration::from_secs(10)).await.expect("it follows");
    assert_eq!(state(&limen, id).await, VmState::ShutOff);
    sim.inject(On::method(Method::ChangePower), Fault::Hangs(Some(Duration::from_millis(300))));
    let operation = other.change_power(&ctx(), id, PowerAction::Start, None).await.expect("it is recorded");
    eventually("the owner calls", || async { sim.calls_of(Method::ChangePower) == 1 }).await;
    limen.crash().await;
    let operation = ended(&other, &operation).await;
    assert_eq!(operation.state, OperationState::Succeeded);
    assert_eq!(state(&other, id).await, VmState::Running);
    world.agrees(&other, "a take-over").await;
}

pub(crate) async fn a_passive_process_enqueues_and_reads(on: Db) {
    let Rig { limen, world, _postgres, .. } = rig(on).await;
    let passive = Limen::builder()
        .store(Arc::clone(&world.store))
        .authz(Arc::new(limen_core::authz::AllowAll))
        .host(HostConfig::new("host", "test:", Arc::clone(&world.hypervisor)))
        .timings(QUICK)
        .passive()
        .build()
        .await
        .expect("build");
    let id = create(&passive, bare("one")).await;
    eventually("it tells how fresh the owner's view is", || async {
        passive.list_hosts(&ctx()).await.expect("hosts")[0].state == HostState::Up
    })
    .await;
    limen.crash().await;
    let operation = passive.delete_vm(&ctx(), id, None).await.expect("it is recorded");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let operation = passive.get_operation(&ctx(), operation.id).await.expect("it is there");
    assert_eq!(operation.state, OperationState::Queued, "nobody runs it");
}

/// A process whose lease lasts for an hour, on a host whose guests do not obey.
async fn long_lived(on: Db) -> (SimHypervisor, World, Limen, Option<PrivatePostgres>) {
    let (store, postgres) = store(on).await;
    let sim = SimHypervisor::new();
    sim.set_guests(Guest::Ignores);
    let mut world = World::new(Arc::new(sim.clone()), store);
    world.timings = Timings { lease: Duration::from_secs(3600), ..QUICK };
    world.holder = Some("the only one");
    let limen = world.limen(Script::new(Vec::new())).await;
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    (sim, world, limen, postgres)
}

pub(crate) async fn a_predecessor_of_the_same_name_is_followed_at_once(on: Db) {
    let (sim, world, limen, _postgres) = long_lived(on).await;
    sim.inject(On::method(Method::CreateDefinition), Fault::Hangs(None));
    let operation = limen.create_vm(&ctx(), bare("one")).await.expect("it is recorded");
    eventually("the owner calls", || async { sim.calls_of(Method::CreateDefinition) == 1 }).await;
    limen.crash().await;
    sim.release();
    let successor = world.limen(Script::new(Vec::new())).await;
    assert_eq!(ended(&successor, &operation).await.state, OperationState::Succeeded);
    world.agrees(&successor, "a restart").await;
}

pub(crate) async fn a_guests_time_counts_across_processes(on: Db) {
    let (_sim, world, limen, _postgres) = long_lived(on).await;
    let id = create(&limen, CreateVm { start: true, ..bare("deaf") }).await;
    let asked = Instant::now();
    let operation = limen.change_power(&ctx(), id, PowerAction::Shutdown, Some(8)).await.expect("it is asked");
    tokio::time::sleep(Duration::from_secs(5)).await;
    limen.crash().await;
    let successor = world.limen(Script::new(Vec::new())).await;
    let operation = ended(&successor, &operation).await;
    assert_eq!(operation.error.map(|error| error.code), Some(ErrorKind::Timeout));
    assert!(asked.elapsed() < Duration::from_secs(12), "its 8 s began anew: {:?}", asked.elapsed());
}
