//! Consoles: open for as long as there is a right to them, and in the audit at both ends.
//!
//! ```text
//! open_console ──► recorded as accepted ──► open ──► over ──► recorded as succeeded: how long,
//!                                             │               how many bytes, why it ended
//!                 the VM stops or goes, the viewer leaves, the right is lost, the process stops
//! ```
//!
//! Each console has a task that watches over it and writes its end. A process that is killed writes
//! none: such a console has a beginning in the audit, and no end.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as Task, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{oneshot, watch};

use super::Limen;
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::ConsoleStream;
use crate::model::{AuditOutcome, ConsoleKind, HostId, VmId, VmPhase};
use crate::store::Change;

/// How often a console that nothing happens on looks whether it still may be open.
const GLANCE: Duration = Duration::from_millis(500);
/// How long a VM may take to show why its console ended at its host, and how often the host is asked:
/// a guest's process closes its screen some time before its host calls it stopped.
const HINDSIGHT: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);
/// How long it takes until the Store is asked again to record an end.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a console is over. `Display` is a sentence for whoever looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsoleEnd {
    /// Whoever had it open let it go.
    Left,
    /// Whoever had it open answers nothing any more.
    Silent,
    /// The VM stopped, or was saved.
    VmStopped,
    /// The VM was deleted.
    VmDeleted,
    /// Its host ended it while the VM goes on, as far as this process knows.
    HostEnded,
    /// The session or token that it was opened with is no longer good.
    LoggedOut,
    /// The actor may not have it any more.
    NotAllowed,
    /// This process stops.
    Stopping,
}

impl fmt::Display for ConsoleEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConsoleEnd::Left => "The viewer left.",
            ConsoleEnd::Silent => "The viewer answers nothing any more.",
            ConsoleEnd::VmStopped => "The VM has stopped.",
            ConsoleEnd::VmDeleted => "The VM was deleted.",
            ConsoleEnd::HostEnded => "The host ended the console; open it again.",
            ConsoleEnd::LoggedOut => "The session or token is no longer good; log in again.",
            ConsoleEnd::NotAllowed => "You may not use this console any more.",
            ConsoleEnd::Stopping => "The server is stopping; open the console again.",
        })
    }
}

/// The consoles that are open in this process.
#[derive(Debug, Default)]
pub(super) struct Open(watch::Sender<usize>);

impl Open {
    /// Returns once the ends of all are recorded.
    pub(super) async fn all_closed(&self) {
        // An error would be a sender that is gone.
        _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }
}

impl Limen {
    /// Opens a console of a running VM; any process may, not only the owner of the host. It ends
    /// with the VM, and within a second when the actor's right to it does: reads give 0 bytes,
    /// writes fail. The audit has its beginning, written before it is given to anybody, and its end.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): it is not running.
    pub async fn open_console(&self, ctx: &Context, id: VmId, kind: ConsoleKind) -> Result<Console> {
        let (shown, _) = self.find_managed(ctx, Action::OpenConsole, id)?;
        let stream = self.host(shown.host)?.hypervisor.open_console(id, kind).await?;
        self.record(ctx, id, AuditOutcome::Accepted, kind.as_str().to_owned()).await?;

        let (reads, read) = oneshot::channel();
        let (mut writes, write) = oneshot::channel();
        let talk = Arc::new(Talk::default());
        let (limen, ctx, kept) = (self.clone(), ctx.clone(), Arc::clone(&talk));
        self.shared.consoles.0.send_modify(|open| *open += 1);
        tokio::spawn(async move {
            let began = Instant::now();
            let end = tokio::select! {
                end = limen.console_lost(ctx.actor(), id) => *kept.end.get_or_init(|| end),
                () = writes.closed() => limen.end_of(&kept, id).await,
            };
            // An error is a console that was closed.
            _ = (reads.send(()), writes.send(()));
            limen.record_end(&ctx, id, kept.told(kind, began.elapsed(), end)).await;
            limen.shared.consoles.0.send_modify(|open| *open -= 1);
        });
        Ok(Console { stream: Some(stream), lost: [read, write], talk, limen: self.clone(), vm: id })
    }

    async fn record(&self, ctx: &Context, id: VmId, outcome: AuditOutcome, detail: String) -> Result<()> {
        let record = self.audit_record(ctx, Action::OpenConsole, format!("vm:{id}"), outcome, Some(detail));
        self.shared.store.commit(Change { audit: vec![record], ..Change::default() }).await.map(drop)
    }

    /// Writes the end, also once a Store that is away comes back.
    async fn record_end(&self, ctx: &Context, id: VmId, detail: String) {
        let mut stopping = self.shared.stopping.subscribe();
        loop {
            let Err(error) = self.record(ctx, id, AuditOutcome::Succeeded, detail.clone()).await else { return };
            let is_last = *stopping.borrow_and_update();
            if is_last || error.kind() != ErrorKind::Unavailable {
                let cause = error.causes();
                return tracing::warn!(%error, cause, vm = %id, detail, "the end of a console is not in the audit");
            }
            tokio::select! {
                _ = stopping.changed() => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    /// Returns once `actor` may no longer have a console of `id`, or the service stops.
    async fn console_lost(&self, actor: &Actor, id: VmId) -> ConsoleEnd {
        let mut applied = self.shared.inventory.follow();
        let mut stopping = self.shared.stopping.subscribe();
        let may = || {
            let now = self.reauthenticate(actor)?;
            self.find_managed(&Context::new(now), Action::OpenConsole, id)
        };
        loop {
            if let Err(error) = may() {
                return self.end_by(&error, id);
            }
            if *stopping.borrow() {
                return ConsoleEnd::Stopping;
            }
            tokio::select! {
                _ = applied.changed() => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
    }

    fn end_by(&self, error: &Error, id: VmId) -> ConsoleEnd {
        match error.kind() {
            ErrorKind::Unauthenticated => ConsoleEnd::LoggedOut,
            ErrorKind::NotFound if self.shared.inventory.vm(id).is_none() => ConsoleEnd::VmDeleted,
            _ => ConsoleEnd::NotAllowed,
        }
    }

    /// Why a console is over that nobody took away: its VM may show it a moment later.
    async fn end_of(&self, talk: &Talk, id: VmId) -> ConsoleEnd {
        if let Some(end) = talk.end.get() {
            return *end;
        }
        if !talk.ended.load(Ordering::Acquire) {
            return *talk.end.get_or_init(|| ConsoleEnd::Left);
        }
        let seen = async {
            loop {
                if let Some(end) = talk.end.get() {
                    return *end;
                }
                if *self.shared.stopping.borrow() {
                    return ConsoleEnd::Stopping;
                }
                match self.shared.inventory.vm(id).map(|shown| (shown.record, shown.vm.status.state, shown.host)) {
                    Some((Some(record), state, host)) if record.phase != VmPhase::Deleting => {
                        if !state.is_active() || self.has_stopped(host, id).await {
                            return ConsoleEnd::VmStopped;
                        }
                    }
                    _ => return ConsoleEnd::VmDeleted,
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let end = tokio::time::timeout(HINDSIGHT, seen).await.unwrap_or(ConsoleEnd::HostEnded);
        *talk.end.get_or_init(|| end)
    }

    /// Whether a VM shows at its host already that it stopped: the inventory follows later.
    async fn has_stopped(&self, host: HostId, id: VmId) -> bool {
        let Ok(host) = self.host(host) else { return false };
        host.hypervisor.get(id).await.is_ok_and(|vm| !vm.state.is_active())
    }
}

const READ: usize = 0;
const WRITE: usize = 1;

/// What went through a console, and how it ended.
#[derive(Debug, Default)]
struct Talk {
    /// Bytes, in each direction.
    bytes: [AtomicU64; 2],
    /// The console itself ended.
    ended: AtomicBool,
    end: OnceLock<ConsoleEnd>,
}

impl Talk {
    fn count(&self, direction: usize, bytes: usize) {
        self.bytes[direction].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The detail of the audit.
    fn told(&self, kind: ConsoleKind, lasted: Duration, end: ConsoleEnd) -> String {
        let [read, written] = [READ, WRITE].map(|direction| self.bytes[direction].load(Ordering::Relaxed));
        format!("{}: {:.1} s, {read} bytes read, {written} bytes written. {end}", kind.as_str(), lasted.as_secs_f64())
    }
}

/// An open console: bytes to and from the guest. Dropping it closes it.
pub struct Console {
    stream: Option<ConsoleStream>,
    /// One for each direction: they may be polled by different tasks, and both must wake.
    lost: [oneshot::Receiver<()>; 2],
    talk: Arc<Talk>,
    limen: Limen,
    vm: VmId,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("vm", &self.vm).field("talk", &self.talk).finish_non_exhaustive()
    }
}

impl Console {
    /// Why it is over, once reads give 0 bytes or fail; before that it counts as
    /// [left](ConsoleEnd::Left). Five seconds at most.
    pub async fn end(&mut self) -> ConsoleEnd {
        self.limen.end_of(&self.talk, self.vm).await
    }

    /// Closes it, and says why where it is not over already.
    pub fn close(self, end: ConsoleEnd) {
        self.talk.end.get_or_init(|| end);
    }

    fn live(&mut self, direction: usize, task: &mut Task<'_>) -> Option<Pin<&mut ConsoleStream>> {
        if self.stream.is_some() && Pin::new(&mut self.lost[direction]).poll(task).is_ready() {
            self.stream = None;
        }
        self.stream.as_mut().map(Pin::new)
    }
}

impl AsyncRead for Console {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let has_room = buffer.remaining() > 0;
        let read = match self.live(READ, task) {
            Some(stream) => stream.poll_read(task, buffer),
            None => Poll::Ready(Ok(())),
        };
        if let Poll::Ready(outcome) = &read {
            let count = buffer.filled().len() - before;
            self.talk.count(READ, count);
            if outcome.is_err() || (has_room && count == 0) {
                self.talk.ended.store(true, Ordering::Release);
            }
        }
        read
    }
}

impl AsyncWrite for Console {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.live(WRITE, task) {
            Some(stream) => stream.poll_write(task, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        match &written {
            Poll::Ready(Ok(count)) => self.talk.count(WRITE, *count),
            Poll::Ready(Err(_)) => self.talk.ended.store(true, Ordering::Release),
            Poll::Pending => {}
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.live(WRITE, task) {
            Some(stream) => stream.poll_flush(task),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.live(WRITE, task) {
            Some(stream) => stream.poll_shutdown(task),
            None => Poll::Ready(Ok(())),
        }
    }
}
