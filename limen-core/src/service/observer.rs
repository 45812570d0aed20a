//! Turns what a host shows into facts in the log.
//!
//! One task per owned host. A full look every two seconds and at every (re)connect, a look at one
//! VM when an event or an operation asks for it. Looks overlap, and nobody can tell which of two
//! that do read the host last. So beginnings and recordings are numbered in one row, and a look
//! counts for a VM only if it began after that VM was last recorded. One that began before and
//! saw the same confirms it; one that saw something else counts for nothing, and the VM is looked
//! at again: whoever waits for the look waits for that one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use time::OffsetDateTime;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinSet;

use super::host::Ownership;
use super::operation::sweep;
use super::tasks::guarded;
use super::{Shared, seed};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{HostEvent, HostVm};
use crate::model::{EventNumber, VmId};
use crate::store::{Change, Row};

/// A wish for a look at one VM; answered with the event that shows it.
#[derive(Debug)]
pub(crate) struct Look {
    vm: VmId,
    answer: oneshot::Sender<Result<EventNumber>>,
}

impl Look {
    pub(crate) fn at(vm: VmId) -> (Self, oneshot::Receiver<Result<EventNumber>>) {
        let (answer, receiver) = oneshot::channel();
        (Self { vm, answer }, receiver)
    }
}

/// What a look brought.
enum Seen {
    All { result: Result<Vec<HostVm>>, at: OffsetDateTime },
    Volumes,
    One { vm: VmId, result: Result<HostVm>, answers: Vec<oneshot::Sender<Result<EventNumber>>> },
}

/// What a look is worth for a VM.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// It saw what is known.
    Same,
    /// It saw something else, and began after that was recorded.
    Newer,
    /// It saw something else, and began before: either can be the older.
    Unclear,
}

/// Rows in one commit at most.
const BATCH: usize = 500;

/// A VM that is gone is remembered for this many looks: long enough for any look at it to end.
const FORGET: u64 = 10_000;

struct Observer {
    shared: Arc<Shared>,
    ownership: Ownership,
    /// The number of the last beginning or recording of a look.
    last: u64,
    /// Of each VM, the number of its last recording, and what was seen.
    known: HashMap<VmId, (u64, Option<HostVm>)>,
    /// The last event that this observer wrote.
    event: EventNumber,
    looks: JoinSet<(u64, Seen)>,
    looking_at_all: bool,
    look_again: bool,
}

/// Observes the host until the future is dropped.
pub(super) async fn observe(shared: Arc<Shared>, ownership: Ownership) {
    let host = Arc::clone(&ownership.host);
    let mut events = host.hypervisor.subscribe();
    let (sender, mut wishes) = mpsc::channel::<Look>(1024);
    host.serve_looks(Some(sender));
    let known = shared.inventory.seen_on(host.id).into_iter().map(|seen| (seen.id, (0, Some((*seen).clone()))));
    let mut observer = Observer {
        known: known.collect(),
        shared: Arc::clone(&shared),
        ownership,
        last: 1,
        event: shared.inventory.event(),
        looks: JoinSet::new(),
        looking_at_all: false,
        look_again: false,
    };
    let mut volumes = tokio::time::interval(shared.timings.volumes);
    volumes.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut refresh = tokio::time::interval(shared.timings.refresh);
    refresh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            Some(wish) = wishes.recv() => {
                let mut wanted: HashMap<VmId, Vec<_>> = HashMap::from([(wish.vm, vec![wish.answer])]);
                while let Ok(wish) = wishes.try_recv() {
                    wanted.entry(wish.vm).or_default().push(wish.answer);
                }
                for (vm, answers) in wanted {
                    observer.look_at(vm, answers);
                }
            }
            Some(seen) = observer.looks.join_next() => match seen {
                Ok((number, seen)) => observer.record(number, seen).await,
                Err(error) => tracing::error!(%error, "a look at the host ended by itself"),
            },
            event = events.recv() => {
                let mut changed = BTreeSet::new();
                observer.hear(event, &mut changed);
                while let Ok(event) = events.try_recv() {
                    observer.hear(Ok(event), &mut changed);
                }
                observer.look_at_some(changed);
            }
            _ = refresh.tick() => observer.look_at_all(),
            _ = volumes.tick() => observer.look_at_volumes(),
        }
    }
}

impl Observer {
    fn hear(&mut self, event: Result<HostEvent, broadcast::error::RecvError>, changed: &mut BTreeSet<VmId>) {
        match event {
            Ok(HostEvent::VmChanged(vm)) => drop(changed.insert(vm)),
            Ok(HostEvent::VmRebooted(vm)) => drop(self.ownership.host.reboots.send(vm)),
            Ok(HostEvent::Connected) | Err(broadcast::error::RecvError::Lagged(_)) => self.look_at_all(),
            Ok(HostEvent::Disconnected) => {
                tracing::warn!(host = %self.ownership.host.name, "the connection to the host is lost");
            }
            Err(broadcast::error::RecvError::Closed) => {}
        }
    }

    fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn look_at(&mut self, vm: VmId, answers: Vec<oneshot::Sender<Result<EventNumber>>>) {
        let (number, hypervisor) = (self.number(), Arc::clone(&self.ownership.host.hypervisor));
        self.looks.spawn(async move {
            let result = guarded(hypervisor.get(vm)).await;
            (number, Seen::One { vm, result, answers })
        });
    }

    /// Looks at each of a few VMs, or at all of them at once.
    fn look_at_some(&mut self, vms: impl IntoIterator<Item = VmId, IntoIter: ExactSizeIterator>) {
        let vms = vms.into_iter();
        if vms.len() > 16 {
            self.look_at_all();
        } else {
            vms.for_each(|vm| self.look_at(vm, Vec::new()));
        }
    }

    fn look_at_all(&mut self) {
        if self.looking_at_all {
            self.look_again = true;
            return;
        }
        self.looking_at_all = true;
        let (number, hypervisor) = (self.number(), Arc::clone(&self.ownership.host.hypervisor));
        let at = self.shared.clock.now();
        self.looks.spawn(async move { (number, Seen::All { result: guarded(hypervisor.list()).await, at }) });
    }

    fn look_at_volumes(&mut self) {
        if !self.ownership.host.hypervisor.capability().volumes {
            return;
        }
        let (shared, ownership) = (Arc::clone(&self.shared), self.ownership.clone());
        self.looks.spawn(async move {
            if let Err(error) = guarded(sweep::late_volumes(&shared, &ownership)).await {
                tracing::debug!(host = %ownership.host.name, %error, "the volumes cannot be compared");
            }
            (0, Seen::Volumes)
        });
    }

    async fn record(&mut self, number: u64, seen: Seen) {
        match seen {
            Seen::Volumes => {}
            Seen::One { vm, result, answers } => {
                let found = match result {
                    Ok(found) => Ok(Some(found)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                };
                if found.as_ref().is_ok_and(|found| self.judge(number, vm, found.as_ref()) == Judgement::Unclear) {
                    self.look_at(vm, answers);
                    return;
                }
                let recorded = match found {
                    Ok(found) => self.commit(vec![(vm, found)]).await,
                    Err(error) => Err(error),
                };
                for answer in answers {
                    let _ = answer.send(match &recorded {
                        Ok(event) => Ok(*event),
                        Err(error) => Err(Error::new(error.kind(), error.to_string())),
                    });
                }
            }
            Seen::All { result, at } => {
                self.looking_at_all = false;
                match result {
                    Ok(found) => {
                        if self.record_all(number, found).await.is_ok() {
                            self.ownership.host.observed(at, self.shared.clock.monotonic());
                        }
                    }
                    Err(error) => {
                        tracing::debug!(host = %self.ownership.host.name, %error, "the host cannot be observed");
                    }
                }
                if std::mem::take(&mut self.look_again) {
                    self.look_at_all();
                }
            }
        }
    }

    async fn record_all(&mut self, number: u64, found: Vec<HostVm>) -> Result<()> {
        let present: HashSet<VmId> = found.iter().map(|vm| vm.id).collect();
        let known = self.known.iter().filter(|(id, (_, seen))| seen.is_some() && !present.contains(id));
        let gone = known.map(|(id, _)| (*id, None)).collect::<Vec<_>>();
        let mut all: Vec<_> = found.into_iter().map(|vm| (vm.id, Some(vm))).chain(gone).collect();
        let mut unclear = Vec::new();
        all.retain(|(id, seen)| {
            let clear = self.judge(number, *id, seen.as_ref()) != Judgement::Unclear;
            if !clear {
                unclear.push(*id);
            }
            clear
        });
        self.look_at_some(unclear);
        seed::import(&self.shared, &self.ownership, &all).await?;
        for batch in all.chunks(BATCH) {
            self.commit(batch.to_vec()).await?;
        }
        self.known.retain(|_, (last, seen)| seen.is_some() || *last + FORGET > number);
        sweep::late_definitions(&self.shared, &self.ownership, &all).await
    }

    /// What a look that began as `number` is worth for a VM.
    fn judge(&self, number: u64, vm: VmId, seen: Option<&HostVm>) -> Judgement {
        match self.known.get(&vm) {
            None if seen.is_none() => Judgement::Same,
            None => Judgement::Newer,
            Some((_, before)) if before.as_ref() == seen => Judgement::Same,
            Some((recorded, _)) if *recorded < number => Judgement::Newer,
            Some(_) => Judgement::Unclear,
        }
    }

    /// Records what a look saw of some VMs, none of it unclear; what is known already costs nothing.
    async fn commit(&mut self, seen: Vec<(VmId, Option<HostVm>)>) -> Result<EventNumber> {
        let host = self.ownership.host.id;
        let number = self.number();
        let rows: Vec<Row> = seen
            .iter()
            .filter(|(id, now)| self.judge(number, *id, now.as_ref()) == Judgement::Newer)
            .map(|(id, now)| match now {
                Some(now) => Row::Status { host, seen: Box::new(now.clone()) },
                None => Row::StatusGone { host, vm: *id },
            })
            .collect();
        if !rows.is_empty() {
            let fence = Some(self.ownership.fence());
            self.event = self.shared.store.commit(Change { fence, rows, ..Change::default() }).await?.event;
        }
        for (id, now) in seen {
            self.known.insert(id, (number, now));
        }
        Ok(self.event)
    }
}
