//! The database is away, hangs, is locked, or takes no more connections.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::process::{Output, run, wait_for};
use limen_support::server::{ADMIN, ADMIN_PASSWORD, Server};
use limen_support::site::{self, Database, Site, bare, create};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{BACK, full_form, second};

const SECRET: &str = "b0c1e4d1f7a94f7c9d0e2b6a5c3f8e7d6a1b2c3d4e5f60718293a4b5c6d7e8f9";
/// A database that hangs is given up within this.
const BOUND: Duration = Duration::from_secs(20);

fn simulated(url: &str) -> Server {
    Server::options().env("HYPERVISOR_URI", "sim:///").env("DATABASE_URL", url).env("JWT_SECRET", SECRET).start()
}

/// A start that comes to an end, whichever.
fn started(server: &Server, url: &str, at_most: Duration) -> Output {
    let mut serve: Command = server.command();
    run(serve.env("DATABASE_URL", url).arg("serve"), at_most)
}

#[test]
fn campaign_of_starts_waits_for_a_database_that_is_away_and_for_nothing_else() {
    let postgres = PrivatePostgres::start();
    let url = postgres.create_database();
    let server = simulated(&url);
    server.kill9();
    let before = server.log().len();
    let said = || server.log()[before..].matches("is waited for").count();

    // It says so at once, goes on saying so, and is there as soon as the database is.
    postgres.kill9();
    server.spawn_again();
    wait_for("a word on it", second(5), || (said() == 1).then_some(()));
    assert!(server.log()[before..].contains("refused"), "with the cause: {}", &server.log()[before..]);
    if full_form() {
        wait_for("another word on it", second(15), || (said() == 2).then_some(()));
    }
    assert!(!server.log()[before..].contains("answers on"));
    postgres.restart_immediate();
    let up = Instant::now();
    server.wait_until_up();
    eprintln!("{:?} after the database the server was up", up.elapsed());
    assert!(up.elapsed() < BACK, "{:?}", up.elapsed());
    server.kill9();

    // What waiting does not mend is told at once, without the password.
    postgres.create_role("app", "correct");
    let with = |user: &str, name: &str| format!("postgres://{user}@127.0.0.1:{}/{name}", postgres.port());
    let name = url.rsplit('/').next().expect("a name");
    for (bad, word) in [
        (with("app:hunter22", name), "password"),
        (with("nobody:hunter22", name), "user"),
        (with("limen:limen", "nowhere"), "createdb"),
        (with("limen:limen", name) + "?sslmode=require", "TLS"),
    ] {
        let begun = Instant::now();
        let output = started(&server, &bad, second(30));
        assert!(matches!(output.code, Some(1..)) && begun.elapsed() < second(15), "{bad}: {output:?}");
        let said = &output.stderr;
        assert!(said.contains("DATABASE_URL") && said.contains(word) && !said.contains("hunter22"), "{bad}: {said}");
        assert!(!said.contains("is waited for") && said.trim_end().lines().count() == 1, "{bad}: {said}");
    }

    if full_form() {
        postgres.kill9();
        let begun = Instant::now();
        let output = started(&server, &url, second(90));
        assert_eq!(output.code, Some(3), "{output:?}");
        assert!((second(60)..second(75)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
}

/// A refusal that tells the client to come again.
fn is_away(answer: &Response) -> bool {
    answer.status == 503 && answer.header("retry-after").is_some() && answer.json()["code"] == "unavailable"
}

/// An answer, and how long it took.
async fn timed(client: &Client, method: Method, path: &str, body: Option<serde_json::Value>) -> (Response, Duration) {
    let begun = Instant::now();
    let answer = client.request(method, path, body.as_ref()).await;
    (answer, begun.elapsed())
}

/// How long it takes until a change succeeds again.
async fn well_again(client: &Client, name: &str) -> Duration {
    let begun = Instant::now();
    while client.post("/api/vms", &bare(name)).await.status != 202 {
        assert!(begun.elapsed() < second(30), "changes do not succeed again");
        sleep(Duration::from_millis(50)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_delays_nothing_for_long() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let id = create(&client, &bare("kept")).await;
    site.postgres().sigstop();
    let gone = Instant::now();
    let mut changes = JoinSet::new();
    // More than there are connections.
    for number in 0..120 {
        let (client, stranger) = (client.clone(), site.server.client());
        let login = json!({ "username": ADMIN, "password": ADMIN_PASSWORD });
        changes.spawn(async move {
            match number % 8 {
                0 => timed(&stranger, Method::POST, "/api/auth/login", Some(login)).await,
                _ => timed(&client, Method::POST, "/api/vms", Some(bare(&format!("vm-{number}")))).await,
            }
        });
    }
    // What is in memory is read from there, and health tells one from the other.
    let mut reads = 0;
    while gone.elapsed() < second(12) {
        for path in ["/api/vms".to_owned(), format!("/api/vms/{id}")] {
            let (answer, took) = timed(&client, Method::GET, &path, None).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(took < second(3), "a read took {took:?}");
            reads += 1;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(site.server.client().get("/api/health/live").await.status, 200);
    assert!(is_away(&site.server.client().get("/api/health/ready").await));
    let mut slowest = Duration::ZERO;
    for (answer, took) in changes.join_all().await {
        assert!(is_away(&answer), "{answer:?}");
        slowest = slowest.max(took);
    }
    assert!(slowest < BOUND, "a change was refused after {slowest:?}");
    site.postgres().sigcont();
    let back = well_again(&client, "again").await;
    eprintln!("hung for {:?}: {reads} reads, refusals within {slowest:?}, well {back:?} after it", gone.elapsed());
    assert!(back < BACK, "{back:?}");
    site.server.admin().await;
    assert_eq!(site.server.client().get("/api/health/ready").await.status, 200);
    assert!(!site.server.log().contains("status=500"), "no answer was a 500");
    // What was refused may have been carried out after all: it is whole, or not there.
    site.wait_until_in_order(second(30), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_takes_no_connection_for_ever() {
    let postgres = PrivatePostgres::start();
    let url = postgres.create_database();
    let server = simulated(&url);
    let client = server.admin().await;
    let lock = {
        let url = url.clone();
        std::thread::spawn(move || psql(&url, "BEGIN; LOCK TABLE vms; SELECT pg_sleep(16); COMMIT"))
    };
    sleep(second(1)).await;
    let begun = Instant::now();
    let mut changes = JoinSet::new();
    for number in 0..150 {
        let client = client.clone();
        let body = Some(bare(&format!("vm-{number}")));
        changes.spawn(async move { timed(&client, Method::POST, "/api/vms", body).await });
    }
    while begun.elapsed() < second(9) {
        let (answer, took) = timed(&client, Method::GET, "/api/vms", None).await;
        assert!(answer.status == 200 && took < second(3), "{took:?}: {answer:?}");
        sleep(Duration::from_millis(200)).await;
    }
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for (answer, took) in changes.join_all().await {
        // Who came late is done when the lock is gone.
        assert!(answer.status == 202 || is_away(&answer), "{answer:?}");
        refused += usize::from(answer.status == 503);
        slowest = slowest.max(took);
    }
    assert!(refused > 75 && slowest < BOUND, "{refused} of 150 were refused, the last after {slowest:?}");
    lock.join().expect("no panic").expect_success();
    let back = well_again(&client, "again").await;
    eprintln!("behind a lock {refused} of 150 changes were refused, all within {slowest:?}; well {back:?} after it");
    assert!(back < BACK, "{back:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_a_connection_to_spare_says_so() {
    let postgres = PrivatePostgres::start();
    let url = postgres.create_database();
    let name = url.rsplit('/').next().expect("a name").to_owned();
    for role in ["app", "other"] {
        postgres.create_role(role, "secret");
    }
    postgres.psql(&format!("ALTER DATABASE {name} OWNER TO app")).expect_success();
    let of = |role: &str| format!("postgres://{role}:secret@127.0.0.1:{}/{name}", postgres.port());
    let server = simulated(&of("app"));
    let client = server.admin().await;
    create(&client, &bare("kept")).await;

    // Another program takes the only connection that the database gives.
    let hold = || {
        let url = of("other");
        let held = std::thread::spawn(move || psql(&url, "SELECT pg_sleep(29)"));
        let count = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'other'";
        wait_for("the other one", second(10), || (postgres.psql(count).expect_success().trim() == "1").then_some(()));
        held
    };
    let end = |role: &str| {
        let sql = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
        postgres.psql(&sql).expect_success();
    };
    let limit = |count: i32| drop(postgres.psql(&format!("ALTER DATABASE {name} CONNECTION LIMIT {count}")));
    let held = hold();
    limit(1);
    end("app");
    let client = Arc::new(client);
    let mut texts = Vec::new();
    for number in 0..2 {
        let (answer, took) = timed(&client, Method::POST, "/api/vms", Some(bare(&format!("vm-{number}")))).await;
        assert!(is_away(&answer) && took < BOUND, "{took:?}: {answer:?}");
        texts.push(site::text(&answer.json(), "detail"));
    }
    assert!(texts.iter().any(|text| text.contains("no more connections")), "{texts:?}");
    assert!(server.log().contains("too many connections"), "the log has the database's words");
    assert_eq!(client.get("/api/vms").await.status, 200, "memory is read");
    limit(-1);
    let back = well_again(&client, "again").await;
    eprintln!("{back:?} after there were connections again all was well");
    assert!(back < BACK, "{back:?}");
    end("other");
    held.join().expect("no panic");

    // A server that starts then waits for one.
    server.kill9();
    let before = server.log().len();
    let held = hold();
    limit(1);
    server.spawn_again();
    wait_for("a word on it", second(15), || server.log()[before..].contains("no more connections").then_some(()));
    limit(-1);
    server.wait_until_up();
    end("other");
    held.join().expect("no panic");
}
