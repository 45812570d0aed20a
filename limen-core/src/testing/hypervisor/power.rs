//! Promises about power: the one table, [`PowerAction::on`].

use super::host::{drain, expect};
use super::{Fixture, TestVm, reachable, refused};
use crate::error::ErrorKind;
use crate::hypervisor::{HostEvent, Hypervisor};
use crate::model::{PowerAction, Transition, VmId, VmState};

/// Every action in every reachable state does what the table says, at once and repeatedly.
pub async fn power_follows_the_table(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "power").await;
    for state in reachable(hypervisor) {
        for action in PowerAction::ALL {
            let asks = matches!(action, PowerAction::Shutdown | PowerAction::Reboot);
            let expected = action.on(state);
            if asks && matches!(expected, Transition::To(_)) {
                // The guest decides; that is a behaviour of its own.
                continue;
            }
            vm.bring(state).await;
            let what = format!("{} of a VM that is {}", action.as_str(), state.as_str());
            let result = hypervisor.change_power(vm.id(), action).await;
            let after = match expected {
                Transition::To(VmState::Saved) if !hypervisor.capability().save => {
                    refused(result, ErrorKind::Unsupported, &what);
                    state
                }
                Transition::Refused => {
                    refused(result, ErrorKind::Conflict, &what);
                    state
                }
                Transition::Already => {
                    super::done(result, &what);
                    state
                }
                Transition::To(wanted) => {
                    super::done(result, &what);
                    wanted
                }
            };
            assert_eq!(vm.get().await.state, after, "after {what}");
            if let Transition::To(wanted) = expected
                && after == wanted
                && action.on(wanted) == Transition::Already
            {
                vm.power(action).await;
                assert_eq!(vm.get().await.state, wanted, "after another {what}");
            }
        }
    }
    vm.clean().await;
}

/// Every action on a VM that is not there is not found.
pub async fn power_of_an_unknown_vm_is_not_found(hypervisor: &dyn Hypervisor, _: &Fixture) {
    for action in PowerAction::ALL {
        let result = hypervisor.change_power(VmId::generate(), action).await;
        refused(result, ErrorKind::NotFound, action.as_str());
    }
}

/// `shutdown` and `reboot` return when the guest was asked; one that obeys is off, or has rebooted.
pub async fn shutdown_and_reboot_are_asked_for(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::bootable(hypervisor, fixture, "ask").await;
    let mut events = hypervisor.subscribe();
    vm.bring(VmState::Running).await;
    if fixture.obeys {
        wait_for_greeting(&vm).await;
        drain(&mut events).await;
    }
    vm.power(PowerAction::Reboot).await;
    if fixture.obeys {
        expect(&mut events, fixture, HostEvent::VmRebooted(vm.id()), "reboot").await;
        assert_eq!(vm.get().await.state, VmState::Running, "a VM that reboots runs");
        wait_for_greeting(&vm).await;
    }
    vm.power(PowerAction::Shutdown).await;
    if fixture.obeys {
        vm.wait_for(VmState::ShutOff).await;
    }
    vm.clean().await;
}

/// A guest that has not come up yet does not hear the power button.
async fn wait_for_greeting(vm: &TestVm<'_>) {
    if let Some(greeting) = vm.fixture.greeting.as_ref().filter(|_| vm.hypervisor.capability().serial_console) {
        let mut console = super::consoles::open_serial(vm).await;
        super::consoles::read_until(&mut console, greeting, vm.fixture).await;
    }
}

/// `reset` leads to an event that tells of it.
pub async fn reset_is_told(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "reset").await;
    let mut events = hypervisor.subscribe();
    vm.bring(VmState::Running).await;
    drain(&mut events).await;
    vm.power(PowerAction::Reset).await;
    expect(&mut events, fixture, HostEvent::VmRebooted(vm.id()), "reset").await;
    vm.clean().await;
}
