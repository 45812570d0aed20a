//! How much there is of what.

use std::collections::HashMap;

use super::Inventory;
use crate::model::{OperationKind, OperationState, OwnerRecord, Usage, VmState};

impl Inventory {
    /// How many VMs are in each state.
    pub(crate) fn count_by_state(&self) -> Vec<(VmState, u64)> {
        let state = self.read();
        let count = |of: VmState| state.by_state.0.get(&of).map_or(0, |vms| vms.len() as u64);
        VmState::ALL.into_iter().map(|of| (of, count(of))).collect()
    }

    /// How many operations have not ended, by kind and by where they are.
    pub(crate) fn unfinished(&self) -> HashMap<(OperationKind, OperationState), u64> {
        let mut counts = HashMap::new();
        for operation in self.read().operations.values() {
            *counts.entry((operation.kind, operation.state)).or_default() += 1;
        }
        counts
    }

    /// Every owner, and what the owner's VMs come to.
    pub(crate) fn owners(&self) -> Vec<(OwnerRecord, Usage)> {
        let state = self.read();
        state.people.owners().map(|owner| (owner.clone(), state.used_by(owner.id))).collect()
    }
}
