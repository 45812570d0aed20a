//! KVM and QEMU guests through libvirt.
//!
//! [`LibvirtHypervisor`] speaks to one libvirt daemon. Libvirt's calls block and cannot be
//! cancelled, so each runs on a thread of this host (`slots`), over a connection that is watched
//! and replaced (`connection`), and no handle outlives the call that looked it up. A VM is found
//! by its UUID, a volume by its id, and no client ever names a path.
//!
//! | file | holds |
//! |---|---|
//! | `slots` | who may call the host when |
//! | `connection` | connections, reconnects, events |
//! | `facts` | which definitions a list must read |
//! | `vm`, `power` | definitions and looks; the power state machine |
//! | `console`, `screen`, `storage`, `witness`, `network`, `stats` | each its noun |
//! | `rfb` | how a screen of another machine is entered and presented |
//! | `xml` | domain XML: written, read, edited |
//! | `error` | libvirt's codes as LIMEN's kinds |
//! | `ffi` | all unsafe code |

mod connection;
mod console;
mod error;
mod facts;
mod ffi;
mod network;
mod power;
mod rfb;
mod screen;
mod slots;
mod stats;
mod storage;
mod vm;
mod witness;
mod xml;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use virt::connect::Connect;

use self::connection::{Link, Progress};
use self::slots::{Call, Lane, Slots};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{
    ByteSource, Capability, ConsoleKind, ConsoleStream, DefinitionChange, HostEvent, HostVm, HostVolume, Hypervisor,
    VmDefinition, VmStats, VolumeRef, VolumeSpec,
};
use crate::model::{HostInfo, InstallId, Network, PowerAction, VirtType, VmId, Witness};

/// How guests are to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtChoice {
    /// With KVM where it works (`/dev/kvm` opens and the CPU says that it can), else by emulation.
    #[default]
    Auto,
    /// With KVM, or not at all.
    Kvm,
    /// By software emulation (TCG).
    Qemu,
}

/// How to reach a libvirt host, and what is LIMEN's on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtOptions {
    /// libvirt's URI: `qemu:///system`, `test:///default`.
    pub uri: String,
    /// How guests are to run.
    pub virt_type: VirtChoice,
    /// The absolute path, on the host, of the directory for volumes and NVRAM. It is made when it
    /// is absent and must be LIMEN's alone; QEMU's user must be able to pass through its parents.
    pub directory: PathBuf,
    /// How long [`LibvirtHypervisor::connect`] waits for an answer of the host.
    pub connect_wait: Duration,
    /// The deadline of a look at the host.
    pub look_deadline: Duration,
    /// The deadline of a change.
    pub change_deadline: Duration,
    /// The deadline of saving a guest's memory, or of restoring it at a start.
    pub save_deadline: Duration,
}

impl LibvirtOptions {
    /// The usual options: `uri`, volumes in `directory`, KVM where it works, deadlines of 10 s for
    /// a look, 60 s for a change and 10 min where a guest's memory is written or read.
    #[must_use]
    pub fn new(uri: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            uri: uri.into(),
            virt_type: VirtChoice::Auto,
            directory: directory.into(),
            connect_wait: Duration::from_secs(5),
            look_deadline: Duration::from_secs(10),
            change_deadline: Duration::from_secs(60),
            save_deadline: Duration::from_secs(600),
        }
    }

    /// The machine that the URI names; none when libvirt is reached by a socket of this one.
    pub(crate) fn other_machine(&self) -> Option<url::Host> {
        url::Url::parse(&self.uri).ok()?.host().map(|host| host.to_owned())
    }
}

/// The hypervisor behind one libvirt URI.
///
/// Guests do not depend on it: dropping or closing it leaves them as they are.
#[derive(Debug)]
pub struct LibvirtHypervisor {
    link: Arc<Link>,
    slots: Slots,
    consoles: console::SerialConsoles,
    transfers: Arc<tokio::sync::Semaphore>,
}

impl LibvirtHypervisor {
    /// Begins to connect and returns once the host has answered or `connect_wait` is over. A host
    /// that is away is no error: calls answer [`Unavailable`](crate::ErrorKind::Unavailable) until
    /// it is there, and [`Hypervisor::capability`] then tells what is true of every such host
    /// (no UEFI). From its first connection on it is looked for again whenever it is lost.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid): a URI or directory that cannot be one.
    pub async fn connect(options: LibvirtOptions) -> Result<Self> {
        if options.uri.is_empty() || options.uri.contains('\0') {
            return Err(Error::invalid("uri", "It must be a libvirt URI."));
        }
        let directory = options.directory.to_str();
        if !directory.is_some_and(|path| path.starts_with('/') && xml::check_text("directory", path).is_ok()) {
            return Err(Error::invalid("directory", "It must be an absolute path in UTF-8."));
        }
        let wait = options.connect_wait;
        let link = Link::start(options)?;
        tokio::time::timeout(wait, link.reached(Progress::Explored)).await.ok();
        Ok(Self {
            link,
            slots: Slots::new(),
            consoles: console::SerialConsoles::default(),
            transfers: Arc::new(tokio::sync::Semaphore::new(storage::TRANSFERS)),
        })
    }

    /// What the host has, asked once over a connection of its own that nothing else is done with:
    /// nothing is made on the host, and `free_bytes` is 0. A host that hangs is waited for without
    /// end, on a thread that nothing can stop but the end of the process.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) and others, as libvirt says.
    pub async fn examine(options: LibvirtOptions) -> Result<HostInfo> {
        let look = tokio::task::spawn_blocking(move || {
            let conn = Connect::open(Some(&options.uri)).map_err(error::during("virConnectOpen"))?;
            network::describe_host(&conn, &xml::capabilities::HostFacts::ask(&conn, &options)?, 0)
        });
        look.await.map_err(Error::internal)?
    }

    /// Runs `work` on a thread of this host, with a connection.
    async fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(&Link, &Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.link.check().map_err(|error| error.with_operation(call.name))?;
        let link = Arc::clone(&self.link);
        self.slots.run(call, move || link.lend(|conn| work(&link, conn))).await
    }

    /// libvirt's test driver has VMs in name only.
    fn must_be_real(&self) -> Result<()> {
        if self.link.is_test() {
            return Err(Error::new(ErrorKind::Unsupported, "This host has VMs in name only."));
        }
        Ok(())
    }

    /// A look that no guest can delay.
    async fn look<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce(&Link, &Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = self.link.options.look_deadline;
        self.run(Call { name, lane: Lane::Observe, vm: None, deadline }, work).await
    }

    /// A change, of one VM or of none.
    async fn change<T: Send + 'static>(
        &self,
        name: &'static str,
        vm: Option<VmId>,
        work: impl FnOnce(&Link, &Connect) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = self.link.options.change_deadline;
        self.run(Call { name, lane: Lane::Change, vm, deadline }, work).await
    }
}

impl Drop for LibvirtHypervisor {
    fn drop(&mut self) {
        self.link.close();
    }
}

#[async_trait]
impl Hypervisor for LibvirtHypervisor {
    fn capability(&self) -> Capability {
        let real = !self.link.is_test();
        Capability {
            volumes: real,
            linked_volumes: real,
            vnc_console: real,
            serial_console: real,
            save: true,
            autostart: true,
            stats: real,
            change_definition: true,
            uefi: self.link.known().is_some_and(|facts| facts.uefi),
            witness: real,
            seeded: false,
        }
    }

    async fn host_info(&self) -> Result<HostInfo> {
        self.change("host_info", None, network::host_info).await
    }

    async fn create_definition(&self, definition: &VmDefinition) -> Result<()> {
        let definition = definition.clone();
        let id = definition.id;
        self.change("create_definition", Some(id), move |link, conn| vm::create(link, conn, &definition)).await
    }

    async fn change_definition(&self, id: VmId, expected: &str, change: &DefinitionChange) -> Result<String> {
        let (expected, change) = (expected.to_owned(), change.clone());
        self.change("change_definition", Some(id), move |link, conn| vm::change(link, conn, id, &expected, &change))
            .await
    }

    async fn read_definition(&self, id: VmId) -> Result<String> {
        self.look("read_definition", move |_, conn| vm::read_definition(conn, id)).await
    }

    async fn restore_definition(&self, id: VmId, text: &str) -> Result<()> {
        let text = text.to_owned();
        self.change("restore_definition", Some(id), move |link, conn| vm::restore(link, conn, id, &text)).await
    }

    async fn remove_definition(&self, id: VmId) -> Result<()> {
        self.change("remove_definition", Some(id), move |link, conn| vm::remove(link, conn, id)).await
    }

    async fn get(&self, id: VmId) -> Result<HostVm> {
        self.look("get", move |link, conn| vm::get(link, conn, id)).await
    }

    async fn list(&self) -> Result<Vec<HostVm>> {
        self.look("list", vm::list).await
    }

    async fn change_power(&self, id: VmId, action: PowerAction) -> Result<()> {
        let options = &self.link.options;
        let (lane, vm) = match action {
            // It must get through, also past a call that hangs on this very VM.
            PowerAction::PowerOff => (Lane::PowerOff, None),
            _ => (Lane::Change, Some(id)),
        };
        let deadline = match action {
            PowerAction::Save | PowerAction::Start => options.save_deadline,
            _ => options.change_deadline,
        };
        let call = Call { name: "change_power", lane, vm, deadline };
        self.run(call, move |link, conn| power::change(link, conn, id, action)).await
    }

    async fn stats(&self) -> Result<Vec<(VmId, VmStats)>> {
        self.must_be_real()?;
        stats::all(self).await
    }

    async fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<ConsoleStream> {
        self.must_be_real()?;
        match kind {
            ConsoleKind::Vnc => screen::open(self, id).await,
            ConsoleKind::Serial => console::open_serial(self, id).await,
        }
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        self.must_be_real()?;
        let volume = volume.clone();
        self.change("create_volume", None, move |link, conn| storage::create(link, conn, &volume)).await
    }

    async fn write_volume(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
        self.must_be_real()?;
        storage::write(self, volume, source, length).await
    }

    async fn read_volume(&self, volume: VolumeRef) -> Result<ByteSource> {
        self.must_be_real()?;
        storage::read(self, volume).await
    }

    async fn resize_volume(&self, volume: VolumeRef, capacity_bytes: u64) -> Result<()> {
        self.must_be_real()?;
        self.change("resize_volume", None, move |link, conn| storage::resize(link, conn, volume, capacity_bytes)).await
    }

    async fn remove_volume(&self, volume: VolumeRef) -> Result<()> {
        self.must_be_real()?;
        self.change("remove_volume", None, move |link, conn| storage::remove(link, conn, volume)).await
    }

    async fn list_volumes(&self) -> Result<Vec<HostVolume>> {
        self.must_be_real()?;
        self.change("list_volumes", None, storage::list).await
    }

    async fn read_witness(&self, install: InstallId) -> Result<Option<Witness>> {
        self.must_be_real()?;
        self.change("read_witness", None, move |link, conn| witness::read(link, conn, install)).await
    }

    async fn write_witness(&self, witness: &Witness) -> Result<()> {
        self.must_be_real()?;
        let witness = *witness;
        self.change("write_witness", None, move |link, conn| witness::write(link, conn, &witness)).await
    }

    async fn list_networks(&self) -> Result<Vec<Network>> {
        self.look("list_networks", |_, conn| network::list(conn)).await
    }

    fn subscribe(&self) -> broadcast::Receiver<HostEvent> {
        self.link.subscribe()
    }

    async fn close(&self) {
        self.link.close();
        self.consoles.close();
    }
}

/// Locks; what a panicking thread left behind is still whole, as every change under these locks is
/// one step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
