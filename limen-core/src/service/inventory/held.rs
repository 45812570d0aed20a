//! The inventory as a list of what it holds, to be compared with the Store.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inventory;
use crate::hypervisor::HostVm;
use crate::model::{
    EventNumber, HostId, HostRecord, Image, Operation, OwnerRecord, Restore, SessionRecord, TokenRecord, User, VmRecord,
};

/// One thing that the inventory holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Held {
    Vm(Arc<VmRecord>),
    Status(HostId, Arc<HostVm>),
    Operation(Arc<Operation>),
    Image(Arc<Image>),
    Host(Arc<HostRecord>),
    Owner(OwnerRecord),
    User(Arc<User>),
    Session(SessionRecord),
    Token(Arc<TokenRecord>),
    Restore(Arc<Restore>),
}

impl Inventory {
    /// Everything that it holds by name (`vm:<id>`, …), and the event that it is as of.
    pub(crate) fn held(&self) -> (EventNumber, BTreeMap<String, Held>) {
        let state = self.read();
        let mut held = BTreeMap::new();
        for (id, entry) in &state.vms {
            let record = entry.record.as_ref().map(|record| (format!("vm:{id}"), Held::Vm(Arc::clone(record))));
            let status = entry.seen.as_ref();
            let status = status.map(|(on, seen)| (format!("status:{id}"), Held::Status(*on, Arc::clone(seen))));
            held.extend(record.into_iter().chain(status));
        }
        for (id, operation) in &state.operations {
            held.insert(format!("operation:{id}"), Held::Operation(Arc::clone(operation)));
        }
        held.extend(state.images.iter().map(|(id, image)| (format!("image:{id}"), Held::Image(Arc::clone(image)))));
        held.extend(state.hosts.iter().map(|(id, host)| (format!("host:{id}"), Held::Host(Arc::clone(host)))));
        let restores = state.restores.iter();
        held.extend(restores.map(|restore| (format!("restore:{}", restore.epoch), Held::Restore(Arc::clone(restore)))));
        state.people.held(&mut held);
        (state.event, held)
    }
}
