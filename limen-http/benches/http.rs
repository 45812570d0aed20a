//! The list of VMs beside bare poem: what all of LIMEN costs on top of the framework.
//!
//! `cargo bench -p limen-http --bench http` measures; `cargo test -p limen-http --bench http` runs
//! a short form of it. Both servers take turns under the same load (`wrk -c32`,
//! from Debian), so that a noisy machine is noisy for both; the answer is a ratio of medians.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use poem::listener::TcpListener;
use poem::{EndpointExt as _, Route, get, handler};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi, OpenApiService};
use serde_json::Value;

/// What browsers, Python's requests and curl --compressed send.
const GZIP: &[&str] = &["Accept-Encoding: gzip, deflate"];
const PASSWORD: &str = "a password for a bench";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--bare") {
        Some(at) => serve_bare(&arguments[at + 1], Path::new(&arguments[at + 2])),
        None => measure(),
    }
}

/// What one server did under load.
#[derive(Debug, Clone, Copy)]
struct Load {
    per_second: f64,
    cpu_us: f64,
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn wait(child: Child, port: u16) -> Self {
        let server = Self { child, port };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the server on port {port} does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// User and system time of the process so far, in microseconds.
    fn cpu_us(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("read /proc");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().expect("utime") + fields[12].parse::<f64>().expect("stime");
        ticks * 10_000.0
    }

    fn load(&self, path: &str, headers: &[&str], token: &str, seconds: u32) -> Load {
        let before = self.cpu_us();
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let output = Command::new("wrk")
            .args(["-t1", "-c32", &format!("-d{seconds}s"), "-H", &format!("Authorization: Bearer {token}")])
            .args(headers.iter().flat_map(|header| ["-H", header]))
            .arg(&url)
            .output()
            .expect("wrk is installed (scripts/setup.sh does it)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("Non-2xx"), "{url}: {text}");
        let number = |mark: &str| {
            let line = text.lines().find(|line| line.contains(mark)).unwrap_or_else(|| panic!("{text}"));
            let word = line.split_whitespace().find(|word| word.parse::<f64>().is_ok());
            word.and_then(|word| word.parse::<f64>().ok()).expect("a number")
        };
        let (requests, per_second) = (number("requests in"), number("Requests/sec"));
        Load { per_second, cpu_us: (self.cpu_us() - before) / requests }
    }

    fn request(&self, request: &str) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        stream.write_all(request.as_bytes()).expect("send");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("receive");
        let split = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        (String::from_utf8_lossy(&answer[..split]).into_owned(), answer[split + 4..].to_vec())
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn measure() {
    // cargo says `--bench` when it measures; `cargo test --benches` only wants to see it run.
    let (rounds, seconds) = if std::env::args().any(|argument| argument == "--bench") { (7, 3) } else { (1, 1) };
    let data = tempfile::tempdir().expect("a directory");
    let port = free_port();
    let limen = Command::new(env!("CARGO_BIN_EXE_limen"))
        .arg("serve")
        .env("HYPERVISOR_URI", "sim:///?vms=1000&seed=1")
        .env("LIMEN_DATA_DIR", data.path())
        .env("BIND_ADDRESS", "127.0.0.1")
        .env("PORT", port.to_string())
        .env("ADMIN_PASSWORD", PASSWORD)
        .env("RATE_LIMIT_ENABLED", "false")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start limen");
    let limen = Server::wait(limen, port);
    let token = log_in(&limen);
    let list = |limit: u32| {
        let head = format!("Host: bench\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        limen.request(&format!("GET /api/vms?limit={limit} HTTP/1.1\r\n{head}")).1
    };
    let begun = Instant::now();
    let whole = loop {
        let whole = list(1000);
        let parsed: Value = serde_json::from_slice(&whole).expect("a list is JSON");
        if parsed["items"].as_array().is_some_and(|items| items.len() == 1000) {
            break whole;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the simulator's VMs do not come");
        std::thread::sleep(Duration::from_millis(200));
    };
    std::fs::write(data.path().join("1000.json"), &whole).expect("write");
    let page = list(50);
    std::fs::write(data.path().join("50.json"), &page).expect("write");
    let port = free_port();
    let bare = Command::new(std::env::current_exe().expect("this program"))
        .args(["--bare", &port.to_string(), &data.path().display().to_string()])
        .spawn()
        .expect("start the bare server");
    let bare = Server::wait(bare, port);

    let cases: [(&str, &Server, &str, &[&str]); 7] = [
        ("limen, list of 1000", &limen, "/api/vms?limit=1000", &[]),
        ("bare poem, the same bytes", &bare, "/bytes", &[]),
        ("poem-openapi objects, the same list", &bare, "/objects", &[]),
        ("limen, page of 50, gzip as clients ask", &limen, "/api/vms?limit=50", GZIP),
        ("bare poem, hello", &bare, "/hello", GZIP),
        ("limen, page of 50, plain", &limen, "/api/vms?limit=50", &[]),
        ("bare poem, the same page, plain", &bare, "/page", &[]),
    ];
    let mut loads: [Vec<Load>; 7] = Default::default();
    for _ in 0..rounds {
        for (index, (_, server, path, headers)) in cases.iter().enumerate() {
            loads[index].push(server.load(path, headers, &token, seconds));
        }
    }
    let cpu = |index: usize| median(loads[index].iter().map(|load| load.cpu_us).collect());
    let rate = |index: usize| median(loads[index].iter().map(|load| load.per_second).collect());
    println!("{} and {} bytes, {rounds} round(s) of {seconds} s, medians", whole.len(), page.len());
    for (index, (name, ..)) in cases.iter().enumerate() {
        println!("{name:38} {:10.0} requests/s {:9.1} us CPU/request", rate(index), cpu(index));
    }
    println!("list of 1000, CPU against bare poem:   {:.2}   (at most 1.25)", cpu(0) / cpu(1));
    println!("list of 1000, rate against objects:    {:.1}   (at least 10)", rate(0) / rate(2));
    println!("page of 50, rate against bare hello:   {:.2}   (at least 0.75)", rate(3) / rate(4));
    println!("  plain, without Accept-Encoding:      {:.2}", rate(5) / rate(4));
    println!("  plain, against the same bytes:       {:.2}, CPU {:.2}", rate(5) / rate(6), cpu(5) / cpu(6));
}

fn log_in(limen: &Server) -> String {
    let body = format!("{{\"username\":\"admin\",\"password\":\"{PASSWORD}\"}}");
    let head = "Host: bench\r\nContent-Type: application/json\r\nConnection: close";
    let length = body.len();
    let request = format!("POST /api/auth/login HTTP/1.1\r\n{head}\r\nContent-Length: {length}\r\n\r\n{body}");
    let (head, body) = limen.request(&request);
    let answer: Value = serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{head}"));
    answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// What a VM is made of, for the framework's own encoder: the same fields as in the list.
#[derive(Object)]
struct Vm {
    id: String,
    name: String,
    description: String,
    host: String,
    owner: String,
    managed: bool,
    spec: Spec,
    labels: std::collections::HashMap<String, String>,
    autostart: bool,
    created_at: String,
    updated_at: String,
    status: Status,
}

#[derive(Object)]
struct Spec {
    vcpus: u32,
    memory_mib: u64,
    firmware: String,
    disks: Vec<String>,
    nics: Vec<String>,
}

#[derive(Object)]
struct Status {
    state: String,
    reason: Option<String>,
    addresses: Vec<String>,
    observed_at: Option<String>,
    stale: bool,
}

#[derive(Object)]
struct List {
    items: Vec<Vm>,
    next_cursor: Option<String>,
}

struct Objects(&'static List);

#[OpenApi]
impl Objects {
    #[oai(path = "/objects", method = "get")]
    async fn objects(&self) -> Json<&'static List> {
        Json(self.0)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn vm(value: &Value) -> Vm {
    let (spec, status) = (&value["spec"], &value["status"]);
    Vm {
        id: text(&value["id"]),
        name: text(&value["name"]),
        description: text(&value["description"]),
        host: text(&value["host"]),
        owner: text(&value["owner"]),
        managed: true,
        spec: Spec {
            vcpus: 1,
            memory_mib: spec["memory_mib"].as_u64().unwrap_or_default(),
            firmware: text(&spec["firmware"]),
            disks: Vec::new(),
            nics: Vec::new(),
        },
        labels: std::collections::HashMap::new(),
        autostart: value["autostart"] == true,
        created_at: text(&value["created_at"]),
        updated_at: text(&value["updated_at"]),
        status: Status {
            state: text(&status["state"]),
            reason: status["reason"].as_str().map(str::to_owned),
            addresses: Vec::new(),
            observed_at: status["observed_at"].as_str().map(str::to_owned),
            stale: false,
        },
    }
}

#[handler]
fn hello() -> &'static str {
    "hello"
}

#[tokio::main]
async fn serve_bare(port: &str, data: &Path) {
    let bytes: bytes::Bytes = std::fs::read(data.join("1000.json")).expect("the list").into();
    let page: bytes::Bytes = std::fs::read(data.join("50.json")).expect("the page").into();
    let parsed: Value = serde_json::from_slice(&bytes).expect("a list is JSON");
    let items = parsed["items"].as_array().expect("items").iter().map(vm).collect();
    let list = Box::leak(Box::new(List { items, next_cursor: None }));
    let objects = OpenApiService::new(Objects(list), "objects", "1");
    let same = |bytes: bytes::Bytes| {
        let answer = move |_| poem::Response::builder().content_type("application/json").body(bytes.clone());
        get(poem::endpoint::make_sync(answer))
    };
    let routes = Route::new().at("/hello", get(hello)).at("/bytes", same(bytes)).at("/page", same(page));
    let routes = routes.nest("/", objects);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"));
    poem::Server::new(listener).run(routes.map_to_response()).await.expect("serve");
}
