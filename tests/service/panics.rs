//! A panic is a defect: it is noticed, and everything else goes on, the work that it hit as well.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use limen_core::Result;
use limen_core::hypervisor::sim::{Fault, Method, On, SimHypervisor};
use limen_core::model::*;
use limen_core::service::{Fault as StepFault, FaultPoint, Moment};
use limen_core::store::*;
use limen_core::{ErrorKind, Limen, Secret};
use limen_support::world::{Script, World, blank, ended, succeeded};
use time::OffsetDateTime;

use crate::{Db, Rig, ctx, eventually, rig, state, store};

pub(crate) async fn a_panic_ends_no_work(on: Db) {
    let Rig { limen, sim, world, _postgres, .. } = rig(on).await;
    // A step that can be taken back is.
    for method in [Method::CreateVolume, Method::CreateDefinition] {
        sim.inject(On::method(method), Fault::Panics);
        let operation = limen.create_vm(&ctx(), blank("lost")).await.expect("it is recorded");
        let operation = ended(&limen, &operation).await;
        assert_eq!(operation.error.map(|error| error.code), Some(ErrorKind::Internal), "{method:?}");
        world.agrees(&limen, "a panic in a step").await;
    }
    // An undo is tried again, and so is what can only go forward.
    sim.inject(On::method(Method::CreateDefinition), Fault::NoSpace);
    sim.inject(On::method(Method::RemoveVolume), Fault::Panics);
    let operation = limen.create_vm(&ctx(), blank("undone")).await.expect("it is recorded");
    assert_eq!(ended(&limen, &operation).await.error.map(|error| error.code), Some(ErrorKind::NoSpace));
    let id = succeeded(&limen, limen.create_vm(&ctx(), blank("kept")).await).await.vm_id.expect("a VM");
    sim.inject(On::method(Method::RemoveDefinition), Fault::Panics);
    succeeded(&limen, limen.delete_vm(&ctx(), id, None).await).await;
    world.agrees(&limen, "panics in an undo and a delete").await;
    limen.crash().await;

    // So is the end of an operation, whichever it is, and the code around the steps.
    let point = |step, moment| FaultPoint { kind: OperationKind::CreateVm, step, moment };
    let broken = (point("define", Moment::BeforeForward), StepFault::Fail(ErrorKind::NoSpace));
    let panics = |at| (at, StepFault::Panic);
    for (faults, ends) in [
        (vec![panics(point("finish", Moment::BeforeForward))], OperationState::Succeeded),
        (vec![broken.clone(), panics(point("create_volumes", Moment::BeforeUndo))], OperationState::Failed),
        (vec![broken, panics(point("end_undo", Moment::BeforeUndo))], OperationState::Failed),
    ] {
        let script = Script::new(faults);
        let limen = reached(&world, Arc::clone(&script)).await;
        let name = format!("vm-{}", uuid::Uuid::new_v4().simple());
        let operation = limen.create_vm(&ctx(), blank(&name)).await.expect("it is recorded");
        assert_eq!(ended(&limen, &operation).await.state, ends);
        assert!(script.left().is_empty(), "{:?}", script.left());
        world.agrees(&limen, "a panic around the steps").await;
        limen.crash().await;
    }
}

/// A process that has heard of its host.
async fn reached(world: &World, script: Arc<Script>) -> Limen {
    let limen = world.limen(script).await;
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    limen
}

pub(crate) async fn a_panic_ends_no_task(on: Db) {
    let (store, _postgres) = store(on).await;
    let store = Arc::new(Tripwire { store, armed: Mutex::default() });
    let sim = SimHypervisor::new();
    let mut world = World::new(Arc::new(sim.clone()), Arc::clone(&store) as Arc<dyn Store>);
    world.timings.info = Duration::from_millis(100);
    // The process that lost its tasks is its own successor.
    world.holder = Some("the only one");
    let limen = reached(&world, Script::new(Vec::new())).await;
    let id = succeeded(&limen, limen.create_vm(&ctx(), blank("watched")).await).await.vm_id.expect("a VM");

    // A look at the host: the next one sees.
    sim.inject(On::method(Method::List), Fault::Panics);
    sim.inject(On::method(Method::Get), Fault::Panics);
    sim.outside().start(id).expect("started behind LIMEN's back");
    eventually("it is seen", || async { state(&limen, id).await == VmState::Running }).await;
    let calls = sim.calls_of(Method::HostInfo);
    sim.inject(On::method(Method::HostInfo), Fault::Panics);
    eventually("the host is asked again", || async { sim.calls_of(Method::HostInfo) > calls + 2 }).await;

    // The owner's heart, what follows the log, what drives an operation, what writes of the host.
    for method in ["renew_lease", "events_after", "operation", "commit", "lease"] {
        store.arm(method);
        sim.outside().destroy(id).expect("destroyed behind LIMEN's back");
        let name = format!("vm-{}", uuid::Uuid::new_v4().simple());
        // Where it is the caller who meets it, the caller is told.
        let operation = match limen.create_vm(&ctx(), blank(&name)).await {
            Err(error) if error.kind() == ErrorKind::Internal => limen.create_vm(&ctx(), blank(&name)).await,
            other => other,
        };
        succeeded(&limen, operation).await;
        eventually("it is seen", || async { state(&limen, id).await == VmState::ShutOff }).await;
        if method != "lease" {
            eventually("the wire was tripped", || async { store.armed.lock().expect("no poison").is_none() }).await;
        }
        sim.outside().start(id).expect("started behind LIMEN's back");
        eventually("it is seen", || async { state(&limen, id).await == VmState::Running }).await;
        world.agrees(&limen, method).await;
    }
    limen.crash().await;
}

/// A Store that panics once, at the next call of the method that it is armed for.
#[derive(Debug)]
struct Tripwire {
    store: Arc<dyn Store>,
    armed: Mutex<Option<&'static str>>,
}

impl Tripwire {
    fn arm(&self, method: &'static str) {
        *self.armed.lock().expect("no poison") = Some(method);
    }

    fn step_on(&self, method: &str) {
        let hit = self.armed.lock().expect("no poison").take_if(|armed| *armed == method);
        assert!(hit.is_none(), "a panic was asked for in {method}");
    }
}

macro_rules! watched {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)+) => {
        #[async_trait]
        impl Store for Tripwire {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                self.step_on(stringify!($name));
                self.store.$name($($argument),*).await
            })+
        }
    };
}

watched! {
    install() -> Result<Install>;
    witness() -> Result<Witness>;
    judge(witness: &Witness, host: &str, audit: AuditRecord) -> Result<Option<Restore>>;
    commit(change: Change) -> Result<Committed>;
    snapshot() -> Result<Snapshot>;
    events_after(after: EventNumber, limit: u32) -> Result<EventBatch>;
    changed(after: EventNumber, at_most: Duration) -> ();
    operation(id: OperationId) -> Result<OperationRow>;
    operations(query: &OperationQuery) -> Result<Page<Operation>>;
    unfinished(host: HostId) -> Result<Vec<OperationRow>>;
    volume_maker(volume: VolumeId) -> Result<Option<OperationId>>;
    locks() -> Result<Vec<(String, OperationId)>>;
    volumes(host: HostId) -> Result<Vec<VolumeRecord>>;
    remembered(scope: &str, key: &str) -> Result<Option<(String, OperationId)>>;
    audit(query: &AuditQuery, page: PageRequest) -> Result<Page<AuditRecord>>;
    ticket(hash: &str) -> Result<Option<TicketRecord>>;
    password_hash(name: &str) -> Result<Option<(UserId, Secret)>>;
    lease(host: HostId) -> Result<Lease>;
    leases() -> Result<Vec<Lease>>;
    take_lease(seen: &Lease, holder: &str) -> Result<Option<Lease>>;
    renew_lease(lease: &Lease, observed_at: Option<OffsetDateTime>) -> Result<Option<Lease>>;
    release_lease(lease: &Lease) -> Result<()>;
    prune(retention: &Retention, now: OffsetDateTime) -> Result<BTreeMap<String, u64>>;
    ping() -> Result<()>;
    close() -> ();
}
