//! The audit: who asked for what, from where, with which outcome.

use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::{Builder, Uuid};

use super::{ActorRef, OperationId, UserId};
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
    /// The actor may not do it: nothing was tried.
    Refused,
}

impl AuditOutcome {
    /// Every outcome.
    pub const ALL: [AuditOutcome; 5] = [
        AuditOutcome::Accepted,
        AuditOutcome::Succeeded,
        AuditOutcome::Failed,
        AuditOutcome::Cancelled,
        AuditOutcome::Refused,
    ];

    /// The outcome's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AuditOutcome::Accepted => "accepted",
            AuditOutcome::Succeeded => "succeeded",
            AuditOutcome::Failed => "failed",
            AuditOutcome::Cancelled => "cancelled",
            AuditOutcome::Refused => "refused",
        }
    }
}

/// One line of the audit. Records are only ever added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// The record, as [`id_at`](Self::id_at) makes it of `at`: so ordered by time.
    pub id: Uuid,
    /// When; of a refusal that was repeated, when it was first.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// How often. Only refusals are folded into one record: all else is 1.
    pub count: u64,
    /// When it was last, where it was more than once.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_at: Option<OffsetDateTime>,
    /// Who.
    pub actor: ActorRef,
    /// From where; of what was repeated, the first time.
    pub origin: Option<IpAddr>,
    /// Under which request id; of what was repeated, the first one.
    pub request_id: String,
    /// What.
    pub action: Action,
    /// On what: `vm:<id>`, `user:<id>`, …; the kind alone (`vm`) where it was no single thing.
    pub resource: String,
    /// How it went.
    pub outcome: AuditOutcome,
    /// The operation that does it.
    pub operation: Option<OperationId>,
    /// A word on it: the power action, the error's code, why it was refused.
    pub detail: Option<String>,
}

impl AuditRecord {
    /// A new id (UUID version 7) for a record of this time. Ids of one process are ordered as their
    /// times are, to the microsecond, and as they were made where those are the same.
    #[must_use]
    pub fn id_at(at: OffsetDateTime) -> Uuid {
        static MADE: OnceLock<AtomicU32> = OnceLock::new();
        let random = Uuid::new_v4().into_bytes();
        let made = MADE.get_or_init(|| {
            let [a, b, c, d, ..] = random;
            // Far from where it would begin anew.
            AtomicU32::new(u32::from_be_bytes([a, b, c, d]) >> 4)
        });
        let (millis, micros) = time_of_id(at);
        // The version takes the first four bits, the variant the first two of the third byte.
        let [a, b] = (micros << 2).to_be_bytes();
        let [c, d, e, f] = (made.fetch_add(1, Ordering::Relaxed) & 0x3fff_ffff).to_be_bytes();
        let [.., g, h, i, j] = random;
        Builder::from_unix_timestamp_millis(millis, &[a, b, c, d, e, f, g, h, i, j]).into_uuid()
    }

    /// No record of this time or a later one has a smaller id.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn first_id_at(at: OffsetDateTime) -> Uuid {
        Builder::from_unix_timestamp_millis(time_of_id(at).0, &[0; 10]).into_uuid()
    }
}

/// Milliseconds since 1970, and the microseconds beyond.
fn time_of_id(at: OffsetDateTime) -> (u64, u16) {
    let micros = u64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or_default();
    (micros / 1000, u16::try_from(micros % 1000).unwrap_or_default())
}

/// Which records of the audit: those that fit all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditQuery {
    /// Of the actor with this [label](crate::Actor::label): `user:ada`, `token:ada/backup`, `local`.
    pub actor: Option<String>,
    /// Of this user, in a session or by a token.
    pub user: Option<UserId>,
    /// Of this action.
    pub action: Option<Action>,
    /// On one thing (`vm:<id>`), or on things of one kind (`vm`).
    pub resource: Option<String>,
    /// With this outcome.
    pub outcome: Option<AuditOutcome>,
    /// Under this request id.
    pub request_id: Option<String>,
    /// Not before this time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub from: Option<OffsetDateTime>,
    /// Before this time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub to: Option<OffsetDateTime>,
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;

    #[test]
    fn ids_are_ordered_as_their_times_are() {
        let at = OffsetDateTime::UNIX_EPOCH + Duration::days(20_000);
        let micros = Duration::MICROSECOND;
        let times = [at - micros, at, at, at, at + micros, at + 999 * micros, at + 1000 * micros, at + Duration::DAY];
        let ids: Vec<Uuid> = times.iter().map(|at| AuditRecord::id_at(*at)).collect();
        assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let late = AuditRecord::id_at(at - Duration::SECOND);
        assert!(late < ids[0], "a record that is made late is where its time is");
        assert!(AuditRecord::first_id_at(at) <= ids[1] && AuditRecord::first_id_at(at) > ids[0]);
    }

    #[test]
    fn an_outcome_has_one_name() {
        for outcome in AuditOutcome::ALL {
            assert_eq!(serde_json::to_value(outcome).expect("JSON"), outcome.as_str());
        }
    }
}
