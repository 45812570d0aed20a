//! `/vnc/{id}` and `/serial/{id}`: what is asked before a console becomes a WebSocket.
//!
//! The order is: where the page came from, whether it is a WebSocket at all, who asks, whether they
//! may, whether the VM runs. Each is refused with a problem document, before anything is upgraded.
//! There are no cookies, so a page of another origin has nothing to ask with; that it may not ask
//! at all is said first all the same.

use std::sync::atomic::Ordering;

use limen_core::hypervisor::ConsoleKind;
use limen_core::model::VmId;
use limen_core::{Error, ErrorKind, Secret};
use poem::http::{HeaderMap, HeaderValue, StatusCode, header};
use poem::web::headers::{Connection, HeaderMapExt, SecWebsocketAccept, SecWebsocketKey};
use poem::{Endpoint, Request, Response};
use serde::Deserialize;
use uuid::Uuid;

use crate::edge::Arrival;
use crate::error::{Problem, Result};
use crate::extract;
use crate::line::Line;
use crate::relay::Relay;

/// The paths of both, and what they are of.
pub(crate) const PATHS: [(&str, ConsoleKind); 2] =
    [("/vnc/:id", ConsoleKind::Vnc), ("/serial/:id", ConsoleKind::Serial)];

/// The one sub-protocol: the bytes as they are.
const BINARY: &str = "binary";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConsoleQuery {
    ticket: Option<Secret>,
}

/// Opens consoles of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Consoles(pub(crate) ConsoleKind);

impl Endpoint for Consoles {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        Ok(open(&request, self.0).await?)
    }
}

async fn open(request: &Request, kind: ConsoleKind) -> Result<Response> {
    let arrival = extract::arrival(request)?;
    check_origin(arrival)?;
    let key = handshake(request.headers())?;
    let line = request.extensions().get::<Line>().cloned().unwrap_or_default();
    let upgrade = line.take_upgrade().ok_or_else(no_websocket)?;
    let id =
        VmId(request.path_params::<Uuid>().map_err(|_| Problem::invalid("id", "The id in the path must be a UUID."))?);
    let ConsoleQuery { ticket } = extract::parse_query(request.uri().query())?;

    let context = match (&ticket, request.headers().contains_key(header::AUTHORIZATION)) {
        (None, _) | (Some(_), true) => (*extract::caller(request).await?).clone(),
        (Some(_), false) => extract::stranger(arrival),
    };
    let context = match ticket {
        Some(ticket) => {
            let actor = arrival.app.limen.use_ticket(&context, &ticket, id, kind).await?;
            arrival.known.store(true, Ordering::Relaxed);
            context.with_actor(actor)
        }
        None => context,
    };
    let console = arrival.app.limen.open_console(&context, id, kind).await?;

    let request_id = arrival.request_id.clone();
    tokio::spawn(async move {
        match upgrade.stream().await {
            Ok(stream) => Relay::new(stream, console, line).run().await,
            Err(error) => tracing::debug!(target: "limen", request_id, %error, "a console was not taken"),
        }
    });
    Ok(switching(key, request.headers()))
}

/// Refuses a page of another origin, and whatever cannot be told to be of one of ours: `null`, an
/// empty one, several. A program that is no browser says nothing.
fn check_origin(arrival: &Arrival) -> Result<()> {
    if !arrival.foreign_page {
        return Ok(());
    }
    let text = "A page of this origin may not open consoles here; ALLOWED_ORIGINS lists those that may.";
    Err(Problem::Core(Error::new(ErrorKind::Forbidden, text)))
}

fn no_websocket() -> Problem {
    Problem::invalid("upgrade", "This path speaks WebSocket: connect with a WebSocket client.")
}

/// The client's key, of a request for a WebSocket (RFC 6455, 4.2.1).
fn handshake(headers: &HeaderMap) -> Result<SecWebsocketKey> {
    let connection = headers.typed_get::<Connection>().is_some_and(|connection| connection.contains(header::UPGRADE));
    let upgrade = headers.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !connection || !upgrade {
        return Err(no_websocket());
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
        return Err(Problem::invalid("sec-websocket-version", "WebSocket is spoken in version 13 only."));
    }
    let key = headers.typed_get::<SecWebsocketKey>();
    key.ok_or_else(|| Problem::invalid("sec-websocket-key", "Sec-WebSocket-Key must be 16 bytes in base64."))
}

/// The answer that makes the connection a WebSocket.
fn switching(key: SecWebsocketKey, asked: &HeaderMap) -> Response {
    let mut response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).finish();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.typed_insert(SecWebsocketAccept::from(key));
    let offered = asked.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    if offered.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == BINARY) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BINARY));
    }
    response
}
