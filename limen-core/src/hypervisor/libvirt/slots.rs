//! Who may call the host when: the bounded threads of one host.
//!
//! ```text
//!   lane       slots  for
//!   observe    1      looks that no guest can delay: list, get, networks
//!   change     2      what may take long: definitions, power, volumes
//!   counters   4      counters of VMs, which may hang on one
//!   power_off  1      cutting the power, which must always get through
//! ```
//!
//! A call holds its slot until it returns, but not longer than [`PATIENCE`]: then it is *overdue*,
//! its slot goes to the next, and its thread and connection stay with it. At [`MAX_OVERDUE`] of
//! them the host counts as unreachable. The deadline of a call answers the caller and nothing
//! else; what changes a VM keeps that VM to itself until it has really returned.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{unavailable, unexpected};
use super::locked;
use crate::error::{Error, ErrorKind, Result};
use crate::model::VmId;

/// Calls for counters at once: libvirt asks the QEMUs of one call one after another.
pub(super) const COUNTERS: usize = 4;

/// How long a call keeps its slot.
const PATIENCE: Duration = Duration::from_secs(2);
/// Overdue calls of a lane at which no more are begun.
const MAX_OVERDUE: usize = 24;
/// How long a thread waits for its next call.
const IDLE: Duration = Duration::from_secs(10);

/// What kind of slot a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Observe,
    Change,
    Counters,
    PowerOff,
}

/// A call to come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) name: &'static str,
    pub(super) lane: Lane,
    /// The VM that it changes: one change of a VM at a time.
    pub(super) vm: Option<VmId>,
    pub(super) deadline: Duration,
}

#[derive(Debug)]
struct LaneSlots {
    free: Arc<Semaphore>,
    overdue: AtomicUsize,
}

impl LaneSlots {
    fn new(slots: usize) -> Arc<Self> {
        Arc::new(Self { free: Arc::new(Semaphore::new(slots)), overdue: AtomicUsize::new(0) })
    }
}

/// The slots of one host.
#[derive(Debug)]
pub(super) struct Slots {
    observe: Arc<LaneSlots>,
    change: Arc<LaneSlots>,
    counters: Arc<LaneSlots>,
    power_off: Arc<LaneSlots>,
    vms: Mutex<HashMap<VmId, Arc<tokio::sync::Mutex<()>>>>,
    workers: Arc<Workers>,
}

impl Slots {
    pub(super) fn new() -> Self {
        Self {
            observe: LaneSlots::new(1),
            change: LaneSlots::new(2),
            counters: LaneSlots::new(COUNTERS),
            power_off: LaneSlots::new(1),
            vms: Mutex::default(),
            workers: Arc::default(),
        }
    }

    /// Runs `work` on a thread of this host and waits for it until its deadline. Once begun, `work`
    /// runs to its end, whoever waits.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + call.deadline;
        let lane = match call.lane {
            Lane::Observe => &self.observe,
            Lane::Change => &self.change,
            Lane::Counters => &self.counters,
            Lane::PowerOff => &self.power_off,
        };
        if lane.overdue.load(Ordering::Relaxed) >= MAX_OVERDUE {
            return Err(unavailable().with_operation(call.name));
        }
        let late = |_| Error::new(ErrorKind::Timeout, "The host did not answer in time.").with_operation(call.name);
        let vm = match call.vm {
            Some(id) => Some(timeout_at(deadline, self.lock_vm(id)).await.map_err(late)?),
            None => None,
        };
        let permit = timeout_at(deadline, Arc::clone(&lane.free).acquire_owned()).await.map_err(late)?;
        let permit = permit.map_err(|_| unavailable())?;

        let (answer, wait) = oneshot::channel();
        let (ended, end) = oneshot::channel::<()>();
        self.workers.run(Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(unexpected("a call panicked")));
            drop(vm);
            answer.send(result).ok();
            drop(ended);
        }))?;
        tokio::spawn(hold(permit, Arc::clone(lane), end));
        match timeout_at(deadline, wait).await.map_err(late)? {
            Ok(result) => result.map_err(|error| error.with_operation(call.name)),
            Err(_) => Err(unexpected("a call ended without an answer").with_operation(call.name)),
        }
    }

    /// Runs `work` on a thread of this host that takes no slot.
    pub(super) fn detach(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        self.workers.run(Box::new(work))
    }

    async fn lock_vm(&self, id: VmId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut vms = locked(&self.vms);
            if vms.len() > 64 {
                vms.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            Arc::clone(vms.entry(id).or_default())
        };
        lock.lock_owned().await
    }
}

async fn hold(permit: OwnedSemaphorePermit, lane: Arc<LaneSlots>, mut end: oneshot::Receiver<()>) {
    if timeout(PATIENCE, &mut end).await.is_ok() {
        return;
    }
    lane.overdue.fetch_add(1, Ordering::Relaxed);
    drop(permit);
    end.await.ok();
    lane.overdue.fetch_sub(1, Ordering::Relaxed);
}

type Task = Box<dyn FnOnce() + Send>;

/// Threads of one host; a thread that has found nothing to do for a while ends.
#[derive(Debug, Default)]
struct Workers {
    idle: Mutex<Vec<(u64, mpsc::Sender<Task>)>>,
    made: Mutex<u64>,
}

impl Workers {
    fn run(self: &Arc<Self>, mut task: Task) -> Result<()> {
        loop {
            let Some((_, worker)) = locked(&self.idle).pop() else { break };
            match worker.send(task) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(back)) => task = back,
            }
        }
        let number = {
            let mut made = locked(&self.made);
            *made += 1;
            *made
        };
        let this = Arc::clone(self);
        std::thread::Builder::new()
            .name("limen-libvirt".to_owned())
            .spawn(move || this.work(number, task))
            .map_err(|error| unavailable().with_source(error))?;
        Ok(())
    }

    fn work(&self, number: u64, first: Task) {
        let (sender, tasks) = mpsc::channel();
        let mut task = first;
        loop {
            if catch_unwind(AssertUnwindSafe(task)).is_err() {
                tracing::error!("a task on a libvirt thread panicked");
            }
            locked(&self.idle).push((number, sender.clone()));
            task = match tasks.recv_timeout(IDLE) {
                Ok(next) => next,
                Err(_) => {
                    let mut idle = locked(&self.idle);
                    if let Some(place) = idle.iter().position(|(other, _)| *other == number) {
                        idle.swap_remove(place);
                        return;
                    }
                    drop(idle);
                    // Somebody took this thread in the same moment; its task is on the way.
                    match tasks.recv() {
                        Ok(next) => next,
                        Err(_) => return,
                    }
                }
            };
        }
    }
}
