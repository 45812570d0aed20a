//! What a host shows of a VM.

use serde::{Deserialize, Serialize};

use super::{Address, InstallId, OperationId, VmId, VmState};

/// LIMEN's mark on a definition: which installation made it, by which operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The installation.
    pub install: InstallId,
    /// The operation.
    pub operation: OperationId,
}

/// A VM as its host shows it, made by LIMEN or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVm {
    /// The VM.
    pub id: VmId,
    /// The definition's own name.
    pub name: String,
    /// LIMEN's mark, of this or another installation; none on a VM that LIMEN did not make.
    pub mark: Option<Mark>,
    /// Running, paused, shut_off, saved, crashed or unknown; never one of the other states.
    pub state: VmState,
    /// Why it came to this state, in libvirt's word for it.
    pub reason: Option<String>,
    /// Whether the host starts it when it boots.
    pub autostart: bool,
    /// Virtual CPUs at the next boot.
    pub vcpus: u32,
    /// Memory at the next boot, in MiB.
    pub memory_mib: u64,
    /// Changes whenever the inactive definition does, and only then.
    pub definition_hash: String,
    /// The guest's addresses, as far as the host knows them.
    pub addresses: Vec<Address>,
}
