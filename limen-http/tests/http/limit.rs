//! How many requests a client may send, whatever it says of itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::abuse::{is_full, memory_mib};
use crate::harness::PASSWORD;
use crate::process::{Running, limen, with_stdin};
use crate::wire::{Kept, LOCAL, ask};

const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

fn started(home: &Path, settings: &[(&str, &str)]) -> (Running, SocketAddr) {
    std::fs::write(home.join("known"), "").expect("written");
    let mut all = vec![("ADMIN_PASSWORD", PASSWORD), ("RATE_LIMIT_ENABLED", "true")];
    all.extend_from_slice(settings);
    let (server, _) = Running::start(home, &all);
    let address = server.url.trim_start_matches("http://").parse().expect("an address");
    (server, address)
}

/// Killed when dropped.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// An nginx as the operations guide shows it, but for TLS: it calls `to` from [`PROXY`].
fn nginx(home: &Path, to: SocketAddr) -> (Nginx, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let dir = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {dir}/nginx-{what};\n"))
        .collect();
    let config = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n{temporary}access_log off;\nserver {{\nlisten {free};\nlocation / {{\n\
         proxy_pass http://{to};\nproxy_bind {PROXY};\n\
         proxy_set_header Host $host;\nproxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme;\nproxy_http_version 1.1;\n\
         proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection \"upgrade\";\n}}\n}}\n}}\n"
    );
    let path = home.join("nginx.conf");
    std::fs::write(&path, config).expect("written");
    let mut command = Command::new("/usr/sbin/nginx");
    let child = command.arg("-c").arg(&path).stderr(Stdio::null()).spawn().expect("nginx, which make setup installs");
    let nginx = Nginx(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(free).is_err() {
        let log = std::fs::read_to_string(home.join("nginx.log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "nginx does not answer: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    (nginx, free)
}

/// What a client may try to be another one in its request number `n`.
const TRICKS: [(&str, fn(u32) -> String); 15] = [
    ("X-Forwarded-For", |n| format!("GET /api/vms HTTP/1.1\r\nX-Forwarded-For: 10.0.{}.{}\r\n", n / 250, n % 250)),
    ("several X-Forwarded-For", |n| {
        format!("GET /api/vms HTTP/1.1\r\nX-Forwarded-For: 10.1.1.{n}\r\nX-Forwarded-For: 10.2.2.{n}, 127.0.0.9\r\n")
    }),
    ("a long X-Forwarded-For", |n| {
        format!("GET /api/vms HTTP/1.1\r\nX-Forwarded-For: 10.1.1.{n}{}\r\n", ", 10.9.9.9".repeat(50))
    }),
    ("IPv6 hops", |n| format!("GET /api/vms HTTP/1.1\r\nX-Forwarded-For: [2001:db8:{n:x}::1]:80\r\n")),
    ("X-Real-IP", |n| format!("GET /api/vms HTTP/1.1\r\nX-Real-IP: 10.0.1.{n}\r\n")),
    ("Forwarded", |n| format!("GET /api/vms HTTP/1.1\r\nForwarded: for=10.0.1.{n};proto=https\r\n")),
    ("True-Client-IP", |n| format!("GET /api/vms HTTP/1.1\r\nTrue-Client-IP: 10.0.1.{n}\r\n")),
    ("CF-Connecting-IP", |n| format!("GET /api/vms HTTP/1.1\r\nCF-Connecting-IP: 10.0.1.{n}\r\n")),
    ("X-Client-IP", |n| format!("GET /api/vms HTTP/1.1\r\nX-Client-IP: 10.0.1.{n}\r\nClient-IP: 10.0.1.{n}\r\n")),
    ("a token of nobody's", |n| format!("GET /api/vms HTTP/1.1\r\nAuthorization: Bearer limen_{n:064x}\r\n")),
    ("a broken token", |n| format!("GET /api/vms HTTP/1.1\r\nAuthorization: Bearer {n}.{n}.{n}\r\n")),
    ("other paths", |n| format!("GET /api/vms?x={n} HTTP/1.1\r\n")),
    ("paths beside the exempt ones", |n| format!("GET /api/health/../vms/{n} HTTP/1.1\r\n")),
    ("other methods", |n| {
        let method = ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"][n as usize % 5];
        format!("{method} /api/vms HTTP/1.1\r\nX-HTTP-Method-Override: OPTIONS\r\n")
    }),
    ("other names", |n| {
        format!("GET /api/vms HTTP/1.1\r\nX-Request-Id: a{n}\r\nUser-Agent: {n}\r\nOrigin: https://{n}.kr\r\n")
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_header_makes_a_client_another_one_directly_or_through_a_proxy() {
    const ASKED: u32 = 80;
    let home = TempDir::new().expect("a directory");
    let (_server, direct) = started(home.path(), &[("TRUSTED_PROXIES", "127.0.0.9")]);
    let (_nginx, proxied) = nginx(home.path(), direct);
    for (way, to, net) in [("direct", direct, 1), ("through nginx", proxied, 2)] {
        for (number, (what, trick)) in TRICKS.iter().enumerate() {
            // Each trick is tried from an address of its own, whose bucket is full.
            let from = Ipv4Addr::new(127, 1, net, u8::try_from(number).expect("few") + 1);
            let begun = Instant::now();
            let mut passed = 0;
            for n in 1..=ASKED {
                let said = ask(to, from, &trick(n), "").await;
                assert_ne!(said.status, 502, "{said:?}");
                passed += u32::from(said.status != 429);
            }
            let may = 20 + (begun.elapsed().as_secs_f64() * 10.0) as u32 + 1;
            assert!(passed <= may, "{what}, {way}: {passed} passed, {may} may");
            assert!(passed >= 20.min(ASKED), "{what}, {way}: {passed} passed of a full bucket");
            // A bucket that never empties would show nothing.
            assert!(passed < ASKED || may >= ASKED, "{what}, {way}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_constant_load_gets_the_rate_and_one_burst() {
    let home = TempDir::new().expect("a directory");
    let (_server, to) = started(home.path(), &[]);
    let span = Duration::from_secs(if is_full() { 60 } else { 5 });
    let mut kept = Kept::new(to, LOCAL).await;
    let request = format!("GET /api/vms HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let begun = Instant::now();
    let (mut asked, mut accepted) = (0, 0);
    while begun.elapsed() < span {
        let said = kept.ask(request.as_bytes(), 1).await;
        asked += 1;
        accepted += u32::from(said[0].status != 429);
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    let expected = begun.elapsed().as_secs_f64() * 10.0 + 20.0;
    eprintln!("{accepted} of {asked} accepted in {:?}; {expected:.0} expected", begun.elapsed());
    let off = (f64::from(accepted) - expected).abs();
    assert!(off <= (expected * 0.02).max(2.0), "{accepted} accepted, {expected:.0} expected");
    assert!(f64::from(asked) > expected * 1.5, "only {asked} were asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_and_each_address_has_its_own_and_some_paths_have_none() {
    let home = TempDir::new().expect("a directory");
    // So slow that nothing comes back while the test runs.
    let (_server, to) = started(home.path(), &[("RATE_LIMIT_RPS", "0.1"), ("RATE_LIMIT_BURST", "12")]);
    let at = |last| Ipv4Addr::new(127, 2, 0, last);
    let login = async |name: &str| {
        let body = json!({"username": name, "password": PASSWORD}).to_string();
        let said = ask(to, LOCAL, "POST /api/auth/login HTTP/1.1\r\nContent-Type: application/json\r\n", &body).await;
        said.json()["access_token"].as_str().unwrap_or_else(|| panic!("{said:?}")).to_owned()
    };
    let admin = login("admin").await;
    let user = json!({"username": "alice", "password": PASSWORD, "role": "user"}).to_string();
    let head =
        format!("POST /api/users HTTP/1.1\r\nAuthorization: Bearer {admin}\r\nContent-Type: application/json\r\n");
    assert_eq!(ask(to, LOCAL, &head, &user).await.status, 201);
    let alice = login("alice").await;

    let get = |path: &str, token: &str| format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
    // A user has one bucket at all addresses: eleven requests are left of it.
    let mut passed = 0;
    for n in 0..20 {
        passed += u32::from(ask(to, at(n + 1), &get("/api/auth/me", &admin), "").await.status == 200);
    }
    assert_eq!(passed, 11);
    // Another user at the same address has another, and so has nobody.
    assert_eq!(ask(to, at(1), &get("/api/auth/me", &alice), "").await.status, 200);
    assert_eq!(ask(to, at(1), "GET /api/vms HTTP/1.1\r\n", "").await.status, 401);
    let refused = ask(to, at(1), &get("/api/auth/me", &admin), "").await;
    let problem = refused.json();
    assert_eq!((refused.status, problem["code"].as_str()), (429, Some("rate_limited")), "{problem}");
    let wait: u64 = refused.header("retry-after").parse().expect("seconds");
    assert!((1..=10).contains(&wait), "{wait}");
    assert_eq!(refused.all("x-frame-options").len(), 1);
    for path in ["/api/health", "/api/health/live", "/api/health/ready"] {
        for _ in 0..20 {
            assert_eq!(ask(to, at(1), &get(path, &admin), "").await.status, 200, "{path}");
        }
    }
    let preflight = "OPTIONS /api/vms HTTP/1.1\r\nOrigin: https://x.kr\r\nAccess-Control-Request-Method: GET\r\n";
    for _ in 0..20 {
        assert_eq!(ask(to, at(40), preflight, "").await.status, 403);
    }
    assert_eq!(ask(to, at(40), "GET /api/vms HTTP/1.1\r\n", "").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_password_is_slowed_down_and_locks_nobody_out() {
    let home = TempDir::new().expect("a directory");
    let (_server, to) = started(home.path(), &[("RATE_LIMIT_RPS", "1000"), ("RATE_LIMIT_BURST", "1000")]);
    let head = "POST /api/auth/login HTTP/1.1\r\nContent-Type: application/json\r\n";
    let body = |name: &str, password: &str| json!({"username": name, "password": password}).to_string();
    let at = |last| Ipv4Addr::new(127, 3, 0, last);
    for name in ["admin", "nobody"] {
        let mut statuses = Vec::new();
        for attacker in 1..=4 {
            for _ in 0..4 {
                let from = at(attacker + if name == "admin" { 0 } else { 100 });
                let said = ask(to, from, head, &body(name, "a wrong horse 1")).await;
                if said.status == 429 {
                    let wait: u64 = said.header("retry-after").parse().expect("seconds");
                    assert!((1..=60).contains(&wait), "{said:?}");
                }
                statuses.push(said.status);
            }
        }
        // The first five are free, and then one of each other address.
        let tried = statuses.iter().filter(|status| **status == 401).count();
        assert!((5..=9).contains(&tried), "{name}: {statuses:?}");
    }
    // The admin, from where nobody failed, is let in at once; again and again.
    for _ in 0..5 {
        assert_eq!(ask(to, at(50), head, &body("admin", PASSWORD)).await.status, 200);
    }
    // An address that tries one name after another meets its own limit.
    let mut tried = 0;
    for n in 0..20 {
        let said = ask(to, at(60), head, &body(&format!("name-{n}"), "a wrong horse 1")).await;
        tried += u32::from(said.status == 401);
    }
    assert!((10..20).contains(&tried), "{tried} of 20");
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_forged_addresses_cost_little_memory() {
    const BATCH: u32 = 200;
    let home = TempDir::new().expect("a directory");
    // Loopback is trusted: each of these is believed to be another client.
    let (server, to) = started(home.path(), &[]);
    let forged: u32 = if is_full() { 1_000_000 } else { 20_000 };
    let mut kept = Kept::new(to, LOCAL).await;
    let batch = |from: u32| -> Vec<u8> {
        let request = |n: u32| {
            let address = Ipv4Addr::from(0x0a00_0000 + n);
            format!("GET /nothing HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {address}\r\n\r\n")
        };
        (from..from + BATCH).map(request).collect::<String>().into_bytes()
    };
    // Buffers and caches first.
    for n in 0..10 {
        kept.ask(&batch(0xf0_0000 + n * BATCH), BATCH as usize).await;
    }
    let before = memory_mib(server.pid(), "VmRSS:");
    for n in 0..forged / BATCH {
        for said in kept.ask(&batch(n * BATCH), BATCH as usize).await {
            assert_eq!(said.status, 404);
        }
    }
    let grown = memory_mib(server.pid(), "VmRSS:").saturating_sub(before);
    eprintln!("{forged} forged addresses: {grown} MiB more");
    assert!(grown < 32, "{grown} MiB for {forged} addresses");
}

#[test]
fn the_command_line_waits_for_its_turn_once() {
    let home = TempDir::new().expect("a directory");
    let (server, _) = started(home.path(), &[("RATE_LIMIT_RPS", "0.1"), ("RATE_LIMIT_BURST", "2")]);
    let mut login = limen(home.path());
    assert!(with_stdin(login.args(["--url", &server.url, "login", "--password-stdin"]), PASSWORD).status.success());
    let mut waited = 0;
    for _ in 0..3 {
        let output = limen(home.path()).args(["vm", "list"]).output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        if !said.is_empty() {
            assert!(said.contains("trying once more in") && said.lines().count() == 1, "{said}");
            waited += 1;
        }
    }
    assert!(waited >= 1, "a login and three commands are more than two requests");
}
