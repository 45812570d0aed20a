//! Backups: everything of an installation in one directory, and back again.
//!
//! ```text
//!   DIR/.partial-…            being made; the next backup removes what was left of one
//!   DIR/limen-20260301T120000Z/
//!     manifest.json           what is in it, with checksums; written last
//!     database.dump|.sqlite   the Store
//!     definitions/ID.xml      a VM's definition, as the host has it
//!     volumes/ID.qcow2|.raw   a disk, or an image's copy on the host
//!     images/ID               an image
//! ```
//!
//! Invariants: a directory that bears its final name is whole, for the name is given last, after
//! everything was synced. Only VMs that are off are taken, and one that is started while it is
//! copied is left out again; whoever is left out is named with the reason. Files are 0600,
//! directories 0700. Nothing that is there is overwritten unless that is asked for.

mod create;
mod database;
mod files;
mod manifest;
mod restore;

pub use create::{Backup, create, prune};
pub use database::Database;
pub use manifest::{BackedUpFile, BackedUpImage, BackedUpVm, BackedUpVolume, LeftOut, Manifest};
pub use restore::{Target, restore, verify, verify_vm};

/// What is being done; for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The database is dumped or loaded.
    Database,
    /// A file of this many bytes is copied or checked: what it is, and how long.
    File(String, u64),
    /// A VM is left out: its name, and why.
    LeftOut(String, String),
    /// Remains of a backup that was cut off were removed.
    RemovedPartial(String),
}

/// Who is told of each step.
pub type Tell<'a> = &'a (dyn Fn(Step) + Send + Sync);
