//! Kills of the server: in every step on purpose, and at any moment under the load of eight clients.
//!
//! Each client knows of its own VMs what the server has acknowledged. Whenever the server is back,
//! what the server shows has to be that, and `limen check` has to find nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::site::{Database, Site, bare, text};
use serde_json::{Value, json};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{RECOVERED, full_form, good_answers, reaches, second};

/// The steps in which kills are counted, each with the operation.
const STEPS: [(&str, &str); 10] = [
    ("create_vm", "place_images"),
    ("create_vm", "create_volumes"),
    ("create_vm", "fill_volumes"),
    ("create_vm", "define"),
    ("create_vm", "start"),
    ("delete_vm", "remove_definition"),
    ("delete_vm", "remove_volumes"),
    ("change_power", "apply"),
    ("update_vm", "read_definition"),
    ("update_vm", "change_definition"),
];

const CLIENTS: u64 = 8;
/// VMs of one client at most.
const EACH: usize = 3;

type Step = (&'static str, &'static str);

/// How many kills fell in each step.
struct Fallen {
    steps: BTreeMap<Step, u32>,
    kills: u32,
    outside: u32,
}

impl Fallen {
    fn new() -> Self {
        Self { steps: STEPS.into_iter().map(|step| (step, 0)).collect(), kills: 0, outside: 0 }
    }

    /// Counts the steps that the kill has interrupted: of each operation that is not finished the
    /// journal's last step, where its outcome is not recorded.
    fn count(&mut self, site: &Site) {
        self.kills += 1;
        let mut inside = 0;
        for row in site.sql("SELECT kind, journal FROM operations WHERE finished = 0") {
            let (kind, journal) = row.split_once('|').expect("two columns");
            let journal: Value = serde_json::from_str(journal).expect("a journal");
            let last = journal["steps"].as_array().and_then(|steps| steps.last().cloned()).unwrap_or_default();
            let known = STEPS.into_iter().find(|(of, step)| *of == kind && last["name"] == *step);
            if let Some(step) = known.filter(|_| last["state"] == "started") {
                *self.steps.entry(step).or_default() += 1;
                inside += 1;
            }
        }
        self.outside += u32::from(inside == 0);
    }

    fn least(&self) -> Step {
        STEPS.into_iter().min_by_key(|step| self.steps[step]).expect("there are steps")
    }

    fn has_missed(&self) -> bool {
        self.steps.values().any(|count| *count == 0)
    }

    fn report(&self) {
        for ((kind, step), count) in &self.steps {
            eprintln!("  {kind:<12} {step:<18} {count:>4}");
        }
        eprintln!("  {:<12} {:<18} {:>4}", "in no step", "", self.outside);
    }
}

/// A VM as a client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Vm {
    id: String,
    name: String,
    memory_mib: u64,
    state: String,
}

/// What a request does when it is carried out.
#[derive(Clone, Debug)]
enum Effect {
    Create(Value),
    Delete,
    Power(&'static str),
    Update { name: String, memory_mib: u64 },
}

/// A request whose outcome its client does not know.
#[derive(Clone, Debug)]
struct Open {
    /// The VM, where it is not to be made.
    vm: Option<Vm>,
    effect: Effect,
    /// Where it was acknowledged.
    operation: Option<String>,
}

/// A client, what it knows, and what it does not.
#[derive(Debug)]
struct Player {
    name: String,
    made: u32,
    vms: Vec<Vm>,
    open: Vec<Open>,
    /// Requests that were answered with a success, and that were refused.
    good: u32,
    refused: u32,
}

impl Player {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), made: 0, vms: Vec::new(), open: Vec::new(), good: 0, refused: 0 }
    }

    fn fresh_name(&mut self) -> String {
        self.made += 1;
        format!("{}-{}", self.name, self.made)
    }

    /// What `vm` becomes.
    fn after(vm: Option<&Vm>, effect: &Effect) -> Option<Vm> {
        match effect {
            Effect::Create(create) => Some(Vm {
                id: String::new(),
                name: text(create, "name"),
                memory_mib: create["memory_mib"].as_u64().expect("memory"),
                state: if create["start"] == true { "running" } else { "shut_off" }.to_owned(),
            }),
            Effect::Delete => None,
            Effect::Power(action) => {
                let state = if *action == "start" { "running" } else { "shut_off" };
                vm.map(|vm| Vm { state: state.to_owned(), ..vm.clone() })
            }
            Effect::Update { name, memory_mib } => {
                vm.map(|vm| Vm { name: name.clone(), memory_mib: *memory_mib, ..vm.clone() })
            }
        }
    }

    fn settle(&mut self, before: Option<&Vm>, after: Option<Vm>) {
        self.vms.retain(|vm| before.is_none_or(|before| before.id != vm.id));
        self.vms.extend(after);
    }

    /// Asks for something, and takes in what is answered, or that nothing is.
    async fn ask(&mut self, client: &Client, vm: Option<Vm>, effect: Effect) {
        let path = vm.as_ref().map(|vm| format!("/api/vms/{}", vm.id)).unwrap_or_default();
        let (method, path, body) = match &effect {
            Effect::Create(create) => (Method::POST, "/api/vms".to_owned(), Some(create.clone())),
            Effect::Delete => (Method::DELETE, path, None),
            Effect::Power(action) => (Method::POST, format!("{path}/power"), Some(json!({ "action": action }))),
            Effect::Update { name, memory_mib } => {
                (Method::PATCH, path, Some(json!({ "name": name, "memory_mib": memory_mib })))
            }
        };
        let answer = client.try_request(method, &path, body.as_ref()).await;
        let operation = match answer {
            Err(_) => None,
            Ok(Response { status: 200, body, .. }) => {
                let operation: Value = serde_json::from_slice(&body).expect("an operation");
                assert_eq!(operation["state"], "succeeded", "{operation}");
                let id = || text(&operation, "vm_id");
                let after = Self::after(vm.as_ref(), &effect).map(|vm| Vm { id: id(), ..vm });
                self.settle(vm.as_ref(), after);
                self.good += 1;
                return;
            }
            Ok(answer) => {
                assert_ne!(answer.status, 500, "{answer:?}");
                let body = answer.json();
                let id = if answer.status == 202 { &body["id"] } else { &body["operation_id"] };
                let of_another = body["code"] == "busy";
                match id.as_str().filter(|_| !of_another) {
                    None if answer.status < 500 => {
                        self.refused += 1;
                        return;
                    }
                    known => known.map(str::to_owned),
                }
            }
        };
        self.open.push(Open { vm, effect, operation });
    }

    /// Something at random.
    async fn play(&mut self, client: &Client, dice: &mut Dice, image: &str) {
        let many = self.vms.len();
        if many == 0 || (many < EACH && dice.roll(3) == 0) {
            let mut create = bare(&self.fresh_name());
            create["start"] = json!(dice.roll(3) == 0);
            create["disks"] = match dice.roll(3) {
                0 => json!([]),
                1 => json!([{ "size_gib": 1 }]),
                _ => json!([{ "image": image }, { "image": image, "mode": "linked" }]),
            };
            return self.ask(client, None, Effect::Create(create)).await;
        }
        let vm = self.vms[usize::try_from(dice.roll(many as u64)).expect("few")].clone();
        let effect = match dice.roll(4) {
            0 => Effect::Delete,
            1 => Effect::Update { name: self.fresh_name(), memory_mib: 64 + dice.roll(8) },
            _ if vm.state == "running" => Effect::Power("power_off"),
            _ => Effect::Power("start"),
        };
        self.ask(client, Some(vm), effect).await;
    }

    /// What has become of every open request, as the server shows it now: nothing of it or all of
    /// it, and all of it where that was acknowledged; then all else that this client knows.
    async fn compare(&mut self, client: &Client, shown: &mut BTreeMap<String, Vm>) {
        for open in std::mem::take(&mut self.open) {
            let told = match &open.operation {
                None => None,
                Some(id) => {
                    let operation = client.get(&format!("/api/operations/{id}")).await.expect(200).json();
                    assert!(!operation["finished_at"].is_null(), "{operation}");
                    Some(operation)
                }
            };
            let made = |vm: &&Vm| matches!(&open.effect, Effect::Create(create) if create["name"] == *vm.name);
            let is = match &open.vm {
                Some(vm) => shown.get(&vm.id).cloned(),
                None => shown.values().find(made).cloned(),
            };
            let id = is.as_ref().map(|vm| vm.id.clone()).unwrap_or_default();
            let after = Self::after(open.vm.as_ref(), &open.effect).map(|vm| Vm { id, ..vm });
            let succeeded = told.as_ref().is_some_and(|operation| operation["state"] == "succeeded");
            // A power action that fails is not undone.
            let power = matches!(open.effect, Effect::Power(_));
            let as_told = told.is_none() || power || succeeded == (is == after);
            let all_or_nothing = is == after || (is == open.vm && !succeeded);
            assert!(as_told && all_or_nothing, "{open:#?} is {is:#?} after {told:?}");
            self.settle(open.vm.as_ref(), is);
        }
        for vm in &self.vms {
            assert_eq!(shown.remove(&vm.id).as_ref(), Some(vm), "what {} knows is not so", self.name);
        }
    }
}

/// Numbers at random that a seed repeats (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }

    async fn pause(&mut self, at_most_ms: u64) {
        sleep(Duration::from_millis(self.roll(at_most_ms))).await;
    }
}

/// Eight clients that do something at random whenever the gate is open.
struct Load {
    gate: watch::Sender<bool>,
    players: Vec<Arc<Mutex<Player>>>,
    clients: JoinSet<()>,
}

impl Load {
    fn begin(client: &Client, seed: u64, image: &str) -> Self {
        let mut load = Self { gate: watch::Sender::new(false), players: Vec::new(), clients: JoinSet::new() };
        for number in 0..CLIENTS {
            let player = Arc::new(Mutex::new(Player::new(format!("c{number}"))));
            load.players.push(Arc::clone(&player));
            let (client, image, mut open) = (client.waiting(50), image.to_owned(), load.gate.subscribe());
            let mut dice = Dice(seed.wrapping_mul(2 * number + 3) | 1);
            load.clients.spawn(async move {
                while open.wait_for(|open| *open).await.is_ok() {
                    let mut player = player.lock().await;
                    if *open.borrow() && player.open.is_empty() {
                        player.play(&client, &mut dice, &image).await;
                    } else {
                        drop(player);
                        sleep(Duration::from_millis(10)).await;
                    }
                }
            });
        }
        load
    }

    fn is_sound(&mut self) {
        while let Some(ended) = self.clients.try_join_next() {
            ended.expect("a client that does not panic");
        }
    }
}

/// Waits until `limen check` finds nothing and no operation is at work any more, both within
/// [`RECOVERED`] of `up`; then nothing may be found again. Answers both times. A libvirtd that ends by
/// itself, as 9.0 does now and then when a client of many event callbacks is killed, is started
/// again, counted in `deaths`, and the time begins anew.
async fn recovered(site: &Site, mut up: Instant, deaths: &mut u32) -> (Duration, Duration) {
    let mut revive = |up: &mut Instant| {
        if site.libvirt.revive() {
            *up = Instant::now();
            *deaths += 1;
        }
    };
    loop {
        revive(&mut up);
        let found = site.check();
        if found.is_empty() {
            break;
        }
        assert!(up.elapsed() < RECOVERED, "{RECOVERED:?} after the server was up: {found:#?}");
        sleep(Duration::from_millis(50)).await;
    }
    let clean = up.elapsed();
    loop {
        revive(&mut up);
        let left = site.sql("SELECT kind, state, document FROM operations WHERE finished = 0");
        if left.is_empty() {
            break;
        }
        assert!(up.elapsed() < RECOVERED, "{RECOVERED:?} after the server was up: {left:#?}");
        sleep(Duration::from_millis(50)).await;
    }
    let finished = up.elapsed();
    site.wait_until_in_order(second(5), &[]);
    (clean, finished)
}

/// Every VM that the server shows.
async fn shown(client: &Client) -> BTreeMap<String, Vm> {
    let list = client.get("/api/vms?limit=1000").await.expect(200).json();
    let vm = |vm: &Value| Vm {
        id: text(vm, "id"),
        name: text(vm, "name"),
        memory_mib: vm["spec"]["memory_mib"].as_u64().expect("memory"),
        state: text(&vm["status"], "state"),
    };
    list["items"].as_array().expect("items").iter().map(vm).map(|vm| (vm.id.clone(), vm)).collect()
}

/// Asks for an operation and waits until it is in `step`, with the host's daemon stopped in every
/// second case, so that it stays there.
async fn aim(
    site: &Site,
    client: &Client,
    player: &mut Player,
    (kind, step): Step,
    freeze: bool,
    file: &std::path::Path,
) {
    let mut create = bare(&player.fresh_name());
    create["start"] = json!(true);
    let image = if matches!(step, "place_images" | "fill_volumes") {
        // The copy of any other one may be on the host already.
        site.add_image(&create["name"].as_str().expect("a name").replace("aimed", "filler"), "raw", file)
    } else {
        String::new()
    };
    // It was added by another process: the server hears of it a moment later.
    let asked = Instant::now();
    while !image.is_empty() && client.get(&format!("/api/images/{image}")).await.json()["phase"] != "ready" {
        assert!(asked.elapsed() < second(10), "the server does not show that the image is ready");
        sleep(Duration::from_millis(10)).await;
    }
    create["disks"] = match image.as_str() {
        "" => json!([{ "size_gib": 1 }]),
        image => json!([{ "image": image }, { "image": image, "mode": "linked" }]),
    };
    let vm = if kind == "create_vm" {
        None
    } else {
        if player.vms.is_empty() {
            player.ask(&client.waiting(50), None, Effect::Create(create.clone())).await;
        }
        Some(player.vms.first().expect("a VM was made").clone())
    };
    let effect = match (kind, &vm) {
        ("create_vm", _) => Effect::Create(create),
        ("delete_vm", _) => Effect::Delete,
        ("update_vm", _) => Effect::Update { name: player.fresh_name(), memory_mib: 80 },
        (_, Some(vm)) if vm.state == "running" => Effect::Power("power_off"),
        _ => Effect::Power("start"),
    };
    // The first call to the host is that of the step in question.
    let first = matches!(step, "place_images" | "remove_definition" | "apply" | "read_definition");
    if freeze && first {
        site.libvirt.sigstop();
    }
    player.ask(client, vm, effect).await;
    let recorded = player.open.last().and_then(|open| open.operation.clone());
    reaches(client, &recorded.expect("the operation is recorded"), step).await;
    if freeze && !first {
        site.libvirt.sigstop();
        sleep(Duration::from_millis(30)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_kills_in_every_step_leaves_nothing_behind() {
    let kills = if full_form() { 200 } else { 20 };
    let seed = uuid::Uuid::new_v4().as_u64_pair().0 | 1;
    eprintln!("the dice begin with {seed}");
    let mut dice = Dice(seed);
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(file.path(), vec![0x5a; 8 << 20]).expect("write a file");
    let small = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(small.path(), vec![0xa5; 1 << 20]).expect("write a file");
    let image = site.add_image("small", "raw", small.path());
    let mut load = Load::begin(&client, seed, &image);
    let mut aimed = Player::new("aimed");
    let (mut fallen, mut rounds, mut again, mut deaths) = (Fallen::new(), 0, 0, 0);
    let (mut clean, mut finished) = (Duration::ZERO, Duration::ZERO);
    // A step may be over before it is seen; then there are a few kills more.
    while fallen.kills < kills || (fallen.has_missed() && fallen.kills < 2 * kills) {
        load.gate.send_replace(true);
        if rounds % 2 == 0 {
            let step = fallen.least();
            dice.pause(300).await;
            aim(&site, &client, &mut aimed, step, rounds % 4 == 0, file.path()).await;
        } else {
            dice.pause(1500).await;
        }
        site.server.kill9();
        load.gate.send_replace(false);
        fallen.count(&site);
        site.libvirt.sigcont();
        if rounds % 3 == 2 {
            // Once more, somewhere between the start and the end of the recovery.
            site.server.spawn_again();
            dice.pause(1500).await;
            site.server.kill9();
            fallen.count(&site);
            again += 1;
        }
        site.server.restart();
        let up = Instant::now();
        let times = recovered(&site, up, &mut deaths).await;
        (clean, finished) = (clean.max(times.0), finished.max(times.1));
        good_answers(&client).await;
        load.is_sound();
        let mut shown = shown(&client).await;
        for player in &load.players {
            player.lock().await.compare(&client, &mut shown).await;
        }
        aimed.compare(&client, &mut shown).await;
        assert!(shown.is_empty(), "nobody has asked for {shown:#?}");
        while aimed.vms.len() > EACH {
            let vm = aimed.vms.first().cloned();
            aimed.ask(&client.waiting(50), vm, Effect::Delete).await;
        }
        rounds += 1;
    }
    let (mut good, mut refused) = (0, 0);
    for player in &load.players {
        let player = player.lock().await;
        good += player.good;
        refused += player.refused;
    }
    eprintln!("{} kills, {again} of them in a recovery", fallen.kills);
    eprintln!("libvirtd ended by itself {deaths} times");
    eprintln!("at most {clean:?} after an answer a check found nothing, at most {finished:?} all was finished");
    eprintln!("{CLIENTS} clients were answered well {good} times and refused {refused} times; the kills fell in");
    fallen.report();
    assert!(!fallen.has_missed(), "no kill fell in some steps");
    assert!(good > 0, "the load was no load");
    site.wait_until_in_order(second(10), &[]);
}
