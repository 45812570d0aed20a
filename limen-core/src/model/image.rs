//! Images: what disks are filled from and drives hold.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ImageId;

/// What an image's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageFormat {
    /// A disk in QEMU's copy-on-write format, without backing or data file.
    Qcow2,
    /// A disk, byte for byte.
    Raw,
    /// Installation media.
    Iso,
}

impl ImageFormat {
    /// The format's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ImageFormat::Qcow2 => "qcow2",
            ImageFormat::Raw => "raw",
            ImageFormat::Iso => "iso",
        }
    }
}

/// Where an image is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImagePhase {
    /// Its `add_image` is not finished.
    Adding,
    /// It can be used.
    Ready,
    /// Its `delete_image` is not finished.
    Deleting,
}

/// An image, as kept and as seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The image.
    pub id: ImageId,
    /// Its name, unique; the rules of a VM's name.
    pub name: String,
    /// What its bytes are.
    pub format: ImageFormat,
    /// The length of its file in bytes.
    pub size_bytes: u64,
    /// What a guest sees as the size of a disk made from it, in bytes.
    pub capacity_bytes: u64,
    /// SHA-256 of its file, in hex.
    pub sha256: String,
    /// Where it is in its life.
    pub phase: ImagePhase,
    /// Rises by one with each change.
    pub version: i64,
    /// When it was added.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}
