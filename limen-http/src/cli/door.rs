//! The way of a command to LIMEN: the same calls, to a server or answered in this process.
//!
//! `--local` asks the very routes that the server has, without a network between. So there is one
//! command line, whichever way it goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::{ErrorKind, Limen};
use poem::endpoint::BoxEndpoint;
use poem::http::{Method, StatusCode, header};
use poem::{Endpoint, EndpointExt, Request, Response};
use serde_json::Value;

use super::{DoorArgs, Failure, Result, output, session};
use crate::app::{self, App};
use crate::config::CoreConfig;
use crate::start;

/// An open way.
pub(super) struct Door(Way);

enum Way {
    Server { client: reqwest::Client, url: String, token: String },
    Local { limen: Limen, endpoint: BoxEndpoint<'static, Response> },
}

/// What a command is about to do: it decides whether this process may take the host's work over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intent {
    /// Look only: nothing is made where there is nothing, no schema is changed.
    Look,
    /// Change what lives in the Store alone: no host has to be taken over for it.
    Record,
    /// Start operations: with no server, this process runs them.
    Change,
}

/// Opens LIMEN in this process, on the machine's Store and hypervisor.
pub(super) async fn open_local(config: &CoreConfig, intent: Intent) -> Result<Limen> {
    if intent == Intent::Look {
        let store = start::open_store_read_only(config).await?;
        return Ok(start::builder(config, store).await?.read_only().build().await?);
    }
    start::make_data_dir(config)?;
    let store = start::open_store(config).await?;
    let builder = start::builder(config, store).await?;
    let builder = if intent == Intent::Record { builder.passive() } else { builder };
    Ok(builder.build().await?)
}

impl Door {
    pub(super) async fn open(args: &DoorArgs, config: &CoreConfig, intent: Intent) -> Result<Self> {
        if args.local {
            let limen = open_local(config, intent).await?;
            let endpoint = app::endpoint(Arc::new(App::local(limen.clone())))?.boxed();
            return Ok(Self(Way::Local { limen, endpoint }));
        }
        let (url, token) = session::server(args)?;
        let token = token.ok_or_else(|| {
            Failure::usage(format!(
                "there is no token for {url}: run `limen login`, set LIMEN_TOKEN, or work on this machine itself \
                 with --local"
            ))
        })?;
        Ok(Self(Way::Server { client: client()?, url, token }))
    }

    /// Gives back what `--local` holds.
    pub(super) async fn close(self) {
        if let Way::Local { limen, .. } = self.0 {
            limen.shutdown().await;
        }
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await
    }

    /// An answer of a server that does not end, with one more header.
    pub(super) async fn stream(&self, path: &str, header: Option<(&str, String)>) -> Result<reqwest::Response> {
        let Way::Server { url, token, .. } = &self.0 else {
            return Err(Failure::new(1, "a stream of this process's own needs no door"));
        };
        let client = reqwest::Client::builder().no_proxy().read_timeout(Duration::from_secs(60)).build();
        let client = client.map_err(|error| Failure::new(1, format!("no HTTP client: {error}")))?;
        let ask = || {
            let request = client.get(format!("{url}{path}")).bearer_auth(token);
            match &header {
                Some((name, value)) => request.header(*name, value),
                None => request,
            }
        };
        let response = take_turn(url, ask).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.bytes().await.map_err(|error| unreachable(url, &error))?;
        Err(read(status, &bytes).err().unwrap_or_else(|| Failure::new(1, format!("the server answered {status}"))))
    }

    /// All items of a list, page by page. `path` may have a query.
    pub(super) async fn list(&self, path: &str) -> Result<Vec<Value>> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.get(&format!("{path}{separator}limit=1000{cursor}")).await?;
            items.extend(page["items"].as_array().into_iter().flatten().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }

    /// A call that starts an operation; answers it once it is finished.
    pub(super) async fn operate(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let operation = self.call(method, path, body).await?;
        self.wait(operation, None).await
    }

    /// Waits until `operation` is finished, for `at_most` where it is given; a failed one is an error.
    pub(super) async fn wait(&self, mut operation: Value, at_most: Option<Duration>) -> Result<Value> {
        let path = format!("/api/operations/{}", output::text(&operation, "/id"));
        let started = Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match output::text(&operation, "/state") {
                "succeeded" => return Ok(operation),
                "failed" | "cancelled" => return Err(failed(&operation)),
                "held" => {
                    let id = output::text(&operation, "/id");
                    let text = format!("{id} is held since the database was restored: see `limen restored`");
                    return Err(Failure::new(1, text));
                }
                _ => {}
            }
            if at_most.is_some_and(|at_most| started.elapsed() >= at_most) {
                return Err(Failure::new(5, format!("{} is still at work", output::text(&operation, "/id"))));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
            operation = self.get(&path).await?;
        }
    }

    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value> {
        let (status, bytes) = match &self.0 {
            Way::Server { client, url, token } => send(client, url, Some(token), method, path, body).await?,
            Way::Local { endpoint, .. } => ask(endpoint, method, path, body).await?,
        };
        read(status, &bytes)
    }
}

fn failed(operation: &Value) -> Failure {
    let word = |pointer| output::text(operation, pointer);
    let code = serde_json::from_value::<ErrorKind>(operation["error"]["code"].clone()).ok();
    Failure::new(Failure::code_of(code), format!("{} {}: {}", word("/kind"), word("/state"), word("/error/detail")))
}

pub(super) fn client() -> Result<reqwest::Client> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy();
    client.build().map_err(|error| Failure::new(1, format!("no HTTP client: {error}")))
}

/// Sends a call to a server.
pub(super) async fn send(
    client: &reqwest::Client,
    url: &str,
    token: Option<&str>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<(StatusCode, Vec<u8>)> {
    let ask = || {
        let mut request = client.request(method.clone(), format!("{url}{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = &body {
            request = request.json(body);
        }
        request
    };
    let response = take_turn(url, ask).await?;
    let status = response.status();
    Ok((status, response.bytes().await.map_err(|error| unreachable(url, &error))?.to_vec()))
}

/// The longest that a command waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(60);

/// Sends a request, and once more when the server says how long to wait first: it did nothing for a
/// request that it refused so.
async fn take_turn(url: &str, request: impl Fn() -> reqwest::RequestBuilder) -> Result<reqwest::Response> {
    let send = async || request().send().await.map_err(|error| unreachable(url, &error));
    let response = send().await?;
    let told = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    match told.map(Duration::from_secs) {
        Some(wait) if response.status() == StatusCode::TOO_MANY_REQUESTS && wait <= LONGEST_TURN => {
            eprintln!("limen: {url} takes no more requests for now; trying once more in {} s", wait.as_secs());
            tokio::time::sleep(wait).await;
            send().await
        }
        _ => Ok(response),
    }
}

fn unreachable(url: &str, error: &reqwest::Error) -> Failure {
    let why = std::error::Error::source(error).map_or_else(|| error.to_string(), deepest);
    Failure::new(3, format!("no answer from {url}: {why}; is the server running? (--local works without it)"))
}

fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    error.source().map_or_else(|| error.to_string(), deepest)
}

async fn ask(
    endpoint: &BoxEndpoint<'static, Response>,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<(StatusCode, Vec<u8>)> {
    let uri = path.parse().map_err(|_| Failure::usage(format!("{path:?} is no path")))?;
    let mut request = Request::builder().method(method).uri(uri);
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    let request = request.body(body.map(|body| body.to_string()).unwrap_or_default());
    let response = endpoint.call(request).await.unwrap_or_else(poem::Error::into_response);
    let status = response.status();
    let bytes = response.into_body().into_vec().await.map_err(|error| Failure::new(1, error.to_string()))?;
    Ok((status, bytes))
}

/// The value of an answer, or the failure that its problem document tells of.
pub(super) fn read(status: StatusCode, bytes: &[u8]) -> Result<Value> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    if status.is_success() {
        return Ok(value);
    }
    let kind = serde_json::from_value::<ErrorKind>(value["code"].clone()).ok();
    let detail = match output::text(&value, "/detail") {
        "" => format!("the server answered {status}"),
        detail => detail.to_owned(),
    };
    let field = value["field"].as_str().map(|field| format!("{field}: ")).unwrap_or_default();
    Err(Failure::new(Failure::code_of(kind), format!("{field}{detail}")))
}
