//! VMs, and what is asked of them.

use std::collections::HashMap;

use limen_core::model::{self, DiskMode, Firmware, PowerAction, VmState, VolumeFormat};
use poem_openapi::Object;
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Described, ListSchema, Wire};

/// A disk as attached to a VM.
#[derive(Debug, Object)]
#[oai(rename = "Disk")]
pub(crate) struct DiskSchema {
    /// The volume behind it.
    volume: Uuid,
    /// The volume's format.
    format: Wire<VolumeFormat>,
    /// What the guest sees as the disk's size, in bytes.
    size_bytes: u64,
    /// The image that the disk was filled from.
    #[oai(skip_serializing_if_is_none)]
    image: Option<Uuid>,
    /// How the image's contents got in; no meaning without an image.
    mode: Wire<DiskMode>,
}

/// An ISO in a VM's drive.
#[derive(Debug, Object)]
#[oai(rename = "Iso")]
pub(crate) struct IsoSchema {
    /// The image.
    image: Uuid,
    /// The image's volume on the VM's host.
    volume: Uuid,
}

/// A network card of a VM.
#[derive(Debug, Object)]
#[oai(rename = "Nic")]
pub(crate) struct NicSchema {
    /// The card's address.
    mac: String,
    /// The host's network by name.
    network: String,
}

/// The wanted hardware of a VM.
#[derive(Debug, Object)]
#[oai(rename = "VmSpec")]
pub(crate) struct VmSpecSchema {
    /// Virtual CPUs.
    vcpus: u32,
    /// Memory in MiB.
    memory_mib: u64,
    /// How it boots.
    firmware: Wire<Firmware>,
    /// Disks, in the order in which they are tried at boot.
    disks: Vec<DiskSchema>,
    /// The ISO in the drive; it boots after the disks.
    #[oai(skip_serializing_if_is_none)]
    iso: Option<IsoSchema>,
    /// Network cards.
    nics: Vec<NicSchema>,
}

/// What the host shows of the hardware after an outside edit.
#[derive(Debug, Object)]
#[oai(rename = "ObservedSpec")]
pub(crate) struct ObservedSpecSchema {
    /// Virtual CPUs at the next boot.
    vcpus: u32,
    /// Memory at the next boot, in MiB.
    memory_mib: u64,
}

/// An address of a guest.
#[derive(Debug, Object)]
#[oai(rename = "Address")]
pub(crate) struct AddressSchema {
    /// The NIC that has it.
    mac: String,
    /// The address.
    address: String,
    /// Who told: `lease`, `arp` or `guest_agent`.
    source: String,
}

/// A VM's live status.
#[derive(Debug, Object)]
#[oai(rename = "VmStatus")]
pub(crate) struct VmStatusSchema {
    /// What the VM is doing.
    state: Wire<VmState>,
    /// Why it came to this state.
    reason: Option<String>,
    /// The guest's addresses, as far as they are known.
    addresses: Vec<AddressSchema>,
    /// When its host was last observed in full.
    observed_at: Option<OffsetDateTime>,
    /// Whether that was too long ago for the status to be relied on.
    stale: bool,
}

/// A VM: record and live status side by side.
#[derive(Debug, Object)]
#[oai(rename = "Vm")]
pub(crate) struct VmSchema {
    /// The VM; also the UUID of its libvirt domain.
    id: Uuid,
    /// Its name.
    name: String,
    /// Free text.
    description: String,
    /// The name of its host.
    host: String,
    /// Whose it is; null when LIMEN did not make it.
    owner: Option<Uuid>,
    /// Whether LIMEN made it. One that it did not make is seen by admins and changed by nobody.
    managed: bool,
    /// The wanted hardware; null when LIMEN did not make it.
    spec: Option<VmSpecSchema>,
    /// What the host shows, where an outside edit made it differ from `spec`.
    #[oai(skip_serializing_if_is_none)]
    observed_spec: Option<ObservedSpecSchema>,
    /// Labels.
    labels: HashMap<String, String>,
    /// Whether the host starts the VM when it boots.
    autostart: bool,
    /// When it was asked for; null when LIMEN did not make it.
    created_at: Option<OffsetDateTime>,
    /// When the record last changed; null when LIMEN did not make it.
    updated_at: Option<OffsetDateTime>,
    /// The operation at work on it.
    #[oai(skip_serializing_if_is_none)]
    operation: Option<Uuid>,
    /// The live status.
    status: VmStatusSchema,
}

impl Described for model::Vm {
    type Schema = VmSchema;
}

/// A list of VMs; its bytes come from the inventory as they are.
#[derive(Debug)]
pub(crate) struct VmList;

impl Described for VmList {
    type Schema = ListSchema<VmSchema>;
}

/// Which VMs are wanted; a VM must fit all that is given.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct VmListQuery {
    /// How many items at most.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<Uuid>,
    /// VMs in this state.
    pub(crate) state: Option<Wire<VmState>>,
    /// VMs on the host of this name.
    pub(crate) host: Option<String>,
    /// VMs of this owner.
    pub(crate) owner: Option<Uuid>,
    /// VMs of this name.
    pub(crate) name: Option<String>,
    /// VMs with this label: `key` alone, or `key=value`.
    pub(crate) label: Option<String>,
}

/// A disk to make: exactly one of `size_gib` alone (blank) or `image`.
#[derive(Debug, Object)]
#[oai(rename = "CreateDisk")]
pub(crate) struct CreateDiskSchema {
    /// Size in GiB; with an image it may only be larger than the image.
    #[oai(validator(minimum(value = "1"), maximum(value = "65536")))]
    size_gib: Option<u64>,
    /// The image to fill it from (not an ISO).
    image: Option<Uuid>,
    /// Full copy or copy-on-write; only with an image.
    mode: Option<Wire<DiskMode>>,
    /// The format of a blank disk, qcow2 when none is given; a copied one has its image's.
    format: Option<Wire<VolumeFormat>>,
}

fn bios() -> Wire<Firmware> {
    Wire(Firmware::Bios)
}

/// A VM to make.
#[derive(Debug, Object)]
#[oai(rename = "CreateVm")]
pub(crate) struct CreateVmSchema {
    /// Its name, unique for its owner; not a UUID.
    #[oai(validator(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    name: String,
    /// Free text, at most 4 KiB of UTF-8.
    #[oai(default, validator(max_length = 4096))]
    description: String,
    /// Virtual CPUs.
    #[oai(validator(minimum(value = "1"), maximum(value = "512")))]
    vcpus: u32,
    /// Memory in MiB.
    #[oai(validator(minimum(value = "16"), maximum(value = "16777216")))]
    memory_mib: u64,
    /// Disks, in the order in which they are tried at boot; may be empty.
    #[oai(default, validator(max_items = 16))]
    disks: Vec<CreateDiskSchema>,
    /// An ISO image for the drive.
    iso: Option<Uuid>,
    /// One NIC for each network named.
    #[oai(default, validator(max_items = 16))]
    networks: Vec<String>,
    /// How it boots.
    #[oai(default = "bios")]
    firmware: Wire<Firmware>,
    /// Whether the host starts it when it boots.
    #[oai(default)]
    autostart: bool,
    /// Labels: key 1 to 63 bytes, value at most 255 bytes of UTF-8.
    #[oai(default, validator(max_properties = 64))]
    labels: HashMap<String, String>,
    /// The host by name; the only or first one when none is given.
    host: Option<String>,
    /// Whether to start it once it is made; when that fails the VM is undone.
    #[oai(default)]
    start: bool,
}

impl Described for model::CreateVm {
    type Schema = CreateVmSchema;
}

/// A change of a VM; fields that are missing stay as they are.
#[derive(Debug, Object)]
#[oai(rename = "UpdateVm")]
pub(crate) struct UpdateVmSchema {
    /// A new name.
    #[oai(validator(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    name: Option<String>,
    /// A new description.
    #[oai(validator(max_length = 4096))]
    description: Option<String>,
    /// All labels anew.
    #[oai(validator(max_properties = 64))]
    labels: Option<HashMap<String, String>>,
    /// Whether the host starts it when it boots.
    autostart: Option<bool>,
    /// Virtual CPUs for the next boot.
    #[oai(validator(minimum(value = "1"), maximum(value = "512")))]
    vcpus: Option<u32>,
    /// Memory in MiB for the next boot.
    #[oai(validator(minimum(value = "16"), maximum(value = "16777216")))]
    memory_mib: Option<u64>,
}

impl Described for model::UpdateVm {
    type Schema = UpdateVmSchema;
}

/// What to do with a VM's power.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PowerBody {
    /// The action.
    pub(crate) action: PowerAction,
    /// How long `shutdown` and `reboot` wait for the guest, in seconds.
    #[serde(default)]
    pub(crate) timeout_s: Option<u32>,
}

/// What to do with a VM's power.
#[derive(Debug, Object)]
#[oai(rename = "ChangePower")]
pub(crate) struct PowerSchema {
    /// The action.
    action: Wire<PowerAction>,
    /// How long `shutdown` and `reboot` wait for the guest, in seconds; 90 when it is missing.
    #[oai(validator(minimum(value = "1"), maximum(value = "3600")))]
    timeout_s: Option<u32>,
}

impl Described for PowerBody {
    type Schema = PowerSchema;
}
