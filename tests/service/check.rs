//! What a check finds, and what it leaves alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use limen_core::hypervisor::sim::{Fault, Method, On, SimHypervisor};
use limen_core::hypervisor::{Hypervisor, VmDefinition, VolumeRef, VolumeSpec};
use limen_core::model::{
    ActorRef, AuditQuery, CheckReport, CreateDisk, CreateVm, DiskMode, FindingKind as Kind, HostId, HostRecord,
    ImageFormat, ImagePhase, InstallId, Journal, Mark, Operation, OperationId, OperationKind, OperationState,
    PageRequest, PowerAction, Progress, VmId, VmPhase, VmRecord, VmState, VolumeFormat, VolumeId, VolumeRecord,
};
use limen_core::service::Timings;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{Change, Expect, OperationQuery, OperationRow, OperationWrite, PoolSettings, Row, Store};
use limen_core::{Limen, Secret};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::site::sqlite;
use limen_support::world::{Script, World, add_image, bare, blank, succeeded};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Db, create, ctx, eventually};

/// Runs SQL in the Store's database, past the Store.
type Sql = Box<dyn Fn(&str) + Send + Sync>;

/// A house that was lived in: two VMs with a disk each, one over an image, an ISO in a drive, an
/// operation behind each of them; its owner is gone, and somebody looks who owns nothing.
struct House {
    sim: SimHypervisor,
    world: World,
    looker: Limen,
    /// `one`, with a disk of its own.
    one: VmRecord,
    /// `two`, over an image and with an ISO.
    two: VmRecord,
    sql: Sql,
    _keeps: (tempfile::TempDir, Option<PrivatePostgres>),
}

async fn house(on: Db) -> House {
    let dir = tempfile::tempdir().expect("make a directory");
    let settings = PoolSettings { max_open: 10, ..PoolSettings::default() };
    let (store, postgres, sql): (Arc<dyn Store>, _, Sql) = match on {
        Db::Sqlite => {
            let file = dir.path().join("limen.db");
            let store = SqliteStore::open(&file, &settings).await.expect("a Store");
            (Arc::new(store), None, Box::new(move |text| drop(sqlite(&file, text).expect_success())))
        }
        Db::Postgres => {
            let postgres = PrivatePostgres::start();
            let url = postgres.create_database();
            let store = PostgresStore::connect(&Secret::new(&url), &settings).await.expect("a Store");
            (Arc::new(store), Some(postgres), Box::new(move |text| drop(psql(&url, text).expect_success())))
        }
    };
    let sim = SimHypervisor::new();
    let mut world = World::new(Arc::new(sim.clone()), store);
    world.timings = Timings { stuck: Duration::from_secs(1), ..world.timings };
    let owner = world.limen(Script::new(Vec::new())).await;
    let image = add_image(&owner, "disk", ImageFormat::Raw).await;
    let iso = add_image(&owner, "media", ImageFormat::Iso).await;
    create(&owner, blank("one")).await;
    let linked = CreateDisk { image: Some(image.id), mode: Some(DiskMode::Linked), ..CreateDisk::default() };
    let full = CreateDisk { image: Some(image.id), ..CreateDisk::default() };
    create(&owner, CreateVm { disks: vec![linked, full], iso: Some(iso.id), start: true, ..bare("two") }).await;
    // Whoever owns the host would mend some of what follows.
    eventually("the host was looked at", || async { check(&owner).await.findings.is_empty() }).await;
    owner.crash().await;
    let records = world.store.snapshot().await.expect("a snapshot").vms;
    let named = |name: &str| records.iter().find(|vm| vm.name == name).expect("a VM").clone();
    let (one, two) = (named("one"), named("two"));
    let looker = world.passive().await;
    assert_eq!(findings(&looker).await, []);
    House { sim, world, looker, one, two, sql, _keeps: (dir, postgres) }
}

async fn check(limen: &Limen) -> CheckReport {
    limen.check(&ctx()).await.expect("a check")
}

/// Kind and subject of each finding.
async fn findings(limen: &Limen) -> Vec<(Kind, String)> {
    let report = check(limen).await;
    assert!(report.findings.iter().all(|finding| finding.severity == finding.kind.severity()));
    assert!(report.findings.iter().all(|finding| finding.detail.ends_with('.')), "{report:#?}");
    report.findings.into_iter().map(|finding| (finding.kind, finding.subject)).collect()
}

#[track_caller]
fn same(found: &[(Kind, String)], expected: &[(Kind, String)]) {
    let found: BTreeSet<_> = found.iter().collect();
    assert_eq!(found, expected.iter().collect::<BTreeSet<_>>());
}

impl House {
    async fn write(&self, rows: Vec<Row>) {
        self.world.store.commit(Change { rows, ..Change::default() }).await.expect("written");
    }

    fn host(&self) -> HostId {
        self.one.host
    }

    async fn install(&self) -> InstallId {
        self.world.store.install().await.expect("an installation").id
    }

    /// A volume's row of the house's making.
    fn row(&self, vm: Option<VmId>) -> VolumeRecord {
        VolumeRecord {
            id: VolumeId::generate(),
            host: self.host(),
            format: VolumeFormat::Raw,
            capacity_bytes: 1 << 20,
            vm,
            image: None,
            filled: true,
            created_by: OperationId::generate(),
        }
    }

    async fn volume(&self, row: &VolumeRecord) {
        let spec = VolumeSpec { id: row.id, format: row.format, capacity_bytes: row.capacity_bytes, backing: None };
        self.sim.create_volume(&spec).await.expect("a volume");
    }

    fn definition(&self, id: VmId, mark: Mark) -> VmDefinition {
        VmDefinition {
            id,
            mark,
            owner: self.one.owner,
            name: format!("made-{id}"),
            labels: BTreeMap::new(),
            spec: limen_core::model::VmSpec { disks: Vec::new(), ..self.one.spec.clone() },
            autostart: false,
        }
    }

    /// An operation on `vm` that began an hour ago and is at work, with these locks.
    async fn operation(&self, vm: VmId, locks: Vec<String>) -> OperationId {
        let operation = Operation {
            id: OperationId::generate(),
            kind: OperationKind::UpdateVm,
            state: OperationState::Running,
            host: self.host(),
            vm_id: Some(vm),
            image_id: None,
            owner: Some(self.one.owner),
            actor: ActorRef { label: "local".to_owned(), user: None },
            request_id: "request".to_owned(),
            step: None,
            progress: Progress::default(),
            cancel_requested: false,
            error: None,
            created_at: OffsetDateTime::now_utc() - Duration::from_secs(3600),
            finished_at: None,
        };
        let id = operation.id;
        let plan = serde_json::json!({});
        let journal = Journal {
            kind_version: 1,
            plan,
            steps: Vec::new(),
            waiting: false,
            moved_at: None,
            held: None,
            resumed: false,
        };
        let row = Box::new(OperationRow { operation, journal });
        let operation = Some(OperationWrite::Insert { row, locks, preempt: false });
        self.world.store.commit(Change { operation, ..Change::default() }).await.expect("written");
        id
    }

    /// Somebody who holds the host's lease and does nothing else, until it is dropped.
    async fn idle_owner(&self) -> IdleOwner {
        let (store, over) = (Arc::clone(&self.world.store), Arc::new(AtomicBool::new(false)));
        let seen = store.lease(self.host()).await.expect("a lease");
        let mut lease = store.take_lease(&seen, "idle").await.expect("taken").expect("free");
        let (beat, stop) = (self.world.timings.beat, Arc::clone(&over));
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                lease = store.renew_lease(&lease, None).await.expect("renewed").expect("still held");
                tokio::time::sleep(beat / 2).await;
            }
            store.release_lease(&lease).await.expect("released");
        });
        IdleOwner { over, task }
    }
}

struct IdleOwner {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl IdleOwner {
    async fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.expect("no panic");
    }
}

pub(crate) async fn a_check_finds_what_happened_on_the_host(on: Db) {
    let house = house(on).await;
    let (sim, install) = (&house.sim, house.install().await);

    // A definition of ours without a record; one of another installation is not ours to judge.
    let late = VmId::generate();
    let mark = Mark { install, operation: OperationId::generate() };
    sim.create_definition(&house.definition(late, mark)).await.expect("defined");
    let theirs = Mark { install: InstallId::generate(), ..mark };
    sim.create_definition(&house.definition(VmId::generate(), theirs)).await.expect("defined");
    _ = sim.outside().define_foreign("somebody-elses");
    // One that was undefined, and one that somebody defined anew.
    sim.outside().undefine(house.one.id).expect("undefined");
    sim.remove_definition(house.two.id).await.expect("removed");
    sim.create_definition(&house.definition(house.two.id, theirs)).await.expect("defined");
    let vms = [
        (Kind::VmUnrecorded, format!("vm:{late}")),
        (Kind::VmMissing, format!("vm:{}", house.one.id)),
        (Kind::VmUnmarked, format!("vm:{}", house.two.id)),
    ];
    same(&findings(&house.looker).await, &vms);

    // While somebody is there who should have told the Store, what it shows has to be so.
    let owner = house.idle_owner().await;
    let found = findings(&house.looker).await;
    owner.end().await;
    let states = found.iter().filter(|(kind, _)| *kind == Kind::StatusDiffers).count();
    assert_eq!(states, 5, "one is gone, three are new, one is off: {found:?}");
    same(&findings(&house.looker).await, &vms);

    // Volumes.
    let stray = house.row(None);
    house.volume(&stray).await;
    let disk = &house.one.spec.disks[0];
    sim.remove_volume(VolumeRef { id: disk.volume, format: disk.format }).await.expect("removed");
    let [linked, full] = &house.two.spec.disks[..] else { panic!("two disks") };
    let linked_ref = VolumeRef { id: linked.volume, format: linked.format };
    sim.resize_volume(linked_ref, linked.size_bytes + (1 << 20)).await.expect("resized");
    sim.remove_volume(VolumeRef { id: full.volume, format: full.format }).await.expect("removed");
    let other =
        VolumeSpec { id: full.volume, format: VolumeFormat::Qcow2, capacity_bytes: full.size_bytes, backing: None };
    assert_ne!(full.format, other.format);
    sim.create_volume(&other).await.expect("a volume");
    let volumes = [
        (Kind::VolumeUnrecorded, format!("volume:{}", stray.id)),
        (Kind::VolumeMissing, format!("volume:{}", disk.volume)),
        (Kind::VolumeDiffers, format!("volume:{}", linked.volume)),
        (Kind::VolumeDiffers, format!("volume:{}", full.volume)),
    ];
    same(&findings(&house.looker).await, &[&vms[..], &volumes[..]].concat());

    // A host that is away is told of as that, and nothing on it is.
    sim.disconnect();
    let report = check(&house.looker).await;
    assert_eq!((report.hosts.len(), report.findings[0].host.as_deref()), (0, Some("host")));
    same(&findings(&house.looker).await, &[(Kind::HostUnreachable, format!("host:{}", house.host()))]);
    sim.reconnect();
    same(&findings(&house.looker).await, &[&vms[..], &volumes[..]].concat());
}

pub(crate) async fn a_check_finds_rows_that_nothing_holds(on: Db) {
    let house = house(on).await;
    let half = |phase, name: &str| VmRecord {
        id: VmId::generate(),
        name: name.to_owned(),
        phase,
        version: 1,
        spec: limen_core::model::VmSpec { disks: Vec::new(), iso: None, nics: Vec::new(), ..house.one.spec.clone() },
        ..house.one.clone()
    };
    let (creating, deleting) = (half(VmPhase::Creating, "creating"), half(VmPhase::Deleting, "deleting"));
    let away = HostRecord {
        id: HostId::generate(),
        name: "away".to_owned(),
        uri: "test:".to_owned(),
        labels: BTreeMap::new(),
        version: 1,
    };
    let there = VmRecord { host: away.id, ..half(VmPhase::Defined, "there") };
    let empty = HostRecord { id: HostId::generate(), name: "empty".to_owned(), ..away.clone() };
    let unowned = house.row(Some(VmId::generate()));
    house.volume(&unowned).await;
    let image = house.world.store.snapshot().await.expect("a snapshot").images[0].clone();
    let unfilled = VolumeRecord { image: Some(image.id), filled: false, ..house.row(None) };
    let half_image = limen_core::model::Image {
        id: limen_core::model::ImageId::generate(),
        name: "half".to_owned(),
        phase: ImagePhase::Adding,
        version: 1,
        ..image
    };
    let host = |record: &HostRecord| Row::Host { record: Box::new(record.clone()), expect: Expect::Absent };
    let vm = |record: &VmRecord| Row::Vm { record: Box::new(record.clone()), expect: Expect::Absent };
    let image = Row::Image { image: Box::new(half_image.clone()), expect: Expect::Absent };
    let rows = vec![host(&away), host(&empty), vm(&creating), vm(&deleting), vm(&there), image];
    house.write(rows).await;
    house.write(vec![Row::Volume(unowned.clone()), Row::Volume(unfilled.clone())]).await;
    let mut expected = vec![
        (Kind::HostUnserved, format!("host:{}", away.id)),
        (Kind::VmHalfMade, format!("vm:{}", creating.id)),
        (Kind::VmHalfMade, format!("vm:{}", deleting.id)),
        (Kind::VolumeUnowned, format!("volume:{}", unowned.id)),
        (Kind::VolumeUnfilled, format!("volume:{}", unfilled.id)),
        (Kind::ImageHalfMade, format!("image:{}", half_image.id)),
    ];
    same(&findings(&house.looker).await, &expected);

    // A host that another process looks after is that one's.
    let free = house.world.store.lease(away.id).await.expect("a lease");
    house.world.store.take_lease(&free, "another").await.expect("taken").expect("free");
    expected.remove(0);
    same(&findings(&house.looker).await, &expected);
}

pub(crate) async fn a_check_finds_files_of_no_image(on: Db) {
    let house = house(on).await;
    let images = house.world.store.snapshot().await.expect("a snapshot").images;
    let (dir, incoming) = (house.world.images_dir(), house.world.images_dir().join("incoming"));
    std::fs::remove_file(dir.join(images[0].id.to_string())).expect("removed");
    std::fs::write(dir.join(images[1].id.to_string()), "cut short").expect("written");
    std::fs::write(dir.join("stray.iso"), "stray").expect("written");
    let received = [Uuid::now_v7(), Uuid::now_v7()];
    for id in received {
        std::fs::write(incoming.join(id.to_string()), "a part").expect("written");
    }
    // The one is being received just now.
    let file = std::fs::File::options().write(true).open(incoming.join(received[1].to_string())).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_secs(2 * 3600)).expect("set");
    same(
        &findings(&house.looker).await,
        &[
            (Kind::ImageMissing, format!("image:{}", images[0].id)),
            (Kind::ImageDiffers, format!("image:{}", images[1].id)),
            (Kind::ImageUnrecorded, "file:stray.iso".to_owned()),
            (Kind::UploadAbandoned, format!("file:{}", received[1])),
        ],
    );
    std::fs::rename(dir, dir.with_extension("aside")).expect("renamed");
    std::fs::write(dir, "no directory").expect("written");
    same(&findings(&house.looker).await, &[(Kind::ImagesUnreadable, "directory:images".to_owned())]);
    std::fs::remove_file(dir).expect("removed");
}

pub(crate) async fn a_check_finds_operations_that_stand_still(on: Db) {
    let house = house(on).await;
    let (one, two) = (house.one.id, house.two.id);
    let stuck = house.operation(one, vec![format!("vm:{one}")]).await;
    assert_eq!(findings(&house.looker).await, [], "it waits for a server");
    let unlocked = house.operation(two, Vec::new()).await;
    let done = house.world.store.operations(&OperationQuery::default()).await.expect("operations").items;
    let done = done.iter().find(|operation| operation.state.is_finished()).expect("a finished one").id;
    (house.sql)(&format!("INSERT INTO operation_locks (resource, operation_id) VALUES ('vm:{two}', '{done}')"));
    let broken =
        [(Kind::OperationUnlocked, format!("operation:{unlocked}")), (Kind::LockOrphaned, format!("operation:{done}"))];
    same(&findings(&house.looker).await, &broken);

    // With an owner who could go on with them, both stand still, until one says a word.
    let owner = house.idle_owner().await;
    let of = |id: OperationId| (Kind::OperationStuck, format!("operation:{id}"));
    same(&findings(&house.looker).await, &[&broken[..], &[of(stuck), of(unlocked)]].concat());
    let mut row = house.world.store.operation(stuck).await.expect("an operation");
    row.journal.moved_at = Some(OffsetDateTime::now_utc() + Duration::from_secs(60));
    let moved = Some(OperationWrite::Update(Box::new(row)));
    house.world.store.commit(Change { operation: moved, ..Change::default() }).await.expect("written");
    same(&findings(&house.looker).await, &[&broken[..], &[of(unlocked)]].concat());
    owner.end().await;
}

pub(crate) async fn a_check_finds_what_memory_shows_otherwise(on: Db) {
    let house = house(on).await;
    (house.sql)(&format!(
        "UPDATE vms SET document = replace(document, '\"name\":\"one\"', '\"name\":\"uno\"') WHERE id = '{}'",
        house.one.id
    ));
    (house.sql)(&format!("DELETE FROM statuses WHERE vm_id = '{}'", house.two.id));
    let differs = |subject: String| (Kind::InventoryDiffers, subject);
    let expected = [differs(format!("vm:{}", house.one.id)), differs(format!("status:{}", house.two.id))];
    same(&findings(&house.looker).await, &expected);
    let fresh = house.world.passive().await;
    assert_eq!(findings(&fresh).await, [], "another process has read what is there");
}

pub(crate) async fn a_check_finds_quotas_that_do_not_add_up(on: Db) {
    let house = house(on).await;
    (house.sql)(&format!("UPDATE owners SET used_disk_gib = used_disk_gib + 1 WHERE id = '{}'", house.one.owner));
    (house.sql)(&format!("UPDATE hosts SET used_memory_mib = 0 WHERE id = '{}'", house.host()));
    let owner = format!("owner:{}", house.one.owner);
    let wrong = [(Kind::QuotaDiffers, owner), (Kind::QuotaDiffers, format!("host:{}", house.host()))];
    same(&findings(&house.looker).await, &wrong);
}

/// Every file below `dir` with its bytes and its time.
fn tree(dir: &Path) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let entries = std::fs::read_dir(dir).expect("read a directory");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("read a directory").path()).collect();
    paths.sort();
    let file = |path: PathBuf| {
        let modified = path.metadata().and_then(|metadata| metadata.modified()).expect("a time");
        vec![(path.clone(), std::fs::read(path).expect("read a file"), modified)]
    };
    paths.into_iter().flat_map(|path| if path.is_dir() { tree(&path) } else { file(path) }).collect()
}

/// The whole Store, as far as it can be asked.
async fn dump(house: &House) -> String {
    let store = &house.world.store;
    let page = || PageRequest::first(1000).expect("a page");
    let mut text = format!("{:#?}", store.snapshot().await.expect("a snapshot"));
    text += &format!("{:#?}", store.events_after(0, 10_000).await.expect("events"));
    text += &format!("{:#?}", store.volumes(house.host()).await.expect("volumes"));
    text += &format!("{:#?}", store.locks().await.expect("locks"));
    text += &format!("{:#?}", store.leases().await.expect("leases"));
    text += &format!("{:#?}", store.audit(&AuditQuery::default(), page()).await.expect("the audit"));
    for operation in store.operations(&OperationQuery::default()).await.expect("operations").items {
        text += &format!("{:#?}", store.operation(operation.id).await.expect("an operation"));
    }
    text
}

pub(crate) async fn a_check_changes_nothing(on: Db) {
    let house = house(on).await;
    let sim = &house.sim;
    let mark = Mark { install: house.install().await, operation: OperationId::generate() };
    let late = VmId::generate();
    sim.create_definition(&house.definition(late, mark)).await.expect("defined");
    house.volume(&house.row(None)).await;
    house.operation(house.one.id, Vec::new()).await;
    let incoming = house.world.images_dir().join("incoming").join(Uuid::now_v7().to_string());
    std::fs::write(&incoming, "a part").expect("written");
    let file = std::fs::File::options().write(true).open(&incoming).expect("opened");
    file.set_modified(SystemTime::now() - Duration::from_secs(48 * 3600)).expect("set");
    let definitions =
        || [house.one.id, house.two.id, late].map(|id| sim.outside().definition(id).expect("a definition"));

    let before = (dump(&house).await, tree(house.world.images_dir()), definitions());
    sim.clear_calls();
    // A process of its own does it, from its start to its end.
    let looker = house.world.passive().await;
    assert_eq!(findings(&looker).await.len(), 4);
    looker.crash().await;
    let reads = [Method::List, Method::ListVolumes, Method::HostInfo, Method::ListNetworks];
    for call in sim.calls() {
        assert!(reads.contains(&call.method), "{call:?}");
    }
    assert!(before.0 == dump(&house).await, "the Store was changed");
    assert!(before.1 == tree(house.world.images_dir()) && before.2 == definitions());
}

pub(crate) async fn what_is_at_work_is_no_finding(on: Db) {
    let house = house(on).await;
    let owner = house.world.limen(Script::new(Vec::new())).await;
    eventually("the host is up", || async { owner.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;

    // Held in the middle: a create without its volumes, a delete without its definition.
    house.sim.clear_calls();
    house.sim.inject(On::method(Method::CreateVolume), Fault::Hangs(None));
    house.sim.inject(On::method(Method::RemoveVolume), Fault::Hangs(None));
    let created = owner.create_vm(&ctx(), blank("three")).await;
    let deleted = owner.delete_vm(&ctx(), house.one.id, None).await;
    let held = || house.sim.calls_of(Method::CreateVolume) > 0 && house.sim.calls_of(Method::RemoveVolume) > 0;
    eventually("both are held", || async { held() }).await;
    for limen in [&owner, &house.looker] {
        assert_eq!(findings(limen).await, []);
    }
    house.sim.release();
    succeeded(&owner, created).await;
    succeeded(&owner, deleted).await;

    // Coming and going as fast as they can.
    let over = Arc::new(AtomicBool::new(false));
    let mut busy = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (owner, over) = (owner.clone(), Arc::clone(&over));
        busy.spawn(async move {
            let mut turns = 0;
            while !over.load(Ordering::Relaxed) {
                let id = create(&owner, blank(&format!("busy-{number}"))).await;
                for action in [PowerAction::Start, PowerAction::PowerOff] {
                    succeeded(&owner, owner.change_power(&ctx(), id, action, None).await).await;
                }
                succeeded(&owner, owner.delete_vm(&ctx(), id, None).await).await;
                turns += 1;
            }
            turns
        });
    }
    for _ in 0..5 {
        for limen in [&owner, &house.looker] {
            assert_eq!(findings(limen).await, []);
        }
    }
    over.store(true, Ordering::Relaxed);
    while let Some(turns) = busy.join_next().await {
        assert!(turns.expect("no panic") > 0);
    }
    let two = owner.get_vm(&ctx(), house.two.id).await.expect("a VM");
    assert_eq!(two.vm.status.state, VmState::Running);
    assert_eq!(findings(&owner).await, []);
}
