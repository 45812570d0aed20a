//! The connections to one host.
//!
//! ```text
//!   main    events, and the word whether the host is there; replaced when it is lost
//!   spare   a few; a call takes one for itself and puts it back
//!   own     one for each serial console and each transfer of a volume
//! ```
//!
//! No two calls share a connection: libvirt's client can lose the wake-up of a call that is made
//! while another one waits, and a call on a hung guest would then delay those beside it.
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
use super::xml::capabilities::HostFacts;
use super::{LibvirtOptions, locked};
use crate::error::Result;
use crate::hypervisor::HostEvent;
use crate::model::VmId;

const KEEPALIVE_SECONDS: i32 = 2;
const KEEPALIVE_COUNT: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many spare connections are kept.
const SPARES: usize = 4;
/// How often a connection is asked whether it is alive, beside its own word.
const CHECK: Duration = Duration::from_secs(1);

enum Signal {
    Lost(u64),
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
    spare: Mutex<Vec<Connect>>,
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
            spare: Mutex::default(),
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

    /// Lends a connection to `work`, for itself alone. The test driver has only one, in which its
    /// VMs are.
    pub(super) fn lend<T>(&self, work: impl FnOnce(&Connect) -> Result<T>) -> Result<T> {
        let main = locked(&self.main).clone().ok_or_else(unavailable)?;
        if self.is_test() {
            return work(&main);
        }
        drop(main);
        let generation = self.generation.load(Ordering::Relaxed);
        let spare = locked(&self.spare).pop().filter(|conn| conn.is_alive().unwrap_or(false));
        let conn = match spare {
            Some(conn) => conn,
            None => self.open()?,
        };
        let result = work(&conn);
        if generation == self.generation.load(Ordering::Relaxed) && self.check().is_ok() {
            let mut spare = locked(&self.spare);
            if spare.len() < SPARES {
                spare.push(conn);
            }
        }
        result
    }

    /// A connection for one stream.
    pub(super) fn own_connection(&self) -> Result<Connect> {
        self.check()?;
        self.open()
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
        let old = (locked(&self.main).take(), std::mem::take(&mut *locked(&self.spare)));
        // Closing is a call as well.
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
                    let old = (locked(&self.main).take(), std::mem::take(&mut *locked(&self.spare)));
                    if !self.closed.load(Ordering::Relaxed) {
                        tracing::warn!(uri = %self.options.uri, "the connection to libvirt is gone");
                    }
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
        let this = Arc::clone(self);
        std::thread::spawn(move || {
            match this.lend(|conn| this.explore(conn)) {
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
