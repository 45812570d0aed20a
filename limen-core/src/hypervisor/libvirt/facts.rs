//! What is known of the definitions, so that a list reads only those that may have changed.
//!
//! libvirt tells of a definition that is made, replaced or removed; it does not tell of
//! `virsh setvcpus --config` and its like. So each list also reads the [`AGAIN`] definitions that
//! were read longest ago: on a small host all of them, on a large one in turn.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::locked;
use super::xml::read::DefinitionFacts;
use crate::model::VmId;

/// How many definitions a list reads again without a reason.
const AGAIN: usize = 8;

#[derive(Debug, Default)]
struct Known {
    facts: HashMap<VmId, (u64, Arc<DefinitionFacts>)>,
    doubted: HashSet<VmId>,
    clock: u64,
}

/// The definitions' facts of one host.
#[derive(Debug, Default)]
pub(super) struct FactCache(Mutex<Known>);

impl FactCache {
    /// The definition of `id` may have changed.
    pub(super) fn doubt(&self, id: VmId) {
        locked(&self.0).doubted.insert(id);
    }

    /// Every definition may have changed.
    pub(super) fn doubt_all(&self) {
        let mut known = locked(&self.0);
        known.facts.clear();
        known.doubted.clear();
    }

    /// Which of `present` must be read now. Doubts are taken as dealt with before the reading, so
    /// that one raised meanwhile stays.
    pub(super) fn due(&self, present: &HashSet<VmId>) -> HashSet<VmId> {
        let mut known = locked(&self.0);
        known.facts.retain(|id, _| present.contains(id));
        let doubted = std::mem::take(&mut known.doubted);
        let mut due: HashSet<VmId> =
            present.iter().filter(|id| doubted.contains(id) || !known.facts.contains_key(id)).copied().collect();
        let mut ages: Vec<(u64, VmId)> = known.facts.iter().map(|(id, (age, _))| (*age, *id)).collect();
        if ages.len() > AGAIN {
            ages.select_nth_unstable(AGAIN);
        }
        due.extend(ages.iter().take(AGAIN).map(|(_, id)| *id));
        due
    }

    /// Keeps what was read.
    pub(super) fn keep(&self, id: VmId, facts: Arc<DefinitionFacts>) {
        let mut known = locked(&self.0);
        known.clock += 1;
        let clock = known.clock;
        known.facts.insert(id, (clock, facts));
    }

    /// What was read last.
    pub(super) fn get(&self, id: VmId) -> Option<Arc<DefinitionFacts>> {
        locked(&self.0).facts.get(&id).map(|(_, facts)| Arc::clone(facts))
    }
}
