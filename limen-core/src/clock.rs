//! Time as a value, so that a simulation decides what time it is.

use std::fmt::Debug;
use std::time::Instant;

use time::OffsetDateTime;

/// Tells the time. Deadlines and leases use [`Clock::monotonic`], records use [`Clock::now`].
pub trait Clock: Debug + Send + Sync + 'static {
    /// The wall clock, UTC. It may jump.
    fn now(&self) -> OffsetDateTime;

    /// A clock that never goes back.
    fn monotonic(&self) -> Instant;
}

/// The machine's own clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> OffsetDateTime {
        OffsetDateTime::now_utc()
    }

    fn monotonic(&self) -> Instant {
        Instant::now()
    }
}
