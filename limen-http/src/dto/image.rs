//! Images.

use limen_core::model::{self, ImageFormat, ImagePhase};
use poem_openapi::Object;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Described, Wire};

/// What disks are filled from and drives hold.
#[derive(Debug, Object)]
#[oai(rename = "Image")]
pub(crate) struct ImageSchema {
    /// The image.
    id: Uuid,
    /// Its name, unique.
    name: String,
    /// What its bytes are.
    format: Wire<ImageFormat>,
    /// The length of its file in bytes.
    size_bytes: u64,
    /// What a guest sees as the size of a disk made from it, in bytes.
    capacity_bytes: u64,
    /// SHA-256 of its file, in hex.
    sha256: String,
    /// Where it is in its life.
    phase: Wire<ImagePhase>,
    /// Rises by one with each change.
    version: i64,
    /// When it was added.
    created_at: OffsetDateTime,
}

impl Described for model::Image {
    type Schema = ImageSchema;
}
