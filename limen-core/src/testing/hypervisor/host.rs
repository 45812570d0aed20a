//! Promises about the host itself: its figures, its events, its connection.

use std::time::Duration;

use tokio::sync::broadcast;

use super::{Fixture, TestVm, done, refused};
use crate::error::ErrorKind;
use crate::hypervisor::{HostEvent, Hypervisor};
use crate::model::{PowerAction, VmState};

/// `capability` tells the same each time, and seeds nothing that it cannot run.
pub async fn capability_does_not_change(hypervisor: &dyn Hypervisor, _: &Fixture) {
    let before = hypervisor.capability();
    done(hypervisor.list().await, "list");
    assert_eq!(hypervisor.capability(), before);
    assert!(before.volumes || !before.linked_volumes, "linked volumes are volumes");
}

/// `host_info` tells what the host has.
pub async fn host_info_tells_what_the_host_has(hypervisor: &dyn Hypervisor, _: &Fixture) {
    let info = done(hypervisor.host_info().await, "host_info");
    assert!(!info.hostname.is_empty() && !info.hypervisor.is_empty() && !info.architecture.is_empty(), "{info:?}");
    assert!(info.cpus > 0 && info.memory_mib > 0, "{info:?}");
    assert!(info.free_bytes > 0 || !hypervisor.capability().volumes, "{info:?}");
}

/// `list_networks` tells the networks and leaves their host empty.
pub async fn networks_are_listed(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let networks = done(hypervisor.list_networks().await, "list_networks");
    assert!(networks.iter().any(|network| network.name == fixture.network), "{networks:?}");
    assert!(networks.iter().all(|network| network.host.is_empty()), "{networks:?}");
}

/// Every change of a VM leads to an event about it.
pub async fn events_tell_of_changes(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let mut events = hypervisor.subscribe();
    let vm = TestVm::defined(hypervisor, fixture, "events").await;
    let changed = HostEvent::VmChanged(vm.id());
    expect(&mut events, fixture, changed, "create_definition").await;
    for action in [PowerAction::Start, PowerAction::Pause, PowerAction::Resume, PowerAction::PowerOff] {
        drain(&mut events).await;
        vm.power(action).await;
        expect(&mut events, fixture, changed, action.as_str()).await;
    }
    drain(&mut events).await;
    vm.clean().await;
    expect(&mut events, fixture, changed, "remove_definition").await;
}

/// Waits for an event and lets others pass.
pub(super) async fn expect(
    events: &mut broadcast::Receiver<HostEvent>,
    fixture: &Fixture,
    wanted: HostEvent,
    after: &str,
) {
    let wait = async {
        loop {
            match events.recv().await {
                Ok(event) if event == wanted => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => panic!("after {after}: the events came to an end"),
            }
        }
    };
    let come = tokio::time::timeout(fixture.patience, wait).await;
    assert!(come.is_ok(), "no {wanted:?} after {after}");
}

/// Forgets what has come until now, and what is still on its way from the call before.
pub(super) async fn drain(events: &mut broadcast::Receiver<HostEvent>) {
    tokio::time::sleep(Duration::from_millis(50)).await;
    while !matches!(events.try_recv(), Err(broadcast::error::TryRecvError::Empty)) {}
}

/// `stats` tells of every running VM, of no other, and its counters do not go back.
pub async fn stats_tell_of_running_vms_alone(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    if !hypervisor.capability().stats {
        return refused(hypervisor.stats().await, ErrorKind::Unsupported, "stats");
    }
    let off = TestVm::defined(hypervisor, fixture, "stats-off").await;
    let on = TestVm::defined(hypervisor, fixture, "stats-on").await;
    on.bring(VmState::Running).await;
    let mut last = 0;
    for _ in 0..3 {
        let stats = done(hypervisor.stats().await, "stats");
        assert!(stats.iter().all(|(id, _)| *id != off.id()), "a VM that is off has no counters");
        let told = stats.iter().find(|(id, _)| *id == on.id());
        let (_, told) = told.unwrap_or_else(|| panic!("a running VM has counters: {stats:?}"));
        assert!(told.memory_mib > 0 && told.cpu_time_ns >= last, "{told:?} after {last} ns");
        last = told.cpu_time_ns;
    }
    off.clean().await;
    on.clean().await;
}

/// After `close`, which can be repeated, every call answers unavailable.
pub async fn a_closed_connection_answers_unavailable(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::new(hypervisor, fixture, "closed");
    hypervisor.close().await;
    hypervisor.close().await;
    refused(hypervisor.list().await, ErrorKind::Unavailable, "list");
    refused(hypervisor.get(vm.id()).await, ErrorKind::Unavailable, "get");
    refused(hypervisor.host_info().await, ErrorKind::Unavailable, "host_info");
    refused(hypervisor.list_networks().await, ErrorKind::Unavailable, "list_networks");
    refused(hypervisor.create_definition(&vm.definition).await, ErrorKind::Unavailable, "create_definition");
    refused(hypervisor.remove_definition(vm.id()).await, ErrorKind::Unavailable, "remove_definition");
    refused(hypervisor.change_power(vm.id(), PowerAction::Start).await, ErrorKind::Unavailable, "change_power");
    if hypervisor.capability().volumes {
        refused(hypervisor.list_volumes().await, ErrorKind::Unavailable, "list_volumes");
    }
}
