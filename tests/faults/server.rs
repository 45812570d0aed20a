//! The server is told to stop under load; the machine's clock jumps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::server::{ADMIN, ADMIN_PASSWORD, Server};
use limen_support::site::{self, Database, Site, bare, create, power, text};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{full_form, running, second};

/// A server that is told to stop is gone within this.
const STOPPED: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_stops_under_load_resets_nobody() {
    let rounds = if full_form() { 20 } else { 3 };
    let site = Arc::new(Site::start(Database::Postgres));
    let client = site.server.admin().await;
    // One that waits for its guest for as long as it may: the stop does not.
    let deaf = create(&client, &running("deaf")).await;
    for round in 0..rounds {
        let over = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for number in 0..24 {
            let (client, over) = (client.waiting(50), Arc::clone(&over));
            let answered = Arc::clone(&answered);
            clients.spawn(async move {
                for turn in 0.. {
                    // No connection is begun when the stop is on its way: those are refused, not reset.
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let (method, path, body) = match number % 3 {
                        0 => {
                            let name = format!("vm-{round}-{number}-{turn}");
                            (Method::POST, "/api/vms".to_owned(), Some(bare(&name)))
                        }
                        1 => (Method::GET, "/api/vms".to_owned(), None),
                        _ => (Method::GET, "/api/operations".to_owned(), None),
                    };
                    let answer = client.try_request(method, &path, body.as_ref()).await;
                    let answer = answer.unwrap_or_else(|error| panic!("{path} was not answered: {error}"));
                    assert!(matches!(answer.status, 200 | 202 | 503), "{answer:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let path = format!("/api/vms/{deaf}/power");
        let asked = json!({ "action": "shutdown", "timeout_s": 600 });
        let waiting = {
            let (client, path) = (client.waiting(50), path.clone());
            tokio::spawn(async move { client.post(&path, &asked).await })
        };
        let stream = {
            let client = client.clone();
            // Its body ends with the stream.
            tokio::spawn(async move { client.get("/api/events").await })
        };
        sleep(Duration::from_millis(700 + 130 * (round % 5))).await;
        over.store(true, Ordering::SeqCst);
        let told = Instant::now();
        let stopping = Arc::clone(&site);
        let stopped = tokio::task::spawn_blocking(move || stopping.server.sigterm());
        clients.join_all().await;
        let waited = waiting.await.expect("no panic");
        assert_eq!(waited.status, 202, "{waited:?}");
        let stream = stream.await.expect("no panic").expect(200);
        let said = String::from_utf8_lossy(&stream.body).into_owned();
        assert!(said.contains("event: end\n") && said.contains("stopping"), "{said}");
        assert_eq!(stopped.await.expect("no panic"), Some(0), "the exit code");
        let took = told.elapsed();
        assert!(took < STOPPED, "{took:?}");
        let error = client.try_request(Method::GET, "/api/health", None).await.expect_err("nobody is there");
        assert!(error.contains("refused"), "{error}");
        eprintln!("stopped in {took:?} after {} answers", answered.load(Ordering::Relaxed));

        // What was at work goes on at the next start.
        site.server.restart();
        let operation = format!("/api/operations/{}", text(&waited.json(), "id"));
        assert!(client.get(&operation).await.expect(200).json()["finished_at"].is_null());
        power(&client, &deaf, "power_off").await.expect(200);
        power(&client, &deaf, "start").await.expect(200);
        site.wait_until_in_order(second(20), &[]);
    }

    // A database that hangs does not keep it.
    site.postgres().sigstop();
    sleep(second(1)).await;
    let told = Instant::now();
    let stopping = Arc::clone(&site);
    let stopped = tokio::task::spawn_blocking(move || stopping.server.sigterm()).await.expect("no panic");
    eprintln!("beside a database that hangs: stopped in {:?}", told.elapsed());
    assert_eq!(stopped, Some(0), "the exit code");
    assert!(told.elapsed() < STOPPED, "{:?}", told.elapsed());
    site.postgres().sigcont();
    site.server.restart();
    site.wait_until_in_order(second(20), &[]);
}

/// The library that shows a program another time.
fn fake_time() -> std::path::PathBuf {
    let libraries = std::fs::read_dir("/usr/lib").expect("read a directory").flatten();
    libraries
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.exists())
        .expect("libfaketime is not installed; `make setup` installs it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_breaks_nothing() {
    let jumps: &[&str] =
        if full_form() { &["+25h", "-25h", "+0", "-9000h", "+9000h"] } else { &["+25h", "-25h", "+0"] };
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let clock = directory.path().join("clock");
    let set = |offset: &str| {
        let new = clock.with_extension("new");
        std::fs::write(&new, format!("{offset}\n")).expect("write a file");
        std::fs::rename(new, &clock).expect("rename a file");
    };
    set("+0");
    // The machine's own clock jumps, its monotonic one does not.
    let server = Server::options()
        .env("HYPERVISOR_URI", "sim:///")
        .env("LD_PRELOAD", fake_time())
        .env("FAKETIME_TIMESTAMP_FILE", &clock)
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for number in 0..6 {
        let (over, mut client) = (Arc::clone(&over), server.admin().await);
        let stranger = server.client();
        clients.spawn(async move {
            let (mut good, mut logins) = (0_u64, 0_u64);
            for turn in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let made = client.waiting(20).post("/api/vms", &running(&format!("vm-{number}-{turn}"))).await;
                if made.status == 401 {
                    // A session ends by the wall clock, which is where it says.
                    let login = json!({ "username": ADMIN, "password": ADMIN_PASSWORD });
                    let answer = stranger.post("/api/auth/login", &login).await;
                    assert!(matches!(answer.status, 200 | 503), "{answer:?}");
                    if answer.status == 200 {
                        client = stranger.with_token(&text(&answer.json(), "access_token"));
                    }
                    logins += 1;
                    continue;
                }
                assert_eq!(made.status, 200, "{made:?}");
                let id = text(&made.json(), "vm_id");
                for answer in [
                    client.get(&format!("/api/vms/{id}")).await,
                    client.get("/api/audit?limit=5").await,
                    client.waiting(20).post(&format!("/api/vms/{id}/power"), &json!({ "action": "pause" })).await,
                    client.waiting(20).delete(&format!("/api/vms/{id}")).await,
                ] {
                    assert!(matches!(answer.status, 200 | 401), "{answer:?}");
                    good += u64::from(answer.status == 200);
                }
            }
            (good, logins)
        });
    }
    let owned = |log: &str| log.matches("this process owns the host now").count();
    for jump in jumps {
        sleep(second(2)).await;
        set(jump);
        sleep(second(3)).await;
        // Whether the host is up is a matter of the monotonic clock.
        let health = server.client().get("/api/health").await.expect(200).json();
        assert_eq!(health["status"], "ok", "after {jump}: {health}");
    }
    over.store(true, Ordering::Relaxed);
    let (mut good, mut logins) = (0, 0);
    for (answers, again) in clients.join_all().await {
        (good, logins) = (good + answers, logins + again);
    }
    eprintln!("{} jumps: {good} good answers, {logins} times a login was asked for", jumps.len());
    assert!(good > 100 && logins > 0, "{good} good answers, {logins} logins: the clock did not jump");
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("status=500"), "a panic, or an answer that was a 500");
    assert_eq!(owned(&log), 1, "a lease is a matter of the monotonic clock");
    let client = server.admin().await;
    let operations = client.get("/api/operations?limit=1000").await.expect(200).json();
    let all: &Vec<Value> = operations["items"].as_array().expect("items");
    assert!(all.iter().all(|operation| !operation["finished_at"].is_null()), "{operations}");
    for vm in client.get("/api/vms?limit=1000").await.expect(200).json()["items"].as_array().expect("items") {
        site::delete(&client, &text(vm, "id")).await;
    }
}
