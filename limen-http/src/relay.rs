//! A console over a WebSocket (RFC 6455): bytes of the guest as binary messages, both ways.
//!
//! One task holds both ends and moves bytes only where the other side takes them: it reads the
//! guest's next piece when the one before is sent, and the client's next message when the guest has
//! taken the one before. So a side that reads slowly holds the other one back, and a console keeps
//! no more than a piece and a message: under 256 KiB, whatever either side does.
//!
//! ```text
//! open ──► the VM stops, the right is lost, the server stops, a bad frame ──► close sent ──► over
//!   │                                                                    answered, or 300 ms later
//!   └────► the client closes, is gone, or answers no ping ──────────────────────────────────► over
//! ```

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use limen_core::service::{Console, ConsoleEnd};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_websockets::{CloseCode, Error, Limits, Message, ServerBuilder, WebSocketStream};

use crate::line::Line;
use crate::pace::Lent;

/// The most that is read of the guest at once, and the longest message.
const PIECE: usize = 64 << 10;
/// The longest message that a client may send, its fragments together.
const LONGEST_MESSAGE: usize = 64 << 10;
/// How often a client is pinged.
const PING: Duration = Duration::from_secs(20);
/// So many pings without a word are enough.
const UNANSWERED: u32 = 2;
/// How long the last of them waits for its answer.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client may take to hear why it is over.
const FAREWELL: Duration = Duration::from_millis(300);

/// How a relay came to its end.
enum Over {
    /// The console gives nothing more.
    Console,
    /// The client closed, is gone, or sent what is no frame.
    Client,
    /// The client sent a message that is too long.
    TooLong,
    /// The client answers nothing.
    Silent,
    /// The server stops.
    Stopping,
}

/// One console and its client.
pub(crate) struct Relay {
    socket: WebSocketStream<Lent>,
    console: Console,
    line: Line,
    /// Room for what is read of the guest.
    room: BytesMut,
    /// A message is queued and not sent yet.
    unsent: bool,
    /// What the client said and the guest has not taken yet.
    typed: Bytes,
    /// A ping is not answered yet: nothing more is read before, or pongs would pile up.
    answering: bool,
    /// Pings since the client was last heard.
    unanswered: u32,
}

impl Relay {
    /// A relay over `stream`, which has been upgraded.
    pub(crate) fn new(stream: Lent, console: Console, line: Line) -> Self {
        let limits = Limits::default().max_payload_len(Some(LONGEST_MESSAGE));
        Self {
            socket: ServerBuilder::new().limits(limits).serve(stream),
            console,
            line,
            room: BytesMut::new(),
            unsent: false,
            typed: Bytes::new(),
            answering: false,
            unanswered: 0,
        }
    }

    /// Relays until either end is over, and tells the client why where there is one to tell.
    pub(crate) async fn run(mut self) {
        let over = self.relay().await;
        let end = match over {
            Over::Console => {
                let mut line = self.line.clone();
                tokio::select! {
                    end = self.console.end() => end,
                    () = line.stopping() => ConsoleEnd::Stopping,
                }
            }
            Over::Silent => ConsoleEnd::Silent,
            Over::Stopping => ConsoleEnd::Stopping,
            Over::Client | Over::TooLong => ConsoleEnd::Left,
        };
        let Self { mut socket, console, line, .. } = self;
        console.close(end);
        let (code, reason) = match over {
            Over::TooLong => (CloseCode::MESSAGE_TOO_BIG, "A message may have 64 KiB at most.".to_owned()),
            _ => (close_code(end), end.to_string()),
        };
        // It fails where the client closed, or the socket did by itself after what was no frame.
        _ = socket.start_send_unpin(Message::close(Some(code), &reason));
        let last = async {
            _ = socket.flush().await;
            while let Some(Ok(_)) = socket.next().await {}
        };
        // An error is a client that does not hear.
        _ = timeout(FAREWELL, last).await;
        // Until here the server that stops waits.
        drop(line);
    }

    async fn relay(&mut self) -> Over {
        let mut line = self.line.clone();
        let mut due = Instant::now() + PING;
        loop {
            tokio::select! {
                over = std::future::poll_fn(|cx| self.poll_move(cx)) => return over,
                () = line.stopping() => return Over::Stopping,
                () = sleep_until(due) => {}
            }
            // While the guest does not take what came, nothing more is read: no pong either, of a client
            // that takes all that is sent.
            if !self.typed.is_empty() && !self.unsent {
                self.unanswered = 0;
            }
            if self.unanswered == UNANSWERED {
                return Over::Silent;
            }
            if self.socket.start_send_unpin(Message::ping(BytesMut::new())).is_err() {
                return Over::Client;
            }
            self.unsent = true;
            self.unanswered += 1;
            due += if self.unanswered == UNANSWERED { GRACE } else { PING };
        }
    }

    /// Moves what can be moved; ready when it is over.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            let out = self.poll_out(cx);
            let inward = self.poll_in(cx);
            match (out, inward) {
                (Poll::Ready(Err(over)), _) | (_, Poll::Ready(Err(over))) => return Poll::Ready(over),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
                _ => {}
            }
        }
    }

    /// One step from the guest to the client; pending when there is none.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        if self.unsent {
            let sent = ready!(self.socket.poll_flush_unpin(cx));
            (self.unsent, self.answering) = (false, false);
            return Poll::Ready(sent.map_err(|_| Over::Client));
        }
        // The room of a message that is sent is used again.
        self.room.reserve(PIECE);
        // It can be dropped between two polls.
        let read = pin!(self.console.read_buf(&mut self.room)).poll(cx);
        if !matches!(ready!(read), Ok(1..)) {
            return Poll::Ready(Err(Over::Console));
        }
        let sent = self.socket.start_send_unpin(Message::binary(self.room.split()));
        self.unsent = true;
        Poll::Ready(sent.map_err(|_| Over::Client))
    }

    /// One step from the client to the guest; pending when there is none.
    fn poll_in(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        if !self.typed.is_empty() {
            let taken = ready!(Pin::new(&mut self.console).poll_write(cx, &self.typed));
            return Poll::Ready(match taken {
                Ok(count @ 1..) => {
                    self.typed.advance(count);
                    Ok(())
                }
                _ => Err(Over::Console),
            });
        }
        if self.answering {
            return Poll::Pending;
        }
        let message = match ready!(self.socket.poll_next_unpin(cx)) {
            Some(Ok(message)) => message,
            Some(Err(Error::PayloadTooLong { .. })) => return Poll::Ready(Err(Over::TooLong)),
            Some(Err(_)) | None => return Poll::Ready(Err(Over::Client)),
        };
        self.unanswered = 0;
        if message.is_close() {
            return Poll::Ready(Err(Over::Client));
        }
        if message.is_ping() {
            (self.unsent, self.answering) = (true, true);
        } else if !message.is_pong() {
            self.typed = message.into_payload().into();
        }
        Poll::Ready(Ok(()))
    }
}

const fn close_code(end: ConsoleEnd) -> CloseCode {
    match end {
        ConsoleEnd::Left | ConsoleEnd::VmStopped | ConsoleEnd::VmDeleted => CloseCode::NORMAL_CLOSURE,
        ConsoleEnd::Silent | ConsoleEnd::LoggedOut | ConsoleEnd::NotAllowed => CloseCode::POLICY_VIOLATION,
        ConsoleEnd::Stopping => CloseCode::GOING_AWAY,
        _ => CloseCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_a_close_frame() {
        for end in [
            ConsoleEnd::Left,
            ConsoleEnd::Silent,
            ConsoleEnd::VmStopped,
            ConsoleEnd::VmDeleted,
            ConsoleEnd::HostEnded,
            ConsoleEnd::LoggedOut,
            ConsoleEnd::NotAllowed,
            ConsoleEnd::Stopping,
        ] {
            // It would panic.
            assert!(Message::close(Some(close_code(end)), &end.to_string()).is_close());
        }
    }
}
