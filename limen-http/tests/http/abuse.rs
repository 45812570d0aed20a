//! What somebody tries who should not: to become more, to learn who there is, to fill the Store,
//! to keep the server busy.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, PASSWORD, Server};
use crate::process::Running;

/// The long forms of the tests named campaign.
pub(crate) fn is_full() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_more_of_themselves_by_a_field() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let alice = server.user(&admin, "alice", "user").await;
    let vm = format!("/api/vms/{}", server.vm(&alice, "web").await);
    let me = server.get("/api/auth/me", &alice).await.expect(200).json();
    let root = server.get("/api/auth/me", &admin).await.expect(200).json();
    let before = server.get(&vm, &alice).await.expect(200).json();
    let user = format!("/api/users/{}", me["id"].as_str().expect("an id"));
    let own = format!("/api/users/{}", root["id"].as_str().expect("an id"));

    // Whoever asks, a field that is not of the request is refused, and so is one given twice.
    let fields = [
        r#"{"is_admin": true}"#,
        r#"{"Role": "admin"}"#,
        r#"{"ROLE": "admin"}"#,
        r#"{"role ": "admin"}"#,
        r#"{"role": "viewer", "role": "admin"}"#,
        r#"{"role": ["admin"]}"#,
        r#"{"role": "root"}"#,
        r#"{"user": {"role": "admin"}}"#,
        r#"{"id": "01900000-0000-7000-8000-000000000000"}"#,
        r#"{"owner": "01900000-0000-7000-8000-000000000000"}"#,
        r#"{"owner_id": "01900000-0000-7000-8000-000000000000"}"#,
        r#"{"created_at": "2001-01-01T00:00:00Z"}"#,
        r#"{"username": "admin"}"#,
        r#"{"version": 1}"#,
        r#"{"password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$AAAA"}"#,
        r#"{"__proto__": {"role": "admin"}}"#,
    ];
    let json = [("content-type", "application/json")];
    for field in fields {
        for (token, path) in [(&alice, &user), (&admin, &user), (&admin, &own), (&alice, &vm)] {
            let answer = server.send("PATCH", path, token, &json, field.as_bytes().to_vec()).await;
            let may_be = if token == &alice { [400, 403] } else { [400, 400] };
            assert!(may_be.contains(&answer.status.as_u16()), "{field} to {path}: {answer:?}");
        }
    }
    // Fields that are of the request, from those who may not set them.
    for field in [json!({"role": "admin"}), json!({"disabled": false}), json!({"password": "correct horse 2"})] {
        server.call("PATCH", &user, &alice, &field).await.expect(403);
    }
    for field in [json!({"role": "viewer"}), json!({"disabled": true})] {
        server.call("PATCH", &own, &admin, &field).await.expect(409);
    }
    server.send("DELETE", &own, &admin, &[], Vec::new()).await.expect(409);
    for path in [format!("{user}?role=admin"), format!("{user}?is_admin=true")] {
        server.call("PATCH", &path, &admin, &json!({})).await.expect(400);
    }
    // Fields of others in what one may make.
    let login = json!({"username": "alice", "password": PASSWORD, "role": "admin"});
    server.call("POST", "/api/auth/login", "", &login).await.expect(400);
    let create = json!({"name": "x", "vcpus": 1, "memory_mib": 64, "owner": root["owner"]});
    server.call("POST", "/api/vms", &alice, &create).await.expect(400);
    let passwords = json!({"current_password": PASSWORD, "new_password": "correct horse 2", "username": "admin"});
    server.call("POST", "/api/auth/password", &alice, &passwords).await.expect(400);

    assert_eq!(server.get("/api/auth/me", &alice).await.expect(200).json(), me);
    assert_eq!(server.get("/api/auth/me", &admin).await.expect(200).json(), root);
    let after = server.get(&vm, &alice).await.expect(200).json();
    for field in ["owner", "name", "created_at", "version"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    server.login("alice").await;
}

/// How often a value of `one` is above one of `other`; a half where nothing tells them apart.
fn auc(one: &[Duration], other: &[Duration]) -> f64 {
    let wins = one.iter().flat_map(|a| other.iter().map(move |b| (a > b, a == b)));
    let wins: f64 = wins
        .map(|(above, same)| {
            if above {
                1.0
            } else if same {
                0.5
            } else {
                0.0
            }
        })
        .sum();
    wins / (one.len() * other.len()) as f64
}

fn without_id(answer: &Answer) -> (u16, Vec<(String, String)>, Value) {
    let mut body = answer.json();
    body["request_id"] = Value::Null;
    let headers = answer.headers.iter().filter(|(name, _)| *name != "x-request-id");
    let mut headers: Vec<_> =
        headers.map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned())).collect();
    headers.sort();
    (answer.status.as_u16(), headers, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_a_login_does_not_tell_who_there_is() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let body = json!({"username": "disabled", "password": PASSWORD, "role": "user", "disabled": true});
    server.call("POST", "/api/users", &admin, &body).await.expect(201);
    let (samples, bound) = if is_full() { (400, 0.05) } else { (60, 0.25) };
    let cases = [("nobody", "a wrong horse 1"), ("admin", "a wrong horse 1"), ("disabled", PASSWORD)];
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut first = None;
    for round in 0..=samples {
        for (at, (username, password)) in cases.iter().enumerate() {
            let body = json!({"username": username, "password": password});
            let started = Instant::now();
            let answer = server.call("POST", "/api/auth/login", "", &body).await;
            let took = started.elapsed();
            let told = without_id(&answer.expect(401));
            assert_eq!(&told, first.get_or_insert_with(|| told.clone()), "{username}");
            // The first round warms everything up.
            if round > 0 {
                times[at].push(took);
            }
        }
    }
    let [unknown, wrong, disabled] = &times;
    for (what, known) in [("a wrong password", wrong), ("a disabled user", disabled)] {
        let auc = auc(unknown, known);
        eprintln!("login of nobody against {what}: AUC {auc:.3} of {samples} + {samples}");
        assert!((auc - 0.5).abs() <= bound, "{what} can be told from nobody by time: AUC {auc:.3}");
    }
}

/// One request on a connection of its own; status line and all that follows.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(120))).expect("set");
    stream.write_all(request.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn login(username: &str, password: &str) -> String {
    let body = json!({"username": username, "password": password}).to_string();
    format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn get(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n")
}

fn started(home: &Path) -> (Running, String) {
    std::fs::write(home.join("known"), "").expect("written");
    let (server, _) = Running::start(home, &[("ADMIN_PASSWORD", PASSWORD)]);
    let address = server.url.trim_start_matches("http://").to_owned();
    (server, address)
}

/// How many rows each table has.
fn rows(home: &Path) -> String {
    let script = "import sqlite3, sys\n\
                  c = sqlite3.connect(sys.argv[1])\n\
                  names = [n for n, in c.execute(\"SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1\")]\n\
                  print([(n, c.execute(f'SELECT COUNT(*) FROM {n}').fetchone()[0]) for n in names])";
    let output = Command::new("python3").args(["-c", script]).arg(home.join("data/limen.db")).output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn campaign_who_has_no_identity_writes_nothing() {
    let home = TempDir::new().expect("a directory");
    let (server, address) = started(home.path());
    // The simulator's VMs are recorded first.
    let mut before = rows(home.path());
    for _ in 0..60 {
        std::thread::sleep(Duration::from_millis(500));
        let now = rows(home.path());
        if std::mem::replace(&mut before, now.clone()) == now {
            break;
        }
    }
    assert!(before.contains("('users', 1)") && before.contains("('sessions', 0)"), "{before}");
    let (logins, tokens): (u64, u64) = if is_full() { (2_000, 8_000) } else { (60, 940) };
    let started = Instant::now();
    for number in 0..logins {
        let name = if number % 2 == 0 { "admin".to_owned() } else { format!("nobody-{number}") };
        let answer = ask(&address, &login(&name, "a wrong horse 1"));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    for number in 0..tokens {
        let token = match number % 3 {
            0 => format!("limen_{number:064x}"),
            1 => format!("{number}.{number}.{number}"),
            _ => "x".repeat(1000),
        };
        let answer = ask(&address, &get("/api/vms", &token));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert_eq!(rows(home.path()), before);
    let (code, log) = server.stop();
    assert_eq!(code, 0);
    // Each was refused, few have a line: at most ten a second, which tell of the others.
    let refused: Vec<&str> = log.lines().filter(|line| line.contains("request refused")).collect();
    let number = |line: &&str| line.split("suppressed=").nth(1)?.split(' ').next()?.parse::<u64>().ok();
    let suppressed = refused.iter().filter_map(number);
    let told = refused.len() as u64 + suppressed.sum::<u64>();
    let seconds = started.elapsed().as_secs() + 2;
    eprintln!("{} refusals of nobody: {} lines in {seconds} s, {told} told", logins + tokens, refused.len());
    assert!(refused.len() as u64 <= 10 * seconds, "{} lines in {seconds} s", refused.len());
    assert!(told <= logins + tokens);
}

/// The time that `share` percent stay below.
pub(crate) fn quantile(times: &[Duration], share: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() - 1) * share / 100]
}

fn median(times: &[Duration]) -> Duration {
    quantile(times, 50)
}

/// A figure of `/proc/<pid>/status`, in MiB.
pub(crate) fn memory_mib(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with(figure)).expect("a figure");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") / 1024
}

#[test]
fn campaign_logins_at_once_delay_nobody_else() {
    const LOGINS: usize = 500;
    let home = TempDir::new().expect("a directory");
    let (server, address) = started(home.path());
    let timed = |request: &str| {
        let started = Instant::now();
        let answer = ask(&address, request);
        (started.elapsed(), answer)
    };
    let health = get("/api/health", "");
    let one = median(&(0..5).map(|_| timed(&login("admin", "a wrong horse 1")).0).collect::<Vec<_>>());
    let idle = median(&(0..50).map(|_| timed(&health).0).collect::<Vec<_>>());
    let resident = memory_mib(server.pid(), "VmRSS:");

    let together = Barrier::new(LOGINS + 1);
    let (answers, meanwhile) = std::thread::scope(|scope| {
        let logins: Vec<_> = (0..LOGINS)
            .map(|_| {
                scope.spawn(|| {
                    together.wait();
                    ask(&address, &login("admin", "a wrong horse 1"))
                })
            })
            .collect();
        together.wait();
        let mut meanwhile = Vec::new();
        while meanwhile.len() < 10 || logins.iter().any(|login| !login.is_finished()) {
            let (took, answer) = timed(&health);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            meanwhile.push(took);
        }
        let answers: Vec<String> = logins.into_iter().map(|login| login.join().expect("joined")).collect();
        (answers, meanwhile)
    });
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")).count();
    for answer in &answers {
        let is_full = answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nretry-after: ");
        assert!(is_full || answer.starts_with("HTTP/1.1 401 "), "{answer}");
    }
    assert!(refused > 0 && refused < LOGINS, "{refused}");
    let grown = memory_mib(server.pid(), "VmHWM:").saturating_sub(resident);
    let (asked, busy, worst) = (meanwhile.len(), median(&meanwhile), quantile(&meanwhile, 99));
    eprintln!(
        "{LOGINS} logins at once: {refused} refused; health {busy:?}, 99 % within {worst:?} ({asked} asked; {idle:?} \
         when idle, one login {one:?}); {grown} MiB more"
    );
    // Without a bound hundreds would hash at once, and everything waited for its turn among them.
    assert!(busy <= one * 4 + Duration::from_millis(100), "health took {busy:?}, one login {one:?}");
    // 19 MiB for each that is hashed at once, and 20 MiB for the connections: 500 hashes would take 9.5 GiB.
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    assert!(grown <= 19 * cores + 20, "{grown} MiB");

    // A password of 10 MB is refused by its length, before a byte of it is read.
    let head = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                Content-Type: application/json\r\nContent-Length: 10485800\r\n\r\n";
    let started = Instant::now();
    let answer = ask(&address, head);
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(started.elapsed() < one + Duration::from_secs(1));
    assert_eq!(server.stop().0, 0);
}
