//! A Store that was restored: what a host remembers of it, and what was noticed.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{EventNumber, InstallId, Operation, VmId};

/// What a host remembers of the Store behind it: that it had got as far as one event. A Store that
/// has not, or has another event under this number, was restored from a copy of before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// The installation.
    pub install: InstallId,
    /// The Store's epoch.
    pub epoch: i64,
    /// The number of an event of it.
    pub event: EventNumber,
    /// When that event was recorded, in microseconds since 1970: it tells the event from another
    /// one of the same number. 0 where that is not known.
    pub at: i64,
}

impl Witness {
    /// Whether it has seen more than `other`.
    #[must_use]
    pub const fn is_newer_than(&self, other: &Witness) -> bool {
        self.epoch > other.epoch || (self.epoch == other.epoch && self.event > other.event)
    }
}

/// One time that the Store was found to be older than a host knew it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    /// The epoch that began with it.
    pub epoch: i64,
    /// When it was noticed.
    #[serde(with = "time::serde::rfc3339")]
    pub noticed_at: OffsetDateTime,
    /// The name of the host whose memory told it.
    pub host: String,
    /// The last event that the Store had.
    pub store_event: EventNumber,
    /// When that was recorded; none where it is kept no longer.
    #[serde(with = "time::serde::rfc3339::option")]
    pub store_event_at: Option<OffsetDateTime>,
    /// The last event that the host knows of.
    pub host_event: EventNumber,
    /// When that was recorded.
    #[serde(with = "time::serde::rfc3339::option")]
    pub host_event_at: Option<OffsetDateTime>,
    /// Events after this number and before `next_event` belong to the time that was lost.
    pub kept_event: EventNumber,
    /// Events have numbers from this one on since: none is given out twice.
    pub next_event: EventNumber,
    /// How many operations were held.
    pub operations_held: u64,
    /// How many sessions were ended.
    pub sessions_ended: u64,
}

impl Restore {
    /// Whether an event of this number is one of the time that was lost.
    #[must_use]
    pub const fn lost(&self, number: EventNumber) -> bool {
        self.kept_event < number && number < self.next_event - 1
    }
}

/// What is to be seen to after a restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// Every restore that was noticed, the newest first; none where the Store never was.
    pub restores: Vec<Restore>,
    /// The operations that are held: each is to be resumed or abandoned.
    pub held: Vec<Operation>,
    /// VMs of this installation's making that hosts have and the Store does not.
    pub unrecorded: Vec<RestoredVm>,
    /// VMs that the Store has and their hosts have not.
    pub missing: Vec<RestoredVm>,
}

/// A VM that Store and host do not agree about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredVm {
    /// The VM.
    pub id: VmId,
    /// Its name; that of its definition where there is no record.
    pub name: String,
    /// The name of its host.
    pub host: String,
}
