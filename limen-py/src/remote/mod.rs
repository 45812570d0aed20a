//! A server's `Limen`: the same methods, arguments and answers, over HTTP.
//!
//! [`routes`] turns a method and its arguments into a request, and the answer into what the embedded
//! one answers; [`wire`] carries it; [`events`] and [`console`] are what is open for long.
//!
//! Invariant: a request that may have changed something is sent once. It is sent again only when the
//! server said that it did nothing for it (429).

mod console;
mod events;
mod routes;
mod wire;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use limen_core::model::{ConsoleKind, EventNumber, OperationId, OperationState, VmId};
use limen_core::{Error, ErrorKind, Secret};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::answer::{Failure, json_of};
use crate::calls::{parse, seconds};
use crate::streams::Streams;

pub(crate) use self::events::RemoteEvents;
use self::routes::Request;
use self::wire::Wire;

/// The first and the longest pause between two looks at what is waited for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The keyword arguments of `limen.connect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    url: String,
    ca_file: Option<PathBuf>,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Remote(Wire);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Awaited {
    number: EventNumber,
    timeout: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Watched {
    after: EventNumber,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opened {
    id: VmId,
    kind: ConsoleKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finished {
    id: OperationId,
    timeout: f64,
}

impl Connect {
    pub(crate) fn open(&self) -> Result<Remote, Error> {
        Ok(Remote(Wire::to(&self.url, self.ca_file.as_deref())?))
    }
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// Who asks: the secret of an API token or of a session.
    pub(crate) who: Option<&'a Secret>,
    /// The idempotency key.
    pub(crate) key: Option<String>,
    pub(crate) args: &'a [u8],
    pub(crate) streams: &'a Streams,
}

impl Remote {
    /// Answers one call.
    pub(crate) async fn answer(&self, method: &str, call: Call<'_>) -> Result<Vec<u8>, Failure> {
        let Call { who, key, args, streams } = call;
        match method {
            "open" => {
                self.health().await?;
                Ok(b"null".to_vec())
            }
            "health" => json_of(&self.health().await?),
            "ping_store" => match self.health().await?["store"] {
                Value::Bool(true) => Ok(b"null".to_vec()),
                _ => Err(Error::unavailable("The store").into()),
            },
            "event" => json_of(&self.event(who, None).await?),
            "wait_for_event" => self.wait_for_event(who, parse(args)?).await,
            "wait_operation" => self.wait_operation(who, parse(args)?).await,
            "watch_events" => {
                let Watched { after } = parse(args)?;
                json_of(&streams.add_events(RemoteEvents::open(&self.0, who, after).await?))
            }
            "open_console" => {
                let Opened { id, kind } = parse(args)?;
                json_of(&streams.add_console(console::open(&self.0, who, id, kind).await?))
            }
            "add_image" => {
                let text =
                    "A server takes no images over HTTP: add it on the server's machine, with `limen image add`.";
                Err(Failure::new(ErrorKind::Unsupported, text))
            }
            "simulate" => Err(Failure::new(ErrorKind::Unsupported, "A server's simulated hosts are its own.")),
            _ => {
                let args: Map<String, Value> = parse(args)?;
                let route = routes::of(method, args)?;
                let answer = self.0.ask(route.request.keyed(key)?, who, None).await?;
                route.answer.read(answer)
            }
        }
    }

    /// How LIMEN at the address is.
    async fn health(&self) -> Result<Value, Failure> {
        let answer = self.0.ask(Request::get("/api/health"), None, None).await;
        let answer = answer.map(|answer| serde_json::from_slice(&answer.body).unwrap_or_default());
        let told: Value = match answer {
            Err(failure) if !failure.is(ErrorKind::Internal) => return Err(failure),
            answer => answer.unwrap_or_default(),
        };
        match (told["store"].as_str(), told["hosts"].as_array()) {
            (Some(store), Some(hosts)) => Ok(json!({ "store": store == "ok", "hosts": hosts })),
            _ => Err(Failure::new(ErrorKind::Unavailable, &format!("What answers at {} is not LIMEN.", self.0.url()))),
        }
    }

    /// The number of the last event that the server shows, once that is `at_least`.
    async fn event(&self, who: Option<&Secret>, at_least: Option<EventNumber>) -> Result<EventNumber, Failure> {
        let answer = self.0.ask(Request::get("/api/vms?limit=1"), who, at_least).await?;
        answer.event.ok_or_else(|| Error::internal("the answer bears no event number").into())
    }

    async fn wait_for_event(&self, who: Option<&Secret>, wanted: Awaited) -> Result<Vec<u8>, Failure> {
        let waiting = async {
            loop {
                match self.event(who, Some(wanted.number)).await {
                    Err(failure) if failure.is(ErrorKind::Unavailable) => {
                        tokio::time::sleep(PAUSES.0).await;
                    }
                    told => return told,
                }
            }
        };
        match tokio::time::timeout(seconds("timeout", wanted.timeout)?, waiting).await {
            Ok(told) => told.map(|_| b"null".to_vec()),
            Err(_) => Err(Failure::new(ErrorKind::Unavailable, "The server does not show this event yet.")),
        }
    }

    async fn wait_operation(&self, who: Option<&Secret>, wanted: Finished) -> Result<Vec<u8>, Failure> {
        #[derive(Deserialize)]
        struct Seen {
            state: OperationState,
        }
        let started = Instant::now();
        let at_most = seconds("timeout", wanted.timeout)?;
        let mut pause = PAUSES.0;
        loop {
            let request = Request::get(format!("/api/operations/{}", wanted.id));
            let answer = self.0.ask(request, who, None).await?;
            let Seen { state } = serde_json::from_slice(&answer.body).map_err(Error::internal)?;
            let rest = at_most.saturating_sub(started.elapsed());
            if state.is_finished() || rest.is_zero() {
                return Ok(answer.body.to_vec());
            }
            tokio::time::sleep(pause.min(rest)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}
