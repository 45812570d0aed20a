//! Problem documents for what is refused before it is a request.
//!
//! hyper answers what it cannot parse (a broken request line, too many headers) by itself, with an
//! empty body, in one piece and as the last one of its connection. This stream puts a document in
//! its place on the way out. It knows such an answer by what it lacks: each of ours bears a
//! request id.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::rt::{Read, ReadBufCursor, Write};
use poem::http::StatusCode;

use crate::edge;
use crate::error::Problem;
use crate::request_id;

/// A connection on which every error has a problem document.
#[derive(Debug)]
pub(crate) struct Documented<S> {
    stream: S,
    /// What is written in the place of hyper's answer, as far as it is not written yet.
    document: Option<Bytes>,
}

impl<S> Documented<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, document: None }
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
            self.document = bare_refusal(buf).map(document);
        }
        let this = &mut *self;
        let Some(document) = &mut this.document else { return Pin::new(&mut this.stream).poll_write(cx, buf) };
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
            Some(first) if self.document.is_some() || bare_refusal(first).is_some() => self.poll_write(cx, first),
            _ => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
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

fn document(status: StatusCode) -> Bytes {
    let id = request_id::choose(None);
    let problem = Problem::Unparsed(status);
    tracing::warn!(target: "limen", request_id = id, status = status.as_u16(), code = problem.code(), "request refused");
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
