//! One host of this process: its back end, how fresh its view is, and who owns it.
//!
//! ```text
//!            released, or the same beat seen for a whole lease, or held under this very name
//!  contender ──────────────────────────────────────────────────► owner
//!      ▲                  (compare-and-set, next fence)             │
//!      └────────────────────────────────────────────────────────────┘
//!          a renewal finds another holder, or the process stops
//! ```
//!
//! Invariant: only the owner observes the host and runs its operations, after it has judged the Store
//! by what the host remembers of it (`witness.rs`), and it starts no call when
//! its last renewal is older than a third of the lease. The Store refuses what an old fence writes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{broadcast, mpsc, watch};

use super::observer::{self, Look};
use super::operation::runner;
use super::render::Ending;
use super::sampler::Samples;
use super::witness::{self, Kept};
use super::{Shared, Timings};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::Hypervisor;
use crate::metrics::MetricsSource;
use crate::model::{EventNumber, HostId, HostInfo, HostMetrics, HostState, Network, VmId};
use crate::store::{Fence, Lease};

/// What this process last heard of a host.
#[derive(Debug, Default)]
struct Heard {
    /// When a full look was last completed: by this process, or as the owner told the Store.
    observed: Option<Instant>,
    observed_at: Option<OffsetDateTime>,
    /// The process that holds the lease.
    owner: Option<String>,
    info: Option<HostInfo>,
    /// The event that was shown when the host was asked for it.
    info_as_of: EventNumber,
    networks: Vec<Network>,
}

/// A host as this process holds it.
#[derive(Debug)]
pub(crate) struct HostHandle {
    pub(crate) id: HostId,
    pub(crate) name: String,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    source: Option<Arc<dyn MetricsSource>>,
    /// The last figures.
    metrics: watch::Sender<Option<HostMetrics>>,
    /// The last figures of its VMs.
    pub(crate) samples: Samples,
    heard: Mutex<Heard>,
    /// Whether the host has told what it has.
    known: watch::Sender<bool>,
    /// Rises with each full look and each change of `stale`.
    version: AtomicU64,
    /// Asks the observer of this process for a look at one VM.
    looks: Mutex<Option<mpsc::Sender<Look>>>,
    /// One image at a time is copied to the host.
    pub(crate) placing: tokio::sync::Mutex<()>,
    /// How far the host's memory of the Store has got, and how far somebody waits for it to get.
    pub(super) kept: watch::Sender<Kept>,
    pub(super) wanted: watch::Sender<EventNumber>,
    /// Whether the Store was judged by it.
    pub(super) settled: AtomicBool,
    /// Guests that were reset, as the observer hears of them.
    pub(crate) reboots: broadcast::Sender<VmId>,
}

impl HostHandle {
    pub(crate) fn new(
        id: HostId,
        name: String,
        hypervisor: Arc<dyn Hypervisor>,
        source: Option<Arc<dyn MetricsSource>>,
    ) -> Self {
        Self {
            id,
            name,
            hypervisor,
            source,
            metrics: watch::Sender::default(),
            samples: Samples::default(),
            heard: Mutex::default(),
            known: watch::Sender::new(false),
            version: AtomicU64::new(0),
            looks: Mutex::default(),
            placing: tokio::sync::Mutex::default(),
            kept: watch::Sender::default(),
            wanted: watch::Sender::default(),
            settled: AtomicBool::new(false),
            reboots: broadcast::Sender::new(256),
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A full look that began at `at` was completed and recorded.
    pub(crate) fn observed(&self, at: OffsetDateTime, now: Instant) {
        {
            let mut heard = self.heard();
            heard.observed = Some(now);
            heard.observed_at = Some(at);
        }
        self.version.fetch_add(1, Ordering::Release);
    }

    /// How long ago, as of `now`, a full look was last completed.
    pub(crate) fn observation_age(&self, now: Instant) -> Option<Duration> {
        self.heard().observed.map(|observed| now.saturating_duration_since(observed))
    }

    pub(crate) fn observed_at(&self) -> Option<OffsetDateTime> {
        self.heard().observed_at
    }

    /// The name of the process that works on the host, as this one last heard it.
    pub(crate) fn owner(&self) -> Option<String> {
        self.heard().owner.clone()
    }

    /// The host told what it has, asked after event `as_of` was shown.
    pub(crate) fn told(&self, info: HostInfo, networks: Vec<Network>, as_of: EventNumber) {
        {
            let mut heard = self.heard();
            heard.info = Some(info);
            heard.info_as_of = as_of;
            heard.networks = networks;
        }
        self.known.send_replace(true);
    }

    /// What the host has, as it last told, and the event that was shown before. A host that was not
    /// reached yet is waited for.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable): it has told nothing within `at_most`.
    pub(crate) async fn known(&self, at_most: Duration) -> Result<(HostInfo, EventNumber)> {
        let mut known = self.known.subscribe();
        // Its sender is here: only the time can end it.
        _ = tokio::time::timeout(at_most, known.wait_for(|known| *known)).await;
        let heard = self.heard();
        let info = heard.info.clone().ok_or_else(|| {
            let text = "The host was not reached yet, so nobody knows what it has room for; try again soon.";
            Error::new(ErrorKind::Unavailable, text).with_retry_after(Duration::from_secs(2))
        })?;
        Ok((info, heard.info_as_of))
    }

    pub(crate) fn info(&self) -> Option<HostInfo> {
        self.heard().info.clone()
    }

    pub(crate) fn metrics(&self) -> Option<HostMetrics> {
        self.metrics.borrow().clone()
    }

    /// The last figures; the first ones are waited for.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): nobody tells them.
    /// [`Unavailable`](ErrorKind::Unavailable): there are none within `at_most`.
    pub(crate) async fn known_metrics(&self, at_most: Duration) -> Result<HostMetrics> {
        if self.source.is_none() {
            return Err(Error::new(ErrorKind::Unsupported, "No source of this host's figures was given."));
        }
        let mut metrics = self.metrics.subscribe();
        // Its sender is here: only the time can end it.
        _ = tokio::time::timeout(at_most, metrics.wait_for(Option::is_some)).await;
        self.metrics().ok_or_else(|| Error::unavailable("What tells the host's figures"))
    }

    pub(crate) fn networks(&self) -> Vec<Network> {
        self.heard().networks.clone()
    }

    /// Whether the host can be worked with, as of `now`.
    pub(crate) fn state(&self, now: Instant, timings: &Timings) -> HostState {
        match self.heard().observed {
            None => HostState::Unknown,
            Some(observed) if now.duration_since(observed) > timings.stale => HostState::Stale,
            Some(_) => HostState::Up,
        }
    }

    /// What ends the JSON of this host's VMs now.
    pub(super) fn ending(&self, now: Instant, timings: &Timings) -> Ending {
        Ending::new(self.observed_at(), self.state(now, timings) != HostState::Up)
    }

    /// A number that is another one whenever [`HostHandle::ending`] is.
    pub(crate) fn version(&self, now: Instant, timings: &Timings) -> u64 {
        self.version.load(Ordering::Acquire) * 4 + self.state(now, timings) as u64
    }

    pub(super) fn serve_looks(&self, sender: Option<mpsc::Sender<Look>>) {
        *self.looks.lock().unwrap_or_else(PoisonError::into_inner) = sender;
    }

    /// Looks at one VM now and records what is seen; returns the event that shows it.
    pub(crate) async fn look_at(&self, vm: VmId) -> Result<i64> {
        let sender = self.looks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (look, answer) = Look::at(vm);
        match sender {
            Some(sender) if sender.send(look).await.is_ok() => {
                answer.await.unwrap_or_else(|_| Err(Error::unavailable("The host's observer")))
            }
            _ => Err(Error::unavailable("The host's observer")),
        }
    }
}

/// Proof that this process owns a host, for as long as it does.
#[derive(Debug, Clone)]
pub(crate) struct Ownership {
    pub(crate) host: Arc<HostHandle>,
    lease: watch::Receiver<(Lease, Instant)>,
}

impl Ownership {
    /// What every write on behalf of the host carries.
    pub(crate) fn fence(&self) -> Fence {
        self.lease.borrow().0.fence
    }

    /// Returns when a call may start that will not outlive the lease: at once, or after the next
    /// renewal. When there is none, the work of this process on the host is dropped.
    pub(crate) async fn fresh(&self, shared: &Shared) {
        let mut lease = self.lease.clone();
        let young = |(_, renewed): &(Lease, Instant)| {
            shared.clock.monotonic().saturating_duration_since(*renewed) <= shared.timings.lease / 3
        };
        if lease.wait_for(young).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Holds or contends for the lease of `host` until the process stops.
///
/// A process that does not `want` it only learns how fresh the owner's view is.
pub(super) async fn own(shared: Arc<Shared>, host: Arc<HostHandle>, want: bool) {
    let mut last: Option<(Lease, Instant)> = None;
    loop {
        match contend(&shared, &host, &mut last, want).await {
            Ok(Some(lease)) => {
                tracing::info!(host = %host.name, fence = lease.fence.value, "this process owns the host now");
                host.heard().owner.clone_from(&lease.holder);
                serve(&shared, &host, lease).await;
                tracing::warn!(host = %host.name, "this process no longer owns the host");
                last = None;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(host = %host.name, error = %error, "the lease could not be read"),
        }
        tokio::time::sleep(shared.timings.beat / 2).await;
    }
}

/// Takes the lease when it is free, has stood still for its whole length, or is a dead
/// predecessor's: who contends holds nothing, so the holder of the same name is no more.
async fn contend(
    shared: &Shared,
    host: &HostHandle,
    last: &mut Option<(Lease, Instant)>,
    want: bool,
) -> Result<Option<Lease>> {
    let seen = shared.store.lease(host.id).await?;
    let now = shared.clock.monotonic();
    host.heard().owner.clone_from(&seen.holder);
    if let Some(at) = seen.observed_at {
        let moved = |(before, _): &(Lease, Instant)| before.observed_at != seen.observed_at;
        let fresh = || shared.clock.now() - at < shared.timings.stale;
        if last.as_ref().map_or_else(fresh, moved) {
            host.observed(at, now);
        }
    }
    let since = match last {
        Some((before, since)) if before.fence == seen.fence && before.beat == seen.beat => *since,
        _ => now,
    };
    let ours = seen.holder.as_deref() == Some(&shared.holder);
    let free = ours || seen.holder.is_none() || now.duration_since(since) >= shared.timings.lease;
    *last = Some((seen.clone(), since));
    if want && free { shared.store.take_lease(&seen, &shared.holder).await } else { Ok(None) }
}

/// Renews the lease, and observes and works, until the lease is lost.
async fn serve(shared: &Arc<Shared>, host: &Arc<HostHandle>, lease: Lease) {
    let (renewed, lease) = watch::channel((lease, shared.clock.monotonic()));
    let ownership = Ownership { host: Arc::clone(host), lease };
    let work = async {
        let restore = match witness::settle(shared, host).await {
            Ok(known) => {
                // What the owner before this one wrote must be in memory before the host is compared with it.
                while let Err(error) = shared.catch_up().await {
                    tracing::debug!(host = %host.name, %error, "the log cannot be read to its end yet");
                }
                tokio::select! {
                () = observer::observe(Arc::clone(shared), ownership.clone()) => return,
                () = runner::run(Arc::clone(shared), ownership.clone()) => return,
                restore = witness::keep(shared, &ownership, known) => restore,
                }
            }
            Err(restore) => restore,
        };
        // This lease went with the rest. What is taken over next is what is so now.
        _ = shared.inventory.wait_for(restore.next_event, shared.timings.show).await;
    };
    let renew = async {
        let mut stop = shared.stopping.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep(shared.timings.beat) => {}
                _ = stop.wait_for(|stopping| *stopping) => return,
            }
            let current = renewed.borrow().0.clone();
            let begun = shared.clock.monotonic();
            match shared.store.renew_lease(&current, host.observed_at()).await {
                Ok(Some(next)) => drop(renewed.send_replace((next, begun))),
                Ok(None) => return,
                // A newer program has upgraded the Store: this one has nothing to do with hosts any more.
                Err(error) if error.is_outdated() => return,
                Err(error) => tracing::debug!(host = %host.name, error = %error, "the lease could not be renewed"),
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = renew => {}
    }
    host.serve_looks(None);
}

/// Gives the lease back at a clean stop, so that the next owner need not wait.
pub(super) async fn release(shared: &Shared, host: &HostHandle) {
    let Ok(lease) = shared.store.lease(host.id).await else { return };
    if lease.holder.as_deref() != Some(&shared.holder) {
        return;
    }
    witness::leave(shared, host).await;
    if let Err(error) = shared.store.release_lease(&lease).await {
        tracing::warn!(host = %host.name, error = %error, "the lease could not be given back");
    }
}

/// Keeps the host's last figures, in every process. Apart from all else that is asked of the host:
/// a hypervisor that hangs holds them not up.
pub(super) async fn sample(shared: Arc<Shared>, host: Arc<HostHandle>) {
    let Some(source) = &host.source else { return std::future::pending().await };
    loop {
        match source.sample().await {
            Ok(metrics) => drop(host.metrics.send_replace(Some(metrics))),
            Err(error) => tracing::debug!(host = %host.name, error = %error, "the host's figures cannot be read"),
        }
        tokio::time::sleep(shared.timings.info).await;
    }
}

/// Keeps what is known of the host's hardware and networks fresh, in every process.
pub(super) async fn inform(shared: Arc<Shared>, host: Arc<HostHandle>) {
    let mut events = host.hypervisor.subscribe();
    loop {
        let as_of = shared.inventory.event();
        let told = async {
            let info = host.hypervisor.host_info().await?;
            let mut networks = host.hypervisor.list_networks().await?;
            for network in &mut networks {
                network.host.clone_from(&host.name);
            }
            Ok::<_, Error>((info, networks))
        };
        match told.await {
            Ok((info, networks)) => host.told(info, networks, as_of),
            Err(error) => tracing::debug!(host = %host.name, error = %error, "the host tells nothing"),
        }
        let connected = async {
            loop {
                match events.recv().await {
                    Ok(crate::hypervisor::HostEvent::Connected) => return,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
                }
            }
        };
        tokio::select! {
            () = connected => {}
            () = tokio::time::sleep(shared.timings.info) => {}
        }
    }
}
