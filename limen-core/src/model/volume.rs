//! Volumes: files of bytes in LIMEN's pool on a host.

use serde::{Deserialize, Serialize};

use super::{HostId, ImageId, OperationId, VmId, VolumeId};

/// The format of a volume or image. It is stored and passed on at every use, never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeFormat {
    /// QEMU's copy-on-write format.
    Qcow2,
    /// The bytes of the disk, nothing else.
    Raw,
}

impl VolumeFormat {
    /// The format's name in libvirt, QEMU and file names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            VolumeFormat::Qcow2 => "qcow2",
            VolumeFormat::Raw => "raw",
        }
    }
}

/// A volume as the Store keeps it. The row exists before the volume does, and goes after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// The volume; part of its name on the host, so that a late one is known for LIMEN's.
    pub id: VolumeId,
    /// The host that holds it.
    pub host: HostId,
    /// Its format.
    pub format: VolumeFormat,
    /// What a guest sees as its size, in bytes.
    pub capacity_bytes: u64,
    /// The VM that owns it; none for an image's copy on a host.
    pub vm: Option<VmId>,
    /// The image that it is a copy of, or whose copy backs it.
    pub image: Option<ImageId>,
    /// Whether its contents are complete.
    pub filled: bool,
    /// The operation that makes it.
    pub created_by: OperationId,
}
