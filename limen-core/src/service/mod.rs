//! The service: one object that ties the four traits together, and its nouns, one per file.
//!
//! Every method of [`Limen`] takes a [`Context`](crate::Context) first, asks the policy, and then either reads the
//! inventory (in memory, fed by the log) or the history (in the Store), changes the Store in one
//! transaction, or records an [operation](crate::model::Operation) that the owner of the host
//! runs. An answer to a change is given only after the inventory of this process shows it.

mod access;
mod builder;
mod check;
mod consoles;
mod events;
mod figures;
mod follow;
mod hasher;
mod host;
mod hosts;
mod identity;
pub(crate) mod images;
mod inventory;
mod observer;
pub(crate) mod operation;
mod quota;
mod refusals;
mod render;
mod restored;
mod sampler;
mod seed;
mod tasks;
mod tickets;
mod tokens;
mod validate;
mod vms;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::authz::Authz;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{EventNumber, OwnerId};
use crate::store::{Change, Committed, Install, Retention, Store};

pub use builder::{AdminSeed, HostConfig, LimenBuilder};
pub use consoles::{Console, ConsoleEnd};
pub use events::{Events, Told};
pub use figures::{Durations, Figures, Histogram, HostFigures, OperationFigures, OwnerFigures};
pub use hosts::{Health, HostHealth};
pub use identity::{CreateUser, UpdateUser, UserView};
pub use images::AddImage;
pub use inventory::VmQuery;
pub use operation::fault::{Fault, FaultPlan, FaultPoint, Moment};
pub use quota::{HostReserve, QuotaView};
pub use refusals::Refusals;
pub use render::{ListedVm, VmPage};
pub use sampler::SamplesVersion;
pub use tickets::Ticket;
pub use tokens::CreateToken;
pub use vms::VmView;

/// Every kind of operation with its steps, each with its nature (`undoable`, `forward-only`, `target`
/// or `once`): for the documentation and the crash matrix.
#[cfg(feature = "testing")]
#[must_use]
pub fn operation_steps() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    operation::steps()
}

use host::HostHandle;
use inventory::Inventory;

/// How often and how long: the defaults are the ones documented; tests make them shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timings {
    /// How often the owner of a host renews its lease: 1 s.
    pub beat: Duration,
    /// How long a lease must stand still before another process takes over: 6 s.
    pub lease: Duration,
    /// How often a host is looked at in full: 2 s.
    pub refresh: Duration,
    /// How old the last full look may be before its VMs are marked stale: 5 s.
    pub stale: Duration,
    /// How often the counters of running VMs are read, zero for never: 15 s.
    pub sample: Duration,
    /// How often a host's hardware and networks are read: 10 s.
    pub info: Duration,
    /// How long a step waits for a host that is away before everything is undone: 30 s.
    pub host_patience: Duration,
    /// How often progress in bytes is recorded: 1 s.
    pub progress: Duration,
    /// How often volumes are compared with their records: 60 s.
    pub volumes: Duration,
    /// How long an answer waits for this process's inventory to show what it says: 5 s.
    pub show: Duration,
    /// How often what is older than the retention is removed, 10 s after the start first: 1 h.
    pub prune: Duration,
    /// After how long without a word an operation that could go on counts as stuck: 2 min.
    pub stuck: Duration,
    /// How long a stream of events is silent before it tells how far it is: 15 s.
    pub mark: Duration,
    /// How often refusals are written into the audit: 1 s.
    pub refusals: Duration,
    /// How long equal refusals are folded into one record of the audit: 60 s.
    pub fold: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            beat: Duration::from_secs(1),
            lease: Duration::from_secs(6),
            refresh: Duration::from_secs(2),
            stale: Duration::from_secs(5),
            sample: Duration::from_secs(15),
            info: Duration::from_secs(10),
            host_patience: Duration::from_secs(30),
            progress: Duration::from_secs(1),
            volumes: Duration::from_secs(60),
            show: Duration::from_secs(5),
            prune: Duration::from_secs(3600),
            stuck: Duration::from_secs(120),
            mark: Duration::from_secs(15),
            refusals: Duration::from_secs(1),
            fold: Duration::from_secs(60),
        }
    }
}

/// What every part of the service shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) authz: Arc<dyn Authz>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timings: Timings,
    pub(crate) retention: Retention,
    /// How long a session lasts.
    pub(crate) session: Duration,
    pub(crate) reserve: HostReserve,
    pub(crate) install: Install,
    /// Names this process in leases.
    pub(crate) holder: String,
    pub(crate) hosts: Vec<Arc<HostHandle>>,
    pub(crate) inventory: Inventory,
    following: follow::Following,
    pub(crate) stopping: watch::Sender<bool>,
    /// How often the counters of VMs were read.
    pub(crate) sampled: watch::Sender<u64>,
    /// The user whose owner gets the VMs that a simulator starts with.
    admin: Option<String>,
    images: Option<images::ImageDir>,
    hasher: hasher::Hasher,
    pages: render::PageCache,
    streams: events::Streams,
    consoles: consoles::Open,
    refusals: refusals::Log,
    counts: figures::Counts,
    faults: Option<Arc<dyn FaultPlan>>,
}

/// How long a process that stops tries to write what it still holds, and to close its connections.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// The owner of what the owner of the machine makes.
pub(crate) const LOCAL_OWNER: &str = "local";

impl Shared {
    /// What a test wants to happen here; a crash stops this process's part for good.
    ///
    /// # Panics
    /// Where it is asked for.
    pub(crate) async fn fault(&self, point: &FaultPoint) -> Fault {
        let Some(plan) = &self.faults else { return Fault::None };
        let fault = plan.at(point);
        assert_ne!(fault, Fault::Panic, "a panic was asked for");
        if fault == Fault::Crash {
            self.stopping.send_replace(true);
            std::future::pending::<()>().await;
        }
        fault
    }

    pub(crate) fn images(&self) -> Result<&images::ImageDir> {
        let none = || Error::new(ErrorKind::Unsupported, "This server keeps no images.");
        self.images.as_ref().ok_or_else(none)
    }

    pub(crate) fn seed_owner(&self) -> Option<OwnerId> {
        let admin = self.admin.as_deref().and_then(|name| self.inventory.owner_named(name));
        admin.or_else(|| self.inventory.owner_named(LOCAL_OWNER))
    }

    /// Commits and waits until the inventory shows it.
    ///
    /// # Errors
    /// [`Timeout`](ErrorKind::Timeout): it is recorded, and not shown here yet.
    async fn commit(&self, change: Change) -> Result<Committed> {
        let committed = self.store.commit(change).await?;
        let shown = self.inventory.wait_for(committed.event, self.timings.show).await;
        let late = "The change is recorded; this server does not show it yet.";
        shown.map_err(|error| Error::new(ErrorKind::Timeout, late).with_source(error))?;
        Ok(committed)
    }
}

/// LIMEN. Cheap to clone; all clones are the same service.
///
/// ```
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main]
/// # async fn main() -> limen_core::Result<()> {
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use limen_core::authz::AllowAll;
/// use limen_core::hypervisor::sim::SimHypervisor;
/// use limen_core::model::{CreateVm, OperationState, PageRequest};
/// use limen_core::service::{HostConfig, VmQuery};
/// use limen_core::store::sqlite::SqliteStore;
/// use limen_core::{Context, Limen};
///
/// let limen = Limen::builder()
///     .store(Arc::new(SqliteStore::in_memory().await?))
///     .authz(Arc::new(AllowAll))
///     .host(HostConfig::new("host-1", "sim:///", Arc::new(SimHypervisor::new())))
///     .build()
///     .await?;
/// let me = Context::local();
///
/// // The answer is an operation: recorded, at work, and finished whether or not anybody waits.
/// let operation = limen.create_vm(&me, CreateVm::new("web-1", 2, 1024)).await?;
/// let operation = limen.wait_operation(&me, operation.id, Duration::from_secs(30)).await?;
/// assert_eq!(operation.state, OperationState::Succeeded);
///
/// let page = limen.list_vms(&me, &VmQuery::default(), PageRequest::default()).await?;
/// assert_eq!(page.vms[0].vm.name, "web-1");
/// limen.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Limen {
    pub(crate) shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Limen {
    /// Starts building one.
    #[must_use]
    pub fn builder() -> LimenBuilder {
        LimenBuilder::default()
    }

    /// The last event that this process shows.
    #[must_use]
    pub fn event(&self) -> EventNumber {
        self.shared.inventory.event()
    }

    /// Returns once this process shows event `number`: reading what one wrote, through any server.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) after `at_most`.
    pub async fn wait_for_event(&self, number: EventNumber, at_most: Duration) -> Result<()> {
        self.shared.inventory.wait_for(number, at_most).await
    }

    /// How often somebody was refused since this process began, for metrics: figures, and no names.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.shared.refusals.counts()
    }

    /// Counts a refusal of nobody who is known that did not come as far as this library: a request
    /// without a token, or with one that the door itself refused.
    pub fn count_unknown(&self) {
        self.shared.refusals.add_unknown();
    }

    /// Commits in a task of its own, so that a caller who goes away takes nothing back, and waits
    /// until the inventory shows it.
    async fn commit_detached(&self, change: Change) -> Result<Committed> {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { shared.commit(change).await }).await.map_err(Error::internal)?
    }

    /// Stops: waits for nothing but the tasks' own ends, writes what was refused and which consoles
    /// ended into the audit, gives the leases back and closes the Store and the hosts. A Store or host
    /// that hangs is left after two seconds. Operations that are not finished go on at the next start;
    /// guests go on anyhow. Idempotent.
    pub async fn shutdown(&self) {
        self.shared.stopping.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        let running = !tasks.is_empty();
        tasks.shutdown().await;
        if running {
            let parting = async {
                tokio::join!(self.shared.consoles.all_closed(), refusals::write(&self.shared, true));
                join_all(self.shared.hosts.iter().map(|host| host::release(&self.shared, host))).await;
                self.shared.store.close().await;
            };
            let closing = join_all(self.shared.hosts.iter().map(|host| host.hypervisor.close()));
            // Neither may keep the process.
            _ = tokio::join!(tokio::time::timeout(LAST_WRITE, parting), tokio::time::timeout(LAST_WRITE, closing));
        }
    }

    /// Stops as a killed process does: nothing is written, no lease is given back. For tests.
    #[cfg(feature = "testing")]
    pub async fn crash(&self) {
        self.shared.stopping.send_replace(true);
        self.tasks.lock().await.shutdown().await;
    }
}
