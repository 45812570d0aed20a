//! Quotas of owners, and what every host keeps for itself.

use serde::{Deserialize, Serialize};

use super::Limen;
use super::host::HostHandle;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{GIB, Quota, Usage};
use crate::store::MemoryLimit;

/// What VMs leave of a host. It is asked when a VM is made or gets more memory; what is there stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HostReserve {
    /// The memory of all VMs of a host, running or not, may be this many times what the host has:
    /// 1.5; `None` is without limit.
    pub memory_overcommit: Option<f64>,
    /// The disks of a new VM, grown to their full size, leave so many bytes of the host's space
    /// free: 2 GiB. A VM without disks asks for nothing.
    pub free_bytes: u64,
}

impl Default for HostReserve {
    fn default() -> Self {
        Self { memory_overcommit: Some(1.5), free_bytes: 2 * GIB }
    }
}

/// An owner's limits, and what is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaView {
    /// What the owner may have at most.
    pub limits: Quota,
    /// What the owner's VMs come to, those being made and deleted too.
    pub used: Usage,
}

impl Limen {
    /// The actor's own limits and use. No query.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for an actor that owns nothing.
    pub async fn get_quota(&self, ctx: &Context) -> Result<QuotaView> {
        self.authorize(ctx, Action::GetQuota, Resource::Any, "owner")?;
        let found = self.shared.inventory.owner(self.owner_of(ctx)?);
        let (owner, used) = found.ok_or_else(|| Error::not_found("owner"))?;
        Ok(QuotaView { limits: owner.quota, used })
    }

    /// How much memory the VMs of `host` may have together; none where nobody knows what it has.
    pub(super) fn memory_limit(&self, host: &HostHandle) -> Option<MemoryLimit> {
        let (factor, info) = (self.shared.reserve.memory_overcommit?, host.info()?);
        // A float beyond every i64 becomes the largest one.
        Some(MemoryLimit { host: host.id, mib: (info.memory_mib as f64 * factor) as i64 })
    }

    /// Refuses disks that may grow to `wanted` bytes where `host` would keep too little.
    pub(super) fn refuse_without_space(&self, host: &HostHandle, wanted: u64) -> Result<()> {
        let needed = wanted.saturating_add(self.shared.reserve.free_bytes);
        if wanted == 0 || host.info().is_none_or(|info| needed <= info.free_bytes) {
            return Ok(());
        }
        let text = "The host has less free space than the disks may grow to; make them smaller.";
        Err(Error::new(ErrorKind::NoSpace, text))
    }
}
