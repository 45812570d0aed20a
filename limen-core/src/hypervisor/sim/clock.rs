//! The simulator's time: the machine's own, or one that a test moves by hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::watch;

use crate::clock::{Clock, SystemClock};

/// A clock that stands still until a test moves it. Clones show the same time.
///
/// Give the same one to the simulator and to [`Limen`](crate::Limen):
///
/// ```
/// use std::time::Duration;
/// use limen_core::Clock;
/// use limen_core::hypervisor::sim::SimClock;
///
/// let clock = SimClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(90));
/// assert_eq!(clock.now() - before, Duration::from_secs(90));
/// ```
#[derive(Debug, Clone)]
pub struct SimClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    start: Instant,
    elapsed: watch::Sender<Duration>,
    skew: Mutex<time::Duration>,
}

impl SimClock {
    /// A clock that shows 2026-01-01T00:00:00Z.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            elapsed: watch::Sender::new(Duration::ZERO),
            skew: Mutex::new(time::Duration::ZERO),
        }))
    }

    /// Moves both clocks forward. What falls due in the simulator until then has happened when the
    /// simulator is next asked; who waits for this time is woken.
    pub fn advance(&self, by: Duration) {
        self.0.elapsed.send_modify(|elapsed| *elapsed = elapsed.saturating_add(by));
    }

    /// Sets the wall clock ahead or back by `by` and leaves the monotonic one as it is, as a
    /// correction of the machine's time does.
    pub fn jump(&self, by: time::Duration) {
        let mut skew = self.0.skew.lock().unwrap_or_else(PoisonError::into_inner);
        *skew = skew.saturating_add(by);
    }

    /// Returns when the monotonic clock shows `deadline` or later.
    pub async fn reached(&self, deadline: Instant) {
        let mut elapsed = self.0.elapsed.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let _ = elapsed.wait_for(|elapsed| self.0.start + *elapsed >= deadline).await;
    }
}

impl Default for SimClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> OffsetDateTime {
        let skew = *self.0.skew.lock().unwrap_or_else(PoisonError::into_inner);
        time::macros::datetime!(2026-01-01 0:00 UTC) + *self.0.elapsed.borrow() + skew
    }

    fn monotonic(&self) -> Instant {
        self.0.start + *self.0.elapsed.borrow()
    }
}

/// Where the simulator takes its time from.
#[derive(Debug, Clone)]
pub(super) enum Time {
    Real,
    Manual(SimClock),
}

impl Time {
    pub(super) fn monotonic(&self) -> Instant {
        match self {
            Time::Real => SystemClock.monotonic(),
            Time::Manual(clock) => clock.monotonic(),
        }
    }

    pub(super) async fn reached(&self, deadline: Instant) {
        match self {
            Time::Real => tokio::time::sleep_until(deadline.into()).await,
            Time::Manual(clock) => clock.reached(deadline).await,
        }
    }
}
