//! One request and its answer; what went wrong as the error that the server tells of.

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, ETAG, HeaderMap, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;

use super::routes::Request;
use crate::address;
use crate::error::{Error, ErrorKind, QuotaFigures, Result};
use crate::model::EventNumber;
use crate::secret::Secret;

const EVENT: &str = "x-limen-event";
/// How long the server may take to be reached, and between two parts of an answer: a check of many
/// hosts and an event stream's silence are the longest.
const CONNECTING: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);
/// How often a call waits for its turn, and how long at most each time.
const TURNS: u32 = 5;
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// The way to one server.
#[derive(Debug)]
pub(super) struct Wire {
    client: Client,
    url: Url,
    /// The newest event that an answer to a change bore: what follows shows that change, whichever of
    /// several servers answers it.
    seen: AtomicI64,
}

/// What a server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// The number of the event that it shows.
    pub(super) event: Option<EventNumber>,
    pub(super) etag: Option<String>,
}

impl Wire {
    pub(super) fn to(url: &str, ca_file: Option<&Path>) -> Result<Self> {
        let text = "url must be http:// or https://, a host, and nothing behind the port: http://192.0.2.1:18443.";
        let url = address::parse(url).ok_or_else(|| Error::invalid("url", text))?;
        let mut client = Client::builder()
            .connect_timeout(CONNECTING)
            .read_timeout(SILENCE)
            // The token goes to this server and to no other.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy();
        if let Some(file) = ca_file {
            let unread = |why: &dyn std::fmt::Display| {
                Error::invalid("ca_file", format!("ca_file must be a file of certificates in PEM: {why}."))
            };
            let pem = std::fs::read(file).map_err(|error| unread(&error.kind()))?;
            let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|_| unread(&"it is not"))?;
            if all.is_empty() {
                return Err(unread(&"there is none in it"));
            }
            client = client.tls_certs_merge(all);
        }
        Ok(Self { client: client.build().map_err(Error::internal)?, url, seen: AtomicI64::new(0) })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Sends a request and reads the whole answer; what is no success is the error that it tells of.
    pub(super) async fn ask(
        &self,
        request: Request,
        who: Option<&Secret>,
        at_least: Option<EventNumber>,
    ) -> Result<Answer> {
        let changes = request.method != Method::GET;
        let response = self.send(&request, who, at_least).await?;
        let headers = response.headers();
        let event = headers.get(EVENT).and_then(|value| value.to_str().ok()?.parse().ok());
        let etag = headers.get(ETAG).and_then(|value| Some(value.to_str().ok()?.trim_matches('"').to_owned()));
        let body = response.bytes().await.map_err(|error| self.lost(&error, changes))?;
        if let Some(event) = event.filter(|_| changes) {
            self.seen.fetch_max(event, Ordering::Relaxed);
        }
        Ok(Answer { body, event, etag })
    }

    /// Sends a request when it is its turn; a refusal is an error.
    pub(super) async fn send(
        &self,
        request: &Request,
        who: Option<&Secret>,
        at_least: Option<EventNumber>,
    ) -> Result<Response> {
        let changes = request.method != Method::GET;
        let mut turn = 0;
        loop {
            let url = self.url.join(&request.path).map_err(Error::internal)?;
            let mut builder = self.client.request(request.method.clone(), url).headers(request.headers.clone());
            if let Some(token) = who {
                builder = builder.bearer_auth(token.expose());
            }
            let seen = at_least.unwrap_or_else(|| self.seen.load(Ordering::Relaxed));
            if seen > 0 && who.is_some() {
                builder = builder.header(EVENT, seen);
            }
            if let Some(body) = &request.body {
                builder = builder.header(CONTENT_TYPE, "application/json").body(body.to_string());
            }
            let response = builder.send().await.map_err(|error| self.lost(&error, changes))?;
            if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(response);
            }
            let wait = retry_after(response.headers());
            turn += 1;
            match wait.filter(|wait| *wait <= LONGEST_TURN) {
                Some(wait) if response.status() == StatusCode::TOO_MANY_REQUESTS && turn < TURNS => {
                    tokio::time::sleep(wait).await;
                }
                _ => return Err(self.refused(response, wait).await),
            }
        }
    }

    /// The error of a problem document (RFC 9457).
    async fn refused(&self, response: Response, wait: Option<Duration>) -> Error {
        let status = response.status();
        let problem: Value = serde_json::from_slice(&response.bytes().await.unwrap_or_default()).unwrap_or_default();
        error_of(&problem, wait).unwrap_or_else(|| {
            // A proxy's own answer, or what is not LIMEN at all.
            let kind = match status {
                StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            };
            Error::new(kind, format!("{} answered {status}, and it is not LIMEN that did.", self.url))
        })
    }

    /// No answer came. What might have been done all the same is said to be unknown.
    fn lost(&self, error: &reqwest::Error, changes: bool) -> Error {
        let mut why: &dyn std::error::Error = error;
        while let Some(deeper) = why.source() {
            why = deeper;
        }
        let url = &self.url;
        if changes && !error.is_connect() {
            let text =
                format!("The connection to {url} was lost before its answer came ({why}): it may be done or not.");
            return Error::new(ErrorKind::Interrupted, text);
        }
        Error::new(ErrorKind::Unavailable, format!("No answer from {url}: {why}."))
    }
}

/// An answer that is none of LIMEN's, or of a newer one's.
pub(super) fn strange(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Internal, "The server's answer is not one that this version understands.").with_source(error)
}

/// What a stream that broke off ends with.
pub(super) fn broken_off(url: &Url) -> Error {
    Error::new(ErrorKind::Unavailable, format!("The connection to {url} was lost; go on from the last position."))
}

/// The error that a problem document tells of, where it is one.
pub(super) fn error_of(problem: &Value, wait: Option<Duration>) -> Option<Error> {
    // What a newer server may call otherwise is no error that this one knows how to act on.
    let kind = ErrorKind::deserialize(&problem["code"]).unwrap_or(ErrorKind::Internal);
    problem["code"].as_str()?;
    let mut error = Error::new(kind, problem["detail"].as_str()?);
    if let Some(field) = problem["field"].as_str() {
        error = error.with_field(field);
    }
    if problem["resource"].is_string()
        && let Ok(quota) = QuotaFigures::deserialize(problem)
    {
        error = error.with_quota(quota);
    }
    if let Some(id) = problem["operation_id"].as_str().and_then(|id| id.parse().ok()) {
        error = error.with_operation_id(id);
    }
    if let Some(oldest) = problem["oldest"].as_i64() {
        error = error.with_oldest(oldest);
    }
    Some(wait.into_iter().fold(error, Error::with_retry_after))
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    Some(Duration::from_secs(headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?))
}
