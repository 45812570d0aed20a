//! `/agent/*`: what the host's agent tells, passed on.
//!
//! Invariant: a request of a client reaches one address, that of `AGENT_URL`, and no other. The
//! connection is opened before anything of the request is looked at but its path, the request
//! written on it is made here and not copied ([`passage`]), and what the agent answers is never
//! followed.
//!
//! The agent is not trusted with anything: it hears no credentials, says only what an answer may
//! say of itself, and has limits on time and size. What it cannot be passed on for is a 503.

mod passage;

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use limen_core::{Error, Result};
use poem::http::{HeaderValue, StatusCode, Uri, header, uri};
use poem::{Body, Endpoint, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::edge::Arrival;
use crate::error::Problem;
use crate::extract;

/// Where an agent of this machine listens.
const DEFAULT: &str = "http://127.0.0.1:9000";
/// What the agent is called in an error.
const AGENT: &str = "The agent";
/// The part that needs no token, as the operations guide shows it.
const PUBLIC: &str = "/metrics";
/// How long the agent may take to accept a connection and to answer the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may send nothing of a body.
const BODY_PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take from the first to the last byte.
const WHOLE_PATIENCE: Duration = Duration::from_secs(60);
/// The most that a body may have.
const LARGEST_BODY: u64 = 16 << 20;
/// The most that the head of an answer may have.
const LARGEST_HEAD: usize = 64 << 10;
/// Requests to the agent at once.
const AT_ONCE: usize = 32;

/// Where the agent is.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    host: String,
    port: u16,
    /// What the agent hears as `Host`.
    authority: HeaderValue,
    places: Arc<Semaphore>,
}

impl Default for Agent {
    fn default() -> Self {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Self { host: "127.0.0.1".to_owned(), port: 9000, authority: HeaderValue::from_static("127.0.0.1:9000"), places }
    }
}

impl Agent {
    /// The agent at `http://HOST` or `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`Invalid`](limen_core::ErrorKind::Invalid): it is another kind of URL.
    pub(crate) fn at(url: &str) -> Result<Self> {
        let refused = || Error::invalid("agent_url", format!("It must be a URL like {DEFAULT}: http, a host, a port."));
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        let is_plain = uri.scheme() == Some(&uri::Scheme::HTTP)
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/")
            && !authority.as_str().contains('@')
            && !authority.host().is_empty();
        // A port that is no number is taken for none.
        let port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => Some(80),
            _ => authority.port_u16().filter(|port| *port > 0),
        };
        let (true, Some(port)) = (is_plain, port) else { return Err(refused()) };
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port,
            authority: HeaderValue::from_str(authority.as_str()).map_err(|_| refused())?,
            ..Self::default()
        })
    }

    /// Where it is: `http://HOST:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.authority.to_str().unwrap_or_default())
    }

    /// Its port, where it is on this machine.
    pub(crate) fn local_port(&self) -> Option<u16> {
        let local = self.host == "localhost" || self.host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        local.then_some(self.port)
    }

    /// Asks the agent for what `request` is for.
    async fn ask(&self, path: &str, request: &Request, arrival: &Arrival) -> Result<Response> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| Error::overloaded("Too many requests to the agent are at work"))?;
        let deadline = Instant::now() + WHOLE_PATIENCE;
        let away = |cause: String| Error::unavailable(AGENT).with_source(cause);
        let late = |_| away(format!("no answer within {} s", HEAD_PATIENCE.as_secs()));
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = timeout(HEAD_PATIENCE, connect).await.map_err(late)?.map_err(|error| away(error.to_string()))?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(LARGEST_HEAD);
        let (mut sender, connection) =
            builder.handshake(TokioIo::new(stream)).await.map_err(|error| away(error.to_string()))?;
        // The connection ends with the answer, whatever is still on it.
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });

        let mut to_agent = hyper::Request::new(String::new());
        *to_agent.uri_mut() = path.parse().map_err(Error::internal)?;
        *to_agent.headers_mut() = passage::request_headers(request.headers(), arrival, &self.authority);
        let answer = timeout(HEAD_PATIENCE, sender.send_request(to_agent)).await.map_err(late)?;
        let (head, body) = answer.map_err(|error| away(error.to_string()))?.into_parts();
        let cannot = |what: String| Error::overloaded("The agent answered what cannot be passed on").with_source(what);
        // It is asked for nothing but an answer: neither for another protocol nor for another place.
        if head.status.is_informational() || (head.status.is_redirection() && head.status != StatusCode::NOT_MODIFIED) {
            return Err(cannot(format!("status {}", head.status)));
        }
        if body.size_hint().exact().is_some_and(|length| length > LARGEST_BODY) {
            return Err(cannot("a body of more than 16 MiB".to_owned()));
        }
        let length = body.size_hint().exact();
        let passing = Passing { body, left: LARGEST_BODY, deadline, _sender: sender, _driver: driver, _place: place };
        let mut response = Response::builder().status(head.status).body(passing.into_body());
        *response.headers_mut() = passage::answer_headers(&head.headers);
        if let Some(length) = length.filter(|_| head.status != StatusCode::NOT_MODIFIED) {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        Ok(response)
    }
}

/// A body on its way from the agent to a client; as much is read as the client takes.
struct Passing {
    body: Incoming,
    left: u64,
    deadline: Instant,
    _sender: http1::SendRequest<String>,
    _driver: JoinSet<()>,
    _place: OwnedSemaphorePermit,
}

impl Passing {
    fn into_body(self) -> Body {
        let parts = futures_util::stream::unfold(Some(self), |passing| async move {
            let mut passing = passing?;
            match passing.next().await? {
                Ok(part) => Some((Ok(part), Some(passing))),
                // The client's connection ends here: a part must not pass for the whole.
                Err(cause) => {
                    tracing::warn!(target: "limen", cause, "an answer of the agent was cut off");
                    Some((Err(std::io::Error::other(cause)), None))
                }
            }
        });
        Body::from_bytes_stream(parts)
    }

    async fn next(&mut self) -> Option<std::result::Result<Bytes, String>> {
        loop {
            let patience = self.deadline.min(Instant::now() + BODY_PATIENCE);
            let frame = timeout_at(patience, poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx))).await;
            let frame = match frame {
                Err(_) => return Some(Err("the agent is too slow".to_owned())),
                Ok(frame) => frame?,
            };
            let part = match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(part)) => part,
                // Trailers are not passed on.
                Ok(Err(_)) => continue,
                Err(error) => return Some(Err(error.to_string())),
            };
            let Some(left) = self.left.checked_sub(part.len() as u64) else {
                return Some(Err("the agent sends more than 16 MiB".to_owned()));
            };
            self.left = left;
            return Some(Ok(part));
        }
    }
}

/// The door to the agent. It answers reads alone; the router sees to that.
#[derive(Debug)]
pub(crate) struct AgentDoor;

impl Endpoint for AgentDoor {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let path = passage::path_for_agent(request.uri())?;
        let arrival = extract::arrival(&request)?.clone();
        if path.split('?').next() != Some(PUBLIC) {
            let caller = extract::caller(&request).await?;
            caller.limen().read_agent(&caller).map_err(Problem::from)?;
        }
        Ok(arrival.app.agent.ask(&path, &request, &arrival).await.map_err(Problem::from)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_at_a_host_and_nothing_more() {
        for (url, host, port) in [
            (DEFAULT, "127.0.0.1", 9000),
            ("http://agent.example", "agent.example", 80),
            ("http://agent.example:1/", "agent.example", 1),
            ("http://[::1]:9000", "::1", 9000),
        ] {
            let agent = Agent::at(url).expect(url);
            assert_eq!((agent.host.as_str(), agent.port), (host, port), "{url}");
        }
        assert_eq!(Agent::at(DEFAULT).expect("an agent").authority, Agent::default().authority);
        for url in [
            "",
            "127.0.0.1:9000",
            "https://127.0.0.1:9000",
            "unix:///run/agent",
            "http://",
            "http://user:secret@127.0.0.1:9000",
            "http://127.0.0.1:9000/path",
            "http://127.0.0.1:9000?query",
            "http://127.0.0.1:0",
            "http://127.0.0.1:70000",
            "http://127.0.0.1:x",
            "http://a b",
        ] {
            let error = Agent::at(url).expect_err(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
