//! What callers of [`Limen`] rely on, on the simulator: each behaviour on SQLite and on PostgreSQL.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::ConsoleKind;
use limen_core::hypervisor::sim::{Edit, Fault, Guest, Method, On, SimHypervisor};
use limen_core::model::{
    CreateVm, HostState, ImageFormat, Operation, OperationState, PageRequest, PowerAction, UpdateVm, VmId, VmState,
};
use limen_core::service::{AdminSeed, CreateUser, HostConfig, Timings, UpdateUser, VmQuery};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Action, Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{self, QUICK, Script, World, add_image, bare, blank, ended, succeeded};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A simulated host, a Store and one process on them.
struct Rig {
    sim: SimHypervisor,
    world: World,
    limen: Limen,
    _postgres: Option<PrivatePostgres>,
}

#[derive(Debug, Clone, Copy)]
enum Db {
    Sqlite,
    Postgres,
}

async fn store(on: Db) -> (Arc<dyn Store>, Option<PrivatePostgres>) {
    match on {
        Db::Sqlite => (Arc::new(SqliteStore::in_memory().await.expect("a Store")), None),
        Db::Postgres => {
            let postgres = PrivatePostgres::start();
            let url = Secret::new(postgres.create_database());
            let settings = PoolSettings { max_open: 10, ..PoolSettings::default() };
            (Arc::new(PostgresStore::connect(&url, &settings).await.expect("a Store")), Some(postgres))
        }
    }
}

async fn rig(on: Db) -> Rig {
    let (store, postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let world = World::new(Arc::new(sim.clone()), store);
    let limen = world.limen(Script::new(Vec::new())).await;
    // The first look at the host has to be over, or nothing is known of its networks and space.
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    Rig { sim, world, limen, _postgres: postgres }
}

fn ctx() -> Context {
    Context::local()
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

async fn state(limen: &Limen, id: VmId) -> VmState {
    limen.get_vm(&ctx(), id).await.expect("the VM is there").vm.status.state
}

async fn create(limen: &Limen, create: CreateVm) -> VmId {
    succeeded(limen, limen.create_vm(&ctx(), create).await).await.vm_id.expect("a VM")
}

async fn power(limen: &Limen, id: VmId, action: PowerAction) -> Operation {
    succeeded(limen, limen.change_power(&ctx(), id, action, Some(30)).await).await
}

fn kind<T: Debug>(result: limen_core::Result<T>) -> ErrorKind {
    result.expect_err("it is refused").kind()
}

macro_rules! behaviours {
    ($($name:ident)+) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Db::Sqlite).await }
        )+ }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Db::Postgres).await }
        )+ }
    };
}

behaviours! {
    a_vm_goes_through_every_power_state_and_away
    what_is_written_is_read_at_once
    a_name_is_taken_once_per_owner
    the_same_key_is_the_same_operation
    two_actions_at_once_are_refused_or_done
    a_forced_action_takes_the_place_of_a_waiting_one
    a_guest_that_ignores_a_shutdown_is_left_as_it_is
    what_happens_outside_is_seen
    an_outside_edit_survives_an_update
    foreign_vms_are_seen_and_never_changed
    a_lost_host_is_stale_and_comes_back
    a_create_can_be_cancelled
    a_definition_that_lands_late_is_swept
    a_volume_that_lands_late_is_swept
    no_space_at_any_step_leaves_nothing
    an_image_in_use_stays
    a_second_process_takes_over
    a_passive_process_enqueues_and_reads
    users_see_their_own
    the_last_admin_stays
    sessions_end_at_once
    consoles_end_with_the_vm
    pages_hold_every_vm_once
}

async fn a_vm_goes_through_every_power_state_and_away(on: Db) {
    let Rig { limen, world, _postgres, .. } = rig(on).await;
    let id = create(&limen, blank("one")).await;
    assert_eq!(state(&limen, id).await, VmState::ShutOff);
    for (action, then) in [
        (PowerAction::Start, VmState::Running),
        (PowerAction::Start, VmState::Running),
        (PowerAction::Pause, VmState::Paused),
        (PowerAction::Resume, VmState::Running),
        (PowerAction::Reset, VmState::Running),
        (PowerAction::Reboot, VmState::Running),
        (PowerAction::Save, VmState::Saved),
        (PowerAction::Start, VmState::Running),
        (PowerAction::Shutdown, VmState::ShutOff),
        (PowerAction::Start, VmState::Running),
        (PowerAction::PowerOff, VmState::ShutOff),
    ] {
        power(&limen, id, action).await;
        assert_eq!(state(&limen, id).await, then, "after {action:?}");
    }
    assert_eq!(kind(limen.change_power(&ctx(), id, PowerAction::Pause, None).await), ErrorKind::Conflict);
    succeeded(&limen, limen.delete_vm(&ctx(), id, None).await).await;
    assert_eq!(kind(limen.get_vm(&ctx(), id).await), ErrorKind::NotFound);
    world.agrees(&limen, "a life").await;
    let audit = limen.list_audit(&ctx(), PageRequest::default()).await.expect("the audit").items;
    let of_delete = audit.iter().filter(|record| record.action == Action::DeleteVm).count();
    assert_eq!(of_delete, 2, "an intent and an outcome: {audit:#?}");
}

async fn what_is_written_is_read_at_once(on: Db) {
    let Rig { limen, _postgres, .. } = rig(on).await;
    let id = create(&limen, bare("one")).await;
    for round in 0..1000 {
        let (action, then) = if round % 2 == 0 {
            (PowerAction::Start, VmState::Running)
        } else {
            (PowerAction::PowerOff, VmState::ShutOff)
        };
        power(&limen, id, action).await;
        assert_eq!(state(&limen, id).await, then, "round {round}");
    }
}

async fn a_name_is_taken_once_per_owner(on: Db) {
    let Rig { limen, world, _postgres, .. } = rig(on).await;
    create(&limen, bare("one")).await;
    assert_eq!(kind(limen.create_vm(&ctx(), bare("one")).await), ErrorKind::AlreadyExists);
    let other = create(&limen, bare("two")).await;
    let rename = UpdateVm { name: Some("one".to_owned()), ..UpdateVm::default() };
    assert_eq!(kind(limen.update_vm(&ctx(), other, rename, None).await), ErrorKind::AlreadyExists);
    let local = ctx();
    let racing = (0..20).map(|_| limen.create_vm(&local, bare("race")));
    let outcomes = futures_util::future::join_all(racing).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    for outcome in outcomes {
        match outcome {
            Ok(operation) => drop(succeeded(&limen, Ok(operation)).await),
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
    }
    world.agrees(&limen, "a race for a name").await;
}

async fn the_same_key_is_the_same_operation(on: Db) {
    let Rig { limen, world, sim, _postgres, .. } = rig(on).await;
    let keyed = ctx().with_idempotency_key("k1");
    let racing = (0..50).map(|_| limen.create_vm(&keyed, blank("one")));
    let outcomes = futures_util::future::join_all(racing).await;
    let ids: Vec<_> = outcomes.into_iter().map(|outcome| outcome.expect("every answer is the operation").id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let operation = limen.create_vm(&keyed, blank("one")).await.expect("the same again");
    succeeded(&limen, Ok(operation)).await;
    let later = limen.create_vm(&keyed, blank("one")).await.expect("also when it is done");
    assert_eq!((later.id, later.state), (ids[0], OperationState::Succeeded));
    assert_eq!(kind(limen.create_vm(&keyed, blank("other")).await), ErrorKind::Conflict);
    assert_eq!(sim.calls_of(Method::CreateDefinition), 1);
    world.agrees(&limen, "fifty times the same").await;
}

async fn two_actions_at_once_are_refused_or_done(on: Db) {
    let Rig { limen, sim, _postgres, .. } = rig(on).await;
    let id = create(&limen, bare("one")).await;
    sim.inject(On::method(Method::ChangePower), Fault::Hangs(None));
    let first = limen.change_power(&ctx(), id, PowerAction::Start, None).await.expect("the first is recorded");
    let second = limen.change_power(&ctx(), id, PowerAction::Start, None).await.expect_err("the second is refused");
    assert_eq!((second.kind(), second.operation_id()), (ErrorKind::Busy, Some(first.id)));
    assert_eq!(limen.get_vm(&ctx(), id).await.expect("it is there").vm.operation, Some(first.id));
    sim.release();
    succeeded(&limen, Ok(first)).await;
    assert_eq!(limen.get_vm(&ctx(), id).await.expect("it is there").vm.operation, None);
}

async fn a_forced_action_takes_the_place_of_a_waiting_one(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    sim.set_guests(Guest::Ignores);
    for force in [PowerAction::PowerOff, PowerAction::Reset] {
        let id = create(&limen, CreateVm { start: true, ..bare(force.as_str()) }).await;
        let shutdown = limen.change_power(&ctx(), id, PowerAction::Shutdown, None).await.expect("it waits");
        eventually("it waits", || async {
            limen.get_operation(&ctx(), shutdown.id).await.expect("it is there").step.as_deref() == Some("wait")
        })
        .await;
        assert_eq!(kind(limen.change_power(&ctx(), id, PowerAction::Pause, None).await), ErrorKind::Busy);
        power(&limen, id, force).await;
        let shutdown = ended(&limen, &shutdown).await;
        assert_eq!(shutdown.state, OperationState::Cancelled, "{shutdown:?}");
    }
    let id = create(&limen, CreateVm { start: true, ..bare("gone") }).await;
    let reboot = limen.change_power(&ctx(), id, PowerAction::Reboot, None).await.expect("it waits");
    succeeded(&limen, limen.delete_vm(&ctx(), id, None).await).await;
    assert_eq!(ended(&limen, &reboot).await.state, OperationState::Cancelled);
    world.agrees(&limen, "forced actions").await;
}

async fn a_guest_that_ignores_a_shutdown_is_left_as_it_is(on: Db) {
    let Rig { limen, sim, _postgres, .. } = rig(on).await;
    sim.set_guests(Guest::Ignores);
    let id = create(&limen, CreateVm { start: true, ..bare("deaf") }).await;
    for action in [PowerAction::Shutdown, PowerAction::Reboot] {
        let operation = limen.change_power(&ctx(), id, action, Some(1)).await.expect("it is asked");
        let operation = ended(&limen, &operation).await;
        let error = operation.error.expect("it failed");
        assert_eq!((operation.state, error.code), (OperationState::Failed, ErrorKind::Timeout));
        assert_eq!(state(&limen, id).await, VmState::Running);
    }
    assert_eq!(kind(limen.change_power(&ctx(), id, PowerAction::Shutdown, Some(0)).await), ErrorKind::Invalid);
}

async fn what_happens_outside_is_seen(on: Db) {
    let Rig { limen, sim, _postgres, .. } = rig(on).await;
    let id = create(&limen, bare("one")).await;
    let is = |wanted| {
        let limen = &limen;
        move || async move { state(limen, id).await == wanted }
    };
    for lost in [0, 8] {
        sim.lose_events(lost);
        sim.outside().start(id).expect("virsh start");
        eventually("running", is(VmState::Running)).await;
        sim.outside().suspend(id).expect("virsh suspend");
        eventually("paused", is(VmState::Paused)).await;
        sim.outside().destroy(id).expect("virsh destroy");
        eventually("off", is(VmState::ShutOff)).await;
    }
    power(&limen, id, PowerAction::Start).await;
    sim.outside().crash_guest(id).expect("a crash");
    eventually("crashed", is(VmState::Crashed)).await;
    sim.outside().undefine(id).expect("virsh undefine");
    eventually("missing", is(VmState::Missing)).await;
    assert_eq!(kind(limen.change_power(&ctx(), id, PowerAction::Start, None).await), ErrorKind::Conflict);
    succeeded(&limen, limen.delete_vm(&ctx(), id, None).await).await;
}

async fn an_outside_edit_survives_an_update(on: Db) {
    let Rig { limen, sim, _postgres, .. } = rig(on).await;
    let id = create(&limen, bare("one")).await;
    let edit = Edit { vcpus: Some(3), unknown: Some("<foreign/>".to_owned()), ..Edit::default() };
    sim.outside().edit(id, &edit).expect("virsh edit");
    eventually("the edit is shown", || async {
        limen.get_vm(&ctx(), id).await.expect("it is there").vm.observed_spec.as_ref().is_some_and(|s| s.vcpus == 3)
    })
    .await;
    let update = UpdateVm { memory_mib: Some(256), ..UpdateVm::default() };
    succeeded(&limen, limen.update_vm(&ctx(), id, update, None).await).await;
    let seen = sim.outside().definition(id).expect("the definition");
    assert!(seen.contains("<foreign/>") && seen.contains("256"), "{seen}");
    let vm = limen.get_vm(&ctx(), id).await.expect("it is there").vm;
    assert_eq!(vm.observed_spec.as_ref().map(|spec| (spec.vcpus, spec.memory_mib)), Some((3, 256)));
    let stale = UpdateVm { vcpus: Some(2), ..UpdateVm::default() };
    let refused = limen.update_vm(&ctx(), id, stale, Some(vm.version - 1)).await;
    assert_eq!(kind(refused), ErrorKind::PreconditionFailed);
}

async fn foreign_vms_are_seen_and_never_changed(on: Db) {
    let Rig { limen, sim, _postgres, .. } = rig(on).await;
    let id = sim.outside().define_foreign("theirs");
    eventually("it is seen", || async { limen.get_vm(&ctx(), id).await.is_ok() }).await;
    let before = sim.outside().definition(id).expect("the definition");
    assert!(!limen.get_vm(&ctx(), id).await.expect("it is seen").vm.managed);
    let rename = UpdateVm { name: Some("ours".to_owned()), ..UpdateVm::default() };
    assert_eq!(kind(limen.update_vm(&ctx(), id, rename, None).await), ErrorKind::Conflict);
    assert_eq!(kind(limen.delete_vm(&ctx(), id, None).await), ErrorKind::Conflict);
    assert_eq!(kind(limen.change_power(&ctx(), id, PowerAction::Start, None).await), ErrorKind::Conflict);
    assert_eq!(kind(limen.open_console(&ctx(), id, ConsoleKind::Vnc).await.map(drop)), ErrorKind::Conflict);
    assert_eq!(sim.outside().definition(id).expect("the definition"), before);
}

async fn a_lost_host_is_stale_and_comes_back(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=5").expect("a URI");
    let mut world = World::new(Arc::new(sim.clone()), store);
    world.timings = Timings { stale: Duration::from_millis(500), ..QUICK };
    let limen = world.limen(Script::new(Vec::new())).await;
    let host = || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].state };
    eventually("up", || async { host().await == HostState::Up }).await;
    sim.disconnect();
    eventually("stale", || async { host().await == HostState::Stale }).await;
    let page = limen.list_vms(&ctx(), &VmQuery::default(), PageRequest::default()).await.expect("the list answers");
    let list: serde_json::Value = serde_json::from_slice(&page.json).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(5));
    assert!(list["items"].as_array().expect("items").iter().all(|vm| vm["status"]["stale"] == true));
    sim.reconnect();
    eventually("up again", || async { host().await == HostState::Up }).await;
}

async fn a_create_can_be_cancelled(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    sim.inject(On::method(Method::CreateVolume), Fault::Hangs(None));
    let operation = limen.create_vm(&ctx(), blank("one")).await.expect("it is recorded");
    eventually("it hangs", || async { sim.calls_of(Method::CreateVolume) == 1 }).await;
    limen.cancel_operation(&ctx(), operation.id).await.expect("it can be cancelled");
    sim.release();
    let operation = ended(&limen, &operation).await;
    assert_eq!(operation.state, OperationState::Cancelled, "{operation:?}");
    assert_eq!(kind(limen.cancel_operation(&ctx(), operation.id).await), ErrorKind::Conflict);
    world.agrees(&limen, "a cancel").await;
}

async fn a_definition_that_lands_late_is_swept(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    // The process ends while the call is out; its successor undoes before the call lands.
    sim.inject(On::method(Method::CreateDefinition), Fault::LandsLate(Duration::from_secs(3)));
    sim.inject(On::method(Method::CreateDefinition).nth(2).forever(), Fault::Fails(ErrorKind::Invalid));
    let operation = limen.create_vm(&ctx(), blank("late")).await.expect("it is recorded");
    let operation = ended(&limen, &operation).await;
    assert_eq!(operation.state, OperationState::Failed);
    sim.clear_faults();
    tokio::time::sleep(Duration::from_millis(3200)).await;
    world.agrees(&limen, "a late definition").await;
    let operation = ended(&limen, &operation).await;
    assert_eq!(operation.state, OperationState::Failed, "the outcome is what it was");
}

async fn a_volume_that_lands_late_is_swept(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    sim.inject(On::method(Method::CreateVolume), Fault::LandsLate(Duration::from_secs(2)));
    sim.inject(On::method(Method::CreateVolume).nth(2).forever(), Fault::NoSpace);
    let operation = limen.create_vm(&ctx(), blank("late")).await.expect("it is recorded");
    assert_eq!(ended(&limen, &operation).await.state, OperationState::Failed);
    sim.clear_faults();
    tokio::time::sleep(Duration::from_millis(2200)).await;
    world.agrees(&limen, "a late volume").await;
}

async fn no_space_at_any_step_leaves_nothing(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    let image = add_image(&limen, "disk", ImageFormat::Raw).await.id;
    for method in [Method::CreateVolume, Method::WriteVolume, Method::ResizeVolume, Method::CreateDefinition] {
        sim.inject(On::method(method), Fault::NoSpace);
        let mut wanted = blank("full");
        wanted.disks[0].image = Some(image);
        let operation = limen.create_vm(&ctx(), wanted).await.expect("it is recorded");
        let operation = ended(&limen, &operation).await;
        assert_eq!(operation.error.map(|error| error.code), Some(ErrorKind::NoSpace), "{method:?}");
        world.agrees(&limen, "no space").await;
    }
    let nowhere = CreateVm { networks: vec!["default".to_owned(), "nowhere".to_owned()], ..bare("astray") };
    let refused = limen.create_vm(&ctx(), nowhere).await.expect_err("there is no such network");
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::Invalid, Some("networks[1]")));
    let mut huge = blank("huge");
    huge.disks[0].size_gib = Some(60_000);
    assert_eq!(kind(limen.create_vm(&ctx(), huge).await), ErrorKind::NoSpace);
}

async fn an_image_in_use_stays(on: Db) {
    let Rig { limen, world, _postgres, .. } = rig(on).await;
    let iso = add_image(&limen, "media", ImageFormat::Iso).await;
    let id = create(&limen, CreateVm { iso: Some(iso.id), ..bare("one") }).await;
    let refused = limen.delete_image(&ctx(), iso.id).await.expect_err("it is in use");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains("one"), "{refused}");
    succeeded(&limen, limen.delete_vm(&ctx(), id, None).await).await;
    succeeded(&limen, limen.delete_image(&ctx(), iso.id).await).await;
    let wanted = CreateVm { iso: Some(iso.id), ..bare("two") };
    assert_eq!(kind(limen.create_vm(&ctx(), wanted).await), ErrorKind::Invalid);
    world.agrees(&limen, "an image's life").await;
}

async fn a_second_process_takes_over(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    let other = world.limen(Script::new(Vec::new())).await;
    let id = create(&other, bare("one")).await;
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

async fn a_passive_process_enqueues_and_reads(on: Db) {
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

async fn with_users(on: Db) -> (Limen, SimHypervisor, Option<PrivatePostgres>) {
    let (store, postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=3").expect("a URI");
    let admin = AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") };
    let limen = Limen::builder()
        .store(store)
        .authz(Arc::new(RoleAuthz))
        .host(HostConfig::new("host", "sim:", Arc::new(sim.clone())))
        .admin(admin)
        .timings(QUICK)
        .build()
        .await
        .expect("build");
    (limen, sim, postgres)
}

async fn log_in(limen: &Limen, name: &str, password: &str) -> limen_core::Result<Context> {
    let anonymous = Context::new(Actor::Anonymous);
    let (_, session) = limen.login(&anonymous, name, &Secret::new(password)).await?;
    Ok(Context::new(limen.authenticate(session.id)?))
}

async fn add_user(limen: &Limen, admin: &Context, name: &str, role: Role) -> Context {
    let password = Secret::new("a long password");
    let user = CreateUser { name: name.to_owned(), password, role, disabled: false };
    limen.create_user(admin, user).await.expect("a user");
    log_in(limen, name, "a long password").await.expect("a login")
}

async fn count(limen: &Limen, ctx: &Context) -> usize {
    let page = limen.list_vms(ctx, &VmQuery::default(), PageRequest::default()).await.expect("a list");
    let list: serde_json::Value = serde_json::from_slice(&page.json).expect("JSON");
    list["items"].as_array().expect("items").len()
}

async fn users_see_their_own(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    eventually("the simulator's VMs are the admin's", || async { count(&limen, &admin).await == 3 }).await;
    let user = add_user(&limen, &admin, "ann", Role::User).await;
    let other = add_user(&limen, &admin, "bob", Role::User).await;
    let viewer = add_user(&limen, &admin, "vera", Role::Viewer).await;
    let operator = add_user(&limen, &admin, "otto", Role::Operator).await;
    let id = limen.create_vm(&user, bare("one")).await.expect("a VM");
    let id = succeeded(&limen, Ok(id)).await.vm_id.expect("a VM");
    limen.create_vm(&other, bare("one")).await.map(drop).expect("another owner may use the name");
    assert_eq!((count(&limen, &user).await, count(&limen, &viewer).await), (1, 0));
    assert_eq!((count(&limen, &admin).await, count(&limen, &operator).await), (5, 5));
    let foreign = limen.get_vm(&other, id).await.expect_err("it is concealed");
    let absent = limen.get_vm(&other, VmId::generate()).await.expect_err("it is absent");
    assert_eq!((foreign.kind(), foreign.to_string()), (absent.kind(), absent.to_string()));
    assert_eq!(kind(limen.delete_vm(&other, id, None).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.delete_vm(&operator, id, None).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.create_vm(&viewer, bare("two")).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_users(&operator, PageRequest::default()).await), ErrorKind::Forbidden);
    assert!(limen.change_power(&operator, id, PowerAction::Start, None).await.is_ok());
    let anonymous = Context::new(Actor::Anonymous);
    let listed = limen.list_vms(&anonymous, &VmQuery::default(), PageRequest::default()).await;
    assert_eq!(kind(listed), ErrorKind::Unauthenticated);
    let theirs = limen.list_operations(&other, None, PageRequest::default()).await.expect("operations").items;
    assert!(theirs.iter().all(|operation| operation.vm_id != Some(id)));
}

async fn the_last_admin_stays(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let id = admin.actor().user_id().expect("a user");
    let demote = UpdateUser { role: Some(Role::User), ..UpdateUser::default() };
    assert_eq!(kind(limen.update_user(&ctx(), id, demote.clone()).await), ErrorKind::Conflict);
    assert_eq!(kind(limen.delete_user(&ctx(), id).await), ErrorKind::Conflict);
    let second = add_user(&limen, &admin, "second", Role::Admin).await;
    assert_eq!(kind(limen.update_user(&admin, id, demote.clone()).await), ErrorKind::Conflict, "nobody their own");
    assert_eq!(limen.update_user(&second, id, demote).await.expect("another may").role, Role::User);
    let user = limen.create_vm(&admin_of(&limen, &admin), bare("one")).await.expect("a VM");
    succeeded(&limen, Ok(user)).await;
    assert_eq!(kind(limen.delete_user(&second, id).await), ErrorKind::Conflict, "the user owns a VM");
}

fn admin_of(limen: &Limen, ctx: &Context) -> Context {
    let Actor::User { session, .. } = ctx.actor() else { panic!("a user") };
    Context::new(limen.authenticate(*session).expect("the session lives"))
}

async fn sessions_end_at_once(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let session = |ctx: &Context| match ctx.actor() {
        Actor::User { session, .. } => *session,
        other => panic!("{other:?}"),
    };
    let first = add_user(&limen, &admin, "ann", Role::User).await;
    let second = log_in(&limen, "ann", "a long password").await.expect("a second login");
    let wrong = limen.change_password(&second, &Secret::new("not this one"), &Secret::new("a new password")).await;
    assert_eq!(kind(wrong), ErrorKind::Invalid);
    limen
        .change_password(&second, &Secret::new("a long password"), &Secret::new("a new password"))
        .await
        .expect("a new password");
    assert_eq!(kind(limen.authenticate(session(&first))), ErrorKind::Unauthenticated);
    assert!(limen.authenticate(session(&second)).is_ok());
    assert_eq!(kind(log_in(&limen, "ann", "a long password").await), ErrorKind::Unauthenticated);
    limen.logout(&second).await.expect("a logout");
    assert_eq!(kind(limen.authenticate(session(&second))), ErrorKind::Unauthenticated);
    let third = log_in(&limen, "ann", "a new password").await.expect("a login");
    let id = third.actor().user_id().expect("a user");
    let disable = UpdateUser { disabled: Some(true), ..UpdateUser::default() };
    limen.update_user(&admin, id, disable).await.expect("disabled");
    assert_eq!(kind(limen.authenticate(session(&third))), ErrorKind::Unauthenticated);
    assert_eq!(kind(log_in(&limen, "ann", "a new password").await), ErrorKind::Unauthenticated);
    let unknown = log_in(&limen, "nobody", "a new password").await.expect_err("unknown");
    let wrong = log_in(&limen, "admin", "a new password").await.expect_err("wrong");
    assert_eq!(unknown.to_string(), wrong.to_string());
}

async fn consoles_end_with_the_vm(on: Db) {
    let Rig { limen, _postgres, .. } = rig(on).await;
    let id = create(&limen, bare("one")).await;
    assert_eq!(kind(limen.open_console(&ctx(), id, ConsoleKind::Serial).await.map(drop)), ErrorKind::Conflict);
    power(&limen, id, PowerAction::Start).await;
    let mut console = limen.open_console(&ctx(), id, ConsoleKind::Serial).await.expect("a console");
    console.write_all(b"echo me\n").await.expect("it takes bytes");
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains("echo me") {
        let mut buffer = [0; 256];
        let got = console.read(&mut buffer).await.expect("it gives bytes");
        assert_ne!(got, 0, "it ended early: {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&buffer[..got]);
    }
    power(&limen, id, PowerAction::PowerOff).await;
    let ended = tokio::time::timeout(Duration::from_secs(5), console.read_to_end(&mut read)).await;
    assert!(ended.is_ok(), "the console goes on without the VM");
}

async fn pages_hold_every_vm_once(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=250&seed=3").expect("a URI");
    let world = World::new(Arc::new(sim.clone()), store);
    let limen = world.limen(Script::new(Vec::new())).await;
    eventually("all are there", || async {
        let shown = world::vms(&limen).await;
        shown.len() == 250 && shown.values().all(|(state, _)| state != "missing")
    })
    .await;
    let mut page = PageRequest::first(40).expect("a page");
    let mut found = BTreeMap::new();
    loop {
        let rendered = limen.list_vms(&ctx(), &VmQuery::default(), page).await.expect("a page");
        let list: serde_json::Value = serde_json::from_slice(&rendered.json).expect("JSON");
        for vm in list["items"].as_array().expect("items") {
            *found.entry(vm["id"].as_str().expect("an id").to_owned()).or_insert(0) += 1;
        }
        match list["next_cursor"].as_str() {
            Some(cursor) => page = PageRequest::first(40).expect("a page").with_cursor(cursor).expect("a cursor"),
            None => break,
        }
    }
    assert_eq!((found.len(), found.values().max()), (250, Some(&1)));
    let running = VmQuery { state: Some(VmState::Running), ..VmQuery::default() };
    let rendered = limen.list_vms(&ctx(), &running, PageRequest::first(1000).expect("a page")).await.expect("a page");
    let list: serde_json::Value = serde_json::from_slice(&rendered.json).expect("JSON");
    let items = list["items"].as_array().expect("items");
    assert!(!items.is_empty() && items.len() < 250);
    assert!(items.iter().all(|vm| vm["status"]["state"] == "running"));
    // A list needs neither the host nor the Store.
    sim.disconnect();
    world.store.close().await;
    assert_eq!(world::vms(&limen).await.len(), 250);
}
