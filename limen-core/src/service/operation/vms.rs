//! The steps of the operations on VMs.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};

use super::runner::{Bytes, StepContext};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{ByteSource, DefinitionChange, Mark, VmDefinition, VolumeRef, VolumeSpec};
use crate::model::{ImageId, PowerAction, UpdateVm, VmId, VmPhase, VmRecord, VmState};
use crate::service::Shared;
use crate::store::{Expect, Row};

/// A volume of a VM to be made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlannedVolume {
    pub(crate) volume: VolumeSpec,
    /// The image whose bytes are copied into it.
    pub(crate) fill: Option<ImageId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreatePlan {
    pub(crate) record: VmRecord,
    pub(crate) mark: Mark,
    pub(crate) volumes: Vec<PlannedVolume>,
    /// Images that must have a copy on the host: under linked disks, in the drive.
    pub(crate) images: Vec<ImageId>,
    pub(crate) start: bool,
}

pub(super) async fn create_volumes(cx: &StepContext) -> Result<Value> {
    for planned in cx.plan::<CreatePlan>()?.volumes {
        cx.hypervisor().await.create_volume(&planned.volume).await?;
    }
    Ok(Value::Null)
}

pub(super) async fn remove_new_volumes(cx: &StepContext) -> Result<Value> {
    for planned in cx.plan::<CreatePlan>()?.volumes {
        cx.hypervisor().await.remove_volume(volume_ref(&planned.volume)).await?;
    }
    Ok(Value::Null)
}

fn volume_ref(volume: &VolumeSpec) -> VolumeRef {
    VolumeRef { id: volume.id, format: volume.format }
}

/// Whether a VM whose creation was held was made in the time that was lost: a definition is made of
/// volumes that are filled, and its guest may have written to them since.
pub(super) async fn is_made_already(cx: &StepContext) -> Result<bool> {
    if !cx.resumed {
        return Ok(false);
    }
    let plan: CreatePlan = cx.plan()?;
    match cx.hypervisor().await.get(plan.record.id).await {
        Ok(found) => Ok(found.mark == Some(plan.mark)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) async fn fill_volumes(cx: &StepContext) -> Result<Value> {
    if is_made_already(cx).await? {
        return Ok(Value::Null);
    }
    let volumes = cx.plan::<CreatePlan>()?.volumes;
    let fills = volumes.iter().filter_map(|planned| planned.fill.map(|image| (&planned.volume, image)));
    for (volume, image) in fills {
        let (file, length) = cx.shared.images()?.open(image).await?;
        let source = counted(cx, file, length);
        cx.hypervisor().await.write_volume(volume_ref(volume), source, length).await?;
        cx.hypervisor().await.resize_volume(volume_ref(volume), volume.capacity_bytes).await?;
    }
    Ok(Value::Null)
}

/// Counts what is read for the progress of the operation, and lets nothing be read unless the lease
/// is fresh: a process that stood still must not write into a disk that is another's to fill.
pub(super) fn counted(cx: &StepContext, source: impl AsyncRead + Send + Unpin + 'static, length: u64) -> ByteSource {
    cx.bytes.total.fetch_add(length, Ordering::Relaxed);
    let (ownership, shared) = (cx.ownership.clone(), Arc::clone(&cx.shared));
    let fresh = move || -> BoxFuture<'static, ()> {
        let (ownership, shared) = (ownership.clone(), Arc::clone(&shared));
        Box::pin(async move { ownership.fresh(&shared).await })
    };
    Box::new(Counted { source, bytes: Arc::clone(&cx.bytes), turn: fresh(), fresh })
}

struct Counted<R, F> {
    source: R,
    bytes: Arc<Bytes>,
    /// Ends when the next part may be read.
    turn: BoxFuture<'static, ()>,
    fresh: F,
}

impl<R: AsyncRead + Unpin, F: Fn() -> BoxFuture<'static, ()> + Unpin> AsyncRead for Counted<R, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.turn.as_mut().poll(cx));
        this.turn = (this.fresh)();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.source).poll_read(cx, buf);
        this.bytes.done.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        poll
    }
}

fn definition(plan: &CreatePlan) -> VmDefinition {
    let record = &plan.record;
    VmDefinition {
        id: record.id,
        mark: plan.mark,
        owner: record.owner,
        name: record.name.clone(),
        labels: record.labels.clone(),
        spec: record.spec.clone(),
        autostart: record.autostart,
    }
}

pub(super) async fn define(cx: &StepContext) -> Result<Value> {
    let plan: CreatePlan = cx.plan()?;
    cx.hypervisor().await.create_definition(&definition(&plan)).await?;
    cx.look_at(plan.record.id).await?;
    Ok(Value::Null)
}

/// Removes the definition where it is this operation's; another one's is left as it is.
pub(super) async fn undefine(cx: &StepContext) -> Result<Value> {
    let plan: CreatePlan = cx.plan()?;
    match cx.hypervisor().await.get(plan.record.id).await {
        Ok(found) if found.mark != Some(plan.mark) => return Ok(Value::Null),
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    cx.hypervisor().await.remove_definition(plan.record.id).await?;
    cx.look_at(plan.record.id).await?;
    Ok(Value::Null)
}

pub(super) async fn start_new(cx: &StepContext) -> Result<Value> {
    let plan: CreatePlan = cx.plan()?;
    if plan.start {
        cx.hypervisor().await.change_power(plan.record.id, PowerAction::Start).await?;
        cx.look_at(plan.record.id).await?;
    }
    Ok(Value::Null)
}

pub(super) async fn created(cx: &StepContext) -> Result<Vec<Row>> {
    let CreatePlan { record, volumes, .. } = cx.plan()?;
    let mut rows = Vec::with_capacity(volumes.len() + 1);
    for mut volume in super::super::vms::volume_rows(cx.operation.id, &record) {
        volume.filled = true;
        rows.push(Row::Volume(volume));
    }
    let expect = Expect::Version(record.version);
    let record =
        VmRecord { phase: VmPhase::Defined, version: record.version + 1, updated_at: cx.shared.clock.now(), ..record };
    rows.push(Row::Vm { record: Box::new(record), expect });
    Ok(rows)
}

pub(super) async fn not_created(cx: &StepContext) -> Result<Vec<Row>> {
    let plan: CreatePlan = cx.plan()?;
    let volumes = plan.volumes.iter().map(|planned| Row::VolumeGone(planned.volume.id));
    Ok(volumes.chain([Row::VmGone(plan.record.id)]).collect())
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeletePlan {
    pub(crate) vm: VmId,
    pub(crate) volumes: Vec<VolumeRef>,
}

pub(super) async fn remove_definition(cx: &StepContext) -> Result<Value> {
    let plan: DeletePlan = cx.plan()?;
    cx.hypervisor().await.remove_definition(plan.vm).await?;
    cx.look_at(plan.vm).await?;
    Ok(Value::Null)
}

pub(super) async fn remove_volumes(cx: &StepContext) -> Result<Value> {
    for volume in cx.plan::<DeletePlan>()?.volumes {
        cx.hypervisor().await.remove_volume(volume).await?;
    }
    Ok(Value::Null)
}

pub(super) async fn deleted(cx: &StepContext) -> Result<Vec<Row>> {
    let plan: DeletePlan = cx.plan()?;
    let volumes = plan.volumes.iter().map(|volume| Row::VolumeGone(volume.id));
    Ok(volumes.chain([Row::VmGone(plan.vm)]).collect())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PowerPlan {
    pub(crate) vm: VmId,
    pub(crate) action: PowerAction,
    /// How long the guest may take, in seconds.
    pub(crate) timeout_s: u32,
}

pub(super) async fn apply_power(cx: &StepContext) -> Result<Value> {
    let plan: PowerPlan = cx.plan()?;
    if let Err(error) = cx.hypervisor().await.change_power(plan.vm, plan.action).await {
        let for_its_disks = matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Internal | ErrorKind::NotFound);
        let why = if for_its_disks && plan.action == PowerAction::Start { lost_disk(cx, plan.vm).await } else { None };
        return Err(why.map_or(error, |text| Error::new(ErrorKind::Conflict, text)));
    }
    cx.look_at(plan.vm).await?;
    Ok(Value::Null)
}

/// Which disk of a VM its host does not have any more, or has as another one, in a sentence.
async fn lost_disk(cx: &StepContext, vm: VmId) -> Option<String> {
    let record = record_of(cx, vm).ok()?;
    let there = cx.hypervisor().await.list_volumes().await.ok()?;
    record.spec.disks.iter().enumerate().find_map(|(index, disk)| {
        let found = there.iter().find(|found| found.volume.id == disk.volume);
        let what = match found {
            None => "is not on its host any more",
            Some(found) if found.volume.format != disk.format || found.capacity_bytes < disk.size_bytes => "is damaged",
            Some(_) => return None,
        };
        Some(format!("Disk {} of the VM {what}; restore it from a backup, or delete the VM.", index + 1))
    })
}

/// Answers when it asked: the guest's time counts from there, also for a process that takes over.
pub(super) async fn ask_guest(cx: &StepContext) -> Result<Value> {
    let plan: PowerPlan = cx.plan()?;
    let asked_at = cx.shared.clock.now().unix_timestamp();
    cx.hypervisor().await.change_power(plan.vm, plan.action).await?;
    Ok(asked_at.into())
}

fn ignored(plan: &PowerPlan) -> Error {
    let action = plan.action.as_str();
    let text = format!(
        "The guest did not {action} within {} s and was left as it is; power_off or reset do not ask it.",
        plan.timeout_s
    );
    Error::new(ErrorKind::Timeout, text)
}

pub(super) async fn wait_until_off(cx: &StepContext) -> Result<Value> {
    let plan: PowerPlan = cx.plan()?;
    let mut applied = cx.shared.inventory.follow();
    let off = async {
        cx.look_at(plan.vm).await?;
        let active = || cx.shared.inventory.vm(plan.vm).and_then(|vm| vm.seen).is_some_and(|vm| vm.state.is_active());
        let _ = applied.wait_for(|_| !active()).await;
        Ok(Value::Null)
    };
    let asked_at = cx.output::<i64>("ask")?.unwrap_or_default();
    let waited = u64::try_from(cx.shared.clock.now().unix_timestamp() - asked_at).unwrap_or_default();
    // A guest that obeyed meanwhile is found to be off even when its time is over.
    let limit = Duration::from_secs(u64::from(plan.timeout_s).saturating_sub(waited).max(1));
    tokio::time::timeout(limit, off).await.unwrap_or_else(|_| Err(ignored(&plan)))
}

pub(super) async fn ask_and_wait_for_reset(cx: &StepContext) -> Result<Value> {
    let plan: PowerPlan = cx.plan()?;
    let mut reboots = cx.ownership.host.reboots.subscribe();
    cx.hypervisor().await.change_power(plan.vm, plan.action).await?;
    let reset = async {
        loop {
            match reboots.recv().await {
                Ok(vm) if vm == plan.vm => return,
                Ok(_) => {}
                Err(_) => tokio::time::sleep(cx.shared.timings.refresh).await,
            }
        }
    };
    let limit = Duration::from_secs(u64::from(plan.timeout_s));
    tokio::time::timeout(limit, reset).await.map_err(|_| ignored(&plan))?;
    cx.look_at(plan.vm).await?;
    Ok(Value::Null)
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UpdatePlan {
    pub(crate) vm: VmId,
    pub(crate) update: UpdateVm,
    /// The version that the caller saw; judged again under the VM's lock.
    #[serde(default)]
    pub(crate) expected: Option<i64>,
}

/// Refuses a record that is not the one the caller has seen.
pub(crate) fn refuse_other_version(record: &VmRecord, expected: Option<i64>) -> Result<()> {
    match expected {
        Some(version) if version != record.version => {
            let text = "The VM has changed since you read it; read it again.";
            Err(Error::new(ErrorKind::PreconditionFailed, text))
        }
        _ => Ok(()),
    }
}

/// The record as it is now. The operation holds the VM's lock, and the inventory has applied the
/// event of this very operation, so nothing newer is on its way.
fn record_of(cx: &StepContext, vm: VmId) -> Result<Arc<VmRecord>> {
    let shown = cx.shared.inventory.vm(vm).and_then(|vm| vm.record);
    shown.ok_or_else(|| Error::not_found("VM"))
}

fn wanted_change(update: &UpdateVm) -> DefinitionChange {
    DefinitionChange {
        title: update.name.clone(),
        labels: update.labels.clone(),
        vcpus: update.vcpus,
        memory_mib: update.memory_mib,
        autostart: update.autostart,
    }
}

/// Keeps what the host shows of the fields that will change, for the undo.
pub(super) async fn read_definition(cx: &StepContext) -> Result<Value> {
    let UpdatePlan { vm, update, expected } = cx.plan()?;
    let record = record_of(cx, vm)?;
    refuse_other_version(&record, expected)?;
    if wanted_change(&update) == DefinitionChange::default() {
        return Ok(Value::Null);
    }
    let seen = cx.hypervisor().await.get(vm).await?;
    let before = DefinitionChange {
        title: update.name.map(|_| record.name.clone()),
        labels: update.labels.map(|_| record.labels.clone()),
        vcpus: update.vcpus.map(|_| seen.vcpus),
        memory_mib: update.memory_mib.map(|_| seen.memory_mib),
        autostart: update.autostart.map(|_| seen.autostart),
    };
    serde_json::to_value(before).map_err(Error::internal)
}

pub(super) async fn change_definition(cx: &StepContext) -> Result<Value> {
    let UpdatePlan { vm, update, .. } = cx.plan()?;
    apply_change(cx, vm, &wanted_change(&update)).await
}

pub(super) async fn restore_definition(cx: &StepContext) -> Result<Value> {
    let UpdatePlan { vm, .. } = cx.plan()?;
    match cx.output::<DefinitionChange>("read_definition")? {
        Some(before) => match apply_change(cx, vm, &before).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Value::Null),
            other => other,
        },
        None => Ok(Value::Null),
    }
}

/// Changes the definition as it is now; an edit from outside in between is read again.
async fn apply_change(cx: &StepContext, vm: VmId, change: &DefinitionChange) -> Result<Value> {
    if *change == DefinitionChange::default() {
        return Ok(Value::Null);
    }
    let mut tries = 0;
    loop {
        let seen = cx.hypervisor().await.get(vm).await?;
        match cx.hypervisor().await.change_definition(vm, &seen.definition_hash, change).await {
            Err(error) if error.kind() == ErrorKind::Conflict && tries < 3 => tries += 1,
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    cx.look_at(vm).await?;
    Ok(Value::Null)
}

pub(super) async fn updated(cx: &StepContext) -> Result<Vec<Row>> {
    let UpdatePlan { vm, update, .. } = cx.plan()?;
    let mut record = (*record_of(cx, vm)?).clone();
    let expect = Expect::Version(record.version);
    let UpdateVm { name, description, labels, autostart, vcpus, memory_mib } = update;
    record.name = name.unwrap_or(record.name);
    record.description = description.unwrap_or(record.description);
    record.labels = labels.unwrap_or(record.labels);
    record.autostart = autostart.unwrap_or(record.autostart);
    record.spec.vcpus = vcpus.unwrap_or(record.spec.vcpus);
    record.spec.memory_mib = memory_mib.unwrap_or(record.spec.memory_mib);
    record.raised = None;
    record.version += 1;
    record.updated_at = cx.shared.clock.now();
    Ok(vec![Row::Vm { record: Box::new(record), expect }])
}

pub(super) async fn not_updated(cx: &StepContext) -> Result<Vec<Row>> {
    let UpdatePlan { vm, .. } = cx.plan()?;
    Ok(no_longer_raised(&cx.shared, vm))
}

/// The VM counts for no update any more.
pub(super) fn no_longer_raised(shared: &Shared, vm: VmId) -> Vec<Row> {
    let record = shared.inventory.vm(vm).and_then(|vm| vm.record).filter(|record| record.raised.is_some());
    let Some(record) = record else { return Vec::new() };
    let expect = Expect::Version(record.version);
    let record = VmRecord { raised: None, version: record.version + 1, ..(*record).clone() };
    vec![Row::Vm { record: Box::new(record), expect }]
}

/// Whether a VM in this phase and state can be worked on at all.
pub(crate) fn refuse_unless_defined(state: VmState) -> Result<()> {
    let text = match state {
        VmState::Missing => "The VM's definition has vanished from its host; it can only be deleted.",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Conflict, text))
}
