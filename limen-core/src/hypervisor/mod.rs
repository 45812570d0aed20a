//! The hypervisor of one host, as LIMEN needs it.
//!
//! A back end says what is so on its host and makes single, small changes there. It knows nothing
//! of operations, users or the Store: it can be called twice, late and after a crash, and every
//! guarantee below exists so that the service can recover.
//!
//! ```text
//!                 create_definition
//!      (absent) ─────────────────────► shut_off ◄──────────── power_off, shutdown ───┐
//!          ▲                            │    ▲ ▲                                     │
//!          │ remove_definition    start │    │ └── power_off ── saved ◄── save ──┐   │
//!          │ (from every state)         ▼    │                    │            │   │
//!          │                         running ◄──────── start ─────┘            │   │
//!          │                          │   ▲  ──────────────────────────────────┴───┤
//!          │                    pause ▼   │ resume                                 │
//!          └───────────────────────  paused ───────────────────────────────────────┘
//!
//!      crashed: the guest or its QEMU ended by itself; as shut_off from there on
//! ```
//!
//! What each power action means in each state is one table: [`PowerAction::on`].

use std::collections::BTreeMap;
use std::fmt::Debug;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

use crate::error::Result;
pub use crate::model::{ConsoleKind, HostVm, Mark};
use crate::model::{
    DiskStats, HostInfo, InstallId, Network, NicStats, OwnerId, PowerAction, VmId, VmSpec, VolumeFormat, VolumeId,
    Witness,
};

#[cfg(feature = "libvirt")]
pub mod libvirt;
pub mod sim;

/// Everything that a definition needs. Two calls with the same value make the same definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDefinition {
    /// The VM; the UUID of the definition.
    pub id: VmId,
    /// Goes into the definition itself, not beside it.
    pub mark: Mark,
    /// Whose it is.
    pub owner: OwnerId,
    /// The VM's name; the definition's own name is made of it once and never changes.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The hardware; every volume in it exists.
    pub spec: VmSpec,
    /// Whether the host starts it when it boots.
    pub autostart: bool,
}

impl VmDefinition {
    /// The definition's own name: `<name>-<last 12 hex digits of the id>`; fixed for life.
    #[must_use]
    pub fn domain_name(&self) -> String {
        let id = self.id.0.simple().to_string();
        format!("{}-{}", self.name, &id[id.len() - 12..])
    }
}

/// A change of an inactive definition; what is `None` stays as it is, to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DefinitionChange {
    /// The title: a VM's current name.
    pub title: Option<String>,
    /// All labels anew.
    pub labels: Option<BTreeMap<String, String>>,
    /// Virtual CPUs at the next boot.
    pub vcpus: Option<u32>,
    /// Memory at the next boot, in MiB.
    pub memory_mib: Option<u64>,
    /// Whether the host starts it when it boots.
    pub autostart: Option<bool>,
}

/// Counters of one running VM since its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VmStats {
    /// CPU time of the guest and its QEMU, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Memory that the guest has now, in MiB (balloon).
    pub memory_mib: u64,
    /// Memory of its process on the host, in MiB.
    pub memory_rss_mib: u64,
    /// Memory that programs of the guest could still get, in MiB, where its balloon driver tells.
    pub memory_usable_mib: Option<u64>,
    /// Its disks, in the order in which it has them.
    pub disks: Vec<DiskStats>,
    /// Its NICs.
    pub nics: Vec<NicStats>,
}

/// A volume to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// The volume; its name on the host is `<id>.<format>`.
    pub id: VolumeId,
    /// Its format.
    pub format: VolumeFormat,
    /// What a guest sees as its size, in bytes.
    pub capacity_bytes: u64,
    /// The volume that it is copy-on-write over; it must exist and be of qcow2 or raw as stated.
    pub backing: Option<VolumeRef>,
}

/// A volume by id, with its format stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VolumeRef {
    /// The volume.
    pub id: VolumeId,
    /// Its format.
    pub format: VolumeFormat,
}

/// A volume in LIMEN's pool, as the host shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostVolume {
    /// The volume and its format.
    pub volume: VolumeRef,
    /// What a guest sees as its size, in bytes.
    pub capacity_bytes: u64,
    /// What it takes on the host now, in bytes.
    pub allocation_bytes: u64,
}

/// Both directions of a byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// An open console. It ends (reads 0 bytes) when the VM stops.
pub type ConsoleStream = Box<dyn ByteStream>;

/// Bytes to fill a volume with.
pub type ByteSource = Box<dyn AsyncRead + Send + Unpin>;

/// Something happened on a host. Only a hint: events may be lost, a full look never is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostEvent {
    /// Something about this VM changed: its state, its definition, its being there.
    VmChanged(VmId),
    /// The guest was reset: a reboot or a press of the reset button went through.
    VmRebooted(VmId),
    /// The connection to the host is there (again): look at everything.
    Connected,
    /// The connection to the host is lost.
    Disconnected,
}

/// What a back end can do. The service asks before it starts; the conformance suite holds a back
/// end to what it claims, and the committed table holds a shipped one to what it once could.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Volumes can be created, filled, resized, read and removed.
    pub volumes: bool,
    /// Volumes can be copy-on-write over others.
    pub linked_volumes: bool,
    /// VNC consoles can be opened.
    pub vnc_console: bool,
    /// Serial consoles can be opened.
    pub serial_console: bool,
    /// Memory can be saved to disk.
    pub save: bool,
    /// VMs can be started with their host.
    pub autostart: bool,
    /// Counters of running VMs are told.
    pub stats: bool,
    /// Definitions can be changed with unknown elements kept.
    pub change_definition: bool,
    /// UEFI firmware is there.
    pub uefi: bool,
    /// A witness of the Store can be kept: a Store that is restored from an old copy is noticed.
    pub witness: bool,
    /// The simulator: at an installation's first start its VMs are taken into the Store.
    pub seeded: bool,
}

/// The hypervisor of one host.
///
/// Common to all methods: they may be called at the same time; each has a deadline of its own
/// ([`Timeout`](crate::ErrorKind::Timeout), and the call may still land); a host that cannot be
/// reached answers [`Unavailable`](crate::ErrorKind::Unavailable); a full disk answers
/// [`NoSpace`](crate::ErrorKind::NoSpace). Dropping the future of a change does not take it back.
#[async_trait]
pub trait Hypervisor: Debug + Send + Sync + 'static {
    /// What this back end can do on this host. Never blocks, never changes.
    fn capability(&self) -> Capability;

    /// What the host has.
    async fn host_info(&self) -> Result<HostInfo>;

    /// Defines a VM, powered off. Idempotent: a VM with this id that bears this very mark is a
    /// success and left as it is.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists): the id or the name is taken by another
    /// definition, which is not touched. [`Invalid`](crate::ErrorKind::Invalid): the host refuses
    /// the hardware or a network. [`Unsupported`](crate::ErrorKind::Unsupported): the firmware.
    async fn create_definition(&self, definition: &VmDefinition) -> Result<()>;

    /// Changes the inactive definition; a running guest sees it at its next boot. Idempotent: a
    /// change that is there already is a success whatever the hash. What LIMEN does not model is
    /// kept to the byte. Answers the new hash.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound). [`Conflict`](crate::ErrorKind::Conflict): the
    /// definition's hash is not `expected`; nothing was changed.
    async fn change_definition(&self, id: VmId, expected: &str, change: &DefinitionChange) -> Result<String>;

    /// The host's own text of the inactive definition, with all that LIMEN does not model; for
    /// [`restore_definition`](Self::restore_definition) on a host of the same kind. It may hold
    /// secrets: keep it from others.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn read_definition(&self, id: VmId) -> Result<String>;

    /// Defines a VM again, powered off, from what `read_definition` told of it. Idempotent: a
    /// definition that is there with the same mark is left as it is.
    ///
    /// # Errors
    /// [`AlreadyExists`](crate::ErrorKind::AlreadyExists): the id or the name is another's.
    /// [`Invalid`](crate::ErrorKind::Invalid): the text is no definition of this VM.
    async fn restore_definition(&self, id: VmId, text: &str) -> Result<()>;

    /// Cuts the power and removes the definition with all that belongs to it: saved memory,
    /// snapshot and checkpoint records, NVRAM, TPM state; not its volumes. Idempotent: no such VM
    /// is a success, and only a typed "no such domain" counts as that.
    async fn remove_definition(&self, id: VmId) -> Result<()>;

    /// One VM as it is now.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn get(&self, id: VmId) -> Result<HostVm>;

    /// All VMs as they are now, LIMEN's and others, in no order. One bulk call, whatever their
    /// number; definitions are read only where they may have changed.
    async fn list(&self) -> Result<Vec<HostVm>>;

    /// Does `action` as [`PowerAction::on`] says for the state that the VM is in now. `shutdown`
    /// and `reboot` return when the guest was asked, the others when the state is reached.
    /// Idempotent but for `reset`, `reboot` and `shutdown`.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound), [`Conflict`](crate::ErrorKind::Conflict).
    async fn change_power(&self, id: VmId, action: PowerAction) -> Result<()>;

    /// Counters of all running VMs, in one bulk call; a VM that does not answer is left out.
    async fn stats(&self) -> Result<Vec<(VmId, VmStats)>>;

    /// Opens a console of a running VM, found by its id alone. Takes none of the host's call
    /// slots while it is open.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Conflict`](crate::ErrorKind::Conflict): the VM
    /// is not running; [`Unsupported`](crate::ErrorKind::Unsupported).
    async fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<ConsoleStream>;

    /// Makes a volume in LIMEN's pool. Idempotent by id: one that exists is left as it is.
    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()>;

    /// Overwrites a volume's file with `length` bytes from `source`, from its start. Repeatable:
    /// a second call starts over. Dropping the future stops it, at most a buffer later.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound); [`Invalid`](crate::ErrorKind::Invalid) when
    /// `source` ends early.
    async fn write_volume(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()>;

    /// Reads a volume's file from its start to its end.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn read_volume(&self, volume: VolumeRef) -> Result<ByteSource>;

    /// Makes a volume that is in no use larger. Idempotent: one of at least this size is left as it is.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    async fn resize_volume(&self, volume: VolumeRef, capacity_bytes: u64) -> Result<()>;

    /// Removes a volume. Idempotent: no such volume is a success.
    async fn remove_volume(&self, volume: VolumeRef) -> Result<()>;

    /// All volumes in LIMEN's pool whose names are of LIMEN's making.
    async fn list_volumes(&self) -> Result<Vec<HostVolume>>;

    /// The newest witness of this installation that was ever written here; none where there is
    /// none, or where what is there is damaged.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    async fn read_witness(&self, install: InstallId) -> Result<Option<Witness>>;

    /// Keeps a witness, durable when this returns, in the place of the older ones of its
    /// installation. One that is older than what is there changes nothing, however late it lands.
    /// Idempotent.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported).
    async fn write_witness(&self, witness: &Witness) -> Result<()>;

    /// The networks that NICs can be on. The `host` of each is left empty.
    async fn list_networks(&self) -> Result<Vec<Network>>;

    /// Events from now on. A reader that falls behind sees `Lagged` and must look at everything.
    fn subscribe(&self) -> broadcast::Receiver<HostEvent>;

    /// Ends the connection; calls answer [`Unavailable`](crate::ErrorKind::Unavailable) from now
    /// on. Guests go on. Idempotent.
    async fn close(&self);
}
