//! Operations: durable changes, and the journal of their steps.
//!
//! ```text
//! queued ──► running ──► succeeded
//!               │
//!               └──► undoing ──► failed | cancelled
//!
//! any of the three unfinished ──► held ──► resumed: where it was | abandoned: failed
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::OffsetDateTime;

use super::{HostId, ImageId, OperationId, OwnerId, UserId, VmId};
use crate::error::QuotaFigures;

/// What an operation does: the name of the method that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Makes a VM.
    CreateVm,
    /// Deletes a VM and its volumes.
    DeleteVm,
    /// Changes a VM's power.
    ChangePower,
    /// Changes a VM's record and definition.
    UpdateVm,
    /// Adds an image.
    AddImage,
    /// Deletes an image and its copies on hosts.
    DeleteImage,
}

impl OperationKind {
    /// Every kind.
    pub const ALL: [OperationKind; 6] = [
        OperationKind::CreateVm,
        OperationKind::DeleteVm,
        OperationKind::ChangePower,
        OperationKind::UpdateVm,
        OperationKind::AddImage,
        OperationKind::DeleteImage,
    ];

    /// The kind's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OperationKind::CreateVm => "create_vm",
            OperationKind::DeleteVm => "delete_vm",
            OperationKind::ChangePower => "change_power",
            OperationKind::UpdateVm => "update_vm",
            OperationKind::AddImage => "add_image",
            OperationKind::DeleteImage => "delete_image",
        }
    }
}

/// Where an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Recorded; nothing has been done yet.
    Queued,
    /// At work.
    Running,
    /// Taking back what it did; it is retried while the host is away.
    Undoing,
    /// The Store was restored from a copy of before: what the operation has done since is not known.
    /// It keeps its lock, and nothing is done until somebody resumes or abandons it.
    Held,
    /// Done.
    Succeeded,
    /// Not done; nothing is left of it unless `error` says so.
    Failed,
    /// Not done because somebody cancelled it, or another operation took its place.
    Cancelled,
}

impl OperationState {
    /// Every state.
    pub const ALL: [OperationState; 7] = [
        OperationState::Queued,
        OperationState::Running,
        OperationState::Undoing,
        OperationState::Held,
        OperationState::Succeeded,
        OperationState::Failed,
        OperationState::Cancelled,
    ];

    /// The state's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            OperationState::Queued => "queued",
            OperationState::Running => "running",
            OperationState::Undoing => "undoing",
            OperationState::Held => "held",
            OperationState::Succeeded => "succeeded",
            OperationState::Failed => "failed",
            OperationState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        matches!(self, OperationState::Succeeded | OperationState::Failed | OperationState::Cancelled)
    }
}

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f64,
    /// Bytes written, where bytes are written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_done: Option<u64>,
    /// Bytes to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
}

/// Who asked for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ActorRef {
    /// [`Actor::label`](crate::Actor::label).
    pub label: String,
    /// The user, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

/// Why an operation did not succeed; what a problem document shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationError {
    /// [`ErrorKind::code`](crate::ErrorKind::code).
    pub code: crate::ErrorKind,
    /// One sentence that any client may read.
    pub detail: String,
    /// The argument that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The figures of a refused reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaFigures>,
}

impl From<&crate::Error> for OperationError {
    fn from(error: &crate::Error) -> Self {
        Self {
            code: error.kind(),
            detail: error.to_string(),
            field: error.field().map(str::to_owned),
            quota: error.quota().cloned(),
        }
    }
}

impl From<OperationError> for crate::Error {
    fn from(error: OperationError) -> Self {
        let mut built = match error.field {
            Some(field) if error.code == crate::ErrorKind::Invalid => crate::Error::invalid(field, error.detail),
            _ => crate::Error::new(error.code, error.detail),
        };
        if let Some(quota) = error.quota {
            built = built.with_quota(quota);
        }
        built
    }
}

/// An operation as callers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// The operation.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// Where it is.
    pub state: OperationState,
    /// The host whose owner runs it.
    pub host: HostId,
    /// The VM that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
    /// The image that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<ImageId>,
    /// Whose object it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<OwnerId>,
    /// Who asked.
    pub actor: ActorRef,
    /// The request that it came with.
    pub request_id: String,
    /// The step at work, or the last one.
    pub step: Option<String>,
    /// How far it is.
    pub progress: Progress,
    /// Whether somebody asked to cancel it.
    pub cancel_requested: bool,
    /// Why it did not succeed.
    pub error: Option<OperationError>,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ended.
    #[serde(with = "time::serde::rfc3339::option")]
    pub finished_at: Option<OffsetDateTime>,
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Its call may have been made; its outcome is not recorded.
    Started,
    /// Its effect is there.
    Done,
    /// Its effect was taken back.
    Undone,
}

/// One step of an operation, as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// The step's name, as in the table of its kind's version.
    pub name: String,
    /// Where it is.
    pub state: StepState,
    /// What it left for later steps.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub output: Value,
}

/// What the runner needs to go on with an operation after a crash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Journal {
    /// The version of the kind's steps that it was started with.
    pub kind_version: u32,
    /// The plan made before the first step: parameters and every id that the steps use.
    pub plan: Value,
    /// The steps so far, in order.
    pub steps: Vec<StepRecord>,
    /// Whether the operation only waits for the guest and gives way to a forced action.
    pub waiting: bool,
    /// When the runner last recorded something of it; none before that.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<OffsetDateTime>,
    /// The state in which it was held; it goes on from there when it is resumed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<OperationState>,
    /// Whether it was held and resumed: more of it may be done than the steps say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resumed: bool,
}
