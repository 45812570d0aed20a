//! What is to be seen to after the Store was restored.

use limen_core::model;
use poem_openapi::Object;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Described;
use super::operation::OperationSchema;

/// One time that the store was found to be older than a host knew it.
#[derive(Debug, Object)]
#[oai(rename = "Restore")]
pub(crate) struct RestoreSchema {
    /// The epoch that began with it.
    epoch: i64,
    /// When it was noticed.
    noticed_at: OffsetDateTime,
    /// The host whose memory told it.
    host: String,
    /// The last event that the store had.
    store_event: i64,
    /// When that was recorded; null where it is kept no longer.
    store_event_at: Option<OffsetDateTime>,
    /// The last event that the host knows of.
    host_event: i64,
    /// When that was recorded.
    host_event_at: Option<OffsetDateTime>,
    /// Events after this number and before `next_event` belong to the time that was lost.
    kept_event: i64,
    /// Events have numbers from this one on since.
    next_event: i64,
    /// How many operations were held.
    operations_held: u64,
    /// How many sessions were ended.
    sessions_ended: u64,
}

/// A VM that store and host do not agree about.
#[derive(Debug, Object)]
#[oai(rename = "RestoredVm")]
pub(crate) struct RestoredVmSchema {
    /// The VM.
    id: Uuid,
    /// Its name; that of its definition where there is no record.
    name: String,
    /// The name of its host.
    host: String,
}

/// What is to be seen to after the store was restored.
#[derive(Debug, Object)]
#[oai(rename = "Restored")]
pub(crate) struct RestoredSchema {
    /// Every restore that was noticed, the newest first.
    restores: Vec<RestoreSchema>,
    /// The operations that are held: each is to be resumed or abandoned.
    held: Vec<OperationSchema>,
    /// VMs of this installation's making that hosts have and the store does not.
    unrecorded: Vec<RestoredVmSchema>,
    /// VMs that the store has and their hosts have not.
    missing: Vec<RestoredVmSchema>,
}

impl Described for model::Restored {
    type Schema = RestoredSchema;
}
