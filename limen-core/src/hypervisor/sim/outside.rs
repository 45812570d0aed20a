//! What happens on a host behind LIMEN's back.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::call::Host;
use super::state::{Definition, SimVm};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::HostEvent;
use crate::model::{Firmware, PowerAction, VmId, VmSpec, VmState};

/// What `virsh edit` does to a definition; what is `None` stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Edit {
    /// Virtual CPUs at the next boot.
    pub vcpus: Option<u32>,
    /// Memory at the next boot, in MiB.
    pub memory_mib: Option<u64>,
    /// Something that LIMEN does not model: LIMEN's own changes keep it to the byte.
    pub unknown: Option<String>,
}

/// The host's other hands: calls as `virsh` would make them, and accidents. None of them is in the
/// log of calls, needs the connection or is hit by a fault; each sends the event that libvirt would.
///
/// All of them answer [`NotFound`](ErrorKind::NotFound) for a VM that is not there.
///
/// ```
/// # use limen_core::Hypervisor;
/// # use limen_core::hypervisor::sim::{Edit, SimHypervisor};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> limen_core::Result<()> {
/// let sim = SimHypervisor::new();
/// let id = sim.outside().define_foreign("somebody-elses");
/// sim.outside().start(id)?;
/// sim.outside().edit(id, &Edit { vcpus: Some(4), ..Edit::default() })?;
/// let seen = sim.get(id).await?;
/// assert!(seen.mark.is_none());
/// assert_eq!(seen.vcpus, 4);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Outside<'a> {
    pub(super) host: &'a Arc<Host>,
}

impl Outside<'_> {
    /// What the host remembers of the Stores behind it is lost.
    pub fn forget_witnesses(&self) {
        self.host.lock().witnesses.clear();
    }

    /// `virsh start`.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) when the VM is active.
    pub fn start(&self, id: VmId) -> Result<()> {
        let mut state = self.host.lock();
        if state.vm(id)?.state.is_active() {
            return Err(Error::new(ErrorKind::Conflict, "The VM is active already."));
        }
        state.start(id)
    }

    /// `virsh destroy`: cuts the power.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) when the VM is not active.
    pub fn destroy(&self, id: VmId) -> Result<()> {
        let mut state = self.host.lock();
        if !state.vm(id)?.state.is_active() {
            return Err(Error::new(ErrorKind::Conflict, "The VM is not active."));
        }
        state.change_power(id, PowerAction::PowerOff)
    }

    /// The guest's QEMU hangs: it has no counters, and all else of it goes on.
    ///
    /// # Errors
    /// Only [`NotFound`](ErrorKind::NotFound).
    pub fn silence(&self, id: VmId, silent: bool) -> Result<()> {
        self.host.lock().vm_mut(id)?.silent = silent;
        Ok(())
    }

    /// `virsh suspend`.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) when the VM is not active.
    pub fn suspend(&self, id: VmId) -> Result<()> {
        self.host.lock().change_power(id, PowerAction::Pause)
    }

    /// `virsh undefine`: the definition goes; an active VM goes with it when it stops.
    ///
    /// # Errors
    /// Only [`NotFound`](ErrorKind::NotFound).
    pub fn undefine(&self, id: VmId) -> Result<()> {
        let mut state = self.host.lock();
        let vm = state.vm_mut(id)?;
        if vm.state.is_active() {
            vm.transient = true;
            state.emit(HostEvent::VmChanged(id));
        } else {
            state.remove(id);
        }
        Ok(())
    }

    /// `virsh define` of a VM that LIMEN did not make: 1 virtual CPU, 128 MiB, off. Its id is made
    /// from its name; defining it again leaves it as it is.
    #[must_use]
    pub fn define_foreign(&self, name: &str) -> VmId {
        let id = VmId(Uuid::new_v5(&Uuid::nil(), format!("limen-sim/foreign/{name}").as_bytes()));
        let definition = Definition {
            name: name.to_owned(),
            title: String::new(),
            mark: None,
            owner: None,
            labels: BTreeMap::new(),
            spec: VmSpec {
                vcpus: 1,
                memory_mib: 128,
                firmware: Firmware::Bios,
                disks: Vec::new(),
                iso: None,
                nics: Vec::new(),
            },
            unknown: "<cpu mode='host-passthrough'/>".to_owned(),
        };
        let mut state = self.host.lock();
        state.vms.entry(id).or_insert_with(|| SimVm::new(id, definition, false));
        state.emit(HostEvent::VmChanged(id));
        id
    }

    /// `virsh edit`.
    ///
    /// # Errors
    /// Only [`NotFound`](ErrorKind::NotFound).
    pub fn edit(&self, id: VmId, edit: &Edit) -> Result<()> {
        let mut state = self.host.lock();
        state.vm_mut(id)?.edit(edit);
        state.emit(HostEvent::VmChanged(id));
        Ok(())
    }

    /// `virsh dumpxml --inactive`, in the simulator's own text; two texts are equal when nothing of
    /// the definition changed.
    ///
    /// # Errors
    /// Only [`NotFound`](ErrorKind::NotFound).
    pub fn definition(&self, id: VmId) -> Result<String> {
        Ok(self.host.lock().vm(id)?.definition.text())
    }

    /// The guest's QEMU ends by itself. A VM that is not active stays as it is.
    ///
    /// # Errors
    /// Only [`NotFound`](ErrorKind::NotFound).
    pub fn crash_guest(&self, id: VmId) -> Result<()> {
        let mut state = self.host.lock();
        if state.vm(id)?.state.is_active() { state.enter(id, VmState::Crashed, "crashed") } else { Ok(()) }
    }

    /// The host loses its power and boots again: active VMs are off, those with autostart run, and
    /// the connection was lost and is back.
    pub fn reboot_host(&self) {
        let mut state = self.host.lock();
        state.disconnect();
        let ids: Vec<VmId> = state.vms.keys().copied().collect();
        for id in ids {
            let active = state.vms.get(&id).is_some_and(|vm| vm.state.is_active());
            let starts = state.vms.get(&id).is_some_and(|vm| vm.autostart && vm.state != VmState::Saved);
            // The VM is there, and one that cannot start stays off, as on a real host.
            if active {
                drop(state.enter(id, VmState::ShutOff, "crashed"));
            }
            if starts {
                drop(state.start(id));
            }
        }
        state.reconnect();
    }
}
