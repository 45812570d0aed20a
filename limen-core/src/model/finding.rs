//! What a check finds: where Store, hosts, files and memory do not agree.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// How much a [`Finding`] matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something is left over or out of date; nothing is lost.
    Warning,
    /// Something is missing or stands still: somebody has to look at it.
    Error,
}

impl Severity {
    /// Both.
    pub const ALL: [Severity; 2] = [Severity::Warning, Severity::Error];

    /// The severity's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        }
    }
}

macro_rules! findings {
    ($($(#[$doc:meta])+ $kind:ident = $name:literal, $severity:ident;)+) => {
        /// What does not agree. `docs/check.md` says of each what to do about it. New kinds may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum FindingKind { $($(#[$doc])+ $kind,)+ }

        impl FindingKind {
            /// Every kind, in the order of the table in `docs/check.md`.
            pub const ALL: &'static [FindingKind] = &[$(FindingKind::$kind,)+];

            /// The kind's name on every surface.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(FindingKind::$kind => $name,)+ }
            }

            /// How much it matters.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(FindingKind::$kind => Severity::$severity,)+ }
            }
        }
    };
}

findings! {
    /// A host did not answer: nothing on it was compared.
    HostUnreachable = "host_unreachable", Error;
    /// The Store has VMs or unfinished operations of a host that this process is not configured
    /// with and that no other process owns.
    HostUnserved = "host_unserved", Error;
    /// A definition bears the mark of this installation and has no record.
    VmUnrecorded = "vm_unrecorded", Warning;
    /// A record's VM has no definition on its host.
    VmMissing = "vm_missing", Error;
    /// A record's VM has a definition without the mark of this installation.
    VmUnmarked = "vm_unmarked", Warning;
    /// A record is `creating` or `deleting`, and no operation is at work on it.
    VmHalfMade = "vm_half_made", Error;
    /// The Store shows another state of a VM than its host does, and the host's owner is alive.
    StatusDiffers = "status_differs", Warning;
    /// A volume of LIMEN's making in the pool has no row.
    VolumeUnrecorded = "volume_unrecorded", Warning;
    /// A volume's row has no volume in the pool.
    VolumeMissing = "volume_missing", Error;
    /// A volume in the pool has another format or size than its row says.
    VolumeDiffers = "volume_differs", Error;
    /// A volume's row belongs to a VM that has no record.
    VolumeUnowned = "volume_unowned", Warning;
    /// A volume was never filled to its end, and no operation is at work on it.
    VolumeUnfilled = "volume_unfilled", Warning;
    /// The directory of images cannot be read: no image was compared.
    ImagesUnreadable = "images_unreadable", Error;
    /// An image's file is not in the directory of images.
    ImageMissing = "image_missing", Error;
    /// An image's file has another length than its record says.
    ImageDiffers = "image_differs", Error;
    /// A file in the directory of images belongs to no image.
    ImageUnrecorded = "image_unrecorded", Warning;
    /// An image is `adding` or `deleting`, and no operation is at work on it.
    ImageHalfMade = "image_half_made", Error;
    /// A part of an image was received, and nothing more of it for an hour.
    UploadAbandoned = "upload_abandoned", Warning;
    /// An unfinished operation has not moved for two minutes, though its host is there and owned.
    OperationStuck = "operation_stuck", Error;
    /// An operation is held since the Store was restored: somebody has to resume or abandon it.
    OperationHeld = "operation_held", Error;
    /// An unfinished operation holds no lock.
    OperationUnlocked = "operation_unlocked", Error;
    /// A lock is held by no unfinished operation.
    LockOrphaned = "lock_orphaned", Error;
    /// What counts for an owner or a host is not the sum over the VMs, or a VM still counts for an
    /// update that is over.
    QuotaDiffers = "quota_differs", Error;
    /// What this process shows is not what the Store says.
    InventoryDiffers = "inventory_differs", Error;
}

/// One disagreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What does not agree.
    pub kind: FindingKind,
    /// How much it matters: [`FindingKind::severity`].
    pub severity: Severity,
    /// What it is about: `vm:<id>`, `volume:<id>`, `image:<id>`, `operation:<id>`, `host:<id>`,
    /// `file:<name>`, `directory:images`, …
    pub subject: String,
    /// The name of the host that it is on, where it is on one.
    pub host: Option<String>,
    /// One sentence that any client may read.
    pub detail: String,
}

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    /// The names of the hosts that were compared.
    pub hosts: Vec<String>,
    /// Every disagreement, by kind and subject; none when all agrees.
    pub findings: Vec<Finding>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_that_serde_writes() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.as_str());
        }
        for severity in Severity::ALL {
            assert_eq!(serde_json::json!(severity), severity.as_str());
        }
    }
}
