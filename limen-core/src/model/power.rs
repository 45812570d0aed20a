//! Power actions, in libvirt's senses under names an operator knows.

use serde::{Deserialize, Serialize};

use super::VmState;

/// What to do with a VM's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Power on, or resume from saved memory (`virDomainCreate`).
    Start,
    /// Ask the guest to power off (ACPI, `virDomainShutdown`).
    Shutdown,
    /// Cut the power (`virDomainDestroy`).
    PowerOff,
    /// Ask the guest to reboot (`virDomainReboot`).
    Reboot,
    /// Press the reset button (`virDomainReset`).
    Reset,
    /// Stop the vCPUs (`virDomainSuspend`).
    Pause,
    /// Run the vCPUs again (`virDomainResume`).
    Resume,
    /// Write the memory to disk and power off (`virDomainManagedSave`).
    Save,
}

impl PowerAction {
    /// Every action.
    pub const ALL: [PowerAction; 8] = [
        PowerAction::Start,
        PowerAction::Shutdown,
        PowerAction::PowerOff,
        PowerAction::Reboot,
        PowerAction::Reset,
        PowerAction::Pause,
        PowerAction::Resume,
        PowerAction::Save,
    ];

    /// The action's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PowerAction::Start => "start",
            PowerAction::Shutdown => "shutdown",
            PowerAction::PowerOff => "power_off",
            PowerAction::Reboot => "reboot",
            PowerAction::Reset => "reset",
            PowerAction::Pause => "pause",
            PowerAction::Resume => "resume",
            PowerAction::Save => "save",
        }
    }
}

/// What an action means for a VM in a given state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The host has to be called; it ends in this state.
    To(VmState),
    /// The VM is there already; the action succeeds without a call.
    Already,
    /// The action has no meaning in this state: a conflict.
    Refused,
}

impl PowerAction {
    /// The one table of the power state machine: what `self` means for a VM in `state`.
    ///
    /// | | running | paused | shut_off, crashed | saved |
    /// |---|---|---|---|---|
    /// | start | already | refused | running | running |
    /// | shutdown | shut_off | refused | already | refused |
    /// | power_off | shut_off | shut_off | already | shut_off (drops the saved memory) |
    /// | reboot | running | refused | refused | refused |
    /// | reset | running | paused | refused | refused |
    /// | pause | paused | already | refused | refused |
    /// | resume | already | running | refused | refused |
    /// | save | saved | saved | refused | already |
    #[must_use]
    pub const fn on(self, state: VmState) -> Transition {
        use PowerAction as A;
        use Transition::{Already, Refused, To};
        use VmState as S;
        match (self, state) {
            (A::Start, S::Running)
            | (A::Shutdown | A::PowerOff, S::ShutOff | S::Crashed)
            | (A::Pause, S::Paused)
            | (A::Resume, S::Running)
            | (A::Save, S::Saved) => Already,
            (A::Start, S::ShutOff | S::Crashed | S::Saved)
            | (A::Reboot | A::Reset, S::Running)
            | (A::Resume, S::Paused) => To(S::Running),
            (A::Shutdown, S::Running) | (A::PowerOff, S::Running | S::Paused | S::Saved) => To(S::ShutOff),
            (A::Reset, S::Paused) | (A::Pause, S::Running) => To(S::Paused),
            (A::Save, S::Running | S::Paused) => To(S::Saved),
            _ => Refused,
        }
    }
}
