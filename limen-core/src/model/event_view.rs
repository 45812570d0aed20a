//! Events as callers see them: each change with what may be told of it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Address, EventNumber, Image, Operation, OperationId, OwnerId, VmPhase, VmSpec, VmState};

macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal;)+) => {
        /// What an event is about. New kinds may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum EventKind { $($(#[$doc])+ $kind,)+ }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind,)+];

            /// The kind's name on every surface.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(EventKind::$kind => $name,)+ }
            }
        }
    };
}

kinds! {
    /// A VM's record is new or changed.
    Vm = "vm";
    /// A VM is gone.
    VmGone = "vm_gone";
    /// A host shows a VM anew, or differently.
    Status = "status";
    /// A host shows a VM no more.
    StatusGone = "status_gone";
    /// An operation is recorded, further, or finished.
    Operation = "operation";
    /// An image is new or changed.
    Image = "image";
    /// An image is gone.
    ImageGone = "image_gone";
    /// A host's record is new or changed.
    Host = "host";
    /// A user is new or changed.
    User = "user";
    /// A user is gone.
    UserGone = "user_gone";
    /// An owner is new.
    Owner = "owner";
    /// An owner is gone.
    OwnerGone = "owner_gone";
    /// Somebody logged in.
    Session = "session";
    /// A session ended.
    SessionGone = "session_gone";
    /// An API token was made.
    Token = "token";
    /// An API token is gone.
    TokenGone = "token_gone";
    /// The Store was restored from a copy of before.
    Restored = "restored";
}

/// One event as a caller may see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "ToldEvent")]
pub struct EventView {
    /// Its number in the log.
    pub number: EventNumber,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// What it is about.
    pub kind: EventKind,
    /// The object that it is about.
    pub id: Uuid,
    /// Whose object that is; none for what belongs to nobody in particular.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerId>,
    /// The operation that made the change; none for one seen from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// How the object is from now on. None for what is gone, and for users, owners, sessions and
    /// tokens: of them only the id is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<EventObject>,
}

/// The object of an event, as it is from then on. Its fields bear the names that the object's own
/// view has.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum EventObject {
    /// Of [`EventKind::Vm`].
    Vm(Box<VmObject>),
    /// Of [`EventKind::Status`].
    Status(Box<StatusObject>),
    /// Of [`EventKind::Operation`].
    Operation(Box<Operation>),
    /// Of [`EventKind::Image`].
    Image(Box<Image>),
    /// Of [`EventKind::Host`].
    Host(HostObject),
}

/// A VM's record: what [`Vm`](super::Vm) shows but for the status, which has events of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmObject {
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The name of its host.
    pub host: String,
    /// The wanted hardware.
    pub spec: VmSpec,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the host shall start it when it boots.
    pub autostart: bool,
    /// `creating` or `deleting` is what the VM's state is for as long as this is; else its state
    /// is its status', and `missing` while there is none.
    pub phase: VmPhase,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the record last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// What a host shows of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusObject {
    /// The name of the host.
    pub host: String,
    /// What the definition is called, where LIMEN has no record of the VM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Running, paused, shut_off, saved, crashed or unknown.
    pub state: VmState,
    /// Why it came to this state.
    pub reason: Option<String>,
    /// The guest's addresses, as far as they are known.
    pub addresses: Vec<Address>,
    /// Whether the host starts it when it boots.
    pub autostart: bool,
    /// Virtual CPUs at the next boot.
    pub vcpus: u32,
    /// Memory at the next boot, in MiB.
    pub memory_mib: u64,
}

/// A host's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostObject {
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// An event as it is read: what its object is its kind tells.
#[derive(Deserialize)]
struct ToldEvent {
    number: EventNumber,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    kind: EventKind,
    id: Uuid,
    owner: Option<OwnerId>,
    operation: Option<OperationId>,
    object: Option<serde_json::Value>,
}

impl TryFrom<ToldEvent> for EventView {
    type Error = serde_json::Error;

    fn try_from(told: ToldEvent) -> Result<Self, Self::Error> {
        use serde_json::from_value;

        let ToldEvent { number, at, kind, id, owner, operation, object } = told;
        let object = match (kind, object) {
            (EventKind::Vm, Some(object)) => Some(EventObject::Vm(from_value(object)?)),
            (EventKind::Status, Some(object)) => Some(EventObject::Status(from_value(object)?)),
            (EventKind::Operation, Some(object)) => Some(EventObject::Operation(from_value(object)?)),
            (EventKind::Image, Some(object)) => Some(EventObject::Image(from_value(object)?)),
            (EventKind::Host, Some(object)) => Some(EventObject::Host(from_value(object)?)),
            _ => None,
        };
        Ok(Self { number, at, kind, id, owner, operation, object })
    }
}
