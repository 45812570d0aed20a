//! The power state machine on libvirt: [`PowerAction::on`] says what is to be done, this does it.

use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;

use super::connection::Link;
use super::error::{conflict, from_libvirt, is};
use super::vm;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{PowerAction, Transition, VmId, VmState};

/// How often an action is looked at anew when the state changed under it.
const TURNS: usize = 3;

pub(super) fn change(link: &Link, conn: &Connect, id: VmId, action: PowerAction) -> Result<()> {
    let domain = vm::existing(conn, id)?;
    let mut last = None;
    for _ in 0..TURNS {
        let (state, reason) = vm::state(&domain)?;
        // Another call starts it, perhaps one of a process that was killed: what is asked for now
        // waits for that one's end in libvirt's line. It is no guest that somebody has paused.
        let starting = state == VmState::Paused && reason.as_deref() == Some("starting_up");
        let state = match action {
            PowerAction::Start if starting => VmState::ShutOff,
            _ if starting => VmState::Running,
            _ => state,
        };
        match action.on(state) {
            Transition::Already => return Ok(()),
            Transition::Refused => break,
            Transition::To(_) => {}
        }
        let asleep = reason.as_deref() == Some("pmsuspended");
        match act(link, &domain, action, state, asleep) {
            Ok(()) => return Ok(()),
            // It was so when the call was made, and no longer when it arrived; or it is busy.
            Err((_, error)) if is(&error, ErrorNumber::OperationInvalid) => last = Some(error),
            Err((call, error)) => return Err(refusal(call, error)),
        }
    }
    let refused = conflict("The VM is in a state that does not allow this.");
    Err(match last {
        Some(error) => refused.with_source(error),
        None => refused,
    })
}

/// Why libvirt did not do it. That QEMU ended at once, or could not be begun, has no code of its own.
fn refusal(call: &'static str, error: virt::error::Error) -> Error {
    let error = from_libvirt(call, error);
    if call != "virDomainCreate" || error.kind() != ErrorKind::Internal {
        return error;
    }
    let text = "The host could not start the VM: something that it needs is missing or damaged, a disk perhaps.";
    conflict(text).with_operation(call).with_source(error)
}

type Refusal = (&'static str, virt::error::Error);

fn act(link: &Link, domain: &Domain, action: PowerAction, state: VmState, asleep: bool) -> Result<(), Refusal> {
    let named = |call: &'static str| move |error| (call, error);
    match action {
        PowerAction::Start => {
            domain.create().map_err(named("virDomainCreate"))?;
            // Memory that was saved of a paused guest comes back paused.
            if state == VmState::Saved && matches!(vm::state(domain), Ok((VmState::Paused, _))) {
                domain.resume().map_err(named("virDomainResume"))?;
            }
            Ok(())
        }
        PowerAction::Shutdown if link.is_test() => domain.shutdown().map_err(named("virDomainShutdown")).map(drop),
        PowerAction::Shutdown => domain
            .shutdown_flags(virt_sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
            .map_err(named("virDomainShutdownFlags"))
            .map(drop),
        PowerAction::PowerOff if state == VmState::Saved => {
            domain.managed_save_remove(0).map_err(named("virDomainManagedSaveRemove")).map(drop)
        }
        PowerAction::PowerOff => domain.destroy().map_err(named("virDomainDestroy")).map(drop),
        PowerAction::Reboot => {
            let flags = if link.is_test() { 0 } else { virt_sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN };
            domain.reboot(flags).map_err(named("virDomainReboot")).map(drop)
        }
        PowerAction::Reset => domain.reset().map_err(named("virDomainReset")).map(drop),
        PowerAction::Pause => domain.suspend().map_err(named("virDomainSuspend")).map(drop),
        PowerAction::Resume if asleep => domain.pm_wakeup(0).map_err(named("virDomainPMWakeup")).map(drop),
        PowerAction::Resume => domain.resume().map_err(named("virDomainResume")).map(drop),
        PowerAction::Save => {
            // As running, so that the next start runs it whatever it was.
            let flags = if link.is_test() { 0 } else { virt_sys::VIR_DOMAIN_SAVE_RUNNING };
            domain.managed_save(flags).map_err(named("virDomainManagedSave")).map(drop)
        }
    }
}
