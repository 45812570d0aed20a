//! Secrets stay where they belong: the real program at LOG_LEVEL=trace, on a PostgreSQL that wants a
//! password, through logins, errors and all that it does. No secret is in a log, an answer, the
//! arguments of a process, a file or the database.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::process;
use limen_support::server::{ADMIN, Server};
use serde_json::{Value, json};

/// Every secret by its name, and all that was said so far.
#[derive(Default)]
struct Watch {
    secrets: BTreeMap<String, String>,
    said: Vec<(String, String)>,
}

#[derive(Clone, Default)]
struct Canaries(Arc<Mutex<Watch>>);

impl Canaries {
    fn watch(&self) -> std::sync::MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A secret of this name: a password as good as any.
    fn make(&self, name: &str) -> String {
        let secret = format!("{name}-{}", uuid::Uuid::new_v4().simple());
        self.add(name, &secret)
    }

    fn add(&self, name: &str, secret: &str) -> String {
        self.watch().secrets.insert(name.to_owned(), secret.to_owned());
        secret.to_owned()
    }

    fn said(&self, what: impl Into<String>, text: impl Into<String>) {
        self.watch().said.push((what.into(), text.into()));
    }

    fn answered(&self, what: &str, answer: &Response) {
        let headers: String = answer
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        self.said(what, format!("{headers}{}", String::from_utf8_lossy(&answer.body)));
    }

    /// Where a secret was said, by name; also in other words that it could have.
    fn found(&self) -> Vec<String> {
        let watch = self.watch();
        let mut found = Vec::new();
        for (name, secret) in &watch.secrets {
            let encoded: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
            for (what, text) in &watch.said {
                if text.contains(secret.as_str()) || text.contains(&encoded) {
                    found.push(format!("{name} in {what}"));
                }
            }
        }
        found
    }
}

/// A caller whose answers are watched.
#[derive(Clone)]
struct Caller {
    client: Client,
    canaries: Canaries,
}

impl Caller {
    async fn call(&self, method: Method, path: &str, body: Option<Value>, status: u16) -> Value {
        let answer = self.client.request(method.clone(), path, body.as_ref()).await;
        self.canaries.answered(&format!("the answer to {method} {path}"), &answer);
        answer.expect(status).json()
    }

    async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None, 200).await
    }

    async fn post(&self, path: &str, body: Value, status: u16) -> Value {
        self.call(Method::POST, path, Some(body), status).await
    }

    /// What is answered once and designated to hold a secret: only the rest of it is watched.
    async fn designated(&self, path: &str, body: Value, field: &str, name: &str) -> (String, Value) {
        let answer = self.client.post(path, &body).await;
        let mut value = answer.json();
        let secret = value[field].as_str().unwrap_or_else(|| panic!("no {field}: {answer:?}")).to_owned();
        value[field] = Value::Null;
        self.canaries.said(format!("the answer to {path}"), value.to_string());
        (self.canaries.add(name, &secret), value)
    }

    async fn login(&self, username: &str, password: &str) -> Caller {
        let body = json!({"username": username, "password": password});
        let name = format!("session of {username} {}", uuid::Uuid::new_v4());
        let (token, _) = self.designated("/api/auth/login", body, "access_token", &name).await;
        // What a token is signed with is the last part; the others are no secret, and nobody's business.
        for part in token.split('.').skip(1) {
            self.canaries.add(&format!("{name}, a part"), part);
        }
        Caller { client: self.client.with_token(&token), canaries: self.canaries.clone() }
    }
}

/// A PostgreSQL that asks for a password, and the URL of a database there.
fn postgres_with_password(canaries: &Canaries) -> (PrivatePostgres, String, String) {
    let postgres = PrivatePostgres::start();
    let trusted = postgres.create_database();
    let password = canaries.make("database-password");
    let sql = format!(
        "CREATE ROLE canary LOGIN PASSWORD '{password}'; GRANT ALL ON SCHEMA public TO canary; \
         COPY (SELECT unnest(ARRAY['host all limen 127.0.0.1/32 trust', 'host all all 127.0.0.1/32 scram-sha-256'])) \
         TO '{}'",
        psql(&trusted, "SHOW hba_file").expect_success().trim()
    );
    psql(&trusted, &sql).expect_success();
    psql(&trusted, "SELECT pg_reload_conf()").expect_success();
    let url = trusted.replace("limen:limen@", &format!("canary:{password}@"));
    process::wait_for("the new rule", Duration::from_secs(20), || {
        (!psql(&url.replace(&password, "wrong"), "SELECT 1").success()).then_some(())
    });
    (postgres, url, trusted)
}

/// Everything that users do, good and bad.
async fn use_it(anybody: &Caller, admin_password: &str) -> Vec<Caller> {
    let canaries = &anybody.canaries;
    let admin = anybody.login(ADMIN, admin_password).await;
    let password = canaries.make("ann-password");
    let ann = json!({"username": "ann", "password": password, "role": "user"});
    let made = admin.post("/api/users", ann.clone(), 201).await;
    let id = made["id"].as_str().expect("an id").to_owned();
    admin.post("/api/users", ann, 409).await;
    let ann = anybody.login("ann", &password).await;

    // Passwords in every wrong place.
    let wrong = canaries.make("wrong-password");
    for username in ["ann", "nobody", ADMIN] {
        anybody.post("/api/auth/login", json!({"username": username, "password": wrong}), 401).await;
    }
    let number = canaries.add("password-as-number", "739182645509");
    let number: Value = serde_json::from_str(&number).expect("a number");
    for body in [
        json!({"username": "ann", "password": number}),
        json!({"username": "ann", "password": [wrong]}),
        json!({"username": ["ann"], "password": wrong}),
        json!({"username": "ann", "password": wrong, "more": 1}),
        json!({"password": wrong}),
        json!([wrong]),
    ] {
        anybody.post("/api/auth/login", body, 400).await;
    }
    anybody.post("/api/auth/login", json!({"username": "ann", "password": wrong.repeat(8)}), 401).await;
    let bad = json!({"username": "bob", "password": "short", "role": "user"});
    admin.post("/api/users", bad, 400).await;
    admin.post("/api/users", json!({"username": "bob", "password": wrong, "role": "king"}), 400).await;
    let passwords = json!({"current_password": wrong, "new_password": wrong});
    ann.post("/api/auth/password", passwords, 400).await;
    let new = canaries.make("new-password");
    ann.post("/api/auth/password", json!({"current_password": password, "new_password": new}), 204).await;
    let reset = canaries.make("reset-password");
    admin.call(Method::PATCH, &format!("/api/users/{id}"), Some(json!({"password": reset})), 200).await;
    ann.call(Method::GET, "/api/auth/me", None, 401).await;
    let ann = anybody.login("ann", &reset).await;

    // Tokens, good and bad, and where they do not belong.
    let (token, _) = ann.designated("/api/tokens", json!({"name": "ci"}), "token", "api-token").await;
    let program = Caller { client: anybody.client.with_token(&token), canaries: canaries.clone() };
    program.get("/api/vms").await;
    program.post("/api/tokens", json!({"name": "more"}), 403).await;
    let made_up = canaries.add("made-up-token", &format!("limen_{}", uuid::Uuid::new_v4().simple()));
    for bad in [made_up.clone(), format!("{made_up}.x.y"), format!("{token}0")] {
        let bad = Caller { client: anybody.client.with_token(&bad), canaries: canaries.clone() };
        bad.call(Method::GET, "/api/vms", None, 401).await;
    }
    ann.call(Method::GET, &format!("/api/vms?access_token={token}"), None, 400).await;
    ann.get("/api/tokens").await;
    admin.get("/api/tokens").await;

    // Work, refusals and failures.
    let vm = json!({"name": "one", "vcpus": 1, "memory_mib": 64, "disks": [{"size_gib": 1}]});
    let waiting = Caller { client: ann.client.waiting(50), canaries: canaries.clone() };
    let operation = waiting.post("/api/vms", vm.clone(), 200).await;
    let vm_path = format!("/api/vms/{}", operation["vm_id"].as_str().expect("a VM"));
    waiting.post("/api/vms", vm, 409).await;
    waiting.post(&format!("{vm_path}/power"), json!({"action": "start"}), 200).await;
    waiting.post(&format!("{vm_path}/power"), json!({"action": "fly"}), 400).await;
    ann.get(&vm_path).await;

    // Tickets for its consoles: used, used again, at the wrong place, and never.
    let console = format!("{vm_path}/console");
    for name in ["ticket", "ticket-of-a-page", "ticket-unused"] {
        let answer = ann.client.post(&console, &json!({"kind": "serial"})).await.expect(201);
        let mut value = answer.json();
        let (url, ticket) = (value["url"].take(), value["ticket"].take());
        canaries.add(name, ticket.as_str().expect("a ticket"));
        let headers = Response { body: Default::default(), ..answer };
        canaries.answered(&format!("the answer to {console}"), &Response { body: value.to_string().into(), ..headers });
        let url = url.as_str().expect("a URL");
        let page = anybody.client.with_header("Origin", "https://evil.example");
        let refused = |answer: Response| canaries.answered("the answer to a WebSocket", &answer);
        match name {
            "ticket" => {
                refused(anybody.client.websocket(&url.replace("/serial/", "/vnc/")).await.expect_err("refused"));
                let mut socket = anybody.client.websocket(url).await.expect("open");
                socket.until("Hello from").await;
                refused(anybody.client.websocket(url).await.expect_err("refused"));
            }
            _ => refused(page.websocket(url).await.expect_err("refused")),
        }
        refused(anybody.client.get(url).await.expect(400));
    }
    ann.get("/api/operations").await;
    ann.get(&format!("/api/operations/{}", operation["id"].as_str().expect("an id"))).await;
    ann.call(Method::GET, "/api/audit", None, 403).await;
    ann.call(Method::PUT, "/api/vms", None, 405).await;
    waiting.call(Method::DELETE, &vm_path, None, 200).await;
    ann.call(Method::GET, &vm_path, None, 404).await;
    for path in ["/api/users", "/api/audit?limit=1000", "/api/hosts", "/api/images", "/api/networks", "/api/vms"] {
        admin.get(path).await;
    }
    for path in ["/api/health", "/api/health/ready", "/api/swagger.json"] {
        anybody.get(path).await;
    }
    vec![admin, ann, program]
}

/// A request that is none, with a secret in it.
fn garbage(port: u16, canaries: &Canaries, token: &str) {
    for request in [
        format!("GET /api/vms HTTP/1.1\r\nHost: x\r\nno colon {token}\r\n\r\n"),
        format!("GET /api/vms HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n"),
        format!("GET /api/vms HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic {token}\r\n\r\n"),
    ] {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        stream.write_all(request.as_bytes()).expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        canaries.said("the answer to what is no request", answer);
    }
}

/// A command of the program, beside the server.
fn command(server: &Server, canaries: &Canaries, arguments: &[&str], settings: &[(&str, &str)], input: &str) -> bool {
    let home = server.data_dir();
    let mut command = server.command();
    command.args(arguments).envs(settings.iter().copied()).env("HOME", home.join("home")).env("LOG_LEVEL", "trace");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    // It may have refused before it read.
    _ = child.stdin.take().expect("stdin").write_all(input.as_bytes());
    arguments_of(child.id(), canaries);
    let output = child.wait_with_output().expect("ends");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    canaries.said(format!("what limen {} said", arguments.join(" ")), said);
    output.status.success()
}

fn arguments_of(pid: u32, canaries: &Canaries) {
    // One that has ended already has none.
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    canaries.said("the arguments of a process", String::from_utf8_lossy(&arguments));
}

/// Every file below, but what a login of the command line designates.
fn files(directory: &std::path::Path, canaries: &Canaries) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, canaries);
        } else if !path.ends_with("limen/login.json") {
            let bytes = std::fs::read(&path).expect("a file");
            canaries.said(path.display().to_string(), String::from_utf8_lossy(&bytes));
        }
    }
}

async fn secrets_stay_where_they_belong(format: &str) {
    let canaries = Canaries::default();
    let (postgres, url, trusted) = postgres_with_password(&canaries);
    let admin_password = canaries.make("admin-password");
    let (jwt, previous) = (canaries.make("signing-key"), canaries.make("signing-key-before"));
    let server = Server::options()
        .env("HYPERVISOR_URI", "sim:///?vms=2")
        .env("DATABASE_URL", &url)
        .env("ADMIN_PASSWORD", &admin_password)
        .env("JWT_SECRET", &jwt)
        .env("JWT_SECRET_PREVIOUS", &previous)
        .env("LOG_LEVEL", "trace")
        .env("LOG_FORMAT", format)
        .start();
    arguments_of(server.pid(), &canaries);
    let anybody = Caller { client: server.client(), canaries: canaries.clone() };
    let callers = use_it(&anybody, &admin_password).await;
    let [admin, ann, program] = &callers[..] else { panic!("three") };
    let token = canaries.watch().secrets["api-token"].clone();
    garbage(server.port(), &canaries, &token);

    // A database that goes away, one that refuses the password, and a start without it.
    postgres.restart_immediate();
    for caller in [admin, ann, program] {
        for path in ["/api/operations", "/api/vms"] {
            let answer = caller.client.get(path).await;
            canaries.answered("an answer while the database starts", &answer);
        }
    }
    let wrong = canaries.make("other-database-password");
    let refused = url.replace(&canaries.watch().secrets["database-password"], &wrong);
    for settings in [
        [("DATABASE_URL", refused.as_str()), ("PORT", "0")],
        [("DATABASE_URL", url.as_str()), ("JWT_SECRET", "short-signing-key")],
        [("DATABASE_URL", &url[1..]), ("PORT", "0")],
    ] {
        assert!(!command(&server, &canaries, &["serve"], &settings, ""), "{settings:?}");
    }
    // The command line, with secrets where they may be: standard input and variables.
    let url_of = ["--url", &server.url()];
    let (login, token_of) = ([&url_of[..], &["login", "--password-stdin"]].concat(), [("LIMEN_TOKEN", token.as_str())]);
    assert!(command(&server, &canaries, &login, &[], &admin_password));
    assert!(!command(&server, &canaries, &login, &[], &wrong));
    assert!(command(&server, &canaries, &[&url_of[..], &["vm", "list", "--json"]].concat(), &token_of, ""));
    assert!(command(&server, &canaries, &["--local", "user", "list"], &[("DATABASE_URL", &url)], ""));
    assert!(command(&server, &canaries, &["--local", "--json", "token", "list"], &[("DATABASE_URL", &url)], ""));
    command(&server, &canaries, &["doctor"], &[("DATABASE_URL", &url)], "");
    arguments_of(server.pid(), &canaries);
    assert_eq!(server.sigterm(), Some(0));

    canaries.said("the log", server.log());
    files(&server.data_dir(), &canaries);
    let dump = process::run(Command::new("pg_dump").args(["-d", &trusted]), Duration::from_secs(60)).expect_success();
    assert!(dump.contains("$argon2id$") && dump.contains("ann"), "the dump has what the database has");
    canaries.said("the database", dump);
    let (secrets, said) = {
        let watch = canaries.watch();
        (watch.secrets.len(), watch.said.len())
    };
    assert!(secrets > 15 && said > 60, "{secrets} secrets, {said} texts: too few to tell anything");
    let log = server.log();
    assert!(log.contains(if format == "json" { "\"level\":\"DEBUG\"" } else { "DEBUG" }), "it logs in full: {log}");
    assert_eq!(canaries.found(), Vec::<String>::new());
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_with_a_log_of_text() {
    secrets_stay_where_they_belong("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_anywhere_with_a_log_of_json() {
    secrets_stay_where_they_belong("json").await;
}
