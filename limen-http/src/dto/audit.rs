//! The audit.

use limen_core::Action;
use limen_core::model::{self, AuditOutcome, AuditQuery, UserId};
use poem_openapi::Object;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::operation::ActorSchema;
use super::{Described, Wire};

/// Which records are wanted; a record must fit all that is given.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditListQuery {
    /// How many items at most.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<Uuid>,
    /// By the actor of this label: `user:NAME`, `token:NAME/TOKEN`, `local`, `system:PART`.
    actor: Option<String>,
    /// By this user, in a session or with a token.
    user_id: Option<Uuid>,
    /// Of this action.
    action: Option<Wire<Action>>,
    /// On one thing (`vm:ID`), or on all of a kind (`vm`).
    resource: Option<String>,
    /// With this outcome.
    outcome: Option<Wire<AuditOutcome>>,
    /// Under this request id.
    request_id: Option<String>,
    /// At this time or later (RFC 3339).
    #[serde(default, with = "time::serde::rfc3339::option")]
    from: Option<OffsetDateTime>,
    /// Before this time (RFC 3339).
    #[serde(default, with = "time::serde::rfc3339::option")]
    to: Option<OffsetDateTime>,
}

impl From<AuditListQuery> for AuditQuery {
    fn from(asked: AuditListQuery) -> Self {
        let AuditListQuery { actor, user_id, action, resource, outcome, request_id, from, to, .. } = asked;
        Self {
            actor,
            user: user_id.map(UserId),
            action: action.map(|action| action.0),
            resource,
            outcome: outcome.map(|outcome| outcome.0),
            request_id,
            from,
            to,
        }
    }
}

/// One line of the audit.
#[derive(Debug, Object)]
#[oai(rename = "AuditRecord")]
pub(crate) struct AuditRecordSchema {
    /// The record; ordered by time.
    id: Uuid,
    /// When; of a refusal that was repeated, when it was first.
    at: OffsetDateTime,
    /// How often: refusals that are repeated are one record.
    count: u64,
    /// When it was last, where it was more than once.
    last_at: Option<OffsetDateTime>,
    /// Who.
    actor: ActorSchema,
    /// From where.
    origin: Option<String>,
    /// Under which request id.
    request_id: String,
    /// What.
    action: Wire<Action>,
    /// On what: `vm:ID`, `user:ID`, …; the kind alone where it was no single thing.
    resource: String,
    /// How it went.
    outcome: Wire<AuditOutcome>,
    /// The operation that does it.
    operation: Option<Uuid>,
    /// A word on it: the power action, the error's code, why it was refused.
    detail: Option<String>,
}

impl Described for model::AuditRecord {
    type Schema = AuditRecordSchema;
}
