//! VMs, images and consoles in one process.

use std::collections::BTreeMap;
use std::time::Duration;

use limen_core::hypervisor::ConsoleKind;
use limen_core::hypervisor::sim::{Edit, Fault, Guest, Method, On, SimHypervisor};
use limen_core::model::{
    AuditQuery, CreateVm, HostState, ImageFormat, OperationState, PageRequest, PowerAction, UpdateVm, VmState,
};
use limen_core::service::{Timings, VmQuery};
use limen_core::{Action, ErrorKind};
use limen_support::world::{self, QUICK, Script, World, add_image, bare, blank, ended, succeeded};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Db, Rig, create, ctx, eventually, kind, power, rig, state, store};

pub(crate) async fn a_vm_goes_through_every_power_state_and_away(on: Db) {
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
    let audit =
        limen.list_audit(&ctx(), &AuditQuery::default(), PageRequest::default()).await.expect("the audit").items;
    let of_delete = audit.iter().filter(|record| record.action == Action::DeleteVm).count();
    assert_eq!(of_delete, 2, "an intent and an outcome: {audit:#?}");
}

pub(crate) async fn what_is_written_is_read_at_once(on: Db) {
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

/// Two looks are under way at once; the one that began later read earlier, and answers last.
pub(crate) async fn an_old_look_never_hides_a_new_one(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let mut world = World::new(Arc::new(sim.clone()), store);
    world.timings.refresh = Duration::from_millis(700);
    let limen = world.limen(Script::new(Vec::new())).await;
    let id = create(&limen, bare("one")).await;
    power(&limen, id, PowerAction::Start).await;
    // Right after a list there is time for a look at one VM to begin before the next.
    let (lists, gets) = (sim.calls_of(Method::List), sim.calls_of(Method::Get));
    eventually("a list", || async { sim.calls_of(Method::List) > lists }).await;
    sim.inject(On::method(Method::Get).vm(id), Fault::Hangs(None));
    sim.inject(On::method(Method::List), Fault::AnswersLate(Duration::from_secs(1)));
    sim.outside().suspend(id).expect("it runs");
    eventually("a look that hangs", || async { sim.calls_of(Method::Get) > gets }).await;
    let lists = sim.calls_of(Method::List);
    eventually("a list that has read", || async { sim.calls_of(Method::List) > lists }).await;
    sim.lose_events(1);
    sim.outside().destroy(id).expect("it runs");
    sim.release();
    eventually("what the first look read", || async { state(&limen, id).await == VmState::ShutOff }).await;
    for _ in 0..150 {
        assert_eq!(state(&limen, id).await, VmState::ShutOff, "what the list had read before");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn a_name_is_taken_once_per_owner(on: Db) {
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

pub(crate) async fn the_same_key_is_the_same_operation(on: Db) {
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

pub(crate) async fn two_actions_at_once_are_refused_or_done(on: Db) {
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

pub(crate) async fn a_forced_action_takes_the_place_of_a_waiting_one(on: Db) {
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

pub(crate) async fn a_guest_that_ignores_a_shutdown_is_left_as_it_is(on: Db) {
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

pub(crate) async fn what_happens_outside_is_seen(on: Db) {
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

pub(crate) async fn an_outside_edit_survives_an_update(on: Db) {
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

pub(crate) async fn foreign_vms_are_seen_and_never_changed(on: Db) {
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

pub(crate) async fn a_lost_host_is_stale_and_comes_back(on: Db) {
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
    assert_eq!(page.vms.len(), 5);
    assert!(page.vms.iter().all(|listed| listed.stale && listed.observed_at.is_some()));
    sim.reconnect();
    eventually("up again", || async { host().await == HostState::Up }).await;
}

pub(crate) async fn a_create_can_be_cancelled(on: Db) {
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

pub(crate) async fn a_definition_that_lands_late_is_swept(on: Db) {
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

pub(crate) async fn a_volume_that_lands_late_is_swept(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    sim.inject(On::method(Method::CreateVolume), Fault::LandsLate(Duration::from_secs(2)));
    sim.inject(On::method(Method::CreateVolume).nth(2).forever(), Fault::NoSpace);
    let operation = limen.create_vm(&ctx(), blank("late")).await.expect("it is recorded");
    assert_eq!(ended(&limen, &operation).await.state, OperationState::Failed);
    sim.clear_faults();
    tokio::time::sleep(Duration::from_millis(2200)).await;
    world.agrees(&limen, "a late volume").await;
}

pub(crate) async fn no_space_at_any_step_leaves_nothing(on: Db) {
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

pub(crate) async fn an_image_in_use_stays(on: Db) {
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

pub(crate) async fn consoles_end_with_the_vm(on: Db) {
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

pub(crate) async fn pages_hold_every_vm_once(on: Db) {
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
        let listed: Vec<serde_json::Value> =
            rendered.vms.iter().map(|vm| serde_json::from_slice(&vm.json()).expect("JSON")).collect();
        assert_eq!(list, serde_json::json!({ "items": listed, "next_cursor": rendered.next_cursor }));
        for listed in rendered.vms.iter() {
            *found.entry(listed.vm.id).or_insert(0) += 1;
        }
        match &rendered.next_cursor {
            Some(cursor) => page = PageRequest::first(40).expect("a page").with_cursor(cursor).expect("a cursor"),
            None => break,
        }
    }
    assert_eq!((found.len(), found.values().max()), (250, Some(&1)));
    let running = VmQuery { state: Some(VmState::Running), ..VmQuery::default() };
    let rendered = limen.list_vms(&ctx(), &running, PageRequest::first(1000).expect("a page")).await.expect("a page");
    assert!(!rendered.vms.is_empty() && rendered.vms.len() < 250);
    assert!(rendered.vms.iter().all(|listed| listed.vm.status.state == VmState::Running));
    // A list needs neither the host nor the Store.
    sim.disconnect();
    world.store.close().await;
    assert_eq!(world::vms(&limen).await.len(), 250);
}
