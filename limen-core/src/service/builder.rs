//! Building a [`Limen`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::hasher::Hasher;
use super::host::{self, HostHandle};
use super::images::ImageDir;
use super::inventory::Inventory;
use super::sampler;
use super::tasks::start;
use super::{
    FaultPlan, HostReserve, LOCAL_OWNER, Limen, Shared, Timings, consoles, events, figures, follow, identity, refusals,
    render, witness,
};
use crate::authz::Authz;
use crate::clock::{Clock, SystemClock};
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::Hypervisor;
use crate::metrics::MetricsSource;
use crate::model::{AuditOutcome, HostId, HostRecord, OwnerId, OwnerRecord, Quota};
use crate::secret::Secret;
use crate::store::{Change, Expect, Retention, Row, Snapshot, Store};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A host to manage.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// Its name, unique in the Store; the same name is the same host at every start.
    pub name: String,
    /// How it is reached, for the records: no secrets in it.
    pub uri: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Its back end.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Where its figures come from.
    pub metrics: Option<Arc<dyn MetricsSource>>,
}

impl HostConfig {
    /// A host without labels and figures.
    pub fn new(name: impl Into<String>, uri: impl Into<String>, hypervisor: Arc<dyn Hypervisor>) -> Self {
        Self { name: name.into(), uri: uri.into(), labels: BTreeMap::new(), hypervisor, metrics: None }
    }

    /// Adds a source of figures.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<dyn MetricsSource>) -> Self {
        self.metrics = Some(metrics);
        self
    }
}

/// The admin that an empty Store starts with.
#[derive(Debug, Clone)]
pub struct AdminSeed {
    /// The login name.
    pub name: String,
    /// The password; the rules of [`CreateUser`](super::CreateUser) hold.
    pub password: Secret,
}

/// Collects what a [`Limen`] is made of. A Store and a policy are needed.
#[derive(Debug, Default)]
pub struct LimenBuilder {
    store: Option<Arc<dyn Store>>,
    authz: Option<Arc<dyn Authz>>,
    clock: Option<Arc<dyn Clock>>,
    hosts: Vec<HostConfig>,
    images: Option<PathBuf>,
    admin: Option<AdminSeed>,
    holder: Option<String>,
    timings: Option<Timings>,
    retention: Retention,
    session: Option<Duration>,
    reserve: HostReserve,
    faults: Option<Arc<dyn FaultPlan>>,
    passive: bool,
    read_only: bool,
}

impl LimenBuilder {
    /// Where things are remembered.
    #[must_use]
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// The policy. There is no default: a program that wants none says
    /// [`AllowAll`](crate::authz::AllowAll).
    #[must_use]
    pub fn authz(mut self, authz: Arc<dyn Authz>) -> Self {
        self.authz = Some(authz);
        self
    }

    /// Another clock than the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Adds a host; the first one is where VMs go that name none.
    #[must_use]
    pub fn host(mut self, host: HostConfig) -> Self {
        self.hosts.push(host);
        self
    }

    /// The directory of image files; made when it is absent. Without one there are no images.
    #[must_use]
    pub fn images(mut self, directory: impl Into<PathBuf>) -> Self {
        self.images = Some(directory.into());
        self
    }

    /// The admin to make when the Store has no user yet; no effect otherwise.
    #[must_use]
    pub fn admin(mut self, admin: AdminSeed) -> Self {
        self.admin = Some(admin);
        self
    }

    /// Names this process in leases; a random name by default. No other living process may bear
    /// it: what a holder of the same name left is a dead predecessor's, and taken over at once
    /// instead of after the lease.
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// Other timings than the documented ones.
    #[must_use]
    pub fn timings(mut self, timings: Timings) -> Self {
        self.timings = Some(timings);
        self
    }

    /// How long history is kept.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// How long a session lasts from its login on: 24 hours by default.
    #[must_use]
    pub fn session(mut self, lasts: Duration) -> Self {
        self.session = Some(lasts);
        self
    }

    /// What VMs leave of every host.
    #[must_use]
    pub fn reserve(mut self, reserve: HostReserve) -> Self {
        self.reserve = reserve;
        self
    }

    /// Faults on purpose, for tests.
    #[must_use]
    pub fn faults(mut self, faults: Arc<dyn FaultPlan>) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Never own a host: record operations, read, open consoles, and leave the work to another
    /// process on the same Store. The record of a host that is there already stays as it is.
    #[must_use]
    pub fn passive(mut self) -> Self {
        self.passive = true;
        self
    }

    /// Look only: passive, and without anything that writes by itself. Nothing is made that is not
    /// there, not the record of a host and no directory; nothing is pruned. For a Store that was
    /// opened to be read; what a caller asks to be changed is refused by that.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.passive = true;
        self.read_only = true;
        self
    }

    /// Reads the Store into memory and starts the tasks on the current tokio runtime. A host that
    /// cannot be reached now does not fail it.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid): no Store, no policy, two hosts of one name, or an admin
    /// whose name or password breaks the rules. What the Store answers.
    pub async fn build(self) -> Result<Limen> {
        let store = self.store.ok_or_else(|| Error::invalid("store", "A Limen needs a store."))?;
        let no_policy = "A Limen needs a policy; a program that wants none says so with AllowAll.";
        let authz = self.authz.ok_or_else(|| Error::invalid("authz", no_policy))?;
        let clock = self.clock.unwrap_or_else(|| Arc::new(SystemClock));
        let images = match self.images {
            Some(directory) if self.read_only => Some(ImageDir::of(directory)),
            Some(directory) => Some(ImageDir::at(directory, !self.passive).await?),
            None => None,
        };
        let install = store.install().await?;
        if !self.passive && !self.read_only {
            let hosts = self.hosts.iter().map(|host| (host.name.as_str(), &*host.hypervisor));
            witness::judge_all(&*store, install.id, hosts).await?;
        }
        let snapshot = store.snapshot().await?;
        let hosts = if self.read_only {
            known_hosts(&snapshot, self.hosts)?
        } else {
            let hosts = settle_hosts(&*store, &snapshot, self.hosts, self.passive).await?;
            settle_local_owner(&*store, &snapshot).await?;
            hosts
        };
        let began = clock.monotonic();
        let shared = Arc::new(Shared {
            authz,
            clock,
            timings: self.timings.unwrap_or_default(),
            retention: self.retention,
            session: self.session.unwrap_or(DAY),
            reserve: self.reserve,
            install,
            holder: self.holder.unwrap_or_else(|| Uuid::new_v4().to_string()),
            hosts,
            inventory: Inventory::new(),
            following: follow::Following::from(began),
            sampled: watch::Sender::new(0),
            stopping: watch::Sender::new(false),
            admin: self.admin.as_ref().map(|admin| admin.name.clone()),
            images,
            hasher: Hasher::new()?,
            pages: render::PageCache::default(),
            streams: events::Streams::default(),
            consoles: consoles::Open::default(),
            refusals: refusals::Log::default(),
            counts: figures::Counts::default(),
            faults: self.faults,
            store,
        });
        shared.inventory.load(shared.store.snapshot().await?);
        let mut tasks = JoinSet::new();
        let with = Arc::clone(&shared);
        start(&shared, &mut tasks, "follow", move |again| follow::follow(Arc::clone(&with), again));
        let limen = Limen { shared: Arc::clone(&shared), tasks: Arc::default() };
        if let Some(admin) = self.admin {
            limen.seed_admin(admin).await?;
        }
        for host in &shared.hosts {
            let (with, of) = (Arc::clone(&shared), Arc::clone(host));
            start(&shared, &mut tasks, "inform", move |_| host::inform(Arc::clone(&with), Arc::clone(&of)));
            let (with, of) = (Arc::clone(&shared), Arc::clone(host));
            start(&shared, &mut tasks, "sample", move |_| host::sample(Arc::clone(&with), Arc::clone(&of)));
            let (with, of) = (Arc::clone(&shared), Arc::clone(host));
            start(&shared, &mut tasks, "counters", move |_| sampler::sample(Arc::clone(&with), Arc::clone(&of)));
            let (with, of, want) = (Arc::clone(&shared), Arc::clone(host), !self.passive);
            start(&shared, &mut tasks, "own", move |_| host::own(Arc::clone(&with), Arc::clone(&of), want));
        }
        if !self.read_only {
            let with = Arc::clone(&shared);
            start(&shared, &mut tasks, "prune", move |_| follow::prune(Arc::clone(&with)));
            let with = Arc::clone(&shared);
            start(&shared, &mut tasks, "refusals", move |_| refusals::write_batches(Arc::clone(&with)));
        }
        *limen.tasks.lock().await = tasks;
        Ok(limen)
    }
}

/// Gives every configured host its record: the one of its name, or a new one.
async fn settle_hosts(
    store: &dyn Store,
    snapshot: &Snapshot,
    configs: Vec<HostConfig>,
    passive: bool,
) -> Result<Vec<Arc<HostHandle>>> {
    let mut handles: Vec<Arc<HostHandle>> = Vec::with_capacity(configs.len());
    for config in configs {
        refuse_twin(&handles, &config)?;
        let id = match settle_host(store, &snapshot.hosts, &config, passive).await {
            // Another process that starts just now was first.
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Conflict) => {
                settle_host(store, &store.snapshot().await?.hosts, &config, passive).await?
            }
            other => other?,
        };
        handles.push(Arc::new(HostHandle::new(id, config.name, config.hypervisor, config.metrics)));
    }
    Ok(handles)
}

/// Gives every configured host its record, and makes none: one that is not in the Store has nothing
/// there, under whatever id.
fn known_hosts(snapshot: &Snapshot, configs: Vec<HostConfig>) -> Result<Vec<Arc<HostHandle>>> {
    let mut handles: Vec<Arc<HostHandle>> = Vec::with_capacity(configs.len());
    for config in configs {
        refuse_twin(&handles, &config)?;
        let known = snapshot.hosts.iter().find(|record| record.name == config.name);
        let id = known.map_or_else(HostId::generate, |record| record.id);
        handles.push(Arc::new(HostHandle::new(id, config.name, config.hypervisor, config.metrics)));
    }
    Ok(handles)
}

fn refuse_twin(handles: &[Arc<HostHandle>], config: &HostConfig) -> Result<()> {
    if handles.iter().any(|handle| handle.name == config.name) {
        return Err(Error::invalid("host", "Two hosts have the same name."));
    }
    Ok(())
}

async fn settle_host(store: &dyn Store, known: &[HostRecord], config: &HostConfig, passive: bool) -> Result<HostId> {
    let known = known.iter().find(|record| record.name == config.name);
    let same = |known: &&HostRecord| known.uri == config.uri && known.labels == config.labels;
    if let Some(known) = known.filter(|known| passive || same(known)) {
        return Ok(known.id);
    }
    let record = HostRecord {
        id: known.map_or_else(HostId::generate, |record| record.id),
        name: config.name.clone(),
        uri: config.uri.clone(),
        labels: config.labels.clone(),
        version: known.map_or(1, |record| record.version + 1),
    };
    let id = record.id;
    let expect = known.map_or(Expect::Absent, |known| Expect::Version(known.version));
    let rows = vec![Row::Host { record: Box::new(record), expect }];
    store.commit(Change { rows, ..Change::default() }).await?;
    Ok(id)
}

async fn settle_local_owner(store: &dyn Store, snapshot: &Snapshot) -> Result<()> {
    if snapshot.owners.iter().any(|owner| owner.name == LOCAL_OWNER) {
        return Ok(());
    }
    let owner = OwnerRecord {
        id: OwnerId::generate(),
        kind: LOCAL_OWNER.to_owned(),
        name: LOCAL_OWNER.to_owned(),
        quota: Quota::default(),
    };
    match store.commit(Change { rows: vec![Row::Owner(owner)], ..Change::default() }).await {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

impl Limen {
    async fn seed_admin(&self, admin: AdminSeed) -> Result<()> {
        if !self.shared.inventory.users().is_empty() {
            return Ok(());
        }
        let ctx = Context::system("first start");
        let user = identity::CreateUser {
            name: admin.name,
            password: admin.password,
            role: crate::Role::Admin,
            disabled: false,
            quota: Quota::default(),
        };
        let audit = self.audit_record(&ctx, Action::CreateUser, String::new(), AuditOutcome::Succeeded, None);
        match self.insert_user(user, audit, || Ok(())).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map(drop),
        }
    }
}
