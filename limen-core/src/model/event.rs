//! The numbered log: every change of what callers can see, in the transaction that made it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    EventKind, HostId, HostRecord, HostVm, Image, ImageId, Operation, OperationId, OwnerId, OwnerRecord, Restore,
    SessionId, SessionRecord, TokenId, TokenRecord, User, UserId, VmId, VmRecord,
};

/// The number of an event: dense, and in the order of commits. 0 is before the first.
pub type EventNumber = i64;

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub number: EventNumber,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The operation that made the change; none for one seen from outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// What is so from now on.
    pub fact: Fact,
}

/// What is so from an event on: the whole object, or that it is gone. Unknown facts are skipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// A VM's record is now this.
    Vm {
        /// The record.
        record: VmRecord,
    },
    /// A VM's record is gone.
    VmGone {
        /// The VM.
        id: VmId,
        /// Whose it was.
        owner: OwnerId,
    },
    /// A host shows a VM like this.
    Status {
        /// The host.
        host: HostId,
        /// What it shows.
        seen: HostVm,
        /// Rises with each change of what the host shows of this VM.
        revision: i64,
        /// Whose VM it is; none where there is no record of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerId>,
    },
    /// A host shows a VM no more.
    StatusGone {
        /// The host.
        host: HostId,
        /// The VM.
        id: VmId,
        /// Whose VM it is or was; none where there was no record of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<OwnerId>,
    },
    /// An operation is now this.
    Operation {
        /// The operation.
        operation: Operation,
    },
    /// An image is now this.
    Image {
        /// The image.
        image: Image,
    },
    /// An image is gone.
    ImageGone {
        /// The image.
        id: ImageId,
    },
    /// A host's record is now this.
    Host {
        /// The record.
        record: HostRecord,
    },
    /// A user is now this.
    User {
        /// The user.
        user: User,
    },
    /// A user is gone.
    UserGone {
        /// The user.
        id: UserId,
    },
    /// An owner is now this.
    Owner {
        /// The record.
        record: OwnerRecord,
    },
    /// An owner is gone.
    OwnerGone {
        /// The owner.
        id: OwnerId,
    },
    /// A session began.
    Session {
        /// The record.
        record: SessionRecord,
    },
    /// A session ended.
    SessionGone {
        /// The session.
        id: SessionId,
    },
    /// An API token was made.
    Token {
        /// The record.
        record: TokenRecord,
    },
    /// An API token is gone.
    TokenGone {
        /// The token.
        id: TokenId,
    },
    /// The Store was found to be restored: what anybody knows of it is to be read anew.
    Restored {
        /// What was noticed.
        restore: Restore,
    },
}

impl Fact {
    /// What kind of fact it is.
    #[must_use]
    pub const fn kind(&self) -> EventKind {
        match self {
            Fact::Vm { .. } => EventKind::Vm,
            Fact::VmGone { .. } => EventKind::VmGone,
            Fact::Status { .. } => EventKind::Status,
            Fact::StatusGone { .. } => EventKind::StatusGone,
            Fact::Operation { .. } => EventKind::Operation,
            Fact::Image { .. } => EventKind::Image,
            Fact::ImageGone { .. } => EventKind::ImageGone,
            Fact::Host { .. } => EventKind::Host,
            Fact::User { .. } => EventKind::User,
            Fact::UserGone { .. } => EventKind::UserGone,
            Fact::Owner { .. } => EventKind::Owner,
            Fact::OwnerGone { .. } => EventKind::OwnerGone,
            Fact::Session { .. } => EventKind::Session,
            Fact::SessionGone { .. } => EventKind::SessionGone,
            Fact::Token { .. } => EventKind::Token,
            Fact::TokenGone { .. } => EventKind::TokenGone,
            Fact::Restored { .. } => EventKind::Restored,
        }
    }
}
