//! The audit: who asked for what, from where, with which outcome.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ActorRef, OperationId};
use crate::context::Action;

/// How an action went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    /// It was accepted and is being done: an operation was recorded.
    Accepted,
    /// It was done.
    Succeeded,
    /// It was tried and not done.
    Failed,
    /// It was cancelled.
    Cancelled,
}

/// One line of the audit. Records are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The record; ordered by time.
    pub id: Uuid,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Who.
    pub actor: ActorRef,
    /// From where.
    pub origin: Option<IpAddr>,
    /// Under which request id.
    pub request_id: String,
    /// What.
    pub action: Action,
    /// On what: `vm:<id>`, `user:<id>`, …
    pub resource: String,
    /// How it went.
    pub outcome: AuditOutcome,
    /// The operation that does it.
    pub operation: Option<OperationId>,
    /// A word on it: the power action, the error's code.
    pub detail: Option<String>,
}
