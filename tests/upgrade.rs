//! The schema and the programs that know it: a migration that is killed wherever it is, and a server
//! that meets the schema of a newer one.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use limen_core::Secret;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::testing::store::Fixture;
use limen_support::http::{Client, Response};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::process;
use limen_support::server::{ADMIN_PASSWORD, Server};
use limen_support::site::{self, bare, text};
use rustix::process::{Pid, Signal, getpid, kill_process};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Tells a child what to do: `kill` or `stop` itself, before which statement, and its database.
const VARIABLE: &str = "LIMEN_TEST_MIGRATES";

/// Ends or stops this process when a statement of the schema is told of.
struct At {
    statement: u64,
    signal: Signal,
}

#[derive(Default)]
struct Statement(Option<u64>);

impl Visit for Statement {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "statement" {
            self.0 = Some(value);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

impl Subscriber for At {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("limen_core::store")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut told = Statement::default();
        event.record(&mut told);
        if told.0 == Some(self.statement) {
            kill_process(getpid(), self.signal).expect("a signal to oneself");
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

async fn open(database: &str) -> std::sync::Arc<dyn Store> {
    let settings = PoolSettings::default();
    if database.starts_with("postgres:") {
        return std::sync::Arc::new(PostgresStore::connect(&Secret::new(database), &settings).await.expect("connect"));
    }
    std::sync::Arc::new(SqliteStore::open(database, &settings).await.expect("open"))
}

/// What this process is to do where it is a child.
async fn be_a_child() -> bool {
    let Ok(job) = std::env::var(VARIABLE) else { return false };
    let [signal, statement, database] = job.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{job:?}") };
    let signal = if signal == "kill" { Signal::KILL } else { Signal::STOP };
    let statement = statement.parse().expect("a number");
    tracing::subscriber::set_global_default(At { statement, signal }).expect("the first one");
    open(database).await.close().await;
    true
}

/// A child of this very program that migrates a database.
fn migrates(test: &str, signal: &str, statement: u64, database: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test])
        .env(VARIABLE, format!("{signal} {statement} {database}"))
        .stdout(Stdio::null())
        .spawn()
        .expect("a child")
}

/// The database as it is after a start that goes through: its schema as text.
async fn schema(database: &str) -> String {
    let store = open(database).await;
    let fixture = Fixture::new(std::sync::Arc::clone(&store)).await;
    assert_eq!(fixture.last().await, 3, "it works");
    store.close().await;
    if database.starts_with("postgres:") {
        let mut dump = Command::new("pg_dump");
        let text = process::run(dump.args(["-s", "-d", database]), Duration::from_secs(60)).expect_success();
        // A dump of its own has a word of its own.
        return text.lines().filter(|line| !line.contains("restrict")).map(|line| format!("{line}\n")).collect();
    }
    let sql = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name";
    site::sqlite(Path::new(database), sql).expect_success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_killed_at_any_statement_completes_at_the_next_start_on_sqlite() {
    if be_a_child().await {
        return;
    }
    let test = "a_migration_killed_at_any_statement_completes_at_the_next_start_on_sqlite";
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: u64| directory.path().join(name.to_string()).display().to_string();
    let whole = schema(&path(0)).await;
    let mut killed = 0;
    loop {
        let database = path(killed + 1);
        let status = migrates(test, "kill", killed + 1, &database).wait().expect("it ends");
        assert_eq!(schema(&database).await, whole, "killed at statement {}", killed + 1);
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(9), "{status}");
        killed += 1;
    }
    println!("killed at each of {killed} statements");
    assert!(killed > 40, "there are more than {killed} statements");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_killed_at_any_statement_completes_at_the_next_start_on_postgres() {
    if be_a_child().await {
        return;
    }
    let test = "a_migration_killed_at_any_statement_completes_at_the_next_start_on_postgres";
    let server = PrivatePostgres::start();
    let whole = schema(&server.create_database()).await;
    let (mut killed, mut backends) = (0, 0);
    loop {
        let statement = killed + 1;
        // The process alone; then the process, and its backend in the database.
        let database = server.create_database();
        let status = migrates(test, "kill", statement, &database).wait().expect("it ends");
        assert_eq!(schema(&database).await, whole, "killed at statement {statement}");
        if status.success() {
            break;
        }
        assert_eq!(status.signal(), Some(9), "{status}");

        let database = server.create_database();
        let mut child = migrates(test, "stop", statement, &database);
        let stat = format!("/proc/{}/stat", child.id());
        process::wait_for("a stopped child", Duration::from_secs(60), || {
            std::fs::read_to_string(&stat).ok().filter(|stat| stat.contains(") T ")).map(drop)
        });
        let in_it = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction' \
                     AND datname = current_database()";
        // Where this took long the database has ended the idle transaction by itself.
        if let Ok(backend) = psql(&database, in_it).expect_success().trim().parse() {
            kill_process(Pid::from_raw(backend).expect("a process id"), Signal::KILL).expect("killed");
            backends += 1;
        }
        child.kill().expect("killed");
        child.wait().expect("it ends");
        process::wait_for("the database again", Duration::from_secs(60), || {
            psql(&database, "SELECT 1").success().then_some(())
        });
        assert_eq!(schema(&database).await, whole, "killed with its backend at statement {statement}");
        killed += 1;
    }
    println!("killed at each of {killed} statements, and {backends} times with the backend");
    assert!(backends * 2 > killed, "{backends} backends were killed");
    assert!(killed > 40, "there are more than {killed} statements");
}

/// A running server, its database from outside, and what must not change in that.
struct Older {
    server: Server,
    url: Option<String>,
}

impl Older {
    fn sql(&self, sql: &str) -> String {
        match &self.url {
            Some(url) => psql(url, sql).expect_success(),
            None => site::sqlite(&self.server.data_dir().join("limen.db"), sql).expect_success(),
        }
    }

    /// Every row.
    fn dump(&self) -> String {
        let mut dump = match &self.url {
            Some(url) => {
                let mut dump = Command::new("pg_dump");
                dump.args(["-a", "--inserts", "-d", url]);
                dump
            }
            None => {
                let mut dump = Command::new("python3");
                let program = "import sqlite3, sys; print('\\n'.join(sqlite3.connect(sys.argv[1]).iterdump()))";
                dump.args(["-c", program]).arg(self.server.data_dir().join("limen.db"));
                dump
            }
        };
        let text = process::run(&mut dump, Duration::from_secs(60)).expect_success();
        text.lines().filter(|line| !line.contains("restrict")).map(|line| format!("{line}\n")).collect()
    }
}

/// Refused because the database is a newer program's.
fn refused(what: &str, answer: Response) {
    let problem = answer.expect(503).json();
    assert_eq!(problem["code"], "unavailable", "{what}: {problem}");
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("upgraded by a newer LIMEN")), "{problem}");
}

async fn is_refused_when_the_schema_is_newer(older: Older) {
    let server = &older.server;
    let admin = server.admin().await;
    let vm = site::create(&admin, &bare("first")).await;
    let user = json!({"username": "ada", "password": ADMIN_PASSWORD, "role": "user"});
    let user = text(&admin.post("/api/users", &user).await.expect(201).json(), "id");
    let token = text(&admin.post("/api/tokens", &json!({"name": "one"})).await.expect(201).json(), "id");
    let ready = admin.get("/api/health").await.expect(200).json();
    assert_eq!(ready["status"], "ok", "{ready}");

    let newer = "INSERT INTO schema_migrations (version, name, applied_at) VALUES (9999, 'later', 0)";
    older.sql(&match older.url {
        // As a program that migrates does.
        Some(_) => format!("BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE; {newer}; COMMIT"),
        None => newer.to_owned(),
    });
    let before = older.dump();

    let posts = [
        ("/api/vms".to_owned(), bare("second")),
        (format!("/api/vms/{vm}/power"), json!({"action": "start"})),
        ("/api/users".to_owned(), json!({"username": "eve", "password": ADMIN_PASSWORD, "role": "user"})),
        ("/api/tokens".to_owned(), json!({"name": "two"})),
        ("/api/auth/login".to_owned(), json!({"username": "admin", "password": ADMIN_PASSWORD})),
        ("/api/auth/password".to_owned(), json!({"current_password": ADMIN_PASSWORD, "new_password": ADMIN_PASSWORD})),
    ];
    let client: &Client = &admin;
    for round in 0..2 {
        for (path, body) in &posts {
            refused(path, client.post(path, body).await);
        }
        refused("patch a VM", client.patch(&format!("/api/vms/{vm}"), &json!({"description": "x"})).await);
        refused("patch a user", client.patch(&format!("/api/users/{user}"), &json!({"disabled": true})).await);
        for path in [format!("/api/vms/{vm}"), format!("/api/users/{user}"), format!("/api/tokens/{token}")] {
            refused(&path, client.delete(&path).await);
        }
        refused("log out", client.request(hyper::Method::POST, "/api/auth/logout", None).await);
        let reads =
            ["vms", "users", "tokens", "images", "hosts", "networks", "operations", "audit", "auth/me", "quota"];
        for path in reads.map(|path| format!("/api/{path}")).into_iter().chain([format!("/api/vms/{vm}")]) {
            client.get(&path).await.expect(200);
        }
        let health: Value = client.get("/api/health").await.expect(200).json();
        assert_eq!((&health["status"], &health["store"]), (&json!("degraded"), &json!("down")), "{health}");
        client.get("/api/health/ready").await.expect(503);
        if round == 0 {
            // Longer than a lease, a look at the host, and a batch of refusals take.
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
    }
    assert!(server.log().contains("no longer owns the host"), "it gives the host up");
    assert!(older.dump() == before, "it has written something");

    // The newer program is gone again: what was refused is taken.
    older.sql("DELETE FROM schema_migrations WHERE version = 9999");
    let begun = std::time::Instant::now();
    while client.get("/api/health/ready").await.status != 200 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    site::delete(client, &vm).await;
}

fn options() -> limen_support::server::Options {
    Server::options().env("HYPERVISOR_URI", "sim:///")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_writes_nothing_into_a_newer_schema_on_sqlite() {
    is_refused_when_the_schema_is_newer(Older { server: options().start(), url: None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_server_writes_nothing_into_a_newer_schema_on_postgres() {
    let postgres = PrivatePostgres::start();
    let url = postgres.create_database();
    let secret = "8f2d0b6c41a97e35d8c1f4a06b9e27d35c80f1a94e6b7d2c";
    let server = options().env("DATABASE_URL", &url).env("JWT_SECRET", secret).start();
    is_refused_when_the_schema_is_newer(Older { server, url: Some(url) }).await;
}
