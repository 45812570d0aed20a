//! What is to be seen to after the Store was restored.

use super::Limen;
use super::inventory::Shown;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::Result;
use crate::model::{OperationState, Restored, RestoredVm, VmState};

impl Limen {
    /// Every restore that was noticed, the operations that are held for it, and the VMs that hosts and
    /// Store do not agree about. From memory.
    ///
    /// # Errors
    /// [`Forbidden`](crate::ErrorKind::Forbidden).
    pub async fn get_restored(&self, ctx: &Context) -> Result<Restored> {
        self.authorize(ctx, Action::GetRestored, Resource::Any, "restore")?;
        let inventory = &self.shared.inventory;
        let restores = inventory.restores().iter().rev().map(|restore| (**restore).clone()).collect();
        let held = inventory.operations().into_iter().filter(|operation| operation.state == OperationState::Held);
        let ours = |shown: &Shown| {
            let mark = shown.seen.as_ref().and_then(|seen| seen.mark);
            mark.is_some_and(|mark| mark.install == self.shared.install.id)
        };
        let (recorded, others): (Vec<Shown>, Vec<Shown>) =
            inventory.all_vms().into_iter().partition(|shown| shown.record.is_some());
        let unrecorded = others.iter().filter(|shown| ours(shown) && shown.vm.operation.is_none());
        let missing = recorded.iter().filter(|shown| shown.vm.status.state == VmState::Missing);
        let named =
            |shown: &Shown| RestoredVm { id: shown.vm.id, name: shown.vm.name.clone(), host: shown.vm.host.clone() };
        Ok(Restored {
            restores,
            held: held.map(|operation| (*operation).clone()).collect(),
            unrecorded: unrecorded.map(named).collect(),
            missing: missing.map(named).collect(),
        })
    }
}
