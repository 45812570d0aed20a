//! Feeds the inventory from the log: the one path by which any change is seen, also this process's own.
//!
//! Whoever needs to know that nothing is missing *wishes* for it: a wish is met when the log was
//! read to its end by a read that began after the wish. One read meets all wishes before it, and
//! reads that are only wished for come [`BETWEEN_WISHES`] apart, so that no number of callers makes
//! the Store work more than that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Shared;
use crate::error::{Error, Result};
use crate::model::Fact;
use crate::store::{EventBatch, PRUNED_AT_ONCE};

/// Events read at once.
const BATCH: usize = 1000;
/// The log is looked at this often whatever happens.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Memory that was read from the log longer ago than this is not asked who may do what: what
/// revokes something acts within a second.
const FRESH: Duration = Duration::from_secs(1);
/// How long a request waits to know who asks.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two reads that were wished for.
const BETWEEN_WISHES: Duration = Duration::from_millis(20);

/// How far this process is with the log, and who wishes for it to be at the end.
#[derive(Debug)]
pub(super) struct Following {
    /// How many wishes there were.
    wishes: watch::Sender<u64>,
    /// How many of them are met.
    met: watch::Sender<u64>,
    /// When the last read began that came to the end.
    read_at: Mutex<Instant>,
    /// Whether the last wish was not met in time, and no read has come to the end since.
    away: AtomicBool,
}

impl Following {
    /// The inventory was read from the Store at `now`.
    pub(super) fn from(now: Instant) -> Self {
        let (wishes, met) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { wishes, met, read_at: Mutex::new(now), away: AtomicBool::new(false) }
    }

    fn at_end(&self, began: Instant, wishes: u64) {
        *self.read_at.lock().unwrap_or_else(PoisonError::into_inner) = began;
        self.away.store(false, Ordering::Relaxed);
        self.met.send_replace(wishes);
    }
}

impl Shared {
    /// Returns once the inventory shows everything that was written before this call, by whichever
    /// process.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable): not within [`show`](super::Timings::show).
    pub(super) async fn catch_up(&self) -> Result<()> {
        self.catch_up_within(self.timings.show).await
    }

    async fn catch_up_within(&self, at_most: Duration) -> Result<()> {
        let mut wish = 0;
        self.following.wishes.send_modify(|wishes| {
            *wishes += 1;
            wish = *wishes;
        });
        let mut met = self.following.met.subscribe();
        loop {
            let began = self.clock.monotonic();
            let reached = met.wait_for(|met| *met >= wish);
            if let Ok(Ok(_)) = tokio::time::timeout(at_most, reached).await {
                return Ok(());
            }
            // Where it was this process that stood still, the Store has not had its time yet.
            if self.clock.monotonic().saturating_duration_since(began) < 2 * at_most {
                self.following.away.store(true, Ordering::Relaxed);
                return Err(Error::unavailable("The store"));
            }
        }
    }

    /// Returns when memory may be asked about somebody: at once where it has just been read and
    /// `knows` them, else after one more look at the log. While the Store is away, whoever is
    /// known is known.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable): they are not known, and the Store is away.
    pub(super) async fn recall(&self, knows: bool) -> Result<()> {
        let read_at = *self.following.read_at.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.clock.monotonic().saturating_duration_since(read_at) <= FRESH;
        if knows && (fresh || self.following.away.load(Ordering::Relaxed)) {
            return Ok(());
        }
        match self.catch_up_within(PATIENCE).await {
            Err(_) if knows => Ok(()),
            other => other,
        }
    }
}

/// Follows the log until the future is dropped. `anew` begins with a snapshot: where it stopped in
/// the middle of an event, memory may hold a part of it.
pub(super) async fn follow(shared: Arc<Shared>, mut anew: bool) {
    let following = &shared.following;
    let mut wishes = following.wishes.subscribe();
    let mut wished_at = tokio::time::Instant::now();
    loop {
        let (after, began, wish) = (shared.inventory.event(), shared.clock.monotonic(), *wishes.borrow_and_update());
        let batch = match shared.store.events_after(after, BATCH as u32).await {
            // What this process has seen of the time that was lost by a restore is so no more.
            Ok(batch) if anew || batch.oldest > after + 1 || tells_a_restore(&batch) => {
                match shared.store.snapshot().await {
                    Ok(snapshot) => {
                        shared.inventory.load(snapshot);
                        anew = false;
                    }
                    Err(error) => pause(&error).await,
                }
                continue;
            }
            Ok(batch) => batch,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let found = batch.events.len();
        if found > 0 {
            shared.inventory.apply(batch.events);
        }
        if found < BATCH {
            following.at_end(began, wish);
        }
        if found == 0 {
            tokio::select! {
                () = shared.store.changed(after, LOOK_EVERY) => {}
                true = async { wishes.changed().await.is_ok() } => {
                    tokio::time::sleep_until(wished_at + BETWEEN_WISHES).await;
                    wished_at = tokio::time::Instant::now();
                }
            }
        }
    }
}

fn tells_a_restore(batch: &EventBatch) -> bool {
    batch.events.iter().any(|event| matches!(event.fact, Fact::Restored { .. }))
}

async fn pause(error: &Error) {
    tracing::debug!(%error, "the log cannot be read");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// Between two parts of what is old: others want the Store too.
const BETWEEN_PARTS: Duration = Duration::from_millis(200);
/// A process that begins has more urgent things to do.
const FIRST_PRUNE: Duration = Duration::from_secs(10);

/// Removes what is older than the retention: a bounded part at a time until there is no more, now
/// and then. So more may grow old than one part in that time.
pub(super) async fn prune(shared: Arc<Shared>) {
    tokio::time::sleep(shared.timings.prune.min(FIRST_PRUNE)).await;
    loop {
        match shared.store.prune(&shared.retention, shared.clock.now()).await {
            Ok(removed) => {
                if removed.values().any(|rows| *rows > 0) {
                    tracing::info!(?removed, "old rows were removed");
                }
                if removed.values().any(|rows| *rows >= PRUNED_AT_ONCE) {
                    tokio::time::sleep(BETWEEN_PARTS).await;
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, cause = error.causes(), "old rows could not be removed"),
        }
        tokio::time::sleep(shared.timings.prune).await;
    }
}
