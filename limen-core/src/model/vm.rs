//! The VM: what is wanted (spec), what is kept (record), what is so now (status).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Address, HostId, ImageId, OperationId, OwnerId, VmId, VolumeFormat, VolumeId};

/// How a VM boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// The classic PC BIOS.
    #[default]
    Bios,
    /// UEFI with an NVRAM of the VM's own.
    Uefi,
}

/// How a disk that comes from an image gets its contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskMode {
    /// A full copy: independent of the image.
    #[default]
    Full,
    /// Copy-on-write (a linked clone): made at once, and the image cannot be deleted meanwhile.
    Linked,
}

/// A disk as attached to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The volume behind it.
    pub volume: VolumeId,
    /// The volume's format; it is never probed.
    pub format: VolumeFormat,
    /// What the guest sees as the disk's size, in bytes.
    pub size_bytes: u64,
    /// The image that the disk was filled from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// How the image's contents got in; no meaning without an image.
    #[serde(default)]
    pub mode: DiskMode,
}

/// An ISO in a VM's drive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iso {
    /// The image.
    pub image: ImageId,
    /// The image's volume on the VM's host.
    pub volume: VolumeId,
}

/// A network card of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The card's address: locally administered, random, unique in the Store.
    pub mac: String,
    /// The host's network by name.
    pub network: String,
}

/// The wanted hardware of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Virtual CPUs, 1 to 512.
    pub vcpus: u32,
    /// Memory in MiB, 16 to 16,777,216.
    pub memory_mib: u64,
    /// How it boots.
    pub firmware: Firmware,
    /// Disks, in the order in which they are tried at boot.
    pub disks: Vec<Disk>,
    /// The ISO in the drive; it boots after the disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<Iso>,
    /// Network cards.
    pub nics: Vec<Nic>,
}

impl VmSpec {
    /// The images that must stay for as long as the VM does: the ISO in the drive, and those under
    /// linked disks.
    pub fn needs(&self) -> impl Iterator<Item = ImageId> {
        let linked = self.disks.iter().filter(|disk| disk.mode == DiskMode::Linked).filter_map(|disk| disk.image);
        linked.chain(self.iso.iter().map(|iso| iso.image))
    }
}

/// What a look at the host shows of the fields that LIMEN models.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedSpec {
    /// Virtual CPUs at the next boot.
    pub vcpus: u32,
    /// Memory at the next boot, in MiB.
    pub memory_mib: u64,
}

/// Where a record is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmPhase {
    /// Its `create_vm` is not finished.
    Creating,
    /// Its definition once succeeded.
    Defined,
    /// Its `delete_vm` is not finished.
    Deleting,
}

/// What an `update_vm` at work raises a VM to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
}

/// A VM as the Store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The VM; also the UUID of its domain.
    pub id: VmId,
    /// Whose it is.
    pub owner: OwnerId,
    /// Where it runs.
    pub host: HostId,
    /// Its name, unique per owner.
    pub name: String,
    /// Free text, at most 4 KiB of UTF-8.
    pub description: String,
    /// At most 64 labels; key 1 to 63 bytes, value at most 255 bytes of UTF-8.
    pub labels: BTreeMap<String, String>,
    /// The spec as last applied.
    pub spec: VmSpec,
    /// What an update at work raises it to; reserved in the owner's quota until that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raised: Option<Raised>,
    /// Where the record is in its life.
    pub phase: VmPhase,
    /// Whether the host starts the VM when it boots.
    pub autostart: bool,
    /// The operation that made it; the host's definition bears it.
    pub created_by: OperationId,
    /// Rises by one with each change of the record.
    pub version: i64,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the record last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub updated_at: OffsetDateTime,
}

/// What a VM is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being created.
    Creating,
    /// Running.
    Running,
    /// Paused: in memory, vCPUs stopped.
    Paused,
    /// Off.
    ShutOff,
    /// Off, with its memory saved; the next start resumes it.
    Saved,
    /// Its guest or its QEMU crashed.
    Crashed,
    /// Its definition has vanished from the host.
    Missing,
    /// Being deleted.
    Deleting,
    /// The host has not told yet.
    Unknown,
}

impl VmState {
    /// Every state.
    pub const ALL: [VmState; 9] = [
        VmState::Creating,
        VmState::Running,
        VmState::Paused,
        VmState::ShutOff,
        VmState::Saved,
        VmState::Crashed,
        VmState::Missing,
        VmState::Deleting,
        VmState::Unknown,
    ];

    /// The state's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            VmState::Creating => "creating",
            VmState::Running => "running",
            VmState::Paused => "paused",
            VmState::ShutOff => "shut_off",
            VmState::Saved => "saved",
            VmState::Crashed => "crashed",
            VmState::Missing => "missing",
            VmState::Deleting => "deleting",
            VmState::Unknown => "unknown",
        }
    }

    /// Whether a process on the host holds the guest: it is running or paused.
    #[must_use]
    pub const fn is_active(self) -> bool {
        matches!(self, VmState::Running | VmState::Paused)
    }
}

/// A VM's live status, as the owner of its host last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    /// What the VM is doing.
    pub state: VmState,
    /// Why it came to this state, in libvirt's word for it: `booted`, `user`, `crashed`, `ioerror`, …
    pub reason: Option<String>,
    /// The guest's addresses, as far as they are known.
    pub addresses: Vec<Address>,
    /// Rises with each change of the status; a part of the entity tag.
    #[serde(skip)]
    pub revision: i64,
}

/// A VM as callers see it: record and live status side by side.
///
/// `observed_at` and `stale` are not here: they are the host's (see [`Host`](super::Host)) and are
/// added when a VM is rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    /// The VM.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Free text.
    pub description: String,
    /// The name of its host.
    pub host: String,
    /// Whose it is; none when LIMEN did not make it.
    pub owner: Option<OwnerId>,
    /// Whether LIMEN made it. One that it did not make can be seen by admins and changed by nobody.
    pub managed: bool,
    /// The wanted hardware; none when LIMEN did not make it.
    pub spec: Option<VmSpec>,
    /// What the host shows, where an outside edit made it differ from `spec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_spec: Option<ObservedSpec>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether the host starts the VM when it boots.
    pub autostart: bool,
    /// When it was asked for; none when LIMEN did not make it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub created_at: Option<OffsetDateTime>,
    /// When the record last changed; none when LIMEN did not make it.
    #[serde(with = "time::serde::rfc3339::option")]
    pub updated_at: Option<OffsetDateTime>,
    /// The operation at work on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// The record's version and the status' revision: the entity tag is `"<version>.<revision>"`.
    #[serde(skip)]
    pub version: i64,
    /// The live status; rendered last.
    pub status: VmStatus,
}

/// A disk to make: exactly one of `size_gib` alone (blank) or `image`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateDisk {
    /// Size in GiB, 1 to 65,536; with an image it may only be larger than the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gib: Option<u64>,
    /// The image to fill it from (not an ISO).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageId>,
    /// Full copy or copy-on-write; only with an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DiskMode>,
    /// The format of a blank disk, qcow2 when none is given; a copied one has its image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<VolumeFormat>,
}

/// A VM to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVm {
    /// Letters, digits, `.`, `_`, `-`; 1 to 63 characters, the first a letter or digit; not a UUID.
    pub name: String,
    /// Free text, at most 4 KiB of UTF-8.
    #[serde(default)]
    pub description: String,
    /// Virtual CPUs, 1 to 512.
    pub vcpus: u32,
    /// Memory in MiB, 16 to 16,777,216.
    pub memory_mib: u64,
    /// At most 16 disks; may be empty.
    #[serde(default)]
    pub disks: Vec<CreateDisk>,
    /// An ISO image for the drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<ImageId>,
    /// One NIC for each network named, at most 16.
    #[serde(default)]
    pub networks: Vec<String>,
    /// How it boots.
    #[serde(default)]
    pub firmware: Firmware,
    /// Whether the host starts it when it boots.
    #[serde(default)]
    pub autostart: bool,
    /// At most 64 labels; key 1 to 63 bytes, value at most 255 bytes of UTF-8.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The host by name; the only or first one when none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Whether to start it once it is made; when that fails the VM is undone.
    #[serde(default)]
    pub start: bool,
}

impl CreateVm {
    /// A VM without disks, NICs and labels, off, on the only or first host: set the other fields
    /// with `CreateVm { start: true, ..CreateVm::new("web-1", 2, 1024) }`.
    #[must_use]
    pub fn new(name: impl Into<String>, vcpus: u32, memory_mib: u64) -> Self {
        Self {
            name: name.into(),
            description: String::new(),
            vcpus,
            memory_mib,
            disks: Vec::new(),
            iso: None,
            networks: Vec::new(),
            firmware: Firmware::default(),
            autostart: false,
            labels: BTreeMap::new(),
            host: None,
            start: false,
        }
    }
}

/// A change of a VM; fields that are `None` stay as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateVm {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A new description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// All labels anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether the host starts it when it boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    /// Virtual CPUs for the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory in MiB for the next boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
}
