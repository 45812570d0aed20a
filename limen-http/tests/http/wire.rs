//! Requests as bytes, from an address of one's own choice, and answers as they come.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::service::{AdminSeed, HostConfig};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Authz, Limen, Secret};
use limen_http::{App, Timeouts, endpoint, serve_with};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::harness::{PASSWORD, SECRET};

/// No answer of a test takes longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server of this process on a port of its own; gone when dropped.
pub(crate) struct Wired {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Wired {
    pub(crate) async fn start(authz: Arc<dyn Authz>, timeouts: Timeouts, with: impl FnOnce(App) -> App) -> Self {
        let limen = Limen::builder()
            .store(Arc::new(SqliteStore::in_memory().await.expect("a store")))
            .authz(authz)
            .host(HostConfig::new("here", "sim:///", Arc::new(SimHypervisor::new())))
            .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) })
            .build()
            .await
            .expect("a service");
        let app = with(App::new(limen, &Secret::new(SECRET)));
        let endpoint = endpoint(Arc::new(app)).expect("an endpoint");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            serve_with(listener, endpoint, timeouts, std::future::pending()).await.expect("serves");
        });
        Self { address, _serving: serving }
    }

    /// A token of `user`, whose password is the tests' own.
    pub(crate) async fn login(&self, user: &str) -> String {
        let body = serde_json::json!({"username": user, "password": PASSWORD}).to_string();
        let head = "POST /api/auth/login HTTP/1.1\r\nContent-Type: application/json\r\n";
        let said = ask(self.address, LOCAL, head, &body).await;
        said.json()["access_token"].as_str().unwrap_or_else(|| panic!("{said:?}")).to_owned()
    }
}

impl Said {
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(header, _)| header == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Self { status: status.expect("a status"), headers: lines.map(header).collect(), body: body.to_owned() }
    }
}

/// Where tests come from unless they say so.
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A connection from `from`; all of 127.0.0.0/8 is this machine.
pub(crate) async fn connect(to: SocketAddr, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((from, 0))).expect("an address of this machine");
    socket.connect(to).await.expect("connects")
}

/// Everything that comes until the connection is closed.
pub(crate) async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    // A reset is an end too.
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut heard)).await.expect("it ends in time");
    drop(read);
    String::from_utf8_lossy(&heard).into_owned()
}

/// Sends bytes as they are; the answer to them.
pub(crate) async fn send(to: SocketAddr, from: Ipv4Addr, bytes: &[u8]) -> Said {
    let mut stream = connect(to, from).await;
    // The server may answer and close before it has read all.
    drop(stream.write_all(bytes).await);
    Said::read(&hear(&mut stream).await)
}

/// One request of its own connection: `head` ends with a line's end, and has neither `Host` nor length.
pub(crate) async fn ask(to: SocketAddr, from: Ipv4Addr, head: &str, body: &str) -> Said {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{head}Host: {to}\r\nConnection: close\r\n{length}\r\n{body}");
    send(to, from, request.as_bytes()).await
}

/// A connection that is kept for several requests.
pub(crate) struct Kept {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Kept {
    pub(crate) async fn new(to: SocketAddr, from: Ipv4Addr) -> Self {
        Self { stream: connect(to, from).await, heard: Vec::new() }
    }

    /// Sends bytes; the answers to the `count` requests in them.
    pub(crate) async fn ask(&mut self, bytes: &[u8], count: usize) -> Vec<Said> {
        self.stream.write_all(bytes).await.expect("sent");
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            if let Some(said) = self.next() {
                all.push(said);
                continue;
            }
            let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.heard)).await;
            assert!(read.expect("an answer in time").expect("an answer") > 0, "closed after {} answers", all.len());
        }
        all
    }

    fn next(&mut self) -> Option<Said> {
        let end = self.heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        let mut said = Said::read(&String::from_utf8_lossy(&self.heard[..end]));
        let length: usize = said.header("content-length").parse().unwrap_or_default();
        let body = self.heard.get(end..end + length)?;
        said.body = String::from_utf8_lossy(body).into_owned();
        self.heard.drain(..end + length);
        Some(said)
    }
}
