//! Figures for monitoring: what this process did, and what it holds now.
//!
//! All of it is in memory. No host and no Store is asked, so figures come at once whatever hangs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Limen, Refusals};
use crate::authz::{Decision, Resource};
use crate::context::{Action, Context};
use crate::error::Result;
use crate::model::{HostState, Operation, OperationKind, OperationState, OwnerRecord, Quota, Usage, VmState};

/// The upper bounds of the durations of operations, in seconds: a power action takes less than one,
/// a copy of a large image minutes.
const OPERATION_SECONDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0];

/// How an operation may end.
const OUTCOMES: [OperationState; 3] = [OperationState::Succeeded, OperationState::Failed, OperationState::Cancelled];
/// Where an operation may be that has not ended.
const UNFINISHED: [OperationState; 3] = [OperationState::Queued, OperationState::Running, OperationState::Undoing];

/// A duration as JSON has it.
mod seconds {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A duration as JSON has it, where there is one.
mod some_seconds {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(deserializer)?;
        seconds.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)).transpose()
    }
}

/// Durations, counted by how long they were. Any number of threads may add to it at once.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what is longer than all of them.
    counts: Box<[AtomicU64]>,
    micros: AtomicU64,
}

/// A [`Histogram`] as it is at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Durations {
    /// For each bound in seconds, how many durations were at most so long.
    pub at_most: Vec<(f64, u64)>,
    /// How many durations there are.
    pub count: u64,
    /// What they come to; in JSON, in seconds.
    #[serde(with = "seconds")]
    pub sum: Duration,
}

impl Histogram {
    /// An empty one with these upper bounds in seconds, in rising order.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), micros: AtomicU64::new(0) }
    }

    /// Adds a duration.
    pub fn add(&self, duration: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < duration.as_secs_f64());
        self.counts[place].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was added so far.
    #[must_use]
    pub fn durations(&self) -> Durations {
        let sum = Duration::from_micros(self.micros.load(Ordering::Relaxed));
        let mut count = 0;
        let mut counts = self.counts.iter().map(|longer| {
            count += longer.load(Ordering::Relaxed);
            count
        });
        let at_most: Vec<(f64, u64)> = self.bounds.iter().copied().zip(&mut counts).collect();
        let count = counts.next().unwrap_or_default();
        Durations { at_most, count, sum }
    }
}

/// What this process did with operations of one kind.
#[derive(Debug)]
struct Done {
    started: AtomicU64,
    ended: [AtomicU64; OUTCOMES.len()],
    durations: Histogram,
}

/// What this process did with operations, by kind in the order of [`OperationKind::ALL`].
#[derive(Debug)]
pub(super) struct Counts(Vec<Done>);

impl Default for Counts {
    fn default() -> Self {
        let none = || Done {
            started: AtomicU64::default(),
            ended: Default::default(),
            durations: Histogram::new(&OPERATION_SECONDS),
        };
        Self(OperationKind::ALL.iter().map(|_| none()).collect())
    }
}

impl Counts {
    fn of(&self, kind: OperationKind) -> Option<&Done> {
        self.0.get(OperationKind::ALL.iter().position(|known| *known == kind)?)
    }

    /// This process recorded an operation.
    pub(super) fn started(&self, kind: OperationKind) {
        if let Some(done) = self.of(kind) {
            done.started.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// This process recorded the end of an operation.
    pub(super) fn ended(&self, operation: &Operation) {
        let outcome = OUTCOMES.iter().position(|outcome| *outcome == operation.state);
        let (Some(done), Some(outcome), Some(at)) = (self.of(operation.kind), outcome, operation.finished_at) else {
            return;
        };
        done.ended[outcome].fetch_add(1, Ordering::Relaxed);
        // A clock that was set back in between makes it no time at all.
        done.durations.add((at - operation.created_at).try_into().unwrap_or_default());
    }
}

/// A host's part of [`Figures`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFigures {
    /// The host's name.
    pub name: String,
    /// Whether it can be worked with.
    pub state: HostState,
    /// How long ago it was last observed in full; none before the first time. In JSON, in seconds.
    #[serde(with = "some_seconds")]
    pub observation_age: Option<Duration>,
}

/// Operations of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationFigures {
    /// The kind.
    pub kind: OperationKind,
    /// How many this process recorded.
    pub started: u64,
    /// How many this process, as the owner of their host, brought to each end. One whose undo was
    /// opened again for a late effect ends once more.
    pub ended: Vec<(OperationState, u64)>,
    /// From the request to the end, of those that this process brought to one.
    pub durations: Durations,
    /// How many there are now that have not ended, whoever works on them, by where they are.
    pub unfinished: Vec<(OperationState, u64)>,
}

/// An owner's limits and use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerFigures {
    /// The owner's name.
    pub name: String,
    /// What the owner may have at most.
    pub limits: Quota,
    /// What the owner's VMs come to.
    pub used: Usage,
}

/// Figures for monitoring: [`Limen::get_metrics`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Figures {
    /// How many VMs are in each state, those that LIMEN did not make among them; every state is there.
    pub vms: Vec<(VmState, u64)>,
    /// The hosts of this process.
    pub hosts: Vec<HostFigures>,
    /// The operations; every kind is there.
    pub operations: Vec<OperationFigures>,
    /// How long ago this process had last read everything of the event log; in JSON, in
    /// seconds.
    #[serde(with = "seconds")]
    pub event_lag: Duration,
    /// Who was refused.
    pub refusals: Refusals,
    /// Limits and use of the owners that the actor may know of: their own; all for whoever may list
    /// users; none for anybody else.
    pub owners: Vec<OwnerFigures>,
}

impl Limen {
    /// Figures for monitoring, from memory alone. But for `owners`, nothing in them names anybody.
    ///
    /// # Errors
    /// What the policy refuses. The server's own lets everybody, also nobody who is known.
    pub async fn get_metrics(&self, ctx: &Context) -> Result<Figures> {
        self.authorize(ctx, Action::GetMetrics, Resource::Any, "figure")?;
        let shared = &self.shared;
        let now = shared.clock.monotonic();
        let hosts = shared.hosts.iter().map(|host| HostFigures {
            name: host.name.clone(),
            state: host.state(now, &shared.timings),
            observation_age: host.observation_age(now),
        });
        let unfinished = shared.inventory.unfinished();
        let operations = OperationKind::ALL.into_iter().zip(&shared.counts.0).map(|(kind, done)| OperationFigures {
            kind,
            started: done.started.load(Ordering::Relaxed),
            ended: OUTCOMES.into_iter().zip(done.ended.iter().map(|ended| ended.load(Ordering::Relaxed))).collect(),
            durations: done.durations.durations(),
            unfinished: UNFINISHED
                .into_iter()
                .map(|state| (state, unfinished.get(&(kind, state)).copied().unwrap_or_default()))
                .collect(),
        });
        Ok(Figures {
            vms: shared.inventory.count_by_state(),
            hosts: hosts.collect(),
            operations: operations.collect(),
            event_lag: shared.following.lag(now),
            refusals: self.refusals(),
            owners: self.owners_known_to(ctx),
        })
    }

    fn owners_known_to(&self, ctx: &Context) -> Vec<OwnerFigures> {
        let may = |action| self.shared.authz.decide(ctx.actor(), action, Resource::Any) == Decision::Allow;
        let inventory = &self.shared.inventory;
        if !may(Action::GetQuota) {
            return Vec::new();
        }
        let known = match self.owner_of(ctx) {
            _ if may(Action::ListUsers) => inventory.owners(),
            Ok(own) => inventory.owner(own).into_iter().collect(),
            Err(_) => Vec::new(),
        };
        let figures =
            |(owner, used): (OwnerRecord, Usage)| OwnerFigures { name: owner.name, limits: owner.quota, used };
        known.into_iter().map(figures).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_every_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[0.5, 1.0]);
        for millis in [500, 501, 1000, 60_000] {
            histogram.add(Duration::from_millis(millis));
        }
        let durations = histogram.durations();
        assert_eq!(durations.at_most, [(0.5, 1), (1.0, 3)]);
        assert_eq!((durations.count, durations.sum), (4, Duration::from_millis(62_001)));
    }
}
