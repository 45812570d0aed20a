//! What is open for long: streams of events and consoles, by number, of this process's own `Limen` and of
//! a server's alike.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use limen_core::model::EventNumber;
use limen_core::remote::RemoteEvents;
use limen_core::service::{self, Events};
use limen_core::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::answer::{Failure, json_of};
use crate::calls::parse;

/// The methods that are about what is open.
pub(crate) const METHODS: [&str; 4] = ["next_events", "read_console", "write_console", "close_stream"];

/// Events of one answer, at most.
const BATCH: usize = 64;
/// Bytes of a console in one answer, at most.
const MOST: usize = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Streams {
    number: AtomicU64,
    open: Mutex<HashMap<u64, Arc<Stream>>>,
}

#[derive(Debug)]
struct Stream {
    what: What,
    end: watch::Sender<End>,
}

/// Who has closed a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reader,
    Client,
}

impl Stream {
    /// Returns once it is closed.
    async fn ended(&self) -> End {
        let mut end = self.end.subscribe();
        // The sender lives as long as `self`: waiting cannot fail.
        let end = end.wait_for(|end| *end != End::Open).await;
        end.map_or(End::Client, |end| *end)
    }
}

#[derive(Debug)]
enum What {
    Events(Box<AsyncMutex<Following>>),
    Console(AsyncMutex<ReadHalf<Bytes>>, AsyncMutex<WriteHalf<Bytes>>),
}

/// The bytes of a console.
type Bytes = Box<dyn ByteStream>;

pub(crate) trait ByteStream: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + std::fmt::Debug + Send + Unpin> ByteStream for T {}

/// Whose events are followed.
#[derive(Debug)]
pub(crate) enum Source {
    Here(Events),
    There(RemoteEvents),
}

impl From<Events> for Source {
    fn from(events: Events) -> Self {
        Source::Here(events)
    }
}

impl From<RemoteEvents> for Source {
    fn from(events: RemoteEvents) -> Self {
        Source::There(events)
    }
}

/// What is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// An event, as JSON.
    Event(Box<RawValue>),
    /// That everything up to a number was told.
    Position,
}

impl Source {
    /// What is told next; None at the end. Whoever gives up waiting loses nothing.
    async fn next(&mut self) -> Option<Result<Told, Failure>> {
        match self {
            Source::Here(events) => Some(match events.next().await? {
                Ok(service::Told::Event(event)) => {
                    to_raw_value(&*event).map(Told::Event).map_err(|error| Error::internal(error).into())
                }
                Ok(service::Told::Position(_)) => Ok(Told::Position),
                Err(error) => Err(error.into()),
            }),
            Source::There(events) => Some(match events.next_json().await {
                Ok(event) => Ok(event.map_or(Told::Position, Told::Event)),
                Err(error) => Err(error.into()),
            }),
        }
    }

    fn position(&self) -> EventNumber {
        match self {
            Source::Here(events) => events.position(),
            Source::There(events) => events.position(),
        }
    }
}

#[derive(Debug)]
struct Following {
    events: Source,
    /// Why it ends, where events had to be told first.
    end: Option<Failure>,
}

/// Which stream, and how many bytes of it at most.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    stream: u64,
    max: Option<usize>,
}

/// An answer of [`Streams::next_events`].
#[derive(Debug, Serialize)]
struct Batch {
    events: Vec<Box<RawValue>>,
    position: EventNumber,
    ended: bool,
}

fn closed() -> Error {
    Error::new(ErrorKind::Conflict, "It is closed.")
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Stream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, what: What) -> u64 {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::new(Stream { what, end: watch::Sender::new(End::Open) }));
        number
    }

    pub(crate) fn add_events(&self, events: impl Into<Source>) -> u64 {
        self.add(What::Events(Box::new(AsyncMutex::new(Following { events: events.into(), end: None }))))
    }

    pub(crate) fn add_console(&self, console: impl ByteStream + 'static) -> u64 {
        let (reader, writer) = tokio::io::split(Box::new(console) as Bytes);
        self.add(What::Console(AsyncMutex::new(reader), AsyncMutex::new(writer)))
    }

    /// Answers one of [`METHODS`].
    pub(crate) async fn answer(&self, method: &str, args: &[u8], body: Option<Vec<u8>>) -> Result<Vec<u8>, Failure> {
        let Asked { stream, max } = parse(args)?;
        match method {
            "next_events" => self.next_events(stream).await,
            "read_console" => self.read_console(stream, max.unwrap_or(MOST)).await,
            "write_console" => self.write_console(stream, &body.unwrap_or_default()).await,
            _ => {
                self.close(stream);
                Ok(b"null".to_vec())
            }
        }
    }

    /// Closes one; whoever waits for it is told that it is closed.
    fn close(&self, number: u64) {
        let stream = self.lock().remove(&number);
        if let Some(stream) = stream {
            stream.end.send_replace(End::Reader);
        }
    }

    pub(crate) fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        for stream in all.values() {
            stream.end.send_replace(End::Client);
        }
    }

    fn find(&self, number: u64) -> Result<Arc<Stream>, Error> {
        self.lock().get(&number).cloned().ok_or_else(closed)
    }

    /// The next events, at least one unless the stream has ended or tells its position alone.
    async fn next_events(&self, number: u64) -> Result<Vec<u8>, Failure> {
        let stream = self.find(number)?;
        let What::Events(following) = &stream.what else { return Err(closed().into()) };
        let following = async { following.lock().await.next().await };
        let batch = tokio::select! {
            batch = following => batch?,
            end = stream.ended() => match end {
                End::Client => return Err(Failure::Closed),
                _ => Batch { events: Vec::new(), position: 0, ended: true },
            },
        };
        json_of(&batch)
    }

    async fn read_console(&self, number: u64, max: usize) -> Result<Vec<u8>, Failure> {
        let stream = self.find(number)?;
        let What::Console(reader, _) = &stream.what else { return Err(closed().into()) };
        let mut bytes = vec![0; max.clamp(1, MOST)];
        let read = async { reader.lock().await.read(&mut bytes).await };
        let count = tokio::select! {
            read = read => read.map_err(lost)?,
            end = stream.ended() => match end {
                End::Client => return Err(Failure::Closed),
                _ => 0,
            },
        };
        bytes.truncate(count);
        Ok(bytes)
    }

    async fn write_console(&self, number: u64, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
        let stream = self.find(number)?;
        let What::Console(_, writer) = &stream.what else { return Err(closed().into()) };
        let write = async {
            let mut writer = writer.lock().await;
            writer.write_all(bytes).await?;
            writer.flush().await
        };
        tokio::select! {
            written = write => written.map_err(lost)?,
            end = stream.ended() => match end {
                End::Client => return Err(Failure::Closed),
                _ => return Err(closed().into()),
            },
        }
        Ok(b"null".to_vec())
    }
}

fn lost(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "The console was lost; open it again.").with_source(error)
}

impl Following {
    async fn next(&mut self) -> Result<Batch, Failure> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
        let mut told = Vec::new();
        let mut ended = false;
        let mut next = self.events.next().await;
        loop {
            match next {
                Some(Ok(Told::Event(event))) => told.push(event),
                Some(Ok(Told::Position)) => break,
                Some(Err(error)) if told.is_empty() => return Err(error),
                Some(Err(error)) => self.end = Some(error),
                None => ended = self.end.is_none(),
            }
            if told.len() >= BATCH || self.end.is_some() || ended {
                break;
            }
            // Those that are there already, and no others.
            next = match self.events.next().now_or_never() {
                Some(next) => next,
                None => break,
            };
        }
        Ok(Batch { events: told, position: self.events.position(), ended })
    }
}
