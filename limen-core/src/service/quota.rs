//! Quotas of owners, and what every host keeps for itself.

use serde::{Deserialize, Serialize};

use super::Limen;
use super::host::HostHandle;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, Result};
use crate::model::{GIB, Quota, Usage};
use crate::store::{MemoryLimit, SpaceLimit};

/// What VMs leave of a host. It is asked when a VM is made or gets more memory; what is there stays.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct HostReserve {
    /// The memory of all VMs of a host, running or not, may be this many times what the host has:
    /// 1.5; `None` is without limit.
    pub memory_overcommit: Option<f64>,
    /// The disks of a new VM, grown to their full size, leave so many bytes of the host's space
    /// free: 2 GiB. Those of all VMs that are being made at the same time count together. A VM
    /// without disks asks for nothing.
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

    /// How much memory the VMs of `host` may have together; none where there is no limit.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable): nobody knows yet what the host has.
    pub(super) async fn memory_limit(&self, host: &HostHandle) -> Result<Option<MemoryLimit>> {
        let Some(factor) = self.shared.reserve.memory_overcommit else { return Ok(None) };
        let (info, _) = host.known(self.shared.timings.show).await?;
        // A float beyond every i64 becomes the largest one.
        Ok(Some(MemoryLimit { host: host.id, mib: (info.memory_mib as f64 * factor) as i64 }))
    }

    /// What `host` has for new disks.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable): nobody knows yet what the host has.
    pub(super) async fn space_limit(&self, host: &HostHandle) -> Result<SpaceLimit> {
        let (info, as_of) = host.known(self.shared.timings.show).await?;
        let bytes = i128::from(info.free_bytes) - i128::from(self.shared.reserve.free_bytes);
        Ok(SpaceLimit { host: host.id, bytes: i64::try_from(bytes).unwrap_or(i64::MAX), as_of })
    }
}
