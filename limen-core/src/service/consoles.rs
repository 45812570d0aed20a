//! Consoles: open for as long as there is a right to them.

use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

use super::Limen;
use crate::context::{Action, Actor, Context};
use crate::error::Result;
use crate::hypervisor::{ConsoleKind, ConsoleStream};
use crate::model::VmId;

/// How often a console that nothing happens on looks whether it still may be open.
const GLANCE: Duration = Duration::from_millis(500);

impl Limen {
    /// Opens a console of a running VM; any process may, not only the owner of the host. It ends
    /// with the VM, and within a second when the actor's right to it does: reads give 0 bytes,
    /// writes fail.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict): it is not running.
    pub async fn open_console(&self, ctx: &Context, id: VmId, kind: ConsoleKind) -> Result<ConsoleStream> {
        let (shown, _) = self.find_managed(ctx, Action::OpenConsole, id)?;
        let console = self.host(shown.host)?.hypervisor.open_console(id, kind).await?;
        let (reads, read) = oneshot::channel();
        let (mut writes, write) = oneshot::channel();
        let (limen, actor) = (self.clone(), ctx.actor().clone());
        tokio::spawn(async move {
            tokio::select! {
                () = limen.console_lost(&actor, id) => {}
                () = writes.closed() => {}
            }
            // An error is a console that was closed.
            _ = (reads.send(()), writes.send(()));
        });
        Ok(Box::new(Guarded { console: Some(console), lost: [read, write] }))
    }

    /// Returns once `actor` may no longer have a console of `id`, or the service stops.
    async fn console_lost(&self, actor: &Actor, id: VmId) {
        let mut applied = self.shared.inventory.follow();
        let mut stopping = self.shared.stopping.subscribe();
        let may = || {
            let now = self.reauthenticate(actor)?;
            self.find_managed(&Context::new(now), Action::OpenConsole, id)
        };
        while may().is_ok() && !*stopping.borrow() {
            tokio::select! {
                _ = applied.changed() => {}
                _ = stopping.changed() => {}
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
    }
}

const READ: usize = 0;
const WRITE: usize = 1;

/// A console that ends when the right to it is lost.
struct Guarded {
    console: Option<ConsoleStream>,
    /// One for each direction: they may be polled by different tasks, and both must wake.
    lost: [oneshot::Receiver<()>; 2],
}

impl Guarded {
    fn live(&mut self, direction: usize, task: &mut Task<'_>) -> Option<Pin<&mut ConsoleStream>> {
        if self.console.is_some() && Pin::new(&mut self.lost[direction]).poll(task).is_ready() {
            self.console = None;
        }
        self.console.as_mut().map(Pin::new)
    }
}

impl AsyncRead for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.live(READ, task) {
            Some(console) => console.poll_read(task, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.live(WRITE, task) {
            Some(console) => console.poll_write(task, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.live(WRITE, task) {
            Some(console) => console.poll_flush(task),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.live(WRITE, task) {
            Some(console) => console.poll_shutdown(task),
            None => Poll::Ready(Ok(())),
        }
    }
}
