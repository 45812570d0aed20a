//! One of the servers is killed, stands still or stops, with operations at work: the other one goes
//! on with them, each is done once, and who waits is answered.
//!
//! Both servers work on one real host, and its libvirtd tells what really happened there, whoever
//! asked for it: a guest that was defined or started twice shows.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::libvirt::PrivateLibvirt;
use limen_support::postgres::psql;
use limen_support::process;
use limen_support::server::{ADMIN, ADMIN_PASSWORD};
use limen_support::site::{bare, text};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Two, path_of};

/// The other server works on the host within this, and on what was left there.
const TAKEN_OVER: Duration = Duration::from_secs(10);
/// Guests are slow to start on a machine that is busy and has no hardware virtualization.
const FINISHED: Duration = Duration::from_secs(90);
const CLIENTS: usize = 4;

/// Two servers on one host.
struct Site {
    two: Two,
    libvirt: PrivateLibvirt,
    heard: Heard,
    images: TempDir,
}

/// What libvirt says happens to its domains.
struct Heard {
    file: PathBuf,
    virsh: Child,
}

impl Heard {
    fn listen(libvirt: &PrivateLibvirt) -> Self {
        let file = libvirt.dir().join("heard");
        let out = File::create(&file).expect("make a file");
        let mut virsh = Command::new("stdbuf");
        virsh.args(["-oL", "virsh", "-q", "-c", &libvirt.uri(), "event", "--loop", "--event", "lifecycle"]);
        let virsh = virsh.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().expect("start stdbuf virsh");
        Self { file, virsh }
    }

    /// How often something was said of a domain whose name begins so.
    fn count(&self, name: &str, what: &str) -> usize {
        let text = std::fs::read_to_string(&self.file).expect("read a file");
        let of = |line: &&str| line.contains(&format!(" {name}-")) || line.contains(&format!("'{name}-"));
        text.lines().filter(of).filter(|line| line.contains(what)).count()
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.virsh.kill().ok();
        self.virsh.wait().ok();
    }
}

impl Site {
    fn start() -> Self {
        let libvirt = PrivateLibvirt::start();
        let images = tempfile::tempdir_in("/tmp").expect("make a directory");
        let two = Two::start(|options| {
            let options = options.env("HYPERVISOR_URI", libvirt.uri()).env("VIRT_TYPE", "qemu");
            options
                .env("LIMEN_VMS_DIR", libvirt.hidden_storage_dir().join("limen"))
                .env("LIMEN_IMAGES_DIR", images.path())
        });
        Self { heard: Heard::listen(&libvirt), two, libvirt, images }
    }

    /// The operations that are not finished: each with its journal.
    fn unfinished(&self) -> BTreeMap<String, String> {
        let rows = psql(&self.two.database, "SELECT id, journal FROM operations WHERE finished = 0").expect_success();
        rows.lines().filter_map(|row| row.split_once('|')).map(|(id, journal)| (id.into(), journal.into())).collect()
    }

    /// Waits until each operation of `left` has moved on from its journal, and until each is
    /// finished; answers how long after `since` both was.
    async fn moved(&self, left: &BTreeMap<String, String>, since: Instant) -> (Duration, Duration) {
        let mut moved = None;
        loop {
            let now = self.unfinished();
            let stand = left.iter().filter(|(id, journal)| now.get(*id) == Some(journal)).collect::<Vec<_>>();
            if stand.is_empty() {
                moved.get_or_insert(since.elapsed());
            }
            if let (Some(moved), true) = (moved, now.is_empty()) {
                return (moved, since.elapsed());
            }
            assert!(moved.is_some() || since.elapsed() < TAKEN_OVER, "nobody goes on with {stand:#?}");
            assert!(since.elapsed() < FINISHED, "not finished: {now:#?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What `limen check` finds, asked beside the server at `place`.
    fn is_in_order(&self, place: usize) {
        let end = Instant::now() + TAKEN_OVER;
        loop {
            let mut check = self.two.servers[place].command();
            let output = process::run(check.args(["--local", "check", "--json"]), Duration::from_secs(60));
            let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
            if report["findings"].as_array().is_some_and(Vec::is_empty) {
                return;
            }
            assert!(Instant::now() < end, "not in order: {report:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn running(name: &str) -> Value {
    let mut create = bare(name);
    create["start"] = json!(true);
    create
}

/// A change through nginx, waited for: under a server's death too it has to be answered.
async fn change(client: Client, method: Method, path: String, body: Option<Value>) -> Response {
    client.try_request(method, &path, body.as_ref()).await.expect("an answer, from whichever server")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_killed_servers_leaves_their_work_to_the_other() {
    let rounds = if std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full") { 20 } else { 3 };
    let site = Site::start();
    let two = &site.two;
    let client = two.nginx.client().login(ADMIN, ADMIN_PASSWORD).await;
    let [mut slowest, mut taken, mut last] = [Duration::ZERO; 3];
    let (mut at_work, mut sent_on, mut made) = (0, 0, Vec::new());
    let mut vms: Vec<(String, String)> = Vec::new();
    for round in 0..rounds {
        let owner = two.its_owner(&client).await;
        let other = 1 - owner;
        let beside = client.at(two.servers[other].port());
        // Whatever came of the round before goes, while as many are made.
        let waiting = client.waiting(50);
        let mut deletes = JoinSet::new();
        for (_, path) in vms.drain(..) {
            deletes.spawn(change(waiting.clone(), Method::DELETE, path, None));
        }
        let mut creates = JoinSet::new();
        for number in 0..CLIENTS {
            let name = format!("r{round}-c{number}");
            let keyed = waiting.with_header("Idempotency-Key", &name);
            let create = change(keyed, Method::POST, "/api/vms".to_owned(), Some(running(&name)));
            creates.spawn(async move { (name, create.await) });
        }
        // Another moment of the work each time.
        sleep(Duration::from_millis(150 + 211 * round % 800)).await;
        two.servers[owner].kill9();
        let killed = Instant::now();
        let left = site.unfinished();
        at_work += left.len();
        two.owned_by(other, &beside, TAKEN_OVER).await;
        slowest = slowest.max(killed.elapsed());
        let (moved, finished) = site.moved(&left, killed).await;
        (taken, last) = (taken.max(moved), last.max(finished));

        while let Some(created) = creates.join_next().await {
            let (name, answer) = created.expect("a client that does not panic");
            let operation = answer.expect(200).json();
            assert_eq!(operation["state"], "succeeded", "{operation}");
            let path = path_of("vms", &operation, "vm_id");
            let vm = beside.get(&path).await.expect(200).json();
            assert_eq!((text(&vm, "name"), text(&vm["status"], "state")), (name.clone(), "running".to_owned()));
            made.push(name.clone());
            vms.push((name, path));
        }
        while let Some(deleted) = deletes.join_next().await {
            // One that nginx has sent again may have met itself.
            let answer = deleted.expect("a client that does not panic");
            let met_itself = answer.status == 404 || (answer.status == 409 && answer.json()["code"] == "busy");
            assert!(answer.status == 200 || met_itself, "{answer:?}");
        }
        site.is_in_order(other);
        let shown = beside.get("/api/vms?limit=1000").await.expect(200).json();
        assert_eq!(shown["items"].as_array().map(Vec::len), Some(vms.len()), "{shown}");
        sent_on = two
            .nginx
            .served()
            .iter()
            .filter(|line| line.contains("POST") && line.matches("127.0.0.1:").count() > 1)
            .count();
        two.servers[owner].restart();
    }
    // Each was made and started once, and each that went went once, however often it was asked for.
    for name in &made {
        let times = ["Defined", "Started"].map(|what| site.heard.count(name, what));
        assert_eq!(times, [1, 1], "{name} was defined and started {times:?} times");
        let gone = usize::from(vms.iter().all(|(left, _)| left != name));
        let times = ["Undefined", "Stopped"].map(|what| site.heard.count(name, what));
        assert_eq!(times, [gone, gone], "{name} was removed and stopped {times:?} times");
    }
    eprintln!(
        "{rounds} kills with {at_work} operations at work: the host was taken over after {slowest:?} at most, the \
         operations after {taken:?}, all finished after {last:?}; {} VMs, each defined and started once; nginx asked twice for {sent_on} POSTs",
        made.len()
    );
    assert!(at_work > 0, "no kill met any work");

    // One that stops gives the host away at once.
    let owner = two.its_owner(&client).await;
    let beside = client.at(two.servers[1 - owner].port());
    assert_eq!(two.servers[owner].sigterm(), Some(0));
    let handed_over = two.owned_by(1 - owner, &beside, Duration::from_secs(3)).await;
    eprintln!("a server that stopped had given the host away {handed_over:?} later");
    for (_, path) in vms {
        client.waiting(50).delete(&path).await.expect(200);
    }
    site.is_in_order(1 - owner);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stood_still_does_nothing_that_is_anothers_to_do() {
    let site = Site::start();
    let two = &site.two;
    let client = two.nginx.client().login(ADMIN, ADMIN_PASSWORD).await;
    let owner = two.its_owner(&client).await;
    let [still, other] = [owner, 1 - owner].map(|place| client.at(two.servers[place].port()));
    let bytes: Vec<u8> =
        (0..192_u32 << 20 >> 2).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(file.path(), &bytes).expect("write a file");
    let mut add = two.servers[owner].command();
    add.args(["--json", "image", "add", "--name", "big", "--format", "raw"]).arg(file.path());
    let said = process::run(&mut add, Duration::from_secs(60)).expect_success();
    let image = text(&serde_json::from_str::<Value>(&said).expect("an image"), "id");
    let revoked = other.without_token().login(ADMIN, ADMIN_PASSWORD).await;

    // It stands still while it fills a disk, and while guests are started.
    let mut filled = bare("filled");
    filled["disks"] = json!([{ "image": image }]);
    let begun = Instant::now();
    let create = loop {
        let answer = other.post("/api/vms", &filled).await;
        match answer.status {
            202 => break answer.json(),
            _ => assert!(begun.elapsed() < Duration::from_secs(10), "{answer:?}"),
        }
    };
    let operation = path_of("operations", &create, "id");
    let shown = loop {
        let shown = other.get(&operation).await.expect(200).json();
        if shown["step"] == "fill_volumes" || !shown["finished_at"].is_null() {
            break shown;
        }
    };
    let mut asked = vec![operation];
    for number in 0..3 {
        let create = other.post("/api/vms", &running(&format!("still-{number}"))).await.expect(202).json();
        asked.push(path_of("operations", &create, "id"));
    }
    two.servers[owner].sigstop();
    let (stopped, left) = (Instant::now(), site.unfinished());
    assert!(shown["finished_at"].is_null(), "the disk was filled before it could be stopped: {shown}");
    two.owned_by(1 - owner, &other, TAKEN_OVER).await;
    let taken = stopped.elapsed();
    let (moved, finished) = site.moved(&left, stopped).await;
    revoked.post("/api/auth/logout", &json!({})).await.expect(204);
    sleep(Duration::from_secs(15).saturating_sub(stopped.elapsed())).await;
    // The first that it does is to answer somebody who was logged out meanwhile.
    let late = revoked.at(two.servers[owner].port());
    let (late, ()) = tokio::join!(late.get("/api/auth/me"), async {
        sleep(Duration::from_millis(200)).await;
        two.servers[owner].sigcont();
    });
    late.expect(401);
    let behind = two.owned_by(1 - owner, &still, Duration::from_secs(5)).await;
    assert!(two.servers[owner].log().contains("this process no longer owns the host"));
    sleep(Duration::from_secs(3)).await;

    let mut disk = String::new();
    for operation in asked {
        let ended = still.get(&operation).await.expect(200).json();
        assert_eq!(ended["state"], "succeeded", "{ended}");
        let vm = still.get(&path_of("vms", &ended, "vm_id")).await.expect(200).json();
        let name = text(&vm, "name");
        let started = usize::from(name != "filled");
        let times = ["Defined", "Started"].map(|what| site.heard.count(&name, what));
        assert_eq!(times, [1, started], "{name} was defined and started {times:?} times");
        if name == "filled" {
            disk = text(&vm["spec"]["disks"][0], "volume");
        }
    }
    let volume = site.libvirt.dir().join("lib/images/limen").join(format!("{disk}.raw"));
    assert!(std::fs::read(&volume).expect("read a volume") == bytes, "the disk is not the image");
    site.is_in_order(owner);
    eprintln!(
        "a server that stood still for 15 s: the host was taken over after {taken:?}, the operations \
         after {moved:?}, all finished after {finished:?}; it knew {behind:?} \
         after it went on, and refused who was logged out meanwhile"
    );
    // It is a server like any other again: the other one may die.
    two.servers[1 - owner].kill9();
    two.owned_by(owner, &still, TAKEN_OVER).await;
    assert_eq!(site.images.path().join(&image).metadata().expect("the image is shared").len(), bytes.len() as u64);
}
