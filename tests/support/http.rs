//! A small HTTP client: one connection per request, JSON in and out.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// No request of a test takes longer; `Prefer: wait` ends at 50 s.
const DEADLINE: Duration = Duration::from_secs(70);

/// A client of one server on loopback.
#[derive(Clone, Debug)]
pub struct Client {
    port: u16,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as JSON; `Null` when there is none.
    ///
    /// # Panics
    /// When it is something else than JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        if self.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The same answer, which must have `status`.
    ///
    /// # Panics
    /// With the answer, when it has another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// A connection; dropping it hangs up.
#[derive(Debug)]
pub(crate) struct Connection {
    _task: JoinSet<()>,
}

impl Client {
    /// A client of `http://127.0.0.1:port`, without a token.
    pub fn new(port: u16) -> Self {
        Self { port, headers: Vec::new() }
    }

    /// The server's port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The same client, sending one more header with each request.
    #[must_use]
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.to_owned(), value.to_owned()));
        client
    }

    /// The same client with an access token.
    #[must_use]
    pub fn with_token(&self, token: &str) -> Self {
        self.with_header("Authorization", &format!("Bearer {token}"))
    }

    /// The same client of another port of this machine.
    #[must_use]
    pub fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// The same client without its token.
    #[must_use]
    pub fn without_token(&self) -> Self {
        let mut client = self.clone();
        client.headers.retain(|(name, _)| name != "Authorization");
        client
    }

    /// The same client, waiting up to `seconds` for operations to end.
    #[must_use]
    pub fn waiting(&self, seconds: u32) -> Self {
        self.with_header("Prefer", &format!("wait={seconds}"))
    }

    /// Logs in and returns a client with the token.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn login(&self, username: &str, password: &str) -> Self {
        let body = serde_json::json!({ "username": username, "password": password });
        let answer = self.post("/api/auth/login", &body).await.expect(200).json();
        let token = answer["access_token"].as_str().expect("an access token");
        self.with_token(token)
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path, None).await
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.request(Method::POST, path, Some(body)).await
    }

    /// PATCH with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Response {
        self.request(Method::PATCH, path, Some(body)).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> Response {
        self.request(Method::DELETE, path, None).await
    }

    /// Any request.
    ///
    /// # Panics
    /// When there is no whole answer, or none within 70 s; see
    /// [`try_request`](Self::try_request).
    pub async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> Response {
        let what = format!("{method} {path}");
        self.try_request(method, path, body).await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Any request, to a server that may be away.
    ///
    /// # Errors
    /// When there is no whole answer, or none within 70 s.
    pub async fn try_request(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response, String> {
        let request = self.prepare(method, path, body)?;
        tokio::time::timeout(DEADLINE, self.send(request))
            .await
            .map_err(|_| format!("no answer within {DEADLINE:?}"))?
    }

    pub(crate) fn prepare(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request =
            Request::builder().method(method).uri(path).header("Host", format!("127.0.0.1:{}", self.port));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if body.is_some() {
            request = request.header("Content-Type", "application/json");
        }
        let body = body.map_or_else(Bytes::new, |value| value.to_string().into());
        request.body(Full::new(body)).map_err(|e| e.to_string())
    }

    /// Sends a request; the body of the answer is still to come.
    pub(crate) async fn open(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<(hyper::Response<Incoming>, Connection), String> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|e| e.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        Ok((answer, Connection { _task: tasks }))
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response, String> {
        let (answer, _connection) = self.open(request).await?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
    }
}
