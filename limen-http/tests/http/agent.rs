//! `/agent/*` with an agent that means no good, and clients that mean none either.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::service::{AdminSeed, HostConfig};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Limen, Secret};
use limen_http::{App, endpoint, serve};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::harness::{PASSWORD, SECRET};

/// What the agent was asked, head by head, in lower case.
type Asked = Arc<Mutex<Vec<String>>>;

/// A little agent that answers by the path.
struct Agent {
    address: String,
    asked: Asked,
    /// Lets what is held go on, a request a permit.
    go_on: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

impl Agent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (asked, go_on) = (Asked::default(), Arc::new(Semaphore::new(0)));
        let (heads, gate) = (Arc::clone(&asked), Arc::clone(&go_on));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                connections.spawn(answer(stream, Arc::clone(&heads), Arc::clone(&gate)));
            }
        });
        Self { address, asked, go_on, _tasks: tasks }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

async fn answer(mut stream: TcpStream, asked: Asked, go_on: Arc<Semaphore>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text").to_lowercase();
    let path = head.split(' ').nth(1).expect("a path").to_owned();
    asked.lock().expect("no panic").push(head);
    // Who is gone hears no more: no write below matters.
    let mut say = async |text: &[u8]| stream.write_all(text).await.is_ok();
    match path.split('?').next().expect("a path") {
        "/metrics" => {
            let hostile = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\
                           Connection: keep-alive, X-Hop, ETag\r\nX-Hop: 1\r\nETag: \"hop\"\r\nKeep-Alive: timeout=5\r\n\
                           Proxy-Authenticate: Basic\r\nTrailer: X-After\r\nSet-Cookie: session=evil\r\n\
                           X-Frame-Options: ALLOWALL\r\nContent-Security-Policy: default-src *\r\n\
                           Access-Control-Allow-Origin: *\r\nX-Request-Id: evil\r\nServer: evil\r\n\
                           Cache-Control: public, max-age=9\r\nClear-Site-Data: \"*\"\r\nWWW-Authenticate: Basic\r\n\r\n\
                           up 1\n";
            say(hostile.as_bytes()).await;
        }
        "/parts" => {
            say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            go_on.acquire().await.expect("open").forget();
            say(b"4\r\nlast\r\n0\r\nX-After: 1\r\n\r\n").await;
        }
        "/silent" | "/held" => {
            go_on.acquire().await.expect("open").forget();
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        }
        "/stuck" => {
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await;
            std::future::pending::<()>().await;
        }
        "/endless" => {
            say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let part = [b"10000\r\n".to_vec(), vec![b'x'; 1 << 16], b"\r\n".to_vec()].concat();
            while say(&part).await {}
        }
        "/too-long" => _ = say(b"HTTP/1.1 200 OK\r\nContent-Length: 16777217\r\n\r\nx").await,
        "/dies" => _ = say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun").await,
        "/dies-in-chunk" => _ = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nbegun").await,
        "/bad-chunk" => _ = say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbegun\r\n").await,
        "/two-lengths" => {
            say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nfour").await;
        }
        "/both" => {
            let both =
                b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n0\r\n\r\n";
            say(both).await;
        }
        "/split" => _ = say(b"HTTP/1.1 200 OK\r\nETag: a\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n").await,
        "/no-http" => _ = say(b"SSH-2.0-OpenSSH_9.2\r\n").await,
        "/hangs-up" => {}
        "/upgrade" => _ = say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await,
        "/large-head" => {
            say(b"HTTP/1.1 200 OK\r\nETag: ").await;
            say(&vec![b'a'; 1 << 20]).await;
            say(b"\r\n\r\n").await;
        }
        path if path.starts_with("/elsewhere/") => {
            let to = path.trim_start_matches("/elsewhere/");
            say(format!("HTTP/1.1 302 Found\r\nLocation: http://{to}/\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
        }
        _ => _ = say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await,
    }
    stream.shutdown().await.ok();
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
}

struct Served {
    address: String,
    token: String,
    client: Client,
    _tasks: JoinSet<()>,
}

impl Served {
    async fn start(agent: &str) -> Self {
        let limen = Limen::builder()
            .store(Arc::new(SqliteStore::in_memory().await.expect("a store")))
            .authz(Arc::new(RoleAuthz))
            .host(HostConfig::new("here", "sim:///", Arc::new(SimHypervisor::new())))
            .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) })
            .build()
            .await
            .expect("a service");
        let app = App::new(limen, &Secret::new(SECRET)).with_agent(&format!("http://{agent}")).expect("an address");
        let endpoint = endpoint(Arc::new(app)).expect("an endpoint");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serve(listener, endpoint, std::future::pending()).await.expect("it serves") });
        let mut served = Self { address, token: String::new(), client: Client::new(), _tasks: tasks };
        let body = json!({"username": "admin", "password": PASSWORD});
        let answer = served.client.post(served.url("/api/auth/login")).json(&body).send().await.expect("an answer");
        let answer: Value = answer.json().await.expect("JSON");
        served.token = answer["access_token"].as_str().expect("a token").to_owned();
        served
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> Response {
        let request = self.client.get(self.url(path)).bearer_auth(&self.token);
        request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// Everything that is answered to exactly these bytes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        // It may be cut off: what came is what counts.
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8_lossy(&answer).into_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_agent_tells_is_passed_on_and_nothing_of_the_hop() {
    let agent = Agent::start().await;
    let served = Served::start(&agent.address).await;
    let request = served.client.get(served.url("/agent/metrics?a=b"));
    let request = request.bearer_auth(&served.token).header("cookie", "session=1").header("proxy-authorization", "x");
    let request = request.header("connection", "X-Secret, Accept").header("x-secret", "1").header("accept", "text/hop");
    let request = request.header("te", "trailers").header("user-agent", "me").header("x-forwarded-for", "6.6.6.6");
    let answer =
        request.header("forwarded", "for=6.6.6.6").header("x-limen-event", "0").send().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let headers = answer.headers().clone();
    assert_eq!(headers["content-type"], "text/plain");
    assert_eq!(headers["content-length"], "5");
    for (name, value) in [("x-frame-options", "DENY"), ("cache-control", "no-store")] {
        assert_eq!(headers.get_all(name).iter().collect::<Vec<_>>(), [value], "{name}");
    }
    assert!(headers["content-security-policy"].to_str().expect("text").starts_with("default-src 'none'"));
    assert_ne!(headers["x-request-id"], "evil");
    let hop = ["x-hop", "etag", "keep-alive", "proxy-authenticate", "trailer", "set-cookie", "clear-site-data"];
    for name in hop.iter().chain(&["server", "www-authenticate", "transfer-encoding", "upgrade"]) {
        assert!(!headers.contains_key(*name), "{name} passed");
    }
    assert_eq!(answer.text().await.expect("a body"), "up 1\n");

    let asked = agent.asked();
    let [head] = &asked[..] else { panic!("{asked:?}") };
    let mut lines: Vec<&str> = head.trim_end().lines().collect();
    assert_eq!(lines.remove(0), "get /metrics?a=b http/1.1");
    let names: Vec<&str> = lines.iter().filter_map(|line| line.split(':').next()).collect();
    for name in &names {
        let known =
            ["user-agent", "host", "via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"];
        assert!(known.contains(name), "{name} passed: {head}");
    }
    for line in [
        format!("host: {}", agent.address),
        format!("x-forwarded-host: {}", served.address),
        // This machine is a proxy that is believed.
        "x-forwarded-for: 6.6.6.6".to_owned(),
        "x-forwarded-proto: http".to_owned(),
        "via: 1.1 limen".to_owned(),
        "user-agent: me".to_owned(),
    ] {
        assert_eq!(lines.iter().filter(|given| **given == line).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains(&served.token.to_lowercase()) && !head.contains("session=1"));

    let head = served.client.head(served.url("/agent/metrics")).send().await.expect("an answer");
    assert_eq!((head.status().as_u16(), &head.headers()["content-length"]), (200, &"5".parse().expect("a value")));
    assert_eq!(head.bytes().await.expect("nothing").len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_figures_are_open_and_the_rest_wants_a_token() {
    let agent = Agent::start().await;
    let served = Served::start(&agent.address).await;
    let stranger = |path: &str| served.client.get(served.url(path)).send();
    assert_eq!(stranger("/agent/metrics").await.expect("an answer").status(), 200);
    let mut bound = String::new();
    for role in ["viewer", "admin"] {
        let vm = json!({"name": role, "vcpus": 1, "memory_mib": 64});
        let request = served.client.post(served.url("/api/vms")).bearer_auth(&served.token).header("prefer", "wait=30");
        let made: Value = request.json(&vm).send().await.expect("an answer").json().await.expect("JSON");
        let token = json!({"name": role, "role": role, "vm_id": made["vm_id"]});
        let request = served.client.post(served.url("/api/tokens")).bearer_auth(&served.token).json(&token);
        let made: Value = request.send().await.expect("an answer").json().await.expect("JSON");
        bound = made["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    }
    let before = agent.asked().len();
    for path in ["/agent", "/agent/", "/agent/health", "/agent/metrics/", "/agent/metrics/x", "/agent/Metrics"] {
        let refused = stranger(path).await.expect("an answer");
        assert_eq!(refused.status(), 401, "{path}");
        assert_eq!(refused.headers()["content-type"], "application/problem+json");
    }
    let request = served.client.get(served.url("/agent/health")).bearer_auth(&bound);
    assert_eq!(request.send().await.expect("an answer").status(), 403, "a token for one VM");
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let method: reqwest::Method = method.parse().expect("a method");
        let request = served.client.request(method.clone(), served.url("/agent/metrics")).bearer_auth(&served.token);
        let refused = request.send().await.expect("an answer");
        assert_ne!(refused.status(), 200, "{method}");
        if method != "OPTIONS" {
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["allow"]),
                (405, &"GET, HEAD".parse().expect("a value"))
            );
        }
    }
    assert_eq!(agent.asked().len(), before, "nobody came as far as the agent");
    // The agent's own 404.
    assert_eq!(served.get("/agent/health").await.status(), 404);
    assert!(agent.asked().last().expect("a request").starts_with("get /health http/1.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_reaches_another_host() {
    let agent = Agent::start().await;
    let served = Served::start(&agent.address).await;
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let elsewhere = other.local_addr().expect("an address").to_string();
    let token = format!("Authorization: Bearer {}\r\nConnection: close\r\n\r\n", served.token);
    for line in [
        format!("GET http://{elsewhere}/agent/metrics HTTP/1.1\r\nHost: {elsewhere}"),
        format!("GET http://{elsewhere}/agent/metrics HTTP/1.1\r\nHost: x"),
        format!("GET http://x@{elsewhere}/agent/ HTTP/1.1\r\nHost: x"),
        format!("CONNECT {elsewhere} HTTP/1.1\r\nHost: {elsewhere}"),
        format!("GET /agent//{elsewhere}/ HTTP/1.1\r\nHost: x"),
        format!("GET /agent/\\\\{elsewhere}/ HTTP/1.1\r\nHost: x"),
        format!("GET /agent@{elsewhere}/ HTTP/1.1\r\nHost: x"),
        format!("GET /agent:{elsewhere}/ HTTP/1.1\r\nHost: x"),
        format!("GET /agent/%2f%2f{elsewhere}/ HTTP/1.1\r\nHost: x"),
        format!("GET /agent/x%20HTTP/1.1%0d%0aHost:%20{elsewhere}%0d%0a HTTP/1.1\r\nHost: x"),
        format!("GET /agent/../{elsewhere} HTTP/1.1\r\nHost: x"),
        "GET /agent/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: x".to_owned(),
        "GET /agent/a/../../b HTTP/1.1\r\nHost: x".to_owned(),
        "GET /agent/./metrics HTTP/1.1\r\nHost: x".to_owned(),
    ] {
        let answer = served.raw(&format!("{line}\r\n{token}")).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(["400", "404", "405"].contains(&status), "{line}: {answer}");
    }
    assert_eq!(agent.asked(), [""; 0], "what is not plain came as far as the agent");

    // What names a host elsewhere than in the path changes nothing.
    let answer = served
        .raw(&format!(
            "GET /agent/metrics?url=http://{elsewhere}/ HTTP/1.1\r\nHost: {elsewhere}\r\nX-Forwarded-Host: {elsewhere}\r\n\
             X-Original-URL: http://{elsewhere}/\r\nUpgrade: h2c\r\n{token}"
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let redirect = served.get(&format!("/agent/elsewhere/{elsewhere}")).await;
    assert_eq!((redirect.status().as_u16(), redirect.headers().get("location")), (503, None));
    let reached = tokio::time::timeout(Duration::from_millis(300), other.accept()).await;
    assert!(reached.is_err(), "the other host was reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_away_or_talks_nonsense_is_a_503() {
    let agent = Agent::start().await;
    let served = Served::start(&agent.address).await;
    let paths = ["/too-long", "/two-lengths", "/split", "/no-http", "/hangs-up", "/upgrade", "/large-head", "/silent"];
    let mut answers = JoinSet::new();
    let served = Arc::new(served);
    for path in paths {
        let served = Arc::clone(&served);
        answers.spawn(async move { (path, served.get(&format!("/agent{path}")).await) });
    }
    while let Some(answer) = answers.join_next().await {
        let (path, answer) = answer.expect("no panic");
        assert_eq!(answer.status(), 503, "{path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{path}");
        assert!(answer.headers().contains_key("retry-after"), "{path}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["code"], "unavailable", "{path}");
        assert!(!problem.to_string().contains(&agent.address), "{problem}");
    }
    let away = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    let served = Served::start(&away.to_string()).await;
    for path in ["/agent/metrics", "/agent/health"] {
        let problem: Value = served.get(path).await.json().await.expect("JSON");
        assert_eq!((&problem["status"], &problem["code"]), (&json!(503), &json!("unavailable")), "{path}");
    }
    assert_eq!(served.get("/api/health/live").await.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_streamed_and_a_part_never_passes_for_the_whole() {
    let agent = Agent::start().await;
    let served = Served::start(&agent.address).await;
    let mut parts = served.get("/agent/parts").await;
    assert_eq!(parts.chunk().await.expect("a part").as_deref(), Some(&b"first"[..]), "before the last is sent");
    agent.go_on.add_permits(1);
    assert_eq!(parts.chunk().await.expect("a part").as_deref(), Some(&b"last"[..]));
    assert_eq!(parts.chunk().await.expect("the end"), None);
    assert_eq!(served.get("/agent/both").await.text().await.ok().as_deref(), Some("all"));

    for path in ["/agent/dies", "/agent/dies-in-chunk", "/agent/bad-chunk", "/agent/stuck"] {
        // Where even the head was not sent yet, the connection just ends.
        let whole = match served.client.get(served.url(path)).bearer_auth(&served.token).send().await {
            Ok(answer) if answer.status() == 200 => answer.bytes().await.is_ok(),
            _ => false,
        };
        assert!(!whole, "{path} passed for whole");
    }
    let mut endless = served.get("/agent/endless").await;
    let mut length = 0;
    let end = loop {
        match endless.chunk().await {
            Ok(Some(part)) => length += part.len(),
            end => break end,
        }
    };
    assert!(end.is_err(), "it ended as if it were whole");
    assert!((1 << 20..=16 << 20).contains(&length), "{length} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_requests_at_once_and_the_server_answers_others() {
    let agent = Agent::start().await;
    let served = Arc::new(Served::start(&agent.address).await);
    let mut held = JoinSet::new();
    for _ in 0..32 {
        let served = Arc::clone(&served);
        held.spawn(async move { served.get("/agent/held").await.status().as_u16() });
    }
    for _ in 0..500 {
        if agent.asked().len() == 32 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(served.get("/agent/held").await.status(), 503, "one too many");
    assert_eq!(served.get("/api/health/live").await.status(), 200);
    agent.go_on.add_permits(32);
    while let Some(status) = held.join_next().await {
        assert_eq!(status.expect("no panic"), 200);
    }
    assert_eq!(served.get("/agent/metrics").await.status(), 200, "places are given back");
}
