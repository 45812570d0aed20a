//! Tests of what the simulator has beyond [`Hypervisor`](crate::Hypervisor): its faults, its clock,
//! its log and its other hands. What it has in common with real hosts is in `testing::hypervisor`.

use std::time::{Duration, Instant};

use super::*;
use crate::model::VmState;

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
}

#[tokio::test]
async fn ten_thousand_vms_are_there_in_mixed_states() {
    let sim = seeded(10_000);
    let start = Instant::now();
    let vms = sim.list().await.expect("list");
    println!("list of 10,000 VMs: {:?}", start.elapsed());
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
