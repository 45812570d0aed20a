//! What is open for long: streams of events and consoles, by number.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use limen_core::model::EventView;
use limen_core::service::{Console, Events, Told};
use limen_core::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::answer::{Failure, json_of};

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
    Console(AsyncMutex<ReadHalf<Console>>, AsyncMutex<WriteHalf<Console>>),
}

#[derive(Debug)]
struct Following {
    events: Events,
    /// Why it ends, where events had to be told first.
    end: Option<Error>,
}

/// An answer of [`Streams::next_events`].
#[derive(Debug, Serialize)]
struct Batch {
    events: Vec<EventView>,
    position: i64,
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

    pub(crate) fn add_events(&self, events: Events) -> u64 {
        self.add(What::Events(Box::new(AsyncMutex::new(Following { events, end: None }))))
    }

    pub(crate) fn add_console(&self, console: Console) -> u64 {
        let (reader, writer) = tokio::io::split(console);
        self.add(What::Console(AsyncMutex::new(reader), AsyncMutex::new(writer)))
    }

    /// Closes one; whoever waits for it is told that it is closed.
    pub(crate) fn close(&self, number: u64) {
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

    fn find(&self, number: u64) -> Result<Arc<Stream>> {
        self.lock().get(&number).cloned().ok_or_else(closed)
    }

    /// The next events, at least one unless the stream has ended or tells its position alone.
    pub(crate) async fn next_events(&self, number: u64) -> Result<Vec<u8>, Failure> {
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

    pub(crate) async fn read_console(&self, number: u64, max: usize) -> Result<Vec<u8>, Failure> {
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

    pub(crate) async fn write_console(&self, number: u64, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
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
    async fn next(&mut self) -> Result<Batch> {
        if let Some(end) = self.end.take() {
            return Err(end);
        }
        let mut told = Vec::new();
        let mut ended = false;
        let mut next = self.events.next().await;
        loop {
            match next {
                Some(Ok(Told::Event(event))) => told.push(*event),
                Some(Ok(Told::Position(_))) => break,
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
