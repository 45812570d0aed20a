//! Streams of events while everything around them dies: their readers, the server, and the
//! hypervisor's daemon, at random, under eight writers. No number is missed and none comes twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::http::Client;
use limen_support::site::{Database, Site, bare, text};
use limen_support::sse::Said;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// No stream is silent for longer: its position comes every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// After the last kill, every operation is finished and told within this.
const SETTLED: Duration = Duration::from_secs(90);

/// Below `bound`, at random.
fn random(bound: u128) -> u64 {
    u64::try_from(Uuid::new_v4().as_u128() % bound).expect("small")
}

/// One who reads, and who remembers no more than the events and the last number.
struct Reader {
    /// Number and kind of every event, in the order in which they came.
    told: Vec<(i64, String)>,
    connections: u32,
}

fn done(until: &watch::Receiver<Option<i64>>, last: i64) -> bool {
    until.borrow().is_some_and(|until| last >= until)
}

/// Reads until number `until` is reached, each time from where the last connection ended.
fn read(
    client: Client,
    dense: bool,
    hang_up: Arc<Notify>,
    mut until: watch::Receiver<Option<i64>>,
) -> JoinHandle<Reader> {
    tokio::spawn(async move {
        let mut reader = Reader { told: Vec::new(), connections: 0 };
        let mut last = 0;
        while !done(&until, last) {
            let mut following = match client.follow(last).await {
                Ok(following) => following,
                Err(None | Some(503)) => {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
                Err(Some(status)) => panic!("{status} after event {last}"),
            };
            reader.connections += 1;
            while !done(&until, last) {
                let said = tokio::select! {
                    said = timeout(SILENCE, following.next()) => said.expect("a stream that is silent"),
                    () = hang_up.notified() => break,
                    Ok(()) = until.changed() => continue,
                };
                match said {
                    Some(Said::Event(number, data)) => {
                        assert!(number > last, "{number} comes after {last}");
                        assert!(!dense || number == last + 1, "{number} comes right after {last}");
                        assert_eq!(data["number"], number);
                        reader.told.push((number, text(&data, "kind")));
                        last = number;
                    }
                    Some(Said::Position(number)) => {
                        assert!(number >= last, "position {number} comes after {last}");
                        assert!(!dense || number == last, "position {number} comes right after {last}");
                        last = number;
                    }
                    // It comes again, as from a broken connection.
                    Some(Said::End(_)) | None => break,
                }
            }
        }
        reader
    })
}

/// Makes, changes and deletes VMs of its own until it is over, whatever becomes of each request.
async fn write(client: Client, name: String, over: Arc<AtomicBool>) {
    let client = client.waiting(5);
    let ask = async |method: Method, path: &str, body: Option<Value>| {
        client.try_request(method, path, body.as_ref()).await.ok().map(|answer| answer.json())
    };
    for round in 0.. {
        let created = ask(Method::POST, "/api/vms", Some(bare(&format!("{name}-{round}")))).await;
        let id = created.and_then(|operation| operation["vm_id"].as_str().map(str::to_owned));
        if let Some(id) = id {
            let path = format!("/api/vms/{id}");
            for step in 0..3 {
                let change = json!({ "description": format!("step {step}"), "labels": { "round": round.to_string() } });
                ask(Method::PATCH, &path, Some(change)).await;
            }
            ask(Method::DELETE, &path, None).await;
        }
        if over.load(Ordering::Relaxed) {
            return;
        }
        sleep(Duration::from_millis(50 + random(100))).await;
    }
}

/// The log: number, kind and owner of each event.
fn log(site: &Site) -> BTreeMap<i64, (String, Option<String>)> {
    let rows = site.sql("SELECT number, kind, document FROM events ORDER BY number");
    let event = |row: &String| {
        let mut fields = row.splitn(3, '|');
        let mut field = || fields.next().unwrap_or_else(|| panic!("no event: {row}"));
        let (number, kind) = (field().parse().expect("a number"), field().to_owned());
        let document: Value = serde_json::from_str(field()).expect("a document");
        let of = match kind.as_str() {
            "vm" => &document["record"]["owner"],
            "operation" => &document["operation"]["owner"],
            _ => &document["owner"],
        };
        (number, (kind, of.as_str().map(str::to_owned)))
    };
    rows.iter().map(event).collect()
}

async fn campaign(database: Database) {
    let kills = if std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full") { 200 } else { 15 };
    let site = Site::start(database);
    let admin = site.server.admin().await;
    let (name, password) = ("ann", "a password of ann's");
    let body = json!({ "username": name, "password": password, "role": "user" });
    let owner = text(&admin.post("/api/users", &body).await.expect(201).json(), "owner");
    let ann = site.server.client().login(name, password).await;

    let (until, is_until) = watch::channel(None);
    let hang_up = [Arc::new(Notify::new()), Arc::new(Notify::new())];
    let dense = read(admin.clone(), true, Arc::clone(&hang_up[0]), is_until.clone());
    let own = read(ann.clone(), false, Arc::clone(&hang_up[1]), is_until);
    let over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..8 {
        let client = if writer % 2 == 0 { &admin } else { &ann };
        writers.spawn(write(client.clone(), format!("vm-{writer}"), Arc::clone(&over)));
    }

    let mut killed = BTreeMap::new();
    for kill in 0..kills {
        sleep(Duration::from_millis(random(800))).await;
        // Each of them in the short form too, in whatever order.
        let what = if kill < 3 { kill } else { random(3) };
        let what = match what {
            0 => {
                hang_up.iter().for_each(|reader| reader.notify_one());
                "reader"
            }
            1 => {
                site.server.kill9();
                sleep(Duration::from_millis(random(300))).await;
                site.server.restart();
                "server"
            }
            _ => {
                site.libvirt.kill9();
                sleep(Duration::from_millis(random(300))).await;
                site.libvirt.restart();
                "hypervisor"
            }
        };
        *killed.entry(what).or_insert(0) += 1;
        assert!(!dense.is_finished() && !own.is_finished(), "a reader has ended");
    }
    over.store(true, Ordering::Relaxed);
    while let Some(writer) = writers.join_next().await {
        writer.expect("a writer that does not panic");
    }
    let begun = Instant::now();
    while !site.sql("SELECT id FROM operations WHERE finished = 0").is_empty() {
        assert!(begun.elapsed() < SETTLED, "operations are not finished");
        sleep(Duration::from_millis(100)).await;
    }

    let log = log(&site);
    let last = *log.keys().next_back().expect("events");
    assert!(log.keys().copied().eq(1..=last), "the log has a gap");
    until.send_replace(Some(last));
    let readers = async { (dense.await.expect("a dense reader"), own.await.expect("a reader")) };
    let (dense, own) = timeout(SETTLED, readers).await.expect("they get to the end");
    let expected = |wanted: &dyn Fn(&str, Option<&str>) -> bool| -> Vec<(i64, String)> {
        let seen = log.iter().filter(|(_, (kind, of))| wanted(kind, of.as_deref()));
        seen.map(|(number, (kind, _))| (*number, kind.clone())).collect()
    };
    let up_to_last = |reader: &Reader| -> Vec<(i64, String)> {
        reader.told.iter().filter(|(number, _)| *number <= last).cloned().collect()
    };
    assert!(up_to_last(&dense) == expected(&|_, _| true), "the admin was told something else than the log");
    let shown = ["vm", "vm_gone", "status", "status_gone", "operation"];
    let anns = expected(&|kind, of| kind == "host" || (shown.contains(&kind) && of == Some(&owner)));
    assert!(anns.len() > 20, "{anns:?}");
    assert_eq!(up_to_last(&own), anns);
    eprintln!(
        "{kills} kills ({killed:?}): {last} events over {} connections, {} of them one owner's over {}",
        dense.connections,
        anns.len(),
        own.connections
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_kills_around_streams_on_sqlite() {
    campaign(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_kills_around_streams_on_postgres() {
    campaign(Database::Postgres).await;
}
