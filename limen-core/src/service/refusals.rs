//! Refusals: what an auditor wants to know of those who may not, and what a flood of it costs.
//!
//! A refusal of somebody who is known becomes a record of the audit, written in batches beside the
//! event log. One that is repeated (the same actor, action, resource and reason) is folded: the
//! first is written at the next batch, what follows within [`Timings::fold`](super::Timings::fold)
//! as one more record with its count. So many are folded at once at most, for one actor and for
//! all; beyond that an actor's are folded by the kind of the resource, and what has no room then is
//! counted and not written. Refusals of nobody who is known are counted alone: whoever has no
//! identity writes nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::context::Action;
use crate::error::ErrorKind;
use crate::model::{ActorRef, AuditRecord};
use crate::store::Change;

use super::Shared;

/// What of one actor is folded by each resource; beyond it by the kind of resource.
const MOST_OF_ONE: usize = 32;
/// What is folded of all actors together.
const MOST: usize = 1024;
/// Records of one transaction.
const BATCH: usize = 100;

/// How often somebody was refused, since this process began: for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// Refusals of actors who are known: by policy, by quota, for a wrong password of their own.
    pub known: u64,
    /// Those of them for whom there was no room: they are in no record of the audit.
    pub dropped: u64,
    /// Records that were written of them.
    pub records: u64,
    /// Refusals of nobody who is known: no token, a bad one, a login that failed.
    pub unknown: u64,
}

/// What makes two refusals of an actor the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct What {
    action: Action,
    resource: String,
    reason: Option<String>,
}

/// Equal refusals: those that are not written yet, and since when they are folded.
#[derive(Debug)]
struct Fold {
    /// Of the first that is not written; its `count` and `last_at` tell of the others.
    waiting: Option<AuditRecord>,
    /// When the last record was written; none before the first.
    told: Option<Instant>,
}

#[derive(Debug, Default)]
struct Folds {
    actors: HashMap<ActorRef, HashMap<What, Fold>>,
    /// How many folds there are of all actors.
    open: usize,
    /// Records that a Store which was away did not take yet, oldest first.
    unwritten: Vec<AuditRecord>,
}

/// The refusals of this process.
#[derive(Debug, Default)]
pub(super) struct Log {
    folds: Mutex<Folds>,
    known: AtomicU64,
    dropped: AtomicU64,
    records: AtomicU64,
    unknown: AtomicU64,
}

impl Log {
    fn folds(&self) -> MutexGuard<'_, Folds> {
        self.folds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody was refused who is known.
    pub(super) fn add(&self, record: AuditRecord) {
        self.known.fetch_add(1, Ordering::Relaxed);
        if !self.folds().add(record) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Somebody was refused who is not known.
    pub(super) fn add_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Refusals {
        Refusals {
            known: self.known.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
        }
    }
}

impl Folds {
    /// Folds a refusal in; false where there is no room for it.
    fn add(&mut self, record: AuditRecord) -> bool {
        let mut what = What { action: record.action, resource: record.resource.clone(), reason: record.detail.clone() };
        let of_actor = self.actors.get_mut(&record.actor);
        let held = of_actor.as_ref().map_or(0, |of_actor| of_actor.len());
        if held >= MOST_OF_ONE && of_actor.as_ref().is_some_and(|of_actor| !of_actor.contains_key(&what)) {
            what.resource.truncate(what.resource.find(':').unwrap_or(what.resource.len()));
        }
        if let Some(fold) = of_actor.and_then(|of_actor| of_actor.get_mut(&what)) {
            match &mut fold.waiting {
                Some(first) => {
                    first.count += 1;
                    first.last_at = Some(record.at);
                }
                none => *none = Some(AuditRecord { resource: what.resource, ..record }),
            }
            return true;
        }
        if self.open >= MOST || held >= 2 * MOST_OF_ONE {
            return false;
        }
        let first = AuditRecord { resource: what.resource.clone(), ..record };
        let of_actor = self.actors.entry(first.actor.clone()).or_default();
        of_actor.insert(what, Fold { waiting: Some(first), told: None });
        self.open += 1;
        true
    }

    /// Moves to `unwritten` what is to be written now: what was refused for the first time, and
    /// what was repeated for `fold`; `all` for everything. Forgets what was repeated no more.
    fn settle(&mut self, now: Instant, fold: Duration, all: bool) {
        let Folds { actors, open, unwritten } = self;
        for of_actor in actors.values_mut() {
            of_actor.retain(|_, one| {
                if !all && one.told.is_some_and(|told| now.saturating_duration_since(told) < fold) {
                    return true;
                }
                match one.waiting.take() {
                    Some(record) => {
                        unwritten.push(record);
                        one.told = Some(now);
                        true
                    }
                    None => {
                        *open -= 1;
                        false
                    }
                }
            });
        }
        actors.retain(|_, of_actor| !of_actor.is_empty());
        unwritten.sort_by_key(|record| record.id);
    }
}

/// Writes what there is to write, now and then.
pub(super) async fn write_batches(shared: std::sync::Arc<Shared>) {
    loop {
        tokio::time::sleep(shared.timings.refusals).await;
        write(&shared, false).await;
    }
}

/// Writes what there is to write; `all` for the last time. What the Store does not take now is kept
/// for the next time, and nothing is added to it meanwhile: refusals go on to be folded.
pub(super) async fn write(shared: &Shared, all: bool) {
    let log = &shared.refusals;
    loop {
        let batch: Vec<AuditRecord> = {
            let mut folds = log.folds();
            if folds.unwritten.is_empty() {
                folds.settle(shared.clock.monotonic(), shared.timings.fold, all);
            }
            folds.unwritten.iter().take(BATCH).cloned().collect()
        };
        if batch.is_empty() {
            return;
        }
        let written = batch.len();
        match shared.store.commit(Change { audit: batch, ..Change::default() }).await {
            Ok(_) => {}
            // The answer to an earlier try was lost, and it was written.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => {
                tracing::warn!(%error, cause = error.causes(), "refusals are not in the audit yet");
                return;
            }
        }
        log.folds().unwritten.drain(..written);
        log.records.fetch_add(written as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::model::AuditOutcome;

    fn refusal(actor: &str, resource: &str) -> AuditRecord {
        let at = OffsetDateTime::now_utc();
        AuditRecord {
            id: AuditRecord::id_at(at),
            at,
            count: 1,
            last_at: None,
            actor: ActorRef { label: actor.to_owned(), user: None },
            origin: None,
            request_id: "request".to_owned(),
            action: Action::GetVm,
            resource: resource.to_owned(),
            outcome: AuditOutcome::Refused,
            operation: None,
            detail: Some("not_found".to_owned()),
        }
    }

    const FOLD: Duration = Duration::from_secs(60);

    fn taken(folds: &mut Folds, now: Instant) -> Vec<(String, u64)> {
        folds.settle(now, FOLD, false);
        folds.unwritten.drain(..).map(|record| (record.resource, record.count)).collect()
    }

    #[test]
    fn what_is_repeated_is_folded_and_what_is_not_is_forgotten() {
        let (mut folds, start) = (Folds::default(), Instant::now());
        assert!(folds.add(refusal("user:ann", "vm:1")));
        assert_eq!(taken(&mut folds, start), [("vm:1".to_owned(), 1)], "the first is written at once");
        for _ in 0..1000 {
            assert!(folds.add(refusal("user:ann", "vm:1")));
        }
        assert!(folds.add(refusal("user:bob", "vm:1")));
        assert_eq!(taken(&mut folds, start + FOLD / 2), [("vm:1".to_owned(), 1)], "of another actor");
        assert_eq!(taken(&mut folds, start + FOLD), [("vm:1".to_owned(), 1000)]);
        assert_eq!(folds.open, 2);
        assert_eq!(taken(&mut folds, start + 3 * FOLD), []);
        assert_eq!((folds.open, folds.actors.len()), (0, 0));
    }

    #[test]
    fn a_flood_of_one_actor_leaves_room_for_others_and_is_bounded() {
        let (mut folds, start) = (Folds::default(), Instant::now());
        for number in 0..10_000 {
            assert!(folds.add(refusal("user:ann", &format!("vm:{number}"))));
        }
        assert_eq!(folds.open, MOST_OF_ONE + 1);
        assert!(folds.add(refusal("user:bob", "vm:1")));
        let written = taken(&mut folds, start);
        assert_eq!(written.len(), MOST_OF_ONE + 2);
        assert_eq!(written.iter().map(|(_, count)| count).sum::<u64>(), 10_001, "none is lost");
        assert!(written.contains(&("vm".to_owned(), 10_000 - MOST_OF_ONE as u64)));

        let added = (0..10_000).filter(|number| folds.add(refusal(&format!("user:{number}"), "vm:1"))).count();
        assert_eq!(added, MOST - MOST_OF_ONE - 2);
        assert_eq!(folds.open, MOST);
        folds.settle(start, FOLD, true);
        assert_eq!(folds.unwritten.len(), added, "all that waited");
    }
}
