//! Problem documents for what is refused before it is a request.
//!
//! hyper answers what it cannot parse (a broken request line, too many headers) by itself, with an
//! empty body, in one piece and as the last one of its connection. This stream puts a document in
//! its place on the way out. It knows such an answer by what it lacks: each of ours bears a
//! request id.
//!
//! Invariant: only the first bytes of an answer are judged, never what stands in a body. hyper gives
//! all that it has to each write, so an answer begins where the write before took everything and no
//! body of ours is on its way ([`Answered`]).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use limen_core::{Error, ErrorKind};
use poem::http::{StatusCode, Version, header};

use crate::edge;
use crate::error::Problem;
use crate::logging::STRANGERS;
use crate::pace::Pace;
use crate::request_id;

/// A connection on which every error has a problem document.
#[derive(Debug)]
pub(crate) struct Documented<S> {
    stream: S,
    answers: Answers,
    /// Whether the last write left bytes over: the next one goes on in the middle of something.
    cut: bool,
    /// What is written in the place of hyper's answer, as far as it is not written yet.
    document: Option<Bytes>,
}

impl<S> Documented<S> {
    /// `answers` counts the bodies on this connection.
    pub(crate) const fn new(stream: S, answers: Answers) -> Self {
        Self { stream, answers, cut: false, document: None }
    }

    /// The connection without this around it.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    fn bare_refusal(&self, head: &[u8]) -> Option<StatusCode> {
        if self.cut || self.answers.on_the_way.load(Ordering::Acquire) > 0 { None } else { bare_refusal(head) }
    }

    fn note(&mut self, given: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(taken)) = &written {
            self.cut = *taken < given;
        }
        written
    }
}

/// How many answers of one connection have a body on its way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers {
    on_the_way: Arc<AtomicUsize>,
    pace: Pace,
}

/// The body of an answer, counted until hyper has taken all of it.
#[derive(Debug)]
pub(crate) struct Answered<B> {
    body: B,
    answers: Answers,
}

impl Answers {
    /// `pace` is told when one is out.
    pub(crate) fn new(pace: Pace) -> Self {
        Self { on_the_way: Arc::default(), pace }
    }

    pub(crate) fn count<B>(&self, body: B) -> Answered<B> {
        self.on_the_way.fetch_add(1, Ordering::AcqRel);
        Answered { body, answers: self.clone() }
    }
}

impl<B> Drop for Answered<B> {
    fn drop(&mut self) {
        self.answers.on_the_way.fetch_sub(1, Ordering::AcqRel);
        self.answers.pace.ends();
    }
}

impl<B: Body + Unpin> Body for Answered<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S: Read + Unpin> Read for Documented<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Write + Unpin> Write for Documented<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.document.is_none() {
            self.document = self.bare_refusal(buf).map(document);
        }
        let this = &mut *self;
        let Some(document) = &mut this.document else {
            let written = Pin::new(&mut this.stream).poll_write(cx, buf);
            return this.note(buf.len(), written);
        };
        while document.has_remaining() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, document))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            document.advance(written);
        }
        this.document = None;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs.iter().find(|buf| !buf.is_empty()) {
            Some(first) if self.document.is_some() || self.bare_refusal(first).is_some() => self.poll_write(cx, first),
            _ => {
                let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
                self.note(bufs.iter().map(|buf| buf.len()).sum(), written)
            }
        }
    }
}

/// What hyper lets pass and RFC 9112 does not. The edge refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A request of HTTP/1.1 without exactly one `Host` (3.2).
    Host,
    /// A transfer coding that nobody here takes off (6.1).
    TransferCoding,
}

impl Malformed {
    pub(crate) fn find<B>(request: &hyper::Request<B>) -> Option<Self> {
        let headers = request.headers();
        let mut hosts = headers.get_all(header::HOST).iter();
        let one_host = hosts.next().is_some_and(|host| !host.is_empty()) && hosts.next().is_none();
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        if request.version() == Version::HTTP_11 && !one_host {
            Some(Malformed::Host)
        } else if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            Some(Malformed::TransferCoding)
        } else {
            None
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self {
            Malformed::Host => Problem::Malformed(Error::invalid("host", "A request needs exactly one Host header.")),
            Malformed::TransferCoding => {
                Problem::Malformed(Error::new(ErrorKind::Unsupported, "No transfer coding but chunked is read."))
            }
        }
    }
}

/// The status of an answer that is hyper's own refusal.
fn bare_refusal(head: &[u8]) -> Option<StatusCode> {
    let status = head.strip_prefix(b"HTTP/1.").filter(|rest| rest.get(1..3) == Some(b" 4"))?.get(2..5)?;
    let id = request_id::X_REQUEST_ID.as_str().as_bytes();
    let ours = head.windows(id.len()).any(|name| name == id);
    if ours { None } else { StatusCode::from_bytes(status).ok() }
}

/// The whole answer to what is no request, the last one of its connection.
pub(crate) fn document(status: StatusCode) -> Bytes {
    let id = request_id::choose(None);
    let problem = Problem::Unparsed(status);
    if let Some(suppressed) = STRANGERS.admit() {
        let (status, code) = (status.as_u16(), problem.code());
        tracing::warn!(target: "limen", request_id = id, status, code, suppressed, "request refused");
    }
    let mut answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\n").into_bytes();
    let body = problem.document(&id);
    for (name, value) in &edge::headers_of_refusal(&problem, &id) {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            answer.extend_from_slice(part);
        }
    }
    answer.extend_from_slice(format!("content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
    answer.into()
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Writes as hyper does: all that is left, until it is gone.
    async fn write<S: Write + Unpin>(stream: &mut Documented<S>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken =
                std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_write_vectored(cx, &[IoSlice::new(bytes)]));
            bytes = &bytes[taken.await.expect("it writes")..];
        }
    }

    /// What a peer that takes few bytes at a time gets of `writes`.
    async fn sent(writes: &[&[u8]], answers: &Answers) -> String {
        // Any write may be cut before any byte of it.
        let (ours, mut theirs) = tokio::io::duplex(7);
        let answers = answers.clone();
        let writes: Vec<Vec<u8>> = writes.iter().map(|bytes| bytes.to_vec()).collect();
        tokio::spawn(async move {
            let mut stream = Documented::new(TokioIo::new(ours), answers);
            for bytes in writes {
                write(&mut stream, &bytes).await;
            }
        });
        let mut got = String::new();
        theirs.read_to_string(&mut got).await.expect("text");
        got
    }

    const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn what_a_body_says_is_left_alone_however_it_is_cut() {
        let answers = Answers::default();
        let answer = format!("HTTP/1.1 200 OK\r\nx-request-id: a\r\n\r\n{}", "HTTP/1.1 400".repeat(50));
        assert_eq!(sent(&[answer.as_bytes()], &answers).await, answer);
        // A body in parts, each taken whole.
        let body = answers.count(());
        assert_eq!(sent(&[REFUSAL.as_bytes()], &answers).await, REFUSAL);
        drop(body);
        let both = sent(&[answer.as_bytes(), REFUSAL.as_bytes()], &answers).await;
        let document = both.strip_prefix(&answer).expect("the answer is whole");
        assert!(document.contains("x-request-id: ") && document.contains("\"code\":\"invalid\""), "{document}");
    }
}
