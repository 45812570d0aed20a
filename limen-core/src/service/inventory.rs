//! What this process knows, in memory, fed by the event log alone.
//!
//! Invariant: the inventory is the fold of the log up to [`Inventory::event`]. Nothing else writes
//! to it, so every process that has applied the same number shows the same. Reads take a read lock
//! for as long as it takes to copy pointers; no lock is held across an await.

mod figures;
mod held;
mod people;
mod tail;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::authz::Scope;
use crate::error::{Error, Result};
use crate::hypervisor::HostVm;
use crate::model::{
    Event, EventNumber, Fact, HostId, HostRecord, Image, ImageId, ObservedSpec, Operation, OperationId, OwnerId,
    PageRequest, Restore, Vm, VmId, VmPhase, VmRecord, VmState, VmStatus,
};
use crate::store::Snapshot;
pub(crate) use held::Held;
use people::People;
use tail::Tail;

/// Which VMs of a list; every condition that is given must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VmQuery {
    /// In this state.
    pub state: Option<VmState>,
    /// On the host of this name.
    pub host: Option<String>,
    /// Of this owner.
    pub owner: Option<OwnerId>,
    /// Of exactly this name.
    pub name: Option<String>,
    /// With this label: `key` alone, or `key=value`.
    pub label: Option<String>,
}

impl VmQuery {
    fn matches(&self, vm: &Vm) -> bool {
        let label_fits = |label: &String| match label.split_once('=') {
            Some((key, value)) => vm.labels.get(key).is_some_and(|found| found == value),
            None => vm.labels.contains_key(label),
        };
        self.state.is_none_or(|state| vm.status.state == state)
            && self.host.as_ref().is_none_or(|host| vm.host == *host)
            && self.owner.is_none_or(|owner| vm.owner == Some(owner))
            && self.name.as_ref().is_none_or(|name| vm.name == *name)
            && self.label.as_ref().is_none_or(label_fits)
    }
}

/// One VM as it is kept: the parts, the view made of them, and the view rendered.
#[derive(Debug, Clone, Default)]
struct Entry {
    record: Option<Arc<VmRecord>>,
    seen: Option<(HostId, Arc<HostVm>)>,
    operation: Option<OperationId>,
    shown: Option<Shown>,
}

/// A VM ready to be shown.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    /// The view.
    pub(crate) vm: Arc<Vm>,
    /// The record behind it.
    pub(crate) record: Option<Arc<VmRecord>>,
    /// What the host shows.
    pub(crate) seen: Option<Arc<HostVm>>,
    /// The host.
    pub(crate) host: HostId,
    /// The view as JSON, without the two closing braces and the host's `observed_at` and `stale`.
    pub(crate) json: Bytes,
}

/// Keys by which VMs are found without a look at all of them.
#[derive(Debug)]
struct Index<K>(HashMap<K, BTreeSet<VmId>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Index<K> {
    fn add(&mut self, key: K, vm: VmId) {
        self.0.entry(key).or_default().insert(vm);
    }

    fn remove(&mut self, key: &K, vm: VmId) {
        if let Some(vms) = self.0.get_mut(key) {
            vms.remove(&vm);
            if vms.is_empty() {
                self.0.remove(key);
            }
        }
    }
}

#[derive(Debug, Default)]
struct State {
    event: EventNumber,
    vms_changed: EventNumber,
    vms: BTreeMap<VmId, Entry>,
    by_owner: Index<OwnerId>,
    by_host: Index<String>,
    by_state: Index<VmState>,
    by_name: Index<String>,
    operations: BTreeMap<OperationId, Arc<Operation>>,
    images: BTreeMap<ImageId, Arc<Image>>,
    hosts: BTreeMap<HostId, Arc<HostRecord>>,
    people: People,
    restores: Vec<Arc<Restore>>,
}

/// What this process knows.
#[derive(Debug)]
pub(crate) struct Inventory {
    state: RwLock<State>,
    tail: RwLock<Tail>,
    applied: watch::Sender<EventNumber>,
}

impl Inventory {
    pub(crate) fn new() -> Self {
        Self { state: RwLock::default(), tail: RwLock::default(), applied: watch::Sender::new(-1) }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything and starts from `snapshot`.
    pub(crate) fn load(&self, snapshot: Snapshot) {
        let mut state = State { event: snapshot.event, vms_changed: snapshot.event, ..State::default() };
        for record in snapshot.hosts {
            state.hosts.insert(record.id, Arc::new(record));
        }
        state.people = People::new(snapshot.owners, snapshot.users, snapshot.sessions, snapshot.tokens);
        state.restores.extend(snapshot.restores.into_iter().map(Arc::new));
        state.images.extend(snapshot.images.into_iter().map(|image| (image.id, Arc::new(image))));
        for record in snapshot.vms {
            let id = record.id;
            state.vms.entry(id).or_default().record = Some(Arc::new(record));
        }
        for (host, seen, _) in snapshot.statuses {
            let id = seen.id;
            state.vms.entry(id).or_default().seen = Some((host, Arc::new(seen)));
        }
        for operation in snapshot.operations {
            state.apply_operation(operation);
        }
        let ids: Vec<VmId> = state.vms.keys().copied().collect();
        for id in ids {
            state.show(id);
        }
        self.tail.write().unwrap_or_else(PoisonError::into_inner).restart(snapshot.event);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        self.applied.send_replace(snapshot.event);
    }

    /// Applies the next events of the log, in order.
    pub(crate) fn apply(&self, events: Vec<Event>) {
        let last = {
            // Both at once: whoever sees a number in the one finds its event in the other.
            let mut tail = self.tail.write().unwrap_or_else(PoisonError::into_inner);
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                if event.number <= state.event {
                    continue;
                }
                tail.push(&event);
                state.event = event.number;
                state.apply(event.fact);
            }
            state.event
        };
        self.applied.send_replace(last);
    }

    /// The number of the last event applied; -1 before the first load.
    pub(crate) fn event(&self) -> EventNumber {
        *self.applied.borrow()
    }

    /// Follows [`Inventory::event`].
    pub(crate) fn follow(&self) -> watch::Receiver<EventNumber> {
        self.applied.subscribe()
    }

    /// Returns once event `number` is applied.
    pub(crate) async fn wait_for(&self, number: EventNumber, at_most: Duration) -> Result<()> {
        let mut applied = self.follow();
        let reached = applied.wait_for(|applied| *applied >= number);
        match tokio::time::timeout(at_most, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(Error::unavailable("This server's view of that change").with_context("event", number))
            }
        }
    }

    /// Rises whenever a VM that could be listed changes.
    pub(crate) fn vms_changed(&self) -> EventNumber {
        self.read().vms_changed
    }

    pub(crate) fn vm(&self, id: VmId) -> Option<Shown> {
        self.read().vms.get(&id).and_then(|entry| entry.shown.clone())
    }

    /// At most `limit` VMs and whether there are more.
    pub(crate) fn vms(&self, scope: &Scope, query: &VmQuery, page: PageRequest) -> (Vec<Shown>, bool) {
        let state = self.read();
        let wanted = |shown: &Shown| scope.contains(shown.vm.owner, Some(shown.vm.id)) && query.matches(&shown.vm);
        let after = page.after().map(VmId);
        let limit = page.limit() as usize;
        let mut found: Vec<Shown> = match state.candidates(scope, query) {
            Some(ids) => {
                let rest = ids.range((range_start(after), std::ops::Bound::Unbounded));
                let shown = rest.filter_map(|id| state.vms.get(id)?.shown.as_ref());
                shown.filter(|shown| wanted(shown)).take(limit + 1).cloned().collect()
            }
            None => {
                let rest = state.vms.range((range_start(after), std::ops::Bound::Unbounded));
                let shown = rest.filter_map(|(_, entry)| entry.shown.as_ref());
                shown.filter(|shown| wanted(shown)).take(limit + 1).cloned().collect()
            }
        };
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }

    /// What the inventory holds of a host: VM and what was seen.
    pub(crate) fn seen_on(&self, host: HostId) -> Vec<Arc<HostVm>> {
        let state = self.read();
        let seen = state.vms.values().filter_map(|entry| entry.seen.as_ref());
        seen.filter(|(on, _)| *on == host).map(|(_, seen)| Arc::clone(seen)).collect()
    }

    pub(crate) fn name_taken(&self, owner: OwnerId, name: &str) -> Option<VmId> {
        let state = self.read();
        let named = state.by_name.0.get(name)?;
        named.iter().copied().find(|id| {
            let shown = state.vms.get(id).and_then(|entry| entry.shown.as_ref());
            shown.is_some_and(|shown| shown.vm.owner == Some(owner))
        })
    }

    /// The VMs that need an image, by name.
    pub(crate) fn vms_needing(&self, image: ImageId) -> Vec<String> {
        let state = self.read();
        let records = state.vms.values().filter_map(|entry| entry.record.as_ref());
        records.filter(|record| record.spec.needs().any(|needed| needed == image)).map(|r| r.name.clone()).collect()
    }

    /// How many VMs of an owner there are.
    pub(crate) fn owns(&self, owner: OwnerId) -> usize {
        self.read().by_owner.0.get(&owner).map_or(0, BTreeSet::len)
    }

    /// An operation that is not finished.
    pub(crate) fn operation(&self, id: OperationId) -> Option<Arc<Operation>> {
        self.read().operations.get(&id).cloned()
    }

    /// Every operation that is not finished.
    pub(crate) fn operations(&self) -> Vec<Arc<Operation>> {
        self.read().operations.values().cloned().collect()
    }

    /// The operations of a host that are not finished.
    pub(crate) fn operations_of(&self, host: HostId) -> Vec<Arc<Operation>> {
        self.read().operations.values().filter(|operation| operation.host == host).cloned().collect()
    }

    pub(crate) fn image(&self, id: ImageId) -> Option<Arc<Image>> {
        self.read().images.get(&id).cloned()
    }

    pub(crate) fn images(&self) -> Vec<Arc<Image>> {
        self.read().images.values().cloned().collect()
    }

    /// The restores that were noticed, oldest first.
    pub(crate) fn restores(&self) -> Vec<Arc<Restore>> {
        self.read().restores.clone()
    }

    /// The restore by which the event of this number was lost.
    pub(crate) fn lost(&self, number: EventNumber) -> Option<Arc<Restore>> {
        self.read().restores.iter().rev().find(|restore| restore.lost(number)).cloned()
    }

    /// Every VM that could be shown.
    pub(crate) fn all_vms(&self) -> Vec<Shown> {
        self.read().vms.values().filter_map(|entry| entry.shown.clone()).collect()
    }

    pub(crate) fn host_name(&self, id: HostId) -> String {
        self.read().hosts.get(&id).map_or_else(|| id.to_string(), |record| record.name.clone())
    }

    pub(crate) fn host_labels(&self, id: HostId) -> BTreeMap<String, String> {
        self.read().hosts.get(&id).map(|record| record.labels.clone()).unwrap_or_default()
    }
}

fn range_start(after: Option<VmId>) -> std::ops::Bound<VmId> {
    after.map_or(std::ops::Bound::Included(VmId(Uuid::nil())), std::ops::Bound::Excluded)
}

impl State {
    /// The smallest indexed set that holds every VM wanted; none when all have to be looked at.
    fn candidates(&self, scope: &Scope, query: &VmQuery) -> Option<BTreeSet<VmId>> {
        if let Some(vms) = &scope.vms {
            return Some(vms.clone());
        }
        let mut sets: Vec<Option<&BTreeSet<VmId>>> = Vec::new();
        if let Some(name) = &query.name {
            sets.push(self.by_name.0.get(name));
        }
        if let Some(owner) = &query.owner {
            sets.push(self.by_owner.0.get(owner));
        }
        if let Some(owners) = &scope.owners {
            if let [only] = owners.iter().collect::<Vec<_>>()[..] {
                sets.push(self.by_owner.0.get(only));
            } else {
                return Some(owners.iter().filter_map(|owner| self.by_owner.0.get(owner)).flatten().copied().collect());
            }
        }
        if let Some(state) = &query.state {
            sets.push(self.by_state.0.get(state));
        }
        if let Some(host) = &query.host {
            sets.push(self.by_host.0.get(host));
        }
        let smallest = sets.into_iter().min_by_key(|set| set.map_or(0, BTreeSet::len))?;
        Some(smallest.cloned().unwrap_or_default())
    }

    fn apply(&mut self, fact: Fact) {
        match fact {
            Fact::Vm { record } => self.change(record.id, |entry| entry.record = Some(Arc::new(record))),
            Fact::VmGone { id, .. } => self.change(id, |entry| entry.record = None),
            Fact::Status { host, seen, .. } => {
                self.change(seen.id, |entry| entry.seen = Some((host, Arc::new(seen))));
            }
            Fact::StatusGone { host, id, .. } => self.change(id, |entry| {
                if entry.seen.as_ref().is_some_and(|(on, _)| *on == host) {
                    entry.seen = None;
                }
            }),
            Fact::Operation { operation } => self.apply_operation(operation),
            Fact::Image { image } => drop(self.images.insert(image.id, Arc::new(image))),
            Fact::ImageGone { id } => drop(self.images.remove(&id)),
            Fact::Host { record } => drop(self.hosts.insert(record.id, Arc::new(record))),
            Fact::User { user } => self.people.user(user),
            Fact::UserGone { id } => self.people.user_gone(id),
            Fact::Owner { record } => self.people.owner(record),
            Fact::OwnerGone { id } => self.people.owner_gone(id),
            Fact::Session { record } => self.people.session(record),
            Fact::SessionGone { id } => self.people.session_gone(id),
            Fact::Token { record } => self.people.token(record),
            Fact::TokenGone { id } => self.people.token_gone(id),
            Fact::Restored { restore } => self.restores.push(Arc::new(restore)),
        }
    }

    fn apply_operation(&mut self, operation: Operation) {
        let id = operation.id;
        let finished = operation.state.is_finished();
        let vm = operation.vm_id;
        if finished {
            self.operations.remove(&id);
        } else {
            self.operations.insert(id, Arc::new(operation));
        }
        let Some(vm) = vm else { return };
        let shown = self.vms.get(&vm).and_then(|entry| entry.operation);
        let now = if finished { (shown != Some(id)).then_some(shown).flatten() } else { shown.max(Some(id)) };
        if now != shown {
            self.change(vm, |entry| entry.operation = now);
        }
    }

    fn change(&mut self, id: VmId, change: impl FnOnce(&mut Entry)) {
        change(self.vms.entry(id).or_default());
        self.vms_changed = self.event;
        self.show(id);
    }

    /// Makes the view of a VM anew, and its place in every index.
    fn show(&mut self, id: VmId) {
        let Some(entry) = self.vms.get_mut(&id) else { return };
        if let Some(before) = entry.shown.take() {
            if let Some(owner) = before.vm.owner {
                self.by_owner.remove(&owner, id);
            }
            self.by_host.remove(&before.vm.host, id);
            self.by_state.remove(&before.vm.status.state, id);
            self.by_name.remove(&before.vm.name, id);
        }
        let host = match (&entry.record, &entry.seen) {
            (Some(record), _) => record.host,
            (None, Some((host, _))) => *host,
            (None, None) => {
                if entry.operation.is_none() {
                    self.vms.remove(&id);
                }
                return;
            }
        };
        let host_name = self.hosts.get(&host).map_or_else(|| host.to_string(), |record| record.name.clone());
        let vm = Arc::new(view(entry, host_name, id, self.event));
        if let Some(owner) = vm.owner {
            self.by_owner.add(owner, id);
        }
        self.by_host.add(vm.host.clone(), id);
        self.by_state.add(vm.status.state, id);
        self.by_name.add(vm.name.clone(), id);
        entry.shown = Some(Shown {
            json: super::render::open_json(&vm),
            vm,
            record: entry.record.clone(),
            seen: entry.seen.as_ref().map(|(_, seen)| Arc::clone(seen)),
            host,
        });
    }
}

fn view(entry: &Entry, host: String, id: VmId, revision: EventNumber) -> Vm {
    let seen = entry.seen.as_ref().map(|(_, seen)| seen.as_ref());
    let status = |state| VmStatus {
        state,
        reason: seen.and_then(|seen| seen.reason.clone()),
        addresses: seen.map(|seen| seen.addresses.clone()).unwrap_or_default(),
        revision,
    };
    let Some(record) = &entry.record else {
        return Vm {
            id,
            name: seen.map(|seen| seen.name.clone()).unwrap_or_default(),
            description: String::new(),
            host,
            owner: None,
            managed: false,
            spec: None,
            observed_spec: seen.map(observed),
            labels: BTreeMap::new(),
            autostart: seen.is_some_and(|seen| seen.autostart),
            created_at: None,
            updated_at: None,
            operation: entry.operation,
            version: 0,
            status: status(seen.map_or(VmState::Unknown, |seen| seen.state)),
        };
    };
    let state = match (record.phase, seen) {
        (VmPhase::Creating, _) => VmState::Creating,
        (VmPhase::Deleting, _) => VmState::Deleting,
        (VmPhase::Defined, None) => VmState::Missing,
        (VmPhase::Defined, Some(seen)) => seen.state,
    };
    let differs = |seen: &&HostVm| seen.vcpus != record.spec.vcpus || seen.memory_mib != record.spec.memory_mib;
    Vm {
        id,
        name: record.name.clone(),
        description: record.description.clone(),
        host,
        owner: Some(record.owner),
        managed: true,
        spec: Some(record.spec.clone()),
        observed_spec: seen.filter(differs).map(observed),
        labels: record.labels.clone(),
        autostart: seen.map_or(record.autostart, |seen| seen.autostart),
        created_at: Some(record.created_at),
        updated_at: Some(record.updated_at),
        operation: entry.operation,
        version: record.version,
        status: status(state),
    }
}

fn observed(seen: &HostVm) -> ObservedSpec {
    ObservedSpec { vcpus: seen.vcpus, memory_mib: seen.memory_mib }
}
