//! How long a peer may take: a connection's clock, for who sends slowly, takes nothing, or is silent.
//!
//! ```text
//!            a byte comes              the head is whole
//!   idle ───────────────────► reading ───────────────────► answering ──► idle
//!   120 s: closed              15 s: 408                    no limit: the server's own time
//! ```
//!
//! The 15 s of a request begin with its first byte and go for its body too, while somebody waits for
//! it ([`Timely`]). Beside all three: bytes that the peer does not take for 15 s end the connection.
//! An answer that lasts, and an upload, are exempt from both limits of 15 s ([`Pace::lasts`]) and
//! have limits of their own.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a peer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a request, from its first byte to its last: head and body.
    pub read: Duration,
    /// For taking any bytes of an answer, while there are some.
    pub write: Duration,
    /// Between two requests, and before the first one.
    pub idle: Duration,
}

impl Default for Timeouts {
    /// 15 s, 15 s and 120 s.
    fn default() -> Self {
        Self { read: Duration::from_secs(15), write: Duration::from_secs(15), idle: Duration::from_secs(120) }
    }
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    /// The head of a request is not whole.
    Head,
    /// No request came.
    Idle,
    /// The peer takes nothing.
    Taking,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Idle(Instant),
    Reading(Instant),
    Answering,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Bytes came while a request without a body was answered: they are the next one's.
    early: bool,
    has_body: bool,
    /// Since when the peer takes nothing of what there is for it.
    untaken: Option<Instant>,
    lasting: bool,
}

/// The clock of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Mutex<State>>);

impl Default for Pace {
    fn default() -> Self {
        let phase = Phase::Idle(Instant::now());
        Self(Arc::new(Mutex::new(State { phase, early: false, has_body: false, untaken: None, lasting: false })))
    }
}

impl Pace {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn came(&self) {
        let mut state = self.state();
        match state.phase {
            Phase::Idle(_) => state.phase = Phase::Reading(Instant::now()),
            Phase::Reading(_) => {}
            Phase::Answering => state.early = !state.has_body,
        }
    }

    /// The head of a request is whole; answers when its first byte came.
    pub(crate) fn begins(&self, has_body: bool) -> Instant {
        let mut state = self.state();
        let since = match state.phase {
            Phase::Reading(since) => since,
            Phase::Idle(_) | Phase::Answering => Instant::now(),
        };
        (state.phase, state.early, state.has_body, state.lasting) = (Phase::Answering, false, has_body, false);
        since
    }

    /// All of the answer is on its way.
    pub(crate) fn ends(&self) {
        let mut state = self.state();
        let now = Instant::now();
        state.phase = if state.early { Phase::Reading(now) } else { Phase::Idle(now) };
    }

    /// The request at hand has limits of its own: nothing ends it here.
    pub(crate) fn lasts(&self) {
        self.state().lasting = true;
    }

    fn is_lasting(&self) -> bool {
        self.state().lasting
    }

    fn untaken(&self, untaken: bool) {
        let mut state = self.state();
        state.untaken = if untaken { state.untaken.or_else(|| Some(Instant::now())) } else { None };
    }

    /// When what will be too late, as it is now.
    pub(crate) fn due(&self, timeouts: &Timeouts) -> Option<(Instant, Late)> {
        let state = self.state();
        let phase = match state.phase {
            Phase::Idle(since) => Some((since + timeouts.idle, Late::Idle)),
            Phase::Reading(since) => Some((since + timeouts.read, Late::Head)),
            Phase::Answering => None,
        };
        let untaken = state.untaken.filter(|_| !state.lasting).map(|since| (since + timeouts.write, Late::Taking));
        phase.into_iter().chain(untaken).min_by_key(|(due, _)| *due)
    }
}

/// The stream of a connection, lent to what speaks HTTP on it: had back when that is done.
#[derive(Debug)]
pub(crate) struct Lent {
    stream: Arc<Mutex<TcpStream>>,
    pace: Pace,
}

impl Lent {
    pub(crate) fn new(stream: &Arc<Mutex<TcpStream>>, pace: &Pace) -> Self {
        Self { stream: Arc::clone(stream), pace: pace.clone() }
    }

    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        // Nobody else holds it for longer than a poll.
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.pace.untaken(written.is_pending());
        written
    }
}

impl AsyncRead for Lent {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut *self.stream()).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pace.came();
        }
        read
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream()).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream()).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}

/// The body of a request, which has to come in time while it is waited for.
pub(crate) struct Timely {
    body: BoxBody<Bytes, io::Error>,
    pace: Pace,
    due: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timely {
    pub(crate) fn new(body: BoxBody<Bytes, io::Error>, pace: &Pace, due: Instant) -> Self {
        Self { body, pace: pace.clone(), due, sleep: None }
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if this.pace.is_lasting() {
            return frame;
        }
        // Also who sends without end is late: so it is looked at whether or not something came.
        let due = this.due;
        let sleep = this.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        let is_over = matches!(frame, Poll::Ready(None | Some(Err(_)))) || this.body.is_end_stream();
        if !is_over && sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_its_limit() {
        let (pace, timeouts) = (Pace::default(), Timeouts::default());
        let start = Instant::now();
        let due = || pace.due(&timeouts).map(|(due, late)| ((due + Duration::from_secs(1) - start).as_secs(), late));
        assert_eq!(due(), Some((120, Late::Idle)), "it began a little before");
        pace.came();
        let (first, _) = pace.due(&timeouts).expect("a limit");
        pace.came();
        assert_eq!(pace.due(&timeouts), Some((first, Late::Head)), "the first byte counts");
        assert_eq!(pace.begins(true) + timeouts.read, first);
        assert_eq!(due(), None);
        pace.came();
        pace.untaken(true);
        let (taking, late) = pace.due(&timeouts).expect("a limit");
        assert!(late == Late::Taking && taking >= first);
        pace.untaken(true);
        assert_eq!(pace.due(&timeouts), Some((taking, Late::Taking)), "since the first that was not taken");
        pace.lasts();
        assert_eq!(due(), None);
        pace.untaken(false);
        pace.ends();
        assert_eq!(due().map(|(_, late)| late), Some(Late::Idle), "what came was the body");

        pace.came();
        pace.begins(false);
        pace.came();
        pace.ends();
        assert_eq!(due().map(|(_, late)| late), Some(Late::Head), "what came was the next request");
    }
}
