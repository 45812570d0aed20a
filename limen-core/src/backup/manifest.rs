//! What is in a backup.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::VolumeRef;
use crate::model::{ImageFormat, ImageId, InstallId, VmId, VmRecord};

/// The manifest's file in a backup.
pub(super) const FILE: &str = "manifest.json";
/// The version of what is written.
const FORMAT: u32 = 1;

/// What is in a backup, with the SHA-256 of every file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the backup's form.
    pub format: u32,
    /// The version of LIMEN that made it.
    pub limen: String,
    /// The installation that it is of.
    pub install: InstallId,
    /// When it was begun.
    #[serde(with = "time::serde::rfc3339")]
    pub made_at: OffsetDateTime,
    /// `sqlite` or `postgres`.
    pub database: String,
    /// The dump of the database.
    pub store: BackedUpFile,
    /// The VMs that are in it.
    pub vms: Vec<BackedUpVm>,
    /// The images.
    pub images: Vec<BackedUpImage>,
    /// The images' copies on the host, which disks may be linked to.
    pub copies: Vec<BackedUpVolume>,
    /// The VMs that are not in it.
    pub left_out: Vec<LeftOut>,
}

/// A file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackedUpFile {
    /// Its path in the backup.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// The SHA-256 of its contents.
    pub sha256: String,
}

/// A VM of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackedUpVm {
    /// Its record in the Store.
    pub record: VmRecord,
    /// Its definition on the host.
    pub definition: BackedUpFile,
    /// Its disks.
    pub volumes: Vec<BackedUpVolume>,
}

/// A volume of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackedUpVolume {
    /// The volume, with its format.
    pub volume: VolumeRef,
    /// What a guest sees as its size, in bytes.
    pub capacity_bytes: u64,
    /// The image whose copy backs it, or that it is the copy of.
    pub image: Option<ImageId>,
    /// Its bytes.
    pub file: BackedUpFile,
}

/// An image of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackedUpImage {
    /// The image.
    pub id: ImageId,
    /// Its name.
    pub name: String,
    /// What its bytes are.
    pub format: ImageFormat,
    /// Its bytes.
    pub file: BackedUpFile,
}

/// A VM that is not in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Why, in a sentence.
    pub why: String,
}

impl Manifest {
    pub(super) fn new(install: InstallId, made_at: OffsetDateTime, database: &str, store: BackedUpFile) -> Self {
        Self {
            format: FORMAT,
            limen: env!("CARGO_PKG_VERSION").to_owned(),
            install,
            made_at,
            database: database.to_owned(),
            store,
            vms: Vec::new(),
            images: Vec::new(),
            copies: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Reads what [`FILE`] holds.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let damaged = || Error::new(ErrorKind::Conflict, "The backup's manifest is damaged.");
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let version: Version = serde_json::from_str(text).map_err(|error| damaged().with_source(error))?;
        if version.format != FORMAT {
            let text = format!("The backup is of form {}, and this LIMEN knows form {FORMAT} alone.", version.format);
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        serde_json::from_str(text).map_err(|error| damaged().with_source(error))
    }

    /// Every file but the manifest itself.
    pub fn files(&self) -> impl Iterator<Item = &BackedUpFile> {
        let vms = self.vms.iter().flat_map(|vm| std::iter::once(&vm.definition).chain(files_of(&vm.volumes)));
        let images = self.images.iter().map(|image| &image.file);
        std::iter::once(&self.store).chain(vms).chain(images).chain(files_of(&self.copies))
    }

    /// The VM of this id or name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Conflict`](ErrorKind::Conflict): several have the name.
    pub fn vm(&self, named: &str) -> Result<&BackedUpVm> {
        let of_it = |vm: &&BackedUpVm| vm.record.id.to_string() == named || vm.record.name == named;
        let mut found = self.vms.iter().filter(of_it);
        let first = found.next().ok_or_else(|| {
            let left_out = self.left_out.iter().find(|vm| vm.name == named || vm.id.to_string() == named);
            match left_out {
                Some(vm) => Error::new(ErrorKind::NotFound, format!("It was left out of this backup: {}", vm.why)),
                None => Error::new(ErrorKind::NotFound, "There is no such VM in this backup."),
            }
        })?;
        if found.next().is_some() {
            return Err(Error::new(ErrorKind::Conflict, "Several VMs of the backup have this name: give the id."));
        }
        Ok(first)
    }
}

fn files_of(volumes: &[BackedUpVolume]) -> impl Iterator<Item = &BackedUpFile> {
    volumes.iter().map(|volume| &volume.file)
}
