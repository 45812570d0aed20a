//! Events as Server-Sent Events, the stream format of the HTML standard.
//!
//! A task of its own takes events from the library and gives them to the connection, a few at a
//! time: a client that reads slowly is waited for, and one that reads nothing does not keep a
//! stream open past its right to it, past the server's stop, or for more than a minute.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use limen_core::model::EventNumber;
use limen_core::service::{Events, Told};
use limen_core::{Error, Result};
use poem::http::{HeaderValue, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::answer::X_LIMEN_EVENT;
use crate::dto::EventSchema;
use crate::error::Problem;
use crate::line::Line;

const EVENT_STREAM: &str = "text/event-stream";
/// Events on their way to the connection.
const ON_THE_WAY: usize = 16;
/// When a client shall come again after the end, in milliseconds.
const RETRY: u32 = 2000;
/// How long a client may take nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client may take to hear why the stream ends.
const FAREWELL: Duration = Duration::from_millis(300);

/// 200 with the events as they come.
#[derive(Debug)]
pub(crate) struct EventStream {
    position: EventNumber,
    chunks: mpsc::Receiver<Bytes>,
}

impl EventStream {
    /// Sends `events` down `line` until either ends.
    pub(crate) fn new(events: Events, line: Line, request_id: &str) -> Self {
        line.lasts();
        let (sender, chunks) = mpsc::channel(ON_THE_WAY);
        let position = events.position();
        let teller = Teller { events, line, chunks: sender, request_id: request_id.to_owned() };
        tokio::spawn(teller.tell());
        Self { position, chunks }
    }
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let mut chunks = self.chunks;
        let body = futures_util::stream::poll_fn(move |cx| chunks.poll_recv(cx).map(|chunk| chunk.map(Ok)));
        let mut response = Response::builder().body(Body::from_bytes_stream::<_, Bytes, std::io::Error>(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
        // Proxies hold back what looks like a page.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        // Nothing comes after it.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(&X_LIMEN_EVENT, HeaderValue::from(self.position));
        response
    }
}

impl ApiResponse for EventStream {
    fn meta() -> MetaResponses {
        let content = vec![MetaMediaType { content_type: EVENT_STREAM, schema: EventSchema::schema_ref() }];
        let description = "The events as they come: `id` is the number, `event` the kind, `data` this object";
        let response =
            MetaResponse { description, status: Some(200), status_range: None, content, headers: Vec::new() };
        MetaResponses { responses: vec![response] }
    }

    fn register(registry: &mut Registry) {
        EventSchema::register(registry);
    }
}

struct Teller {
    events: Events,
    line: Line,
    chunks: mpsc::Sender<Bytes>,
    request_id: String,
}

/// Why nothing more is told.
enum End {
    /// The client shall hear of it.
    Told(Error),
    /// There is nobody to hear.
    Left,
}

impl Teller {
    async fn tell(mut self) {
        let Err(end) = self.tell_all().await;
        let Self { events, line, chunks, request_id } = self;
        drop(events);
        if let End::Told(error) = end {
            let farewell = farewell(error, &request_id);
            // The body ends with the sender, which goes in either case.
            _ = timeout(FAREWELL, async move { chunks.send(farewell).await }).await;
            sleep(FAREWELL).await;
        }
        line.cut();
    }

    async fn tell_all(&mut self) -> Result<Infallible, End> {
        let mut chunk: Bytes = format!("retry: {RETRY}\n{}", position(self.events.position())).into();
        loop {
            self.send(chunk).await?;
            let told = tokio::select! {
                told = self.events.next() => told,
                () = self.line.stopping() => return Err(End::Told(stopping())),
                () = self.chunks.closed() => return Err(End::Left),
            };
            chunk = match told {
                Some(Ok(Told::Event(event))) => {
                    let data = serde_json::to_string(&event).map_err(|error| End::Told(Error::internal(error)))?;
                    format!("id: {}\nevent: {}\ndata: {data}\n\n", event.number, event.kind.as_str()).into()
                }
                Some(Ok(Told::Position(number))) => position(number).into(),
                Some(Err(error)) => return Err(End::Told(error)),
                None => return Err(End::Left),
            };
        }
    }

    async fn send(&mut self, chunk: Bytes) -> Result<(), End> {
        tokio::select! {
            biased;
            sent = self.chunks.send(chunk) => sent.map_err(|_| End::Left),
            error = self.events.over() => Err(End::Told(error)),
            () = self.line.stopping() => Err(End::Told(stopping())),
            () = sleep(PATIENCE) => Err(End::Left),
        }
    }
}

fn stopping() -> Error {
    Error::overloaded("This server is stopping")
}

/// A comment, for whoever looks; and an id without data, by which a client that comes again knows
/// where it was.
fn position(number: EventNumber) -> String {
    format!(": position {number}\nid: {number}\n\n")
}

fn farewell(error: Error, request_id: &str) -> Bytes {
    format!("event: end\ndata: {}\n\n", Problem::from(error).document(request_id)).into()
}
