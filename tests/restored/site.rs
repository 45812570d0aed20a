//! The same through the program, on a real host: a database that is put back with `pg_restore`, or as
//! a file, while domains and files are there that it does not know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::postgres;
use limen_support::process;
use limen_support::server::Server;
use limen_support::site::{self, Database, Site, bare, create, text};
use serde_json::{Value, json};

/// A VM of 64 MiB with a blank disk.
fn with_disk(name: &str) -> Value {
    let mut create = bare(name);
    create["disks"] = json!([{ "size_gib": 1 }]);
    create
}

/// Copies the site's database, also under a running server.
fn dump(site: &Site, copy: &Path) {
    match site.database_url() {
        Some(url) => postgres::dump(url, copy),
        None => {
            let backup = "import sqlite3, sys
with sqlite3.connect(sys.argv[2]) as copy:
    sqlite3.connect(sys.argv[1], timeout=10).backup(copy)";
            let mut command = Command::new("python3");
            command.args(["-c", backup]).arg(site.server.data_dir().join("limen.db")).arg(copy);
            process::run(&mut command, Duration::from_secs(30)).expect_success();
        }
    }
}

/// Puts it back; no server runs.
fn restore(site: &Site, copy: &Path) {
    match site.database_url() {
        Some(url) => postgres::restore(url, copy),
        None => {
            let file = site.server.data_dir().join("limen.db");
            for end in ["-wal", "-shm"] {
                _ = std::fs::remove_file(PathBuf::from(format!("{}{end}", file.display())));
            }
            std::fs::copy(copy, file).expect("put back");
        }
    }
}

/// Every domain's XML and every file's bytes, but for what the host remembers.
fn everything(site: &Site, volumes: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for domain in site.domains() {
        let xml = site.libvirt.virsh(&["dumpxml", "--inactive", &domain]).expect_success();
        let state = site.libvirt.virsh(&["domstate", &domain]).expect_success();
        all.insert(format!("domain {domain}"), [xml, state].concat().into_bytes());
    }
    for name in site.files() {
        let sum = process::run(Command::new("sha256sum").arg(volumes.join(&name)), Duration::from_secs(60));
        all.insert(format!("file {name}"), sum.expect_success().into_bytes());
    }
    all
}

async fn state(client: &Client, operation: &str) -> Value {
    client.get(&format!("/api/operations/{operation}")).await.expect(200).json()
}

async fn ended(client: &Client, operation: &str) -> Value {
    let begun = Instant::now();
    loop {
        let shown = state(client, operation).await;
        if !shown["finished_at"].is_null() {
            return shown;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "not finished: {shown}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn running(client: &Client, operation: &str) {
    let begun = Instant::now();
    while state(client, operation).await["state"] != "running" {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn limen(site: &Site, arguments: &[&str]) -> process::Output {
    let mut command = site.server.command();
    command.args(["--local", "--json"]).args(arguments);
    process::run(&mut command, Duration::from_secs(90))
}

async fn on_a_real_host(database: Database) {
    let site = Site::start_with(database, Server::options());
    let volumes = site.libvirt.dir().join("lib/images/limen");
    let client = site.server.admin().await;
    let doomed = create(&client, &with_disk("doomed")).await;

    // The database is copied while a create and a delete are at work.
    site.libvirt.sigstop();
    let making = text(&client.post("/api/vms", &with_disk("made")).await.expect(202).json(), "id");
    let deleting = client.delete(&format!("/api/vms/{doomed}")).await.expect(202).json();
    let deleting = text(&deleting, "id");
    running(&client, &making).await;
    running(&client, &deleting).await;
    let directory = tempfile::tempdir().expect("a directory");
    let copy = directory.path().join("copy");
    dump(&site, &copy);
    site.libvirt.sigcont();

    // Both end, and more is done.
    let made = text(&ended(&client, &making).await, "vm_id");
    assert_eq!(ended(&client, &deleting).await["state"], "succeeded");
    site::power(&client, &made, "start").await.expect(200);
    let since = create(&client, &with_disk("since")).await;
    let lost: i64 =
        client.get("/api/vms").await.header("x-limen-event").and_then(|n| n.parse().ok()).expect("a number");
    site.server.kill9();
    let on_host = everything(&site, &volumes);
    assert_eq!(on_host.len(), 4, "two domains with a disk each: {:?}", on_host.keys());

    restore(&site, &copy);
    site.server.restart();
    client.get("/api/vms").await.expect(401);
    let client = site.server.admin().await;
    let told = client.get("/api/restored").await.expect(200).json();
    let restores = told["restores"].as_array().expect("restores");
    assert_eq!((restores.len(), &restores[0]["operations_held"]), (1, &json!(2)), "{told}");
    let next = restores[0]["next_event"].as_i64().expect("a number");
    assert!(next > lost);
    for operation in [&making, &deleting] {
        assert_eq!(state(&client, operation).await["state"], "held");
    }
    let gone = client.with_header("Last-Event-ID", &lost.to_string()).get("/api/events").await.expect(410).json();
    assert_eq!((&gone["code"], &gone["oldest"]), (&json!("gone"), &json!(next)), "{gone}");
    let busy = client.post(&format!("/api/vms/{made}/power"), &json!({"action": "power_off"})).await.expect(409).json();
    assert_eq!((&busy["code"], &busy["operation_id"]), (&json!("busy"), &json!(making)), "{busy}");

    // Several looks later nothing was touched, and all of it is told.
    let begun = Instant::now();
    let shown = loop {
        let shown = client.get(&format!("/api/vms/{since}")).await;
        if shown.status == 200 {
            break shown.json();
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "what was made since is not shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(shown["managed"], false, "{shown}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(everything(&site, &volumes), on_host);
    let told: Value = serde_json::from_str(&limen(&site, &["restored"]).expect_success()).expect("JSON");
    assert_eq!(told["unrecorded"][0]["id"], since, "{told}");
    assert_eq!(told["held"].as_array().map(Vec::len), Some(2), "{told}");
    let found = site.check();
    assert_eq!(found.iter().filter(|finding| finding.starts_with("operation_held")).count(), 2, "{found:#?}");

    // One goes on, one is given up: by the program, beside the server.
    limen(&site, &["op", "resume", &making]).expect_success();
    limen(&site, &["op", "abandon", &deleting]).expect_success();
    assert_eq!(ended(&client, &making).await["state"], "succeeded");
    assert_eq!(ended(&client, &deleting).await["error"]["code"], "abandoned");
    assert_eq!(everything(&site, &volumes), on_host, "both were done already");
    assert!(site::is_in(&client.get(&format!("/api/vms/{made}")).await, "running"));
    site::wait_for_vm(&client, &doomed, Duration::from_secs(30), |answer| site::is_in(answer, "missing")).await;
    site::delete(&client, &doomed).await;

    // What was made since is nobody's: it is removed by hand.
    let xml = site.libvirt.virsh(&["dumpxml", "--inactive", &since]).expect_success();
    site.libvirt.virsh(&["undefine", &since]).expect_success();
    for name in site.files().into_iter().filter(|name| xml.contains(name)) {
        std::fs::remove_file(volumes.join(name)).expect("removed");
    }
    site.wait_until_in_order(Duration::from_secs(30), &[]);
    site::delete(&client, &made).await;
    site.wait_until_in_order(Duration::from_secs(30), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_file_is_put_back_under_a_real_host() {
    on_a_real_host(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_database_is_restored_under_a_real_host() {
    on_a_real_host(Database::Postgres).await;
}
