//! What of an event an actor may see.

use super::Shared;
use crate::authz::{Authz, Decision, Resource, Scope};
use crate::context::{Action, Actor};
use crate::hypervisor::HostVm;
use crate::model::{Event, EventObject, EventView, Fact, HostObject, OwnerId, StatusObject, VmObject, VmRecord};

/// What an actor sees, as the policy says.
#[derive(Debug)]
pub(super) struct Sight {
    scope: Scope,
    images: bool,
    hosts: bool,
}

impl Sight {
    pub(super) fn of(authz: &dyn Authz, actor: &Actor) -> Self {
        let may = |action| authz.decide(actor, action, Resource::Shared) == Decision::Allow;
        Self { scope: authz.list_scope(actor), images: may(Action::ListImages), hosts: may(Action::ListHosts) }
    }

    /// The event as the actor may see it; none when they may not know of it.
    pub(super) fn view(&self, event: &Event, shared: &Shared) -> Option<EventView> {
        let about = |owner, vm| self.scope.contains(owner, Some(vm));
        let host = |id| shared.inventory.host_name(id);
        let (id, owner, seen, object) = match &event.fact {
            Fact::Vm { record } => {
                let object = || EventObject::Vm(Box::new(vm(record, host(record.host))));
                let seen = about(Some(record.owner), record.id);
                (record.id.0, Some(record.owner), seen, seen.then(object))
            }
            Fact::VmGone { id, owner } => (id.0, Some(*owner), about(Some(*owner), *id), None),
            Fact::Status { host: on, seen: shown, owner, .. } => {
                let object = || EventObject::Status(Box::new(status(shown, host(*on), *owner)));
                let seen = about(*owner, shown.id);
                (shown.id.0, *owner, seen, seen.then(object))
            }
            Fact::StatusGone { id, owner, .. } => (id.0, *owner, about(*owner, *id), None),
            Fact::Operation { operation } => {
                let seen = self.scope.contains(operation.owner, operation.vm_id);
                let object = || EventObject::Operation(Box::new(operation.clone()));
                (operation.id.0, operation.owner, seen, seen.then(object))
            }
            Fact::Image { image } => {
                let object = || EventObject::Image(Box::new(image.clone()));
                (image.id.0, None, self.images, self.images.then(object))
            }
            Fact::ImageGone { id } => (id.0, None, self.images, None),
            Fact::Host { record } => {
                let object =
                    || EventObject::Host(HostObject { name: record.name.clone(), labels: record.labels.clone() });
                (record.id.0, None, self.hosts, self.hosts.then(object))
            }
            // Who there is, and how they come in: that something changed is told, to those who see
            // everything; what it is, nobody is told here.
            Fact::User { user } => (user.id.0, Some(user.owner), false, None),
            Fact::UserGone { id } => (id.0, None, false, None),
            Fact::Owner { record } => (record.id.0, Some(record.id), false, None),
            Fact::OwnerGone { id } => (id.0, Some(*id), false, None),
            Fact::Session { record } => (record.id.0, None, false, None),
            Fact::SessionGone { id } => (id.0, None, false, None),
            Fact::Token { record } => (record.token.id.0, None, false, None),
            Fact::TokenGone { id } => (id.0, None, false, None),
            // It has no object of its own; what it came to is told by `get_restored`.
            Fact::Restored { .. } => (shared.install.id.0, None, false, None),
        };
        (seen || self.scope == Scope::ALL).then(|| EventView {
            number: event.number,
            at: event.at,
            kind: event.fact.kind(),
            id,
            owner,
            operation: event.operation,
            object,
        })
    }
}

fn vm(record: &VmRecord, host: String) -> VmObject {
    VmObject {
        name: record.name.clone(),
        description: record.description.clone(),
        host,
        spec: record.spec.clone(),
        labels: record.labels.clone(),
        autostart: record.autostart,
        phase: record.phase,
        created_at: record.created_at,
        updated_at: record.updated_at,
    }
}

fn status(seen: &HostVm, host: String, owner: Option<OwnerId>) -> StatusObject {
    StatusObject {
        host,
        name: owner.is_none().then(|| seen.name.clone()),
        state: seen.state,
        reason: seen.reason.clone(),
        addresses: seen.addresses.clone(),
        autostart: seen.autostart,
        vcpus: seen.vcpus,
        memory_mib: seen.memory_mib,
    }
}
