//! A console over its WebSocket beside websockify: both carry the bytes of one source.
//!
//! `cargo bench -p limen-http --bench console` measures and fetches websockify from PyPI, once;
//! `cargo test -p limen-http --bench console` runs a short form of it, without websockify. The two
//! take turns, so that a noisy machine is noisy for both; the answers are ratios of medians.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{CreateVm, PowerAction};
use limen_core::service::{AdminSeed, HostConfig};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, Limen, Secret};
use limen_http::{App, endpoint, serve};
use poem::http::{HeaderValue, header};
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};

const PASSWORD: &str = "a password for a bench";
const WEBSOCKIFY: [&str; 2] = ["websockify==0.13.0", "numpy"];
/// Sessions that nothing happens on.
const IDLE: usize = 100;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let port = |at: usize| arguments[at].parse().expect("a port");
    match arguments.get(1).map(String::as_str) {
        Some("--source") => source(port(2)),
        Some("--limen") => limen(port(2), port(3)),
        _ => measure(arguments.iter().any(|argument| argument == "--bench")),
    }
}

/// What is behind both: the first byte says what a connection does.
fn source(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("listen");
    for stream in listener.incoming() {
        let mut stream = stream.expect("accept");
        stream.set_nodelay(true).expect("set");
        std::thread::spawn(move || {
            let mut word = [0; 9];
            if stream.read_exact(&mut word).is_err() {
                return;
            }
            let [what, count @ ..] = word;
            if what == b'B' {
                let (mut left, piece) = (u64::from_be_bytes(count), vec![0x5a; 64 << 10]);
                while left > 0 {
                    let length = left.min(piece.len() as u64);
                    let Ok(()) = stream.write_all(&piece[..length as usize]) else { return };
                    left -= length;
                }
            }
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
    }
}

/// LIMEN with one running VM, whose consoles are connections to the source.
#[tokio::main]
async fn limen(port: u16, source: u16) {
    let sim = SimHypervisor::builder().consoles(move |_| {
        let stream = TcpStream::connect(("127.0.0.1", source)).expect("connect to the source");
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).expect("set");
        Box::new(tokio::net::TcpStream::from_std(stream).expect("a socket"))
    });
    let limen = Limen::builder()
        .store(Arc::new(SqliteStore::in_memory().await.expect("a Store")))
        .authz(Arc::new(RoleAuthz))
        .host(HostConfig::new("here", "sim:///", Arc::new(sim.build())))
        .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) })
        .build()
        .await
        .expect("a service");
    let me = Context::local();
    let vm = limen.create_vm(&me, CreateVm::new("one", 1, 64)).await.expect("recorded");
    limen.wait_operation(&me, vm.id, Duration::from_secs(30)).await.expect("made");
    let id = vm.vm_id.expect("a VM");
    let start = limen.change_power(&me, id, PowerAction::Start, None).await.expect("recorded");
    limen.wait_operation(&me, start.id, Duration::from_secs(30)).await.expect("started");
    let app = App::new(limen, &Secret::new("d41d8cd98f00b204e9800998ecf8427e"));
    let endpoint = endpoint(Arc::new(app)).expect("an endpoint");
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("listen");
    println!("/vnc/{id}");
    serve(listener, endpoint, std::future::pending()).await.expect("serve");
}

struct Process {
    child: Child,
    port: u16,
    path: String,
    token: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Process {
    fn start(mut command: Command, port: u16) -> Self {
        let child = command.spawn().unwrap_or_else(|error| panic!("{error}: {command:?}"));
        let process = Self { child, port, path: "/".to_owned(), token: String::new() };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing answers on port {port}");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    fn own(arguments: &[String], port: u16) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(arguments).stdout(Stdio::piped());
        Self::start(command, port)
    }

    /// User and system time so far, of children that have ended too, in seconds.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("read /proc");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
        fields[11..15].iter().map(|ticks| ticks.parse::<f64>().expect("ticks")).sum::<f64>() / 100.0
    }

    /// Proportional set size of the process and its children, in KiB.
    fn pss(&self) -> f64 {
        let of = |pid: u32| -> f64 {
            let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or("0 kB");
            line.trim().trim_end_matches(" kB").parse().expect("a number")
        };
        let own = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        of(own) + children.split_whitespace().map(|pid| of(pid.parse().expect("a pid"))).sum::<f64>()
    }

    /// Connects, and tells the source what to do.
    async fn connect(&self, what: u8, count: u64) -> WebSocketStream<tokio::net::TcpStream> {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.expect("connect");
        stream.set_nodelay(true).expect("set");
        let uri = format!("ws://127.0.0.1:{}{}", self.port, self.path);
        let mut builder = ClientBuilder::new().uri(&uri).expect("an address");
        let mut add = |name, value: &str| {
            let value = HeaderValue::from_str(value).expect("a value");
            builder = std::mem::take(&mut builder).add_header(name, value).expect("a header");
        };
        add(header::SEC_WEBSOCKET_PROTOCOL, "binary");
        if !self.token.is_empty() {
            add(header::AUTHORIZATION, &format!("Bearer {}", self.token));
        }
        let (mut socket, _) = builder.connect_on(stream).await.expect("a WebSocket");
        let word = [&[what][..], &count.to_be_bytes()].concat();
        socket.send(Message::binary(word)).await.expect("send");
        socket
    }

    /// Carries `bytes` from the source: seconds of CPU for each GB, and MB each second.
    async fn bulk(&self, bytes: u64) -> (f64, f64) {
        let (before, begun) = (self.cpu(), Instant::now());
        let mut socket = self.connect(b'B', bytes).await;
        let mut left = bytes;
        while left > 0 {
            let message = socket.next().await.expect("more").expect("a message");
            left -= message.as_payload().len() as u64;
        }
        let rate = bytes as f64 / 1e6 / begun.elapsed().as_secs_f64();
        drop(socket);
        // A child of the other one has to end first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        ((self.cpu() - before) / (bytes as f64 / 1e9), rate)
    }

    /// The median time of an echo, in microseconds.
    async fn echo(&self, count: usize) -> f64 {
        let mut socket = self.connect(b'E', 0).await;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let begun = Instant::now();
            socket.send(Message::binary(&b"a key ev"[..])).await.expect("send");
            socket.next().await.expect("more").expect("a message");
            times.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        median(times)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// websockify in an environment of its own, from PyPI.
fn websockify() -> PathBuf {
    let cache = std::env::var_os("LIMEN_CACHE_DIR").map_or_else(|| PathBuf::from("../.cache"), PathBuf::from);
    let venv = cache.join("venv-websockify");
    let run = |program: PathBuf, arguments: &[&str]| {
        let status = Command::new(&program).args(arguments).status();
        assert!(status.is_ok_and(|status| status.success()), "{program:?} {arguments:?} failed");
    };
    if !venv.join("bin/websockify").exists() {
        run("python3".into(), &["-m", "venv", &venv.display().to_string()]);
        run(venv.join("bin/pip"), &[&["install", "--quiet", "--disable-pip-version-check"][..], &WEBSOCKIFY].concat());
    }
    venv.join("bin/websockify")
}

async fn log_in(port: u16) -> String {
    let body = serde_json::json!({ "username": "admin", "password": PASSWORD });
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let answer = client.post(format!("http://127.0.0.1:{port}/api/auth/login")).json(&body).send().await;
    let answer: serde_json::Value = answer.expect("an answer").json().await.expect("JSON");
    answer["access_token"].as_str().expect("a token").to_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn measure(long: bool) {
    let (rounds, bytes, echoes) = if long { (5, 2_000_000_000, 5000) } else { (1, 50_000_000, 100) };
    let source = free_port();
    let _source = Process::own(&["--source".to_owned(), source.to_string()], source);
    let port = free_port();
    let mut limen = Process::own(&["--limen".to_owned(), port.to_string(), source.to_string()], port);
    let mut said = std::io::BufReader::new(limen.child.stdout.take().expect("stdout"));
    std::io::BufRead::read_line(&mut said, &mut limen.path).expect("a path");
    limen.path = limen.path.trim().trim_start_matches('/').to_owned();
    limen.path.insert(0, '/');
    limen.token = log_in(port).await;
    let mut all = vec![("limen", limen)];
    if long {
        let port = free_port();
        let mut command = Command::new(websockify());
        command.args([format!("127.0.0.1:{port}"), format!("127.0.0.1:{source}")]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        all.push(("websockify", Process::start(command, port)));
    }

    let mut figures = vec![[Vec::new(), Vec::new(), Vec::new()]; all.len()];
    for _ in 0..rounds {
        for (index, (_, process)) in all.iter().enumerate() {
            let (cpu, rate) = process.bulk(bytes).await;
            let echo = process.echo(echoes).await;
            for (values, value) in figures[index].iter_mut().zip([cpu, rate, echo]) {
                values.push(value);
            }
        }
    }
    let mut sizes = Vec::new();
    for (_, process) in &all {
        let before = process.pss();
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(process.connect(b'I', 0).await);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        sizes.push((before, process.pss()));
    }
    let of = |index: usize, figure: usize| median(figures[index][figure].clone());
    println!("{rounds} round(s) of {bytes} bytes and {echoes} echoes, medians; then {IDLE} idle sessions");
    for (index, (name, _)) in all.iter().enumerate() {
        let [cpu, rate, echo] = [0, 1, 2].map(|figure| of(index, figure));
        let (before, after) = sizes[index];
        println!(
            "{name:12} {cpu:6.3} CPU s/GB {rate:8.0} MB/s {echo:7.1} us echo {:8.0} KiB PSS ({before:.0} before)",
            after
        );
    }
    if all.len() == 2 {
        println!("CPU for each GB:         {:.2}   (at most 0.65)", of(0, 0) / of(1, 0));
        println!("echo, median:            {:.2}   (at most 1)", of(0, 2) / of(1, 2));
        println!("PSS with idle sessions:  1/{:.0}   (at most 1/20)", sizes[1].1 / sizes[0].1);
    }
}
