//! The stream of events, on real connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{OperationId, VmId, VmPhase, VmRecord, VmSpec};
use limen_core::service::{AdminSeed, HostConfig, Timings};
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{Change, Expect, Retention, Row, Store};
use limen_core::{Limen, Secret};
use limen_http::{App, endpoint, serve};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::{Contract, PASSWORD, SECRET};

/// A server with a port.
struct Served {
    url: String,
    limen: Limen,
    store: Arc<dyn Store>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<std::io::Result<()>>,
    client: Client,
}

impl Served {
    async fn start() -> Self {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().await.expect("a store"));
        let limen = Limen::builder()
            .store(Arc::clone(&store))
            .authz(Arc::new(RoleAuthz))
            .host(HostConfig::new("here", "sim:///", Arc::new(SimHypervisor::new())))
            .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) })
            .timings(Timings { mark: Duration::from_millis(200), ..Timings::default() })
            .build()
            .await
            .expect("a service");
        let app = App::new(limen.clone(), &Secret::new(SECRET));
        let endpoint = endpoint(Arc::new(app)).expect("an endpoint");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(serve(listener, endpoint, async move { drop(stopped.await) }));
        Self { url, limen, store, stop, serving, client: Client::new() }
    }

    async fn call(&self, method: &str, path: &str, token: &str, body: Value) -> Response {
        let method = method.parse().expect("a method");
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        request.header("prefer", "wait=30").json(&body).send().await.expect("an answer")
    }

    async fn login(&self, user: &str) -> String {
        let answer = self.call("POST", "/api/auth/login", "", json!({"username": user, "password": PASSWORD})).await;
        let token = answer.json::<Value>().await.expect("JSON")["access_token"].clone();
        token.as_str().expect("a token").to_owned()
    }

    async fn user(&self, admin: &str, name: &str) -> String {
        let body = json!({"username": name, "password": PASSWORD, "role": "user"});
        assert_eq!(self.call("POST", "/api/users", admin, body).await.status(), 201);
        self.login(name).await
    }

    async fn create(&self, token: &str, name: &str) -> String {
        let body = json!({"name": name, "vcpus": 1, "memory_mib": 64});
        let operation: Value = self.call("POST", "/api/vms", token, body).await.json().await.expect("JSON");
        operation["vm_id"].as_str().unwrap_or_else(|| panic!("{operation}")).to_owned()
    }

    async fn events(&self, query: &str, token: &str, last: Option<i64>) -> Response {
        let mut request = self.client.get(format!("{}/api/events{query}", self.url)).bearer_auth(token);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        request.send().await.expect("an answer")
    }

    async fn follow(&self, query: &str, token: &str, last: Option<i64>) -> Following {
        let answer = self.events(query, token, last).await;
        assert_eq!(answer.status(), 200);
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
        assert_eq!(header("x-accel-buffering").as_deref(), Some("no"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        let from: i64 = header("x-limen-event").expect("where it begins").parse().expect("a number");
        let mut following = Following { answer, text: String::new() };
        let opening = following.block().await.expect("an opening");
        assert_eq!(opening, format!("retry: 2000\n: position {from}\nid: {from}"));
        following
    }
}

/// A client that reads a stream.
struct Following {
    answer: Response,
    text: String,
}

#[derive(Debug)]
enum Said {
    Event { id: i64, kind: String, data: Value },
    Position(i64),
    End(Value),
}

impl Following {
    /// What stands before the next empty line; none at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(block);
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.answer.chunk()).await;
            match chunk.expect("a stream is never silent for long").expect("it is not cut") {
                Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).expect("text")),
                None => {
                    assert!(self.text.is_empty(), "{}", self.text);
                    return None;
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Said> {
        let block = self.block().await?;
        let field = |name: &str| {
            let start = format!("{name}: ");
            block.lines().find_map(|line| line.strip_prefix(start.as_str()))
        };
        let data = field("data").map(|data| serde_json::from_str(data).expect("JSON"));
        let id = field("id").map(|id| id.parse().expect("a number"));
        Some(match (field("event"), id, data) {
            (Some("end"), None, Some(problem)) => Said::End(problem),
            (Some(kind), Some(id), Some(data)) => Said::Event { id, kind: kind.to_owned(), data },
            (None, Some(id), None) => {
                assert!(block.contains(&format!(": position {id}\n")), "{block}");
                Said::Position(id)
            }
            _ => panic!("{block}"),
        })
    }

    /// The events up to one that is `wanted`.
    async fn until(&mut self, wanted: impl Fn(&str, &Value) -> bool) -> Vec<(i64, String, Value)> {
        let mut told = Vec::new();
        loop {
            match self.next().await.expect("it goes on") {
                Said::Event { id, kind, data } => {
                    let done = wanted(&kind, &data);
                    told.push((id, kind, data));
                    if done {
                        return told;
                    }
                }
                Said::Position(_) => {}
                Said::End(problem) => panic!("{problem}"),
            }
        }
    }

    /// The problem with which it ends.
    async fn end(&mut self) -> Value {
        loop {
            if let Said::End(problem) = self.next().await.expect("it says why") {
                assert!(self.next().await.is_none(), "nothing comes after the end");
                return problem;
            }
        }
    }
}

fn finished(kind: &str, data: &Value, operation: &str) -> bool {
    kind == "operation" && data["object"]["kind"] == operation && data["object"]["state"] == "succeeded"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_and_the_stream_after_it_are_all_there_is() {
    let served = Served::start().await;
    let admin = served.login("admin").await;
    let listed = served.call("GET", "/api/vms", &admin, Value::Null).await;
    let number: i64 = listed.headers()["x-limen-event"].to_str().expect("text").parse().expect("a number");
    let mut following = served.follow(&format!("?after={number}"), &admin, None).await;
    let vm = served.create(&admin, "one").await;
    served.call("DELETE", &format!("/api/vms/{vm}"), &admin, Value::Null).await;
    let told = following.until(|kind, data| finished(kind, data, "delete_vm")).await;
    let ids: Vec<i64> = told.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, (number + 1..=number + ids.len() as i64).collect::<Vec<_>>());
    let contract = Contract::new();
    for (id, kind, data) in &told {
        assert_eq!((data["number"].as_i64(), data["kind"].as_str()), (Some(*id), Some(kind.as_str())));
        let mut bare = data.clone();
        let object = bare.as_object_mut().expect("an object").remove("object").unwrap_or_default();
        contract.fits_schema("Event", &bare);
        let schema = match kind.as_str() {
            "vm" => "EventVm",
            "status" => "EventStatus",
            "operation" => "Operation",
            _ => {
                assert_eq!(object, Value::Null, "{data}");
                continue;
            }
        };
        contract.fits_schema(schema, &object);
    }
    let of_vm: Vec<&str> =
        told.iter().filter(|(.., data)| data["id"] == vm.as_str()).map(|(_, kind, _)| kind.as_str()).collect();
    assert_eq!(of_vm.first(), Some(&"vm"));
    assert!(of_vm.contains(&"status") && of_vm.contains(&"vm_gone"), "{of_vm:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_where_it_was() {
    let served = Served::start().await;
    let admin = served.login("admin").await;
    served.create(&admin, "one").await;
    let last = served.limen.event();
    let mut next = 1;
    while next <= last {
        // Each stream is left after three events; the address stays the one of the first.
        let mut following = served.follow("?after=0", &admin, (next > 1).then_some(next - 1)).await;
        for _ in 0..3 {
            let (id, ..) = following.until(|_, _| true).await.remove(0);
            assert_eq!(id, next);
            next += 1;
            if next > last {
                break;
            }
        }
    }
    let mut new = served.follow("", &admin, None).await;
    let seen = served.limen.event();
    served.create(&admin, "two").await;
    assert!(new.until(|_, _| true).await[0].0 > seen - 5, "without a number: those to come");

    for (query, last, field) in
        [("?after=-1", "1", "after"), ("?after=x", "1", "after"), ("?after=9007199254740992", "1", "after")]
            .into_iter()
            .chain([("?after=1", "x", "last-event-id"), ("", "-1", "last-event-id"), ("?befor=1", "1", "befor")])
    {
        let request = served.client.get(format!("{}/api/events{query}", served.url)).bearer_auth(&admin);
        let answer = request.header("last-event-id", last).send().await.expect("an answer");
        assert_eq!(answer.status(), 400, "{query} {last}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!(problem["field"], field, "{problem}");
    }
    assert_eq!(served.events("", "", None).await.status(), 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_without_events_is_told_how_far_it_is() {
    let served = Served::start().await;
    let admin = served.login("admin").await;
    let ann = served.user(&admin, "ann").await;
    let mut following = served.follow("?after=0", &ann, None).await;
    served.create(&admin, "not-anns").await;
    let last = served.limen.event();
    loop {
        match following.next().await.expect("it goes on") {
            Said::Event { kind, data, .. } => assert_eq!(kind, "host", "{data}"),
            Said::Position(position) if position >= last => break,
            Said::Position(_) => {}
            Said::End(problem) => panic!("{problem}"),
        }
    }
    // From there it goes on, whatever is taken from the log meanwhile.
    let later = time::OffsetDateTime::now_utc() + Duration::from_secs(40 * 24 * 3600);
    while served.store.prune(&Retention::default(), later).await.expect("prune")["events"] > 0 {}
    let oldest = served.store.events_after(0, 1).await.expect("the log").oldest;
    let ann = served.login("ann").await;
    served.follow("?after=0", &ann, Some(oldest - 1)).await;
    for (query, last) in [("?after=0", None), ("", Some(1)), ("?after=9007199254740991", None)] {
        let answer = served.events(query, &ann, last).await;
        assert_eq!(answer.status(), 410, "{query} {last:?}");
        let problem: Value = answer.json().await.expect("JSON");
        assert_eq!((&problem["code"], &problem["status"]), (&json!("gone"), &json!(410)));
        let told = problem["oldest"].as_i64().expect("a number");
        assert!(told >= oldest, "{problem}");
    }
}

/// So many events that no buffer on the way holds them.
async fn fill(served: &Served) -> i64 {
    let snapshot = served.store.snapshot().await.expect("a snapshot");
    for batch in 0..10 {
        let rows = (0..250).map(|number| {
            let now = time::OffsetDateTime::now_utc();
            let record = VmRecord {
                id: VmId::generate(),
                owner: snapshot.owners[0].id,
                host: snapshot.hosts[0].id,
                name: format!("vm-{batch}-{number}"),
                description: "x".repeat(4096),
                labels: Default::default(),
                spec: VmSpec {
                    vcpus: 1,
                    memory_mib: 64,
                    firmware: Default::default(),
                    disks: Vec::new(),
                    iso: None,
                    nics: Vec::new(),
                },
                raised: None,
                phase: VmPhase::Defined,
                autostart: false,
                created_by: OperationId::generate(),
                version: 1,
                created_at: now,
                updated_at: now,
            };
            Row::Vm { record: Box::new(record), expect: Expect::Absent }
        });
        let rows = rows.collect();
        served.store.commit(Change { rows, ..Change::default() }).await.expect("committed");
    }
    let last = served.store.snapshot().await.expect("a snapshot").event;
    served.limen.wait_for_event(last, Duration::from_secs(20)).await.expect("it follows");
    last
}

/// A client that asks for all events and reads none yet.
async fn deaf(served: &Served, token: &str) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(8192).expect("a small buffer");
    let address = served.url.trim_start_matches("http://").parse().expect("an address");
    let mut stream = socket.connect(address).await.expect("a connection");
    let request = format!("GET /api/events?after=0 HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("written");
    stream
}

/// The events that come until the connection ends.
async fn drained(mut stream: tokio::net::TcpStream) -> usize {
    let mut bytes = Vec::new();
    // A connection that is cut may end with an error; what came before counts.
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    drop(read.expect("the connection ends"));
    String::from_utf8_lossy(&bytes).matches("\nevent: vm\n").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_right_whether_it_is_read_or_not() {
    let served = Served::start().await;
    fill(&served).await;
    let admin = served.login("admin").await;
    let mut following = served.follow("", &admin, None).await;
    let stuck = deaf(&served, &admin).await;
    let mut first = [0; 1];
    stuck.peek(&mut first).await.expect("the stream has begun");

    let started = Instant::now();
    assert_eq!(served.call("POST", "/api/auth/logout", &admin, Value::Null).await.status(), 204);
    let problem = following.end().await;
    assert_eq!((&problem["code"], &problem["status"]), (&json!("unauthenticated"), &json!(401)));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let got = drained(stuck).await;
    assert!(got < 2500, "all of it was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_when_the_server_stops() {
    let served = Served::start().await;
    fill(&served).await;
    let admin = served.login("admin").await;
    let mut following = served.follow("", &admin, None).await;
    let stuck = deaf(&served, &admin).await;
    let mut first = [0; 1];
    stuck.peek(&mut first).await.expect("the stream has begun");

    let started = Instant::now();
    served.stop.send(()).expect("it serves");
    assert_eq!(following.end().await["code"], "unavailable");
    served.serving.await.expect("no panic").expect("it stops");
    assert!(started.elapsed() < Duration::from_secs(5), "it waited for its streams: {:?}", started.elapsed());
    assert!(drained(stuck).await < 2500, "all of it was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_many_streams_are_enough_and_one_that_is_left_makes_room() {
    let served = Served::start().await;
    let admin = served.login("admin").await;
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(served.follow("", &admin, None).await);
    }
    let refused = served.events("", &admin, None).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.expect("JSON")["code"], "rate_limited");
    drop(open.pop());
    let started = Instant::now();
    while served.events("", &admin, None).await.status() == 429 {
        assert!(started.elapsed() < Duration::from_secs(10), "a stream that was left is still open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
