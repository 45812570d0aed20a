//! The numbered log: every change of what callers can see, in the transaction that made it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    HostId, HostRecord, HostVm, Image, ImageId, Operation, OperationId, OwnerId, OwnerRecord, SessionId, SessionRecord,
    TokenId, TokenRecord, User, UserId, VmId, VmRecord,
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
    },
    /// A host shows a VM like this.
    Status {
        /// The host.
        host: HostId,
        /// What it shows.
        seen: HostVm,
        /// Rises with each change of what the host shows of this VM.
        revision: i64,
    },
    /// A host shows a VM no more.
    StatusGone {
        /// The host.
        host: HostId,
        /// The VM.
        id: VmId,
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
}
