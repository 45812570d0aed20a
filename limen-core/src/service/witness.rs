//! What a host is told to remember of the Store, and what it tells of it.
//!
//! ```text
//!  the lease is taken ─► the witness is read ─► the Store is judged by it ─► observe, run, keep
//!                                                        │ it was restored
//!                                                        ▼
//!                                              the lease is over; taken anew
//! ```
//!
//! Invariant: before the first effect of an operation, and of its undo, the host remembers an event
//! that is no older than the one that recorded it. So a Store that knows nothing of an effect is
//! known to be older than the host, and no host is observed or worked on for it before that is
//! judged.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::host::{HostHandle, Ownership};
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::Hypervisor;
use crate::model::{ActorRef, AuditOutcome, AuditRecord, EventNumber, InstallId, Restore, Witness};
use crate::store::Store;

/// A host that does not answer at once is judged by its owner, when it is there.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// How long a clean stop waits for the host to take its last witness.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// How far the witness of a host has got, for those who wait for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// The event that it covers.
    event: EventNumber,
    /// Rises with each try that failed.
    failures: u64,
    /// How the last one failed.
    failed: Option<ErrorKind>,
}

/// Judges the Store by what its hosts remember, as far as they answer: before this process has
/// given out a number of an event.
///
/// # Errors
/// What the Store answers.
pub(super) async fn judge_all<'a>(
    store: &dyn Store,
    install: InstallId,
    hosts: impl Iterator<Item = (&'a str, &'a dyn Hypervisor)>,
) -> Result<()> {
    for (name, hypervisor) in hosts {
        match tokio::time::timeout(FIRST_LOOK, read(hypervisor, install)).await {
            Ok(Ok(Some(witness))) => drop(judge(store, name, &witness).await?),
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(host = name, %error, "the host's witness cannot be read yet"),
        }
    }
    Ok(())
}

/// Judges the Store by what this host remembers, once the host answers: what it remembers, or the
/// restore that was noticed.
pub(super) async fn settle(shared: &Shared, host: &HostHandle) -> Result<Option<Witness>, Restore> {
    host.settled.store(false, Ordering::Release);
    loop {
        let judged = async {
            let known = read(&*host.hypervisor, shared.install.id).await?;
            let restore = match &known {
                Some(witness) => judge(&*shared.store, &host.name, witness).await?,
                None => None,
            };
            Ok::<_, Error>(restore.map_or(Ok(known), Err))
        };
        match judged.await {
            Ok(judged) => {
                host.settled.store(judged.is_ok(), Ordering::Release);
                return judged;
            }
            Err(error) => tracing::debug!(host = %host.name, %error, "the store cannot be judged by the host yet"),
        }
        tokio::time::sleep(shared.timings.beat).await;
    }
}

async fn read(hypervisor: &dyn Hypervisor, install: InstallId) -> Result<Option<Witness>> {
    if !hypervisor.capability().witness {
        return Ok(None);
    }
    hypervisor.read_witness(install).await
}

async fn judge(store: &dyn Store, host: &str, witness: &Witness) -> Result<Option<Restore>> {
    let ctx = Context::system("restore");
    let now = time::OffsetDateTime::now_utc();
    let audit = AuditRecord {
        id: AuditRecord::id_at(now),
        at: now,
        count: 1,
        last_at: None,
        actor: ActorRef { label: ctx.actor().label(), user: None },
        origin: None,
        request_id: ctx.request_id().to_owned(),
        action: Action::NoticeRestore,
        resource: "store".to_owned(),
        outcome: AuditOutcome::Succeeded,
        operation: None,
        detail: Some(format!("host {host} knows event {} of epoch {}", witness.event, witness.epoch)),
    };
    let restore = store.judge(witness, host, audit).await?;
    if let Some(restore) = &restore {
        tracing::warn!(
            host,
            epoch = restore.epoch,
            store_event = restore.store_event,
            host_event = restore.host_event,
            held = restore.operations_held,
            "the store was restored from a copy of before: nothing on the hosts is touched for it, its operations are \
             held, its sessions are ended; `limen restored` tells what to see to"
        );
    }
    Ok(restore)
}

impl HostHandle {
    /// Returns once the host remembers an event that is no older than `event`.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), [`Timeout`](ErrorKind::Timeout): the host is away.
    pub(super) async fn covered(&self, event: EventNumber) -> Result<()> {
        if !self.hypervisor.capability().witness {
            return Ok(());
        }
        let mut kept = self.kept.subscribe();
        let before = kept.borrow_and_update().failures;
        self.wanted.send_if_modified(|wanted| {
            let rises = event > *wanted;
            *wanted = event.max(*wanted);
            rises
        });
        let answer = kept.wait_for(|kept| kept.event >= event || kept.failures > before).await;
        match answer.map(|kept| *kept) {
            Ok(kept) if kept.event >= event => Ok(()),
            Ok(Kept { failed: Some(ErrorKind::Timeout), .. }) => {
                Err(Error::new(ErrorKind::Timeout, "The host did not answer in time."))
            }
            Ok(_) | Err(_) => Err(Error::unavailable("The host")),
        }
    }
}

/// Lets the host remember how far the Store is: at once for who waits for it, else once a second
/// while there is something new. `known` is what it remembers already. Returns the restore when the
/// Store is found to have gone back.
pub(super) async fn keep(shared: &Shared, ownership: &Ownership, mut known: Option<Witness>) -> Restore {
    let host = &ownership.host;
    if !host.hypervisor.capability().witness {
        return std::future::pending().await;
    }
    let mut wanted = host.wanted.subscribe();
    let mut hurry = true;
    loop {
        let covered = known.map_or(0, |known| known.event);
        host.kept.send_modify(|kept| kept.event = covered);
        let asked = async {
            if !hurry || wanted.wait_for(|wanted| *wanted > covered).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = asked => {}
            () = tokio::time::sleep(shared.timings.beat) => {}
        }
        hurry = false;
        ownership.fresh(shared).await;
        // The Store is away: whoever waits goes on waiting, as the renewals do.
        let Ok(now) = shared.store.witness().await else { continue };
        if known == Some(now) {
            continue;
        }
        if let Some(known) = known.filter(|known| known.is_newer_than(&now)) {
            // It was put in the place of the Store that this process has worked on.
            match judge(&*shared.store, &host.name, &known).await {
                Ok(Some(restore)) => return restore,
                Ok(None) | Err(_) => continue,
            }
        }
        match host.hypervisor.write_witness(&now).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                failed(host, &error);
                continue;
            }
            // Work goes on without: a host whose disk is full must be able to lose volumes.
            Err(error) => {
                let cause = error.causes();
                tracing::warn!(host = %host.name, %error, cause, "the host does not remember how far the store is");
            }
        }
        known = Some(now);
        hurry = true;
    }
}

fn failed(host: &HostHandle, error: &Error) {
    host.kept.send_modify(|kept| {
        kept.failures += 1;
        kept.failed = Some(error.kind());
    });
}

/// Lets the host remember where this process leaves the Store.
pub(super) async fn leave(shared: &Shared, host: &HostHandle) {
    // Before it is judged, a Store must not take the place of the one that the host knows.
    if !host.hypervisor.capability().witness || !host.settled.load(Ordering::Acquire) {
        return;
    }
    let write = async {
        let witness = shared.store.witness().await?;
        host.hypervisor.write_witness(&witness).await
    };
    if let Ok(Err(error)) = tokio::time::timeout(LAST_WRITE, write).await {
        tracing::debug!(host = %host.name, %error, "the host does not remember how far the store is");
    }
}
