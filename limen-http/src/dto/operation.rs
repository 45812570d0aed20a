//! Operations.

use limen_core::ErrorKind;
use limen_core::model::{self, OperationKind, OperationState};
use poem_openapi::Object;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Described, Wire};

/// How far an operation is.
#[derive(Debug, Object)]
#[oai(rename = "Progress")]
pub(crate) struct ProgressSchema {
    /// 0 to 1.
    #[oai(validator(minimum(value = "0"), maximum(value = "1")))]
    fraction: f64,
    /// Bytes written, where bytes are written.
    #[oai(skip_serializing_if_is_none)]
    bytes_done: Option<u64>,
    /// Bytes to write.
    #[oai(skip_serializing_if_is_none)]
    bytes_total: Option<u64>,
}

/// Who asked.
#[derive(Debug, Object)]
#[oai(rename = "Actor")]
pub(super) struct ActorSchema {
    /// `user:NAME`, `local`, or a part of LIMEN itself: `system:PART`.
    label: String,
    /// The user, where it was one.
    #[oai(skip_serializing_if_is_none)]
    user: Option<Uuid>,
}

/// The figures of a refused reservation.
#[derive(Debug, Object)]
#[oai(rename = "QuotaFigures")]
pub(crate) struct QuotaFiguresSchema {
    /// What ran out.
    resource: String,
    /// The owner's limit.
    limit: i64,
    /// What was in use.
    used: i64,
}

/// Why an operation did not succeed.
#[derive(Debug, Object)]
#[oai(rename = "OperationError")]
pub(crate) struct OperationErrorSchema {
    /// The kind of error.
    code: Wire<ErrorKind>,
    /// What was wrong.
    detail: String,
    /// The field that it is about.
    #[oai(skip_serializing_if_is_none)]
    field: Option<String>,
    /// The figures of a refused reservation.
    #[oai(skip_serializing_if_is_none)]
    quota: Option<QuotaFiguresSchema>,
}

/// A durable change.
#[derive(Debug, Object)]
#[oai(rename = "Operation")]
pub(crate) struct OperationSchema {
    /// The operation.
    id: Uuid,
    /// What it does.
    kind: Wire<OperationKind>,
    /// Where it is.
    state: Wire<OperationState>,
    /// The host whose owner runs it.
    host: Uuid,
    /// The VM that it is about.
    #[oai(skip_serializing_if_is_none)]
    vm_id: Option<Uuid>,
    /// The image that it is about.
    #[oai(skip_serializing_if_is_none)]
    image_id: Option<Uuid>,
    /// Whose object it is about.
    #[oai(skip_serializing_if_is_none)]
    owner: Option<Uuid>,
    /// Who asked.
    actor: ActorSchema,
    /// The request that it came with.
    request_id: String,
    /// The step at work, or the last one.
    step: Option<String>,
    /// How far it is.
    progress: ProgressSchema,
    /// Whether somebody asked to cancel it.
    cancel_requested: bool,
    /// Why it did not succeed.
    error: Option<OperationErrorSchema>,
    /// When it was asked for.
    created_at: OffsetDateTime,
    /// When it ended.
    finished_at: Option<OffsetDateTime>,
}

impl Described for model::Operation {
    type Schema = OperationSchema;
}

/// Which operations are wanted.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct OperationListQuery {
    /// How many items at most.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<Uuid>,
    /// Operations about this VM, also one that is gone.
    pub(crate) vm_id: Option<Uuid>,
}
