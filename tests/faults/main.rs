//! The server, its host's daemon and its guests die, hang and come back, under load.

mod campaign;
mod check;
mod daemons;
mod database;
mod host;
mod server;

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hyper::Method;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::hypervisor::{ConsoleKind, Hypervisor};
use limen_support::http::Client;
use limen_support::site::{self, Database, Site, bare, create, is_in, power, text, wait_for_vm};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// After a daemon is back, answers are good again within this.
const BACK: Duration = Duration::from_secs(5);
/// After a server is back, nothing is found to disagree within this.
const RECOVERED: Duration = Duration::from_secs(10);

/// Whether the long forms are asked for.
fn full_form() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn running(name: &str) -> Value {
    let mut create = bare(name);
    create["start"] = json!(true);
    create
}

/// One read: when it was answered, how, and whether it was marked stale.
#[derive(Clone, Copy, Debug)]
struct Read {
    at: Instant,
    status: u16,
    stale: bool,
}

/// Clients that list, read and power at a steady pace, until they are told to end.
struct Load {
    reads: Arc<Mutex<Vec<Read>>>,
    powers: Arc<Mutex<Vec<(Instant, u16)>>>,
    over: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Load {
    /// Makes four VMs, which are running, and begins.
    async fn of_four(client: &Client) -> (Vec<String>, Self) {
        let mut vms = Vec::new();
        for name in ["a", "b", "c", "d"] {
            vms.push(create(client, &running(name)).await);
        }
        let load = Self::begin(client, &vms);
        sleep(second(1)).await;
        (vms, load)
    }

    fn begin(client: &Client, vms: &[String]) -> Self {
        let mut load =
            Self { reads: Arc::default(), powers: Arc::default(), over: Arc::default(), clients: JoinSet::new() };
        for id in &vms[1..] {
            let (client, reads, id) = (client.clone(), Arc::clone(&load.reads), id.clone());
            let over = Arc::clone(&load.over);
            load.clients.spawn(async move {
                let mut pace = tokio::time::interval(Duration::from_millis(50));
                while !over.load(Ordering::Relaxed) {
                    for path in ["/api/vms".to_owned(), format!("/api/vms/{id}")] {
                        pace.tick().await;
                        let answer = client.get(&path).await;
                        let body = answer.json();
                        let shown = body["items"].get(0).unwrap_or(&body);
                        let stale = shown["status"]["stale"] != false;
                        let read = Read { at: Instant::now(), status: answer.status, stale };
                        reads.lock().expect("no poison").push(read);
                    }
                }
            });
        }
        let (client, powers, id) = (client.waiting(5), Arc::clone(&load.powers), vms[0].clone());
        let over = Arc::clone(&load.over);
        load.clients.spawn(async move {
            for action in ["pause", "resume"].into_iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let path = format!("/api/vms/{id}/power");
                let answer = client.post(&path, &json!({ "action": action })).await;
                powers.lock().expect("no poison").push((Instant::now(), answer.status));
                sleep(Duration::from_millis(200)).await;
            }
        });
        load
    }

    /// Ends the clients, each after the answer that it waits for: a request that is dropped on its
    /// way may still be carried out later. Returns the reads, and the powers' statuses.
    async fn end(mut self) -> (Vec<Read>, Vec<u16>) {
        self.over.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.expect("a client that does not panic");
        }
        let (reads, powers) = (self.reads.lock().expect("no poison"), self.powers.lock().expect("no poison"));
        (reads.clone(), powers.iter().map(|(_, status)| *status).collect())
    }

    fn between(&self, from: Instant, to: Instant) -> Vec<Read> {
        let reads = self.reads.lock().expect("no poison");
        reads.iter().copied().filter(|read| (from..to).contains(&read.at)).collect()
    }

    /// Good reads per second over the next `seconds`.
    async fn rate(&self, seconds: u64) -> f64 {
        let from = Instant::now();
        sleep(second(seconds)).await;
        let good = self.between(from, Instant::now()).iter().filter(|read| read.status == 200 && !read.stale).count();
        good as f64 / from.elapsed().as_secs_f64()
    }

    /// How long after `from` a power action has succeeded again.
    async fn power_again(&self, from: Instant) -> Duration {
        loop {
            let powers = self.powers.lock().expect("no poison").clone();
            if let Some((at, _)) = powers.into_iter().find(|(at, status)| *at > from && *status == 200) {
                return at.duration_since(from);
            }
            assert!(from.elapsed() < second(60), "power does not work again");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How long after `from` the reads are good again.
    async fn good_again(&self, from: Instant) -> Duration {
        loop {
            let good = self.between(from, Instant::now()).into_iter().find(|read| read.status == 200 && !read.stale);
            if let Some(read) = good {
                return read.at.duration_since(from);
            }
            assert!(from.elapsed() < second(30), "reads are not good again");
            sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_while_libvirtd_is_dead_or_stopped() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let (vms, load) = Load::of_four(&client).await;
    let earlier = load.rate(5).await;
    for (what, away) in [("killed", second(8)), ("stopped", second(20))] {
        let gone = Instant::now();
        if what == "killed" {
            site.libvirt.kill9();
        } else {
            site.libvirt.sigstop();
        }
        sleep(away).await;
        let marked = load.between(gone + second(7), Instant::now());
        assert!(!marked.is_empty(), "reads go on from memory");
        assert!(marked.iter().all(|read| read.stale), "{what}: not marked stale after 7 s");
        if what == "killed" {
            site.libvirt.restart();
        } else {
            site.libvirt.sigcont();
        }
        let back = load.good_again(Instant::now()).await;
        let rate = load.rate(5).await;
        eprintln!("libvirtd {what}: good after {back:?}; {rate:.1} good reads/s, {earlier:.1} before");
        assert!(back < BACK, "{what}: good answers after {back:?}");
        assert!(rate >= earlier * 0.95, "{what}: {rate:.1} reads/s, {earlier:.1} before");
    }
    let (reads, powers) = load.end().await;
    assert!(reads.iter().all(|read| read.status == 200), "a read was refused");
    assert!(powers.iter().all(|status| matches!(status, 200 | 202 | 409 | 503 | 504)), "{powers:?}");
    assert!(powers.ends_with(&[200]), "power works again: {powers:?}");
    for id in &vms {
        // The last action outlives its caller.
        wait_for_vm(&client, id, second(5), |answer| answer.json()["operation"].is_null()).await;
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(5), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_consoles_and_a_hung_guest_delay_nobody() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let hung = create(&client, &running("hung")).await;
    let pids = site.libvirt.qemu_pids();
    assert_eq!(pids.len(), 1, "{pids:?}");
    let pid = Pid::from_raw(pids[0].cast_signed()).expect("a process id");
    let other = create(&client, &running("other")).await;

    let options = LibvirtOptions::new(site.libvirt.uri(), site.libvirt.hidden_storage_dir().join("limen"));
    let consoles = LibvirtHypervisor::connect(options).await.expect("connect");
    let mut open = Vec::new();
    for index in 0..50 {
        let id = if index % 2 == 0 { &hung } else { &other };
        open.push(consoles.open_console(id.parse().expect("an id"), ConsoleKind::Serial).await.expect("a console"));
    }
    kill_process(pid, Signal::STOP).expect("stop a guest");
    let path = format!("/api/vms/{hung}/power");
    let waiting = client.post(&path, &json!({ "action": "pause" })).await.expect(202).json();

    let begun = Instant::now();
    let (mut slowest_read, mut slowest_power) = (Duration::ZERO, Duration::ZERO);
    while begun.elapsed() < second(10) {
        for action in ["pause", "resume"] {
            let asked = Instant::now();
            let shown = client.get("/api/vms").await.expect(200).json();
            slowest_read = slowest_read.max(asked.elapsed());
            assert_eq!(shown["items"].as_array().map(Vec::len), Some(2));
            if begun.elapsed() > second(7) {
                assert_eq!(shown["items"][0]["status"]["stale"], false, "the host is observed");
            }
            let asked = Instant::now();
            power(&client, &other, action).await.expect(200);
            slowest_power = slowest_power.max(asked.elapsed());
        }
    }
    eprintln!("beside a hung guest: read at most {slowest_read:?}, power at most {slowest_power:?}");
    assert!(slowest_read < second(2), "{slowest_read:?}");
    assert!(slowest_power < second(5), "{slowest_power:?}");

    kill_process(pid, Signal::CONT).expect("let a guest go on");
    wait_for_vm(&client, &hung, second(30), |answer| is_in(answer, "paused")).await;
    let ended = client.get(&format!("/api/operations/{}", text(&waiting, "id"))).await.expect(200).json();
    assert_ne!(ended["state"], "failed", "{ended}");
    drop(open);
    for id in [&hung, &other] {
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(5), &[]);
}

/// Waits until an operation is at `step`, which may be over before it is seen, or finished.
async fn reaches(client: &Client, operation: &str, step: &str) {
    let path = format!("/api/operations/{operation}");
    let begun = Instant::now();
    while begun.elapsed() < second(5) {
        let shown = client.get(&path).await.expect(200).json();
        if shown["step"] == step || !shown["finished_at"].is_null() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_define_that_lands_late_is_swept() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;

    // The definition of a VM that is gone lands seconds after its client was killed: without a
    // usable /dev/kvm (the rig's own file) libvirt examines QEMU anew before it defines.
    // (Where a machine has none at all, it lands at once.)
    let id = create(&client, &bare("gone")).await;
    let file = site.libvirt.dir().join("late.xml");
    let xml = site.libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success();
    std::fs::write(&file, xml).expect("write a file");
    site::delete(&client, &id).await;
    let kvm = site.libvirt.dir().join("kvm");
    let slow = kvm.exists();
    let usable = |mode| {
        if slow {
            std::fs::set_permissions(&kvm, PermissionsExt::from_mode(mode)).expect("set a mode");
        }
    };
    let found = || site.server.log().contains("a late effect was found");
    for attempt in 1_u64.. {
        assert!(attempt < 5, "no late effect was found");
        usable(0o600);
        // Long enough for virsh to send it, where the machine is busy at the next attempt.
        let patience = Duration::from_millis(500 * attempt);
        let killed = site.libvirt.virsh_within(patience, &["define", &file.to_string_lossy()]);
        assert!(killed.timed_out || !slow, "it is to land after its client's death: {killed:?}");
        usable(0o666);
        let begun = Instant::now();
        let mut landed = None;
        while begun.elapsed() < second(30) && !found() {
            landed = landed.or_else(|| site.domains().contains(&id).then(|| begun.elapsed()));
        }
        eprintln!("{:?} after its client was killed: a define landed at {landed:?}", begun.elapsed());
        if found() {
            break;
        }
    }
    site.wait_until_in_order(second(30), &[]);
    assert!(!site.domains().contains(&id));

    // The server is killed while its calls are out to a daemon that answers later, and the create
    // is cancelled before they land.
    for round in 0..3 {
        let name = format!("late-{round}");
        let operation = client.post("/api/vms", &bare(&name)).await.expect(202).json();
        let operation = text(&operation, "id");
        reaches(&client, &operation, "define").await;
        site.libvirt.sigstop();
        sleep(Duration::from_millis(100)).await;
        site.server.kill9();
        site.server.restart();
        let cancelled = client.post(&format!("/api/operations/{operation}/cancel"), &json!({})).await;
        assert!(matches!(cancelled.status, 200 | 202 | 409), "{cancelled:?}");
        site.libvirt.sigcont();
        let path = format!("/api/operations/{operation}");
        let end = Instant::now() + second(40);
        let ended = loop {
            let shown = client.get(&path).await.expect(200).json();
            if !shown["finished_at"].is_null() {
                break shown;
            }
            assert!(Instant::now() < end, "not finished: {shown}");
            sleep(Duration::from_millis(100)).await;
        };
        eprintln!("a create whose define was out ended as {}", ended["state"]);
        site.wait_until_in_order(second(10), &[]);
        if ended["state"] == "succeeded" {
            site::delete(&client, &text(&ended, "vm_id")).await;
        }
    }
    assert_eq!(site.domains().len(), 0);
    eprintln!("late effects found: {}", site.server.log().matches("a late effect was found").count());
}

/// Good answers are back: fresh lists, one after another.
async fn good_answers(client: &Client) {
    let begun = Instant::now();
    let mut good = 0;
    while good < 20 {
        let answer = client.try_request(Method::GET, "/api/vms", None).await.expect("an answer");
        let stale = answer.json()["items"].get(0).is_some_and(|vm| vm["status"]["stale"] != false);
        good = if answer.status == 200 && !stale { good + 1 } else { 0 };
        assert!(begun.elapsed() < second(20), "answers are not good again: {answer:?}");
    }
}
