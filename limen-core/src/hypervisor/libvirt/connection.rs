//! The connections to one host.
//!
//! ```text
//!   main    looks, power_off, events; kept alive, watched, replaced when it is lost
//!   work    what a guest may block; replaced without notice when its calls pile up
//!   own     one for each serial console and each transfer of a volume
//! ```
//!
//! A thread of its own opens `main`, tells [`HostEvent::Connected`], waits until it is lost, tells
//! [`HostEvent::Disconnected`] and begins again, after 0.1 to 5 s, until [`Link::close`]. Nothing
//! of an old connection is ever used again: after a restart of libvirtd it is dead for good.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak, mpsc};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use uuid::Uuid;
use virt::connect::Connect;

use super::error::{during, unavailable};
use super::facts::FactCache;
use super::ffi::{self, Callbacks, ConnectionSink};
use super::slots::Lane;
use super::xml::capabilities::HostFacts;
use super::{LibvirtOptions, locked};
use crate::error::Result;
use crate::hypervisor::HostEvent;
use crate::model::VmId;

const KEEPALIVE_SECONDS: i32 = 2;
const KEEPALIVE_COUNT: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a connection is asked whether it is alive, beside its own word.
const CHECK: Duration = Duration::from_secs(1);

enum Signal {
    Lost(u64),
    Renew,
    Close,
}

/// How far the first connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    Connecting,
    Connected,
    /// What the host can do is known.
    Explored,
}

/// The connections to one host, and who is told of its events.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) options: LibvirtOptions,
    pub(super) facts: FactCache,
    main: Mutex<Option<Connect>>,
    work: Mutex<Option<Connect>>,
    explored: Mutex<Option<(u64, Arc<HostFacts>)>>,
    generation: AtomicU64,
    closed: AtomicBool,
    signals: Mutex<mpsc::Sender<Signal>>,
    events: broadcast::Sender<HostEvent>,
    progress: watch::Sender<Progress>,
}

/// Where the event thread reports to; of one connection.
#[derive(Debug)]
struct Reporter {
    link: Weak<Link>,
    generation: u64,
}

impl ConnectionSink for Reporter {
    fn changed(&self, id: Uuid, definition: bool) {
        let Some(link) = self.link.upgrade() else { return };
        if definition {
            link.facts.doubt(VmId(id));
        }
        link.tell(HostEvent::VmChanged(VmId(id)));
    }

    fn rebooted(&self, id: Uuid) {
        if let Some(link) = self.link.upgrade() {
            link.tell(HostEvent::VmRebooted(VmId(id)));
        }
    }

    fn closed(&self) {
        if let Some(link) = self.link.upgrade() {
            link.signal(Signal::Lost(self.generation));
        }
    }
}

impl Link {
    /// Begins to connect, in the background.
    pub(super) fn start(options: LibvirtOptions) -> Result<Arc<Self>> {
        ffi::start_event_loop();
        let (signals, received) = mpsc::channel();
        let link = Arc::new(Self {
            options,
            facts: FactCache::default(),
            main: Mutex::default(),
            work: Mutex::default(),
            explored: Mutex::default(),
            generation: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            signals: Mutex::new(signals),
            events: broadcast::Sender::new(4096),
            progress: watch::Sender::new(Progress::Connecting),
        });
        let supervised = Arc::clone(&link);
        std::thread::Builder::new()
            .name("limen-libvirt-up".to_owned())
            .spawn(move || supervised.supervise(&received))
            .map_err(|error| unavailable().with_source(error))?;
        Ok(link)
    }

    /// Waits until the first connection has come as far as `goal`.
    pub(super) async fn reached(&self, goal: Progress) {
        self.progress.subscribe().wait_for(|progress| *progress >= goal).await.ok();
    }

    /// Whether libvirt's in-process test driver is behind the URI.
    pub(super) fn is_test(&self) -> bool {
        self.options.uri.starts_with("test:")
    }

    /// Fails at once when there is no connection.
    pub(super) fn check(&self) -> Result<()> {
        locked(&self.main).as_ref().map(|_| ()).ok_or_else(unavailable)
    }

    /// The connection for calls of `lane`.
    pub(super) fn connection(&self, lane: Lane) -> Result<Connect> {
        let main = locked(&self.main).clone().ok_or_else(unavailable)?;
        if lane != Lane::Change || self.is_test() {
            return Ok(main);
        }
        if let Some(work) = locked(&self.work).clone()
            && work.is_alive().unwrap_or(false)
        {
            return Ok(work);
        }
        let fresh = self.open()?;
        let old = locked(&self.work).replace(fresh.clone());
        drop(old);
        Ok(fresh)
    }

    /// A connection for one stream.
    pub(super) fn own_connection(&self) -> Result<Connect> {
        self.check()?;
        self.open()
    }

    /// Lets the calls that hang on this lane's connection have it for themselves.
    pub(super) fn renew(&self, lane: Lane) {
        tracing::warn!(?lane, uri = %self.options.uri, "calls to libvirt hang; using a new connection");
        if lane == Lane::Change && !self.is_test() {
            let old = locked(&self.work).take();
            // Closing is a call as well.
            std::thread::spawn(move || drop(old));
        } else {
            self.signal(Signal::Renew);
        }
    }

    /// What the host can do; asked once for each version of the hypervisor.
    pub(super) fn explore(&self, conn: &Connect) -> Result<Arc<HostFacts>> {
        let version = (u64::from(conn.hyp_version().unwrap_or(0)) << 32) | u64::from(conn.lib_version().unwrap_or(0));
        if let Some((known, facts)) = locked(&self.explored).as_ref()
            && *known == version
        {
            return Ok(Arc::clone(facts));
        }
        let facts = Arc::new(HostFacts::ask(conn, &self.options)?);
        *locked(&self.explored) = Some((version, Arc::clone(&facts)));
        Ok(facts)
    }

    /// What the host can do, as far as it is known.
    pub(super) fn known(&self) -> Option<Arc<HostFacts>> {
        locked(&self.explored).as_ref().map(|(_, facts)| Arc::clone(facts))
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<HostEvent> {
        self.events.subscribe()
    }

    /// Ends the connections for good.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.signal(Signal::Close);
        let old = (locked(&self.main).take(), locked(&self.work).take());
        std::thread::spawn(move || drop(old));
    }

    fn tell(&self, event: HostEvent) {
        // Nobody need listen.
        self.events.send(event).ok();
    }

    fn signal(&self, signal: Signal) {
        locked(&self.signals).send(signal).ok();
    }

    fn open(&self) -> Result<Connect> {
        let conn = Connect::open(Some(&self.options.uri)).map_err(during("virConnectOpen"))?;
        // The test driver has none.
        conn.set_keep_alive(KEEPALIVE_SECONDS, KEEPALIVE_COUNT).ok();
        Ok(conn)
    }

    fn supervise(self: &Arc<Self>, signals: &mpsc::Receiver<Signal>) {
        let mut pause = FIRST_PAUSE;
        while !self.closed.load(Ordering::Relaxed) {
            match self.establish() {
                Ok((conn, callbacks, generation)) => {
                    pause = FIRST_PAUSE;
                    self.watch(&conn, generation, signals);
                    let old = (locked(&self.main).take(), locked(&self.work).take());
                    tracing::warn!(uri = %self.options.uri, "the connection to libvirt is gone");
                    self.tell(HostEvent::Disconnected);
                    std::thread::spawn(move || {
                        callbacks.remove(&conn);
                        drop((old, conn));
                    });
                }
                Err(error) => {
                    tracing::warn!(uri = %self.options.uri, cause = error.causes(), "libvirt cannot be reached");
                    if let Ok(Signal::Close) = signals.recv_timeout(pause) {
                        return;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn establish(self: &Arc<Self>) -> Result<(Connect, Callbacks, u64)> {
        let conn = self.open()?;
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let reporter: Arc<dyn ConnectionSink> = Arc::new(Reporter { link: Arc::downgrade(self), generation });
        let callbacks = Callbacks::add(&conn, &reporter).map_err(during("virConnectDomainEventRegisterAny"))?;
        self.facts.doubt_all();
        *locked(&self.main) = Some(conn.clone());
        tracing::info!(uri = %self.options.uri, "connected to libvirt");
        self.tell(HostEvent::Connected);
        self.progress.send_if_modified(|progress| {
            let first = *progress < Progress::Connected;
            *progress = (*progress).max(Progress::Connected);
            first
        });
        let (this, explorer) = (Arc::clone(self), conn.clone());
        std::thread::spawn(move || {
            match this.explore(&explorer) {
                Ok(_) => drop(this.progress.send_replace(Progress::Explored)),
                Err(error) => tracing::warn!(cause = error.causes(), "the host's capabilities cannot be read"),
            };
        });
        Ok((conn, callbacks, generation))
    }

    /// Returns when this connection is to be given up.
    fn watch(&self, conn: &Connect, generation: u64, signals: &mpsc::Receiver<Signal>) {
        loop {
            match signals.recv_timeout(CHECK) {
                Ok(Signal::Lost(of)) if of != generation => {}
                Ok(_) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    if !conn.is_alive().unwrap_or(false) || self.closed.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}
