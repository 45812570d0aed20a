//! Tests of what the simulator has beyond [`Hypervisor`](crate::Hypervisor): its faults, its clock,
//! its log and its other hands. What it has in common with real hosts is in `testing::hypervisor`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::error::ErrorKind;
use crate::hypervisor::{DefinitionChange, HostEvent, Hypervisor, Mark, VmDefinition, VolumeRef, VolumeSpec};
use crate::model::{Firmware, InstallId, OperationId, OwnerId, PowerAction, VmSpec, VmState, VolumeFormat, VolumeId};

fn seeded(vms: u32) -> SimHypervisor {
    SimHypervisor::builder().vms(vms).seed(7).build()
}

async fn one(sim: &SimHypervisor, state: VmState) -> VmId {
    let vms = sim.list().await.expect("the host answers");
    vms.into_iter().find(|vm| vm.state == state).expect("a VM in this state").id
}

#[tokio::test]
async fn the_same_seed_and_calls_give_the_same_log() {
    let mut logs = Vec::new();
    for _ in 0..2 {
        let sim = seeded(20);
        sim.inject(On::method(Method::ChangePower).nth(3), Fault::Fails(ErrorKind::Internal));
        for vm in sim.list().await.expect("list") {
            let _ = sim.change_power(vm.id, PowerAction::Start).await;
        }
        logs.push(sim.calls().iter().map(ToString::to_string).collect::<Vec<_>>());
    }
    assert_eq!(logs[0], logs[1]);
    assert_eq!(logs[0].len(), 21);
    assert!(logs[0][3].ends_with("internal"), "{}", logs[0][3]);
    // Also the same in another process, and in a later version.
    assert_eq!(logs[0][1], "2 change_power 07bc8570-11f6-585e-9a02-a31893c7f748 done");
}

#[tokio::test]
async fn ten_thousand_vms_are_there_in_mixed_states() {
    let sim = seeded(10_000);
    let vms = sim.list().await.expect("list");
    assert_eq!(vms.len(), 10_000);
    for state in [VmState::Running, VmState::ShutOff, VmState::Paused, VmState::Saved, VmState::Crashed] {
        assert!(vms.iter().filter(|vm| vm.state == state).count() > 300, "{state:?}");
    }
    assert!(vms.iter().all(|vm| vm.mark.is_some_and(|mark| mark.install.0.is_nil())));
    assert!(vms.iter().any(|vm| vm.autostart) && vms.iter().any(|vm| !vm.autostart));
}

#[tokio::test]
async fn a_late_call_lands_when_its_time_comes() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().vms(20).clock(&clock).build();
    let id = one(&sim, VmState::ShutOff).await;
    sim.inject(On::method(Method::ChangePower).vm(id), Fault::LandsLate(Duration::from_secs(8)));
    let error = sim.change_power(id, PowerAction::Start).await.expect_err("it is late");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    clock.advance(Duration::from_secs(7));
    assert_eq!(sim.get(id).await.expect("get").state, VmState::ShutOff);
    clock.advance(Duration::from_secs(1));
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Running);
}

#[tokio::test]
async fn a_late_definition_lands_after_its_undo() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().clock(&clock).build();
    let definition = definition("late");
    sim.inject(On::method(Method::CreateDefinition), Fault::LandsLate(Duration::from_secs(8)));
    sim.create_definition(&definition).await.expect_err("it is late");
    sim.remove_definition(definition.id).await.expect("the undo finds nothing");
    clock.advance(Duration::from_secs(8));
    let landed = sim.get(definition.id).await.expect("it landed");
    assert_eq!(landed.mark, Some(definition.mark));
    assert_eq!(sim.calls()[0].outcome, Outcome::Done);
}

#[tokio::test]
async fn effects_fall_due_without_a_call_in_real_time_and_by_hand() {
    let clock = SimClock::new();
    for (sim, after) in [
        (SimHypervisor::builder().vms(20), Duration::from_millis(5)),
        (SimHypervisor::builder().vms(20).clock(&clock), Duration::from_secs(3_600)),
    ] {
        let sim = sim.guests(Guest::Obeys(after)).build();
        let id = one(&sim, VmState::Running).await;
        let mut events = sim.subscribe();
        sim.change_power(id, PowerAction::Reboot).await.expect("reboot");
        sim.change_power(id, PowerAction::Shutdown).await.expect("shutdown");
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(events.recv().await, Ok(HostEvent::VmRebooted(id)));
        // The reboot made the earlier request void: it went to a guest that is no more.
        assert!(events.try_recv().is_err());
        sim.change_power(id, PowerAction::Shutdown).await.expect("shutdown");
        clock.advance(Duration::from_secs(3_600));
        assert_eq!(events.recv().await, Ok(HostEvent::VmChanged(id)));
        assert_eq!(sim.get(id).await.expect("get").state, VmState::ShutOff);
    }
}

#[tokio::test]
async fn a_paused_guest_obeys_when_it_runs_again_and_one_that_ignores_never() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().vms(20).clock(&clock).guests(Guest::Obeys(Duration::from_secs(1))).build();
    let id = one(&sim, VmState::Running).await;
    sim.change_power(id, PowerAction::Shutdown).await.expect("shutdown");
    sim.change_power(id, PowerAction::Pause).await.expect("pause");
    clock.advance(Duration::from_secs(2));
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Paused);
    sim.change_power(id, PowerAction::Resume).await.expect("resume");
    assert_eq!(sim.get(id).await.expect("get").state, VmState::ShutOff);

    sim.set_guest(id, Guest::Ignores).expect("the VM is there");
    sim.change_power(id, PowerAction::Start).await.expect("start");
    sim.change_power(id, PowerAction::Shutdown).await.expect("asked");
    clock.advance(Duration::from_secs(86_400));
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Running);
}

#[tokio::test]
async fn a_hung_call_ends_by_release_by_time_or_by_deadline_and_is_done_all_the_same() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().vms(20).clock(&clock).deadline(Duration::from_secs(30)).build();
    let id = one(&sim, VmState::ShutOff).await;
    let start = |sim: &SimHypervisor| {
        let sim = sim.clone();
        tokio::spawn(async move { sim.change_power(id, PowerAction::Start).await })
    };
    let off = || sim.outside().destroy(id).expect("it runs");

    sim.inject(On::method(Method::ChangePower), Fault::Hangs(None));
    let call = start(&sim);
    wait_for_calls(&sim, 2).await;
    assert_eq!(sim.get(id).await.expect("other calls go on").state, VmState::ShutOff);
    sim.release();
    call.await.expect("join").expect("released");
    off();

    sim.inject(On::method(Method::ChangePower), Fault::Hangs(Some(Duration::from_secs(5))));
    let call = start(&sim);
    wait_for_calls(&sim, 4).await;
    clock.advance(Duration::from_secs(5));
    call.await.expect("join").expect("its time has come");
    off();

    sim.inject(On::method(Method::ChangePower), Fault::Hangs(None));
    let call = start(&sim);
    wait_for_calls(&sim, 5).await;
    clock.advance(Duration::from_secs(30));
    assert_eq!(call.await.expect("join").expect_err("deadline").kind(), ErrorKind::Timeout);
    assert_eq!(sim.get(id).await.expect("get").state, VmState::ShutOff);
    sim.release();
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Running);
    off();

    sim.inject(On::method(Method::ChangePower), Fault::Hangs(None));
    let call = start(&sim);
    wait_for_calls(&sim, 8).await;
    call.abort();
    sim.release();
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Running, "a dropped call is not taken back");
}

#[tokio::test]
async fn a_lost_connection_ends_what_hangs_and_refuses_all_until_it_is_back() {
    let sim = seeded(5);
    let other = sim.clone();
    let mut events = sim.subscribe();
    sim.inject(On::method(Method::Stats), Fault::Hangs(None));
    let hung = tokio::spawn(async move { other.stats().await });
    wait_for_calls(&sim, 1).await;
    sim.inject(On::method(Method::List), Fault::ConnectionLost);
    assert_eq!(sim.list().await.expect_err("lost").kind(), ErrorKind::Unavailable);
    assert_eq!(hung.await.expect("join").expect_err("lost").kind(), ErrorKind::Unavailable);
    let counted = sim.calls().len();
    assert_eq!(sim.list().await.expect_err("still lost").kind(), ErrorKind::Unavailable);
    assert_eq!(sim.calls().len(), counted, "no call reaches the host");
    let foreign = sim.outside().define_foreign("unseen");
    sim.reconnect();
    assert_eq!(events.recv().await, Ok(HostEvent::Disconnected));
    assert_eq!(events.recv().await, Ok(HostEvent::Connected), "what happened meanwhile sent no event");
    assert!(sim.get(foreign).await.is_ok());
}

#[tokio::test]
async fn closing_one_connection_leaves_the_others_open() {
    let sim = seeded(1);
    let other = sim.clone();
    sim.close().await;
    sim.close().await;
    assert_eq!(sim.calls_of(Method::Close), 1);
    assert_eq!(sim.list().await.expect_err("closed").kind(), ErrorKind::Unavailable);
    assert_eq!(other.list().await.expect("open").len(), 1);
}

#[tokio::test]
async fn a_lost_event_is_lost_also_when_it_comes_later() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().vms(20).clock(&clock).build();
    let id = one(&sim, VmState::Running).await;
    let mut events = sim.subscribe();
    sim.inject(On::method(Method::ChangePower), Fault::EventLost);
    sim.change_power(id, PowerAction::Shutdown).await.expect("asked");
    clock.advance(Duration::from_secs(1));
    assert_eq!(sim.get(id).await.expect("get").state, VmState::ShutOff);
    sim.lose_events(1);
    sim.change_power(id, PowerAction::Start).await.expect("start");
    assert!(events.try_recv().is_err());
    sim.change_power(id, PowerAction::Pause).await.expect("pause");
    assert_eq!(events.try_recv(), Ok(HostEvent::VmChanged(id)));
}

#[tokio::test]
async fn a_full_pool_refuses_bytes_and_keeps_what_fits() {
    let sim = SimHypervisor::builder().pool_bytes(100_000).build();
    let spec =
        VolumeSpec { id: VolumeId::generate(), format: VolumeFormat::Raw, capacity_bytes: 1 << 40, backing: None };
    let volume = VolumeRef { id: spec.id, format: spec.format };
    sim.create_volume(&spec).await.expect("sparse: no bytes yet");
    let zeros = Box::new(tokio::io::repeat(0));
    sim.write_volume(volume, zeros, 1 << 24).await.expect("zeros take no space");
    let ones = || Box::new(tokio::io::repeat(1));
    let full = sim.write_volume(volume, ones(), 200_000).await.expect_err("full");
    assert_eq!(full.kind(), ErrorKind::NoSpace);
    let free = sim.host_info().await.expect("info").free_bytes;
    assert_eq!(free, 100_000 - 65_536);
    assert_eq!(sim.list_volumes().await.expect("list")[0].allocation_bytes, 65_536);
    sim.remove_volume(volume).await.expect("remove");
    assert_eq!(sim.host_info().await.expect("info").free_bytes, 100_000);
}

#[tokio::test]
async fn a_failing_write_has_written_half_and_a_late_one_writes_later() {
    let clock = SimClock::new();
    let sim = SimHypervisor::builder().clock(&clock).build();
    let spec = VolumeSpec { id: VolumeId::generate(), format: VolumeFormat::Raw, capacity_bytes: 100, backing: None };
    let volume = VolumeRef { id: spec.id, format: spec.format };
    sim.create_volume(&spec).await.expect("create");
    let allocated = async || sim.list_volumes().await.expect("list")[0].allocation_bytes;
    let ones = || Box::new(tokio::io::repeat(1));

    sim.inject(On::method(Method::WriteVolume).volume(spec.id), Fault::NoSpace);
    let error = sim.write_volume(volume, ones(), 100).await.expect_err("scripted");
    assert_eq!((error.kind(), allocated().await), (ErrorKind::NoSpace, 50));

    sim.inject(On::method(Method::WriteVolume), Fault::LandsLate(Duration::from_secs(1)));
    let error = sim.write_volume(volume, ones(), 100).await.expect_err("late");
    assert_eq!((error.kind(), allocated().await), (ErrorKind::Timeout, 50));
    clock.advance(Duration::from_secs(1));
    while allocated().await < 100 {
        tokio::task::yield_now().await;
    }

    sim.inject(On::method(Method::WriteVolume), Fault::Hangs(Some(Duration::from_secs(1))));
    let (other, ticker) = (sim.clone(), clock.clone());
    let hung = tokio::spawn(async move { other.write_volume(volume, ones(), 7).await });
    while sim.calls_of(Method::WriteVolume) < 3 {
        tokio::task::yield_now().await;
    }
    ticker.advance(Duration::from_secs(1));
    hung.await.expect("join").expect("its time has come");
}

#[tokio::test]
async fn other_hands_are_not_in_the_log_and_are_told_by_events() {
    let sim = seeded(0);
    let mut events = sim.subscribe();
    let id = sim.outside().define_foreign("theirs");
    let before = sim.outside().definition(id).expect("text");
    sim.outside().start(id).expect("start");
    assert_eq!(sim.outside().start(id).expect_err("twice").kind(), ErrorKind::Conflict);
    sim.outside().suspend(id).expect("suspend");
    sim.outside().undefine(id).expect("undefine");
    assert_eq!(sim.outside().definition(id).expect("transient"), before);
    sim.outside().destroy(id).expect("destroy");
    assert_eq!(sim.outside().destroy(id).expect_err("it is gone").kind(), ErrorKind::NotFound);
    for _ in 0..5 {
        assert_eq!(events.try_recv(), Ok(HostEvent::VmChanged(id)));
    }
    assert!(events.try_recv().is_err());
    assert!(sim.calls().is_empty());
}

#[tokio::test]
async fn a_change_keeps_what_limen_does_not_model_and_a_crash_is_shown() {
    let sim = seeded(20);
    let id = one(&sim, VmState::Running).await;
    let unknown = Some("<hostdev mode='subsystem'/>\n".to_owned());
    sim.outside().edit(id, &Edit { unknown: unknown.clone(), ..Edit::default() }).expect("edit");
    let hash = sim.get(id).await.expect("get").definition_hash;
    let change = DefinitionChange { vcpus: Some(31), ..DefinitionChange::default() };
    sim.change_definition(id, &hash, &change).await.expect("change");
    let text: serde_json::Value =
        serde_json::from_str(&sim.outside().definition(id).expect("text")).expect("the simulator's text is JSON");
    assert_eq!(text["unknown"].as_str().map(str::to_owned), unknown);
    sim.outside().crash_guest(id).expect("crash");
    assert_eq!(sim.get(id).await.expect("get").state, VmState::Crashed);
}

#[tokio::test]
async fn a_host_that_reboots_starts_what_has_autostart() {
    let sim = seeded(200);
    let mut events = sim.subscribe();
    sim.outside().reboot_host();
    for vm in sim.list().await.expect("list") {
        let expected = match vm.state {
            VmState::Saved => continue,
            _ if vm.autostart => VmState::Running,
            VmState::Crashed => continue,
            _ => VmState::ShutOff,
        };
        assert_eq!(vm.state, expected, "{}", vm.name);
    }
    assert_eq!(events.try_recv(), Ok(HostEvent::Disconnected));
    assert_eq!(events.try_recv(), Ok(HostEvent::Connected));
}

#[test]
fn a_uri_is_read_in_full_or_refused_by_name() {
    for good in ["sim://", "sim:///", "sim:///?", "sim:///?vms=10000&seed=18446744073709551615"] {
        SimHypervisor::from_uri(good).expect(good);
    }
    for (bad, field) in [
        ("qemu:///system", "uri"),
        ("sim://host/", "uri"),
        ("sim:///?vms=10001", "vms"),
        ("sim:///?vms=", "vms"),
        ("sim:///?vms=-1", "vms"),
        ("sim:///?seed=x", "seed"),
        ("sim:///?vsm=3", "vsm"),
    ] {
        let error = SimHypervisor::from_uri(bad).expect_err(bad);
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some(field)));
        assert!(error.to_string().contains(if field == "uri" { "sim:///" } else { field }), "{error}");
    }
}

fn definition(name: &str) -> VmDefinition {
    VmDefinition {
        id: VmId::generate(),
        mark: Mark { install: InstallId::generate(), operation: OperationId::generate() },
        owner: OwnerId::generate(),
        name: name.to_owned(),
        labels: BTreeMap::new(),
        spec: VmSpec {
            vcpus: 1,
            memory_mib: 64,
            firmware: Firmware::Bios,
            disks: Vec::new(),
            iso: None,
            nics: Vec::new(),
        },
        autostart: false,
    }
}

/// Waits until the host was called this often, hung calls among them.
async fn wait_for_calls(sim: &SimHypervisor, count: usize) {
    while sim.calls().len() < count {
        tokio::task::yield_now().await;
    }
}
