//! A host and a Store that outlive the [`Limen`] on them, the faults that a test scripts for it,
//! and the judge of what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use limen_core::authz::AllowAll;
use limen_core::model::{
    CreateDisk, CreateVm, DiskMode, Image, ImageFormat, ImageId, Operation, OperationState, PageRequest, PowerAction,
    UpdateVm, VmId, VmState,
};
use limen_core::service::{AddImage, Fault, FaultPlan, FaultPoint, HostConfig, HostReserve, Moment, Timings, VmQuery};
use limen_core::testing::store::miscounted;
use limen_core::{Context, Hypervisor, Limen, Store};
use tokio::sync::watch;

use crate::journal;

/// What a test wants to happen, each once, and what was reached.
#[derive(Debug)]
pub struct Script {
    faults: Mutex<Vec<(FaultPoint, Fault)>>,
    reached: Mutex<Vec<FaultPoint>>,
    crashed: watch::Sender<bool>,
}

impl Script {
    /// These faults, each at the first time that its point is reached.
    pub fn new(faults: Vec<(FaultPoint, Fault)>) -> Arc<Self> {
        Arc::new(Self { faults: Mutex::new(faults), reached: Mutex::default(), crashed: watch::Sender::new(false) })
    }

    /// Returns once a crash was reached.
    pub async fn crashed(&self) {
        let mut crashed = self.crashed.subscribe();
        crashed.wait_for(|crashed| *crashed).await.expect("the script outlives its watchers");
    }

    /// The faults that were not reached.
    pub fn left(&self) -> Vec<(FaultPoint, Fault)> {
        self.faults.lock().expect("no poison").clone()
    }

    /// Every point that was reached, in order.
    pub fn reached(&self) -> Vec<FaultPoint> {
        self.reached.lock().expect("no poison").clone()
    }
}

impl FaultPlan for Script {
    fn at(&self, point: &FaultPoint) -> Fault {
        self.reached.lock().expect("no poison").push(point.clone());
        let mut faults = self.faults.lock().expect("no poison");
        let Some(index) = faults.iter().position(|(at, _)| at == point) else { return Fault::None };
        let (_, fault) = faults.remove(index);
        if fault == Fault::Crash {
            self.crashed.send_replace(true);
        }
        fault
    }
}

/// Short enough for hundreds of crashes in a test run.
pub const QUICK: Timings = Timings {
    beat: Duration::from_millis(60),
    lease: Duration::from_millis(600),
    refresh: Duration::from_millis(100),
    stale: Duration::from_secs(5),
    sample: Duration::from_millis(500),
    info: Duration::from_secs(1),
    host_patience: Duration::from_secs(5),
    progress: Duration::from_millis(20),
    volumes: Duration::from_millis(200),
    show: Duration::from_secs(20),
    prune: Duration::from_secs(3600),
    stuck: Duration::from_secs(120),
    mark: Duration::from_millis(300),
    refusals: Duration::from_millis(100),
    fold: Duration::from_secs(60),
};

/// A host and a Store.
#[derive(Debug)]
pub struct World {
    /// The host.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// The Store.
    pub store: Arc<dyn Store>,
    /// What VMs leave of the host.
    pub reserve: HostReserve,
    /// Timings of each [`Limen`] on them.
    pub timings: Timings,
    /// The name of each, where one follows another; a name of its own for each without it.
    pub holder: Option<&'static str>,
    images: tempfile::TempDir,
}

impl World {
    /// A world with no images yet.
    pub fn new(hypervisor: Arc<dyn Hypervisor>, store: Arc<dyn Store>) -> Self {
        let images = tempfile::tempdir().expect("make a directory");
        Self { hypervisor, store, reserve: HostReserve::default(), timings: QUICK, holder: None, images }
    }

    /// A new process, so to speak, with these faults before it.
    pub async fn limen(&self, script: Arc<Script>) -> Limen {
        journal::keep();
        let builder = match self.holder {
            Some(holder) => Limen::builder().holder(holder),
            None => Limen::builder(),
        };
        builder
            .store(Arc::clone(&self.store))
            .authz(Arc::new(AllowAll))
            .host(HostConfig::new("host", "test:", Arc::clone(&self.hypervisor)))
            .images(self.images.path())
            .timings(self.timings)
            .reserve(self.reserve)
            .faults(script)
            .build()
            .await
            .expect("build a Limen")
    }

    /// A process that only looks.
    pub async fn passive(&self) -> Limen {
        let builder = Limen::builder().store(Arc::clone(&self.store)).authz(Arc::new(AllowAll));
        let host = HostConfig::new("host", "test:", Arc::clone(&self.hypervisor));
        let builder = builder.host(host).images(self.images.path()).timings(self.timings).passive();
        builder.build().await.expect("build a Limen")
    }

    /// Where the files of images are.
    pub fn images_dir(&self) -> &std::path::Path {
        self.images.path()
    }

    /// Everything that does not agree: Store, host, files and what the inventory shows.
    pub async fn disagreements(&self, limen: &Limen) -> Vec<String> {
        let ctx = Context::local();
        let mut found = Vec::new();
        let operations = limen.list_operations(&ctx, None, PageRequest::default()).await.expect("list operations");
        for operation in operations.items.iter().filter(|operation| !operation.state.is_finished()) {
            found.push(format!("operation {} {:?} is {:?}", operation.id, operation.kind, operation.state));
        }
        let snapshot = self.store.snapshot().await.expect("read the Store");
        let recorded: BTreeSet<VmId> = snapshot.vms.iter().map(|vm| vm.id).collect();
        let on_host = self.hypervisor.list().await.expect("list the host");
        let defined: BTreeSet<VmId> = on_host.iter().filter(|vm| vm.mark.is_some()).map(|vm| vm.id).collect();
        found.extend(defined.difference(&recorded).map(|id| format!("VM {id} is on the host without a record")));
        found.extend(recorded.difference(&defined).map(|id| format!("VM {id} has a record and is not on the host")));
        let shown = vms(limen).await;
        for vm in &on_host {
            let state = shown.get(&vm.id).map(|(state, _)| state.as_str());
            if state != Some(vm.state.as_str()) {
                found.push(format!("VM {} is {:?} and shown as {state:?}", vm.id, vm.state));
            }
        }
        let present: BTreeSet<VmId> = on_host.iter().map(|vm| vm.id).collect();
        let gone = shown.keys().filter(|id| !present.contains(id) && !recorded.contains(id));
        found.extend(gone.map(|id| format!("VM {id} is shown and neither on the host nor recorded")));
        found.extend(miscounted(&snapshot));
        let host = limen.list_hosts(&ctx).await.expect("list hosts")[0].id;
        let rows = self.store.volumes(host).await.expect("read the volumes");
        let recorded: BTreeSet<_> = rows.iter().map(|volume| volume.id).collect();
        let held = self.hypervisor.list_volumes().await.expect("list the volumes");
        let held: BTreeSet<_> = held.iter().map(|volume| volume.volume.id).collect();
        found.extend(held.difference(&recorded).map(|id| format!("volume {id} is on the host without a record")));
        found.extend(recorded.difference(&held).map(|id| format!("volume {id} has a record and is not on the host")));
        found.extend(rows.iter().filter(|row| !row.filled).map(|row| format!("volume {} is not filled", row.id)));
        let images: BTreeSet<String> = snapshot.images.iter().map(|image| image.id.to_string()).collect();
        let files: BTreeSet<String> = std::fs::read_dir(self.images.path())
            .expect("read the images")
            .chain(std::fs::read_dir(self.images.path().join("incoming")).expect("read the images"))
            .map(|entry| entry.expect("read the images").file_name().to_string_lossy().into_owned())
            .filter(|name| name != "incoming")
            .collect();
        if images != files {
            found.push(format!("images are {images:?} and files {files:?}"));
        }
        found
    }

    /// Waits until nothing disagrees any more.
    ///
    /// # Panics
    /// When something still does after ten seconds.
    pub async fn agrees(&self, limen: &Limen, after: &str) {
        let mut found = Vec::new();
        for _ in 0..100 {
            found = self.disagreements(limen).await;
            if found.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("after {after}: {found:#?}");
    }
}

/// All VMs that are shown: state and name by id.
pub async fn vms(limen: &Limen) -> BTreeMap<VmId, (String, String)> {
    let page = PageRequest::first(1000).expect("a page");
    let page = limen.list_vms(&Context::local(), &VmQuery::default(), page).await.expect("list VMs");
    let vms = page.vms.iter().map(|listed| &listed.vm);
    vms.map(|vm| (vm.id, (vm.status.state.as_str().to_owned(), vm.name.clone()))).collect()
}

/// Waits for an operation to end.
pub async fn ended(limen: &Limen, operation: &Operation) -> Operation {
    let ctx = Context::local();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let operation = limen
            .wait_operation(&ctx, operation.id, Duration::from_secs(1))
            .await
            .expect("an operation can be waited for");
        if operation.state.is_finished() {
            return operation;
        }
        // A `Limen` that stops, or was crashed, answers without waiting.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let operation = limen.get_operation(&ctx, operation.id).await.expect("an operation can be read");
    panic!("it did not end in a minute: {operation:#?}\n{}", journal::last());
}

/// Ends well.
pub async fn succeeded(limen: &Limen, operation: limen_core::Result<Operation>) -> Operation {
    let operation = ended(limen, &operation.expect("an operation is recorded")).await;
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
    operation
}

/// Every way in which an operation can go, as the crash matrix takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// A blank disk, started.
    CreateBlank,
    /// A full copy, a linked disk and an ISO.
    CreateFromImages,
    /// Of a running VM with disks.
    Delete,
    /// `start`.
    Start,
    /// `power_off`.
    PowerOff,
    /// `save`.
    Save,
    /// `reset`.
    Reset,
    /// `shutdown` of a guest that obeys.
    Shutdown,
    /// `reboot` of a guest that obeys.
    Reboot,
    /// Everything that an update can change.
    Update,
    /// An ISO.
    AddImage,
    /// An image with a copy on the host.
    DeleteImage,
}

/// What a scenario begins with.
#[derive(Debug, Clone, Copy)]
pub struct Subject {
    vm: Option<VmId>,
    image: Option<ImageId>,
    iso: Option<ImageId>,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Scenario; 12] = [
        Scenario::CreateBlank,
        Scenario::CreateFromImages,
        Scenario::Delete,
        Scenario::Start,
        Scenario::PowerOff,
        Scenario::Save,
        Scenario::Reset,
        Scenario::Shutdown,
        Scenario::Reboot,
        Scenario::Update,
        Scenario::AddImage,
        Scenario::DeleteImage,
    ];

    /// The row of `limen_core::service::operation_steps` that it takes.
    pub fn row(self) -> &'static str {
        match self {
            Scenario::CreateBlank | Scenario::CreateFromImages => "create_vm",
            Scenario::Delete => "delete_vm",
            Scenario::Start | Scenario::PowerOff | Scenario::Save => "change_power",
            Scenario::Reset => "change_power reset",
            Scenario::Shutdown => "change_power shutdown",
            Scenario::Reboot => "change_power reboot",
            Scenario::Update => "update_vm",
            Scenario::AddImage => "add_image",
            Scenario::DeleteImage => "delete_image",
        }
    }

    /// Makes what the scenario begins with.
    pub async fn prepare(self, limen: &Limen) -> Subject {
        let ctx = Context::local();
        let mut subject = Subject { vm: None, image: None, iso: None };
        if matches!(self, Scenario::CreateFromImages | Scenario::DeleteImage) {
            subject.image = Some(add_image(limen, "disk", ImageFormat::Raw).await.id);
            subject.iso = Some(add_image(limen, "media", ImageFormat::Iso).await.id);
        }
        if self == Scenario::DeleteImage {
            // A VM that came and went leaves a copy of the image on the host.
            let vm = succeeded(limen, limen.create_vm(&ctx, from_images(subject)).await).await.vm_id;
            succeeded(limen, limen.delete_vm(&ctx, vm.expect("a VM"), None).await).await;
        }
        let needs_vm = !matches!(
            self,
            Scenario::CreateBlank | Scenario::CreateFromImages | Scenario::AddImage | Scenario::DeleteImage
        );
        if needs_vm {
            let create = CreateVm { start: self != Scenario::Start, ..blank("subject") };
            subject.vm = succeeded(limen, limen.create_vm(&ctx, create).await).await.vm_id;
        }
        subject
    }

    /// Asks for the operation.
    pub async fn ask(self, limen: &Limen, subject: Subject) -> limen_core::Result<Operation> {
        let ctx = Context::local();
        let vm = || subject.vm.expect("the scenario has a VM");
        let power = |action| limen.change_power(&ctx, vm(), action, Some(30));
        match self {
            Scenario::CreateBlank => limen.create_vm(&ctx, CreateVm { start: true, ..blank("new") }).await,
            Scenario::CreateFromImages => limen.create_vm(&ctx, from_images(subject)).await,
            Scenario::Delete => limen.delete_vm(&ctx, vm(), None).await,
            Scenario::Start => power(PowerAction::Start).await,
            Scenario::PowerOff => power(PowerAction::PowerOff).await,
            Scenario::Save => power(PowerAction::Save).await,
            Scenario::Reset => power(PowerAction::Reset).await,
            Scenario::Shutdown => power(PowerAction::Shutdown).await,
            Scenario::Reboot => power(PowerAction::Reboot).await,
            Scenario::Update => limen.update_vm(&ctx, vm(), update(), None).await,
            Scenario::AddImage => {
                let add = AddImage { name: "added".to_owned(), format: ImageFormat::Iso };
                limen.add_image(&ctx, add, Box::new(std::io::Cursor::new(iso_bytes()))).await
            }
            Scenario::DeleteImage => limen.delete_image(&ctx, subject.image.expect("an image")).await,
        }
    }

    /// Whether the effect of a success is to be seen.
    pub async fn is_done(self, limen: &Limen, subject: Subject) -> bool {
        let shown = vms(limen).await;
        let named = |name: &str| shown.values().find(|(_, found)| found == name).map(|(state, _)| state.clone());
        let state = || shown.get(&subject.vm.expect("a VM")).map(|(state, _)| state.clone());
        let is = |state: VmState| Some(state.as_str().to_owned());
        match self {
            Scenario::CreateBlank => named("new") == is(VmState::Running),
            Scenario::CreateFromImages => named("new") == is(VmState::ShutOff),
            Scenario::Delete => state().is_none(),
            Scenario::Start | Scenario::Reset | Scenario::Reboot => state() == is(VmState::Running),
            Scenario::PowerOff | Scenario::Shutdown => state() == is(VmState::ShutOff),
            Scenario::Save => state() == is(VmState::Saved),
            Scenario::Update => named("renamed").is_some(),
            Scenario::AddImage => image_named(limen, "added").await.is_some(),
            Scenario::DeleteImage => image_named(limen, "disk").await.is_none(),
        }
    }
}

async fn image_named(limen: &Limen, name: &str) -> Option<Image> {
    let images = limen.list_images(&Context::local(), PageRequest::default()).await.expect("list images");
    images.items.into_iter().find(|image| image.name == name)
}

/// Adds a small image.
pub async fn add_image(limen: &Limen, name: &str, format: ImageFormat) -> Image {
    let bytes = if format == ImageFormat::Iso { iso_bytes() } else { vec![0x5a; 1 << 20] };
    let add = AddImage { name: name.to_owned(), format };
    let operation = limen.add_image(&Context::local(), add, Box::new(std::io::Cursor::new(bytes))).await;
    succeeded(limen, operation).await;
    image_named(limen, name).await.expect("an added image is listed")
}

/// As little as passes for an ISO 9660 image.
pub fn iso_bytes() -> Vec<u8> {
    let mut bytes = vec![0_u8; 64 * 1024];
    bytes[32769..32774].copy_from_slice(b"CD001");
    bytes
}

/// A VM with one blank disk.
pub fn blank(name: &str) -> CreateVm {
    let disks = vec![CreateDisk { size_gib: Some(1), ..CreateDisk::default() }];
    CreateVm { disks, ..bare(name) }
}

/// A VM with nothing but a CPU and memory.
pub fn bare(name: &str) -> CreateVm {
    serde_json::from_value(serde_json::json!({ "name": name, "vcpus": 1, "memory_mib": 64 })).expect("a create")
}

fn from_images(subject: Subject) -> CreateVm {
    let disk = |mode| CreateDisk { image: subject.image, mode: Some(mode), ..CreateDisk::default() };
    CreateVm { disks: vec![disk(DiskMode::Full), disk(DiskMode::Linked)], iso: subject.iso, ..bare("new") }
}

fn update() -> UpdateVm {
    UpdateVm {
        name: Some("renamed".to_owned()),
        description: Some("바뀐 설명".to_owned()),
        labels: Some(BTreeMap::from([("환경".to_owned(), "운영".to_owned())])),
        autostart: Some(true),
        vcpus: Some(2),
        memory_mib: Some(128),
    }
}

/// The points around a step, forward.
pub fn forward(point: &FaultPoint) -> [FaultPoint; 2] {
    [Moment::BeforeForward, Moment::AfterForward].map(|moment| FaultPoint { moment, ..point.clone() })
}

/// The points around a step's undo.
pub fn back(point: &FaultPoint) -> [FaultPoint; 2] {
    [Moment::BeforeUndo, Moment::AfterUndo].map(|moment| FaultPoint { moment, ..point.clone() })
}
