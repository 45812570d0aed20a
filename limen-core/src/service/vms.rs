//! VMs: what callers ask of them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use rand::RngExt;

use super::host::HostHandle;
use super::images::copy_id;
use super::inventory::Shown;
use super::operation::{CreatePlan, DeletePlan, PlannedVolume, PowerPlan, Proposal, UpdatePlan};
use super::render::{self, Ending};
use super::{LOCAL_OWNER, Limen, VmPage, VmQuery, operation, validate};
use crate::authz::Resource;
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::hypervisor::{Mark, VolumeRef, VolumeSpec};
use crate::model::{
    CreateDisk, CreateVm, Disk, DiskMode, EventNumber, Firmware, GIB, HostId, HostState, Image, ImageFormat, ImageId,
    ImagePhase, Iso, Network, Nic, Operation, OperationId, OperationKind, OwnerId, PageRequest, PowerAction, Raised,
    Transition, UpdateVm, Vm, VmId, VmPhase, VmRecord, VmSpec, VmState, VolumeFormat, VolumeId, VolumeRecord,
};
use crate::store::{Expect, Row};

/// One VM, as it is shown.
#[derive(Debug, Clone)]
pub struct VmView {
    /// The VM.
    pub vm: Arc<Vm>,
    /// When its host was last observed in full.
    pub observed_at: Option<time::OffsetDateTime>,
    /// Whether that is too long ago to rely on.
    pub stale: bool,
    /// All of it as JSON, with `observed_at` and `stale` in the status.
    pub json: Bytes,
    /// The entity tag: record version and status revision, `"3.17"` without the quotes.
    pub etag: String,
    /// The event that it shows.
    pub event: EventNumber,
}

/// How long a guest may take to obey when the caller does not say, in seconds.
const DEFAULT_TIMEOUT_S: u32 = 90;

impl Limen {
    /// A page of VMs, as values and rendered. No call to a host, no query.
    pub async fn list_vms(&self, ctx: &Context, query: &VmQuery, page: PageRequest) -> Result<VmPage> {
        self.authorize(ctx, Action::ListVms, Resource::Any, "VM")?;
        let shared = &self.shared;
        let scope = shared.authz.list_scope(ctx.actor());
        let event = shared.inventory.event();
        let now = shared.clock.monotonic();
        let observed = shared.hosts.iter().fold(0, |sum, host| sum + host.version(now, &shared.timings));
        let key = (scope, query.clone(), page);
        let page = shared.pages.page(key, shared.inventory.vms_changed(), observed, |(scope, query, page)| {
            let (shown, more) = shared.inventory.vms(scope, query, *page);
            VmPage::new(&shown, more, &self.endings(), event)
        });
        Ok(page.at(event))
    }

    /// One VM. No call to a host, no query.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also for one that is not in the actor's sight.
    pub async fn get_vm(&self, ctx: &Context, id: VmId) -> Result<VmView> {
        let event = self.shared.inventory.event();
        let shown = self.find(ctx, Action::GetVm, id)?;
        let host = self.shared.hosts.iter().find(|host| host.id == shown.host);
        let now = self.shared.clock.monotonic();
        let ending = host.map_or_else(|| Ending::new(None, true), |host| host.ending(now, &self.shared.timings));
        Ok(VmView {
            observed_at: host.and_then(|host| host.observed_at()),
            stale: host.is_none_or(|host| host.state(now, &self.shared.timings) != HostState::Up),
            json: render::close_json(&shown.json, &ending),
            etag: format!("{}.{}", shown.vm.version, shown.vm.status.revision),
            vm: shown.vm,
            event,
        })
    }

    /// Makes a VM: its volumes, their contents, its definition, and starts it where asked. The
    /// answer is the operation; the VM is there, `creating`, at once, and gone again when it fails.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), [`AlreadyExists`](ErrorKind::AlreadyExists) (the name),
    /// [`QuotaExceeded`](ErrorKind::QuotaExceeded), [`NoSpace`](ErrorKind::NoSpace),
    /// [`Unsupported`](ErrorKind::Unsupported). [`Unavailable`](ErrorKind::Unavailable): the host was
    /// not reached since this process began, so nobody knows what it has room for.
    pub async fn create_vm(&self, ctx: &Context, create: CreateVm) -> Result<Operation> {
        self.authorize(ctx, Action::CreateVm, Resource::Any, "VM")?;
        self.once(ctx, Action::CreateVm, &create, self.create_new_vm(ctx, &create)).await
    }

    async fn create_new_vm(&self, ctx: &Context, create: &CreateVm) -> Result<Operation> {
        validate::create_vm(create)?;
        let owner = self.owner_of(ctx)?;
        if self.shared.inventory.name_taken(owner, &create.name).is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, "You have a VM of this name already."));
        }
        let host = self.pick_host(create.host.as_deref())?;
        check_networks(&host, &create.networks).await?;
        let id = OperationId::generate();
        let plan = self.plan_vm(create, owner, &host, id)?;
        let memory_limit = self.memory_limit(&host).await?;
        let space_limit = if plan.volumes.is_empty() { None } else { Some(self.space_limit(&host).await?) };
        let record = &plan.record;
        let mut rows: Vec<Row> = volume_rows(id, record).into_iter().map(Row::Volume).collect();
        rows.push(Row::Vm { record: Box::new(record.clone()), expect: Expect::Absent });
        let proposal = Proposal {
            id,
            kind: OperationKind::CreateVm,
            host: host.id,
            vm: Some(record.id),
            image: None,
            owner: Some(owner),
            plan: serde_json::to_value(&plan).map_err(Error::internal)?,
            rows,
            memory_limit,
            space_limit,
            preempt: false,
            detail: Some(create.name.clone()),
        };
        self.submit(ctx, create, proposal).await.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Error::new(ErrorKind::AlreadyExists, "You have a VM of this name already."),
            _ => error,
        })
    }

    /// Changes what `update` names, and nothing else. vCPUs and memory count from the next boot.
    ///
    /// # Errors
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed): the record's version is not
    /// `expected`. [`AlreadyExists`](ErrorKind::AlreadyExists): the name.
    /// [`QuotaExceeded`](ErrorKind::QuotaExceeded), [`NoSpace`](ErrorKind::NoSpace): more vCPUs or
    /// memory than the owner, or the VMs of the host together, may have.
    pub async fn update_vm(
        &self,
        ctx: &Context,
        id: VmId,
        update: UpdateVm,
        expected: Option<i64>,
    ) -> Result<Operation> {
        let request = (id, &update);
        let work = self.as_it_is(|| self.update_vm_as_shown(ctx, id, &update, expected));
        self.once(ctx, Action::UpdateVm, &request, work).await
    }

    async fn update_vm_as_shown(
        &self,
        ctx: &Context,
        id: VmId,
        update: &UpdateVm,
        expected: Option<i64>,
    ) -> Result<Operation> {
        let (shown, record) = self.find_managed(ctx, Action::UpdateVm, id)?;
        validate::update_vm(update)?;
        operation::refuse_other_version(&record, expected)?;
        operation::refuse_unless_defined(shown.vm.status.state)?;
        if let Some(name) = update.name.as_deref().filter(|name| *name != record.name)
            && self.shared.inventory.name_taken(record.owner, name).is_some()
        {
            return Err(Error::new(ErrorKind::AlreadyExists, "You have a VM of this name already."));
        }
        let raised = Raised {
            vcpus: update.vcpus.unwrap_or_default().max(record.spec.vcpus),
            memory_mib: update.memory_mib.unwrap_or_default().max(record.spec.memory_mib),
        };
        // Also where it lowers them as far as this process knows: what it comes to is judged against
        // the record as it is, which the row's version makes sure of.
        let resizes = update.vcpus.is_some() || update.memory_mib.is_some();
        // The record that reserves is guarded by its row, and is itself the next version.
        let expected = expected.filter(|_| !resizes);
        let plan = UpdatePlan { vm: id, update: update.clone(), expected };
        let plan = serde_json::to_value(plan).map_err(Error::internal)?;
        let mut proposal = on_vm(OperationKind::UpdateVm, &record, plan);
        if resizes {
            // What it will come to is reserved before the first step, and given back with an undo.
            let (raised, version) = (Some(raised), record.version + 1);
            let reserving = VmRecord { raised, version, ..(*record).clone() };
            proposal.rows = vec![Row::Vm { record: Box::new(reserving), expect: Expect::Version(record.version) }];
            proposal.memory_limit = self.memory_limit(self.host(record.host)?).await?;
        }
        self.submit(ctx, &(id, update), proposal).await
    }

    /// Deletes a VM: cuts its power, removes its definition and the volumes that it owns. It takes
    /// the place of an operation that waits for the guest.
    ///
    /// # Errors
    /// [`PreconditionFailed`](ErrorKind::PreconditionFailed): the record's version is not `expected`.
    pub async fn delete_vm(&self, ctx: &Context, id: VmId, expected: Option<i64>) -> Result<Operation> {
        self.as_it_is(|| self.delete_vm_as_shown(ctx, id, expected)).await
    }

    async fn delete_vm_as_shown(&self, ctx: &Context, id: VmId, expected: Option<i64>) -> Result<Operation> {
        let (_, record) = self.find_managed(ctx, Action::DeleteVm, id)?;
        operation::refuse_other_version(&record, expected)?;
        let volumes = record.spec.disks.iter().map(|disk| VolumeRef { id: disk.volume, format: disk.format }).collect();
        let plan = serde_json::to_value(DeletePlan { vm: id, volumes }).map_err(Error::internal)?;
        let deleting = VmRecord {
            phase: VmPhase::Deleting,
            version: record.version + 1,
            updated_at: self.now(),
            ..(*record).clone()
        };
        let mut proposal = on_vm(OperationKind::DeleteVm, &record, plan);
        proposal.rows = vec![Row::Vm { record: Box::new(deleting), expect: Expect::Version(record.version) }];
        proposal.preempt = true;
        self.submit(ctx, &id, proposal).await
    }

    /// Changes a VM's power as [`PowerAction::on`] says. `shutdown` and `reboot` succeed when the
    /// guest is off or was reset, and fail with [`Timeout`](ErrorKind::Timeout) after `timeout_s`
    /// (1 to 3600 s, 90 when none is given), leaving it as it is. `power_off` and `reset` take the
    /// place of an operation that waits for the guest.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): the action has no meaning in the VM's state.
    pub async fn change_power(
        &self,
        ctx: &Context,
        id: VmId,
        action: PowerAction,
        timeout_s: Option<u32>,
    ) -> Result<Operation> {
        let request = (id, action, timeout_s);
        self.once(ctx, Action::ChangePower, &request, self.change_power_as_shown(ctx, request)).await
    }

    async fn change_power_as_shown(
        &self,
        ctx: &Context,
        request: (VmId, PowerAction, Option<u32>),
    ) -> Result<Operation> {
        let (id, action, timeout_s) = request;
        let (shown, record) = self.find_managed(ctx, Action::ChangePower, id)?;
        let timeout_s = timeout_s.unwrap_or(DEFAULT_TIMEOUT_S);
        validate::timeout_s(timeout_s)?;
        let state = shown.vm.status.state;
        operation::refuse_unless_defined(state)?;
        let known = shown.vm.operation.is_none() && !matches!(state, VmState::Creating | VmState::Deleting);
        if known && action.on(state) == Transition::Refused && state != VmState::Unknown {
            let text = format!("{} has no meaning for a VM that is {}.", action.as_str(), state.as_str());
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let plan = PowerPlan { vm: id, action, timeout_s };
        let mut proposal =
            on_vm(OperationKind::ChangePower, &record, serde_json::to_value(plan).map_err(Error::internal)?);
        proposal.preempt = matches!(action, PowerAction::PowerOff | PowerAction::Reset);
        proposal.detail = Some(action.as_str().to_owned());
        self.submit(ctx, &request, proposal).await
    }

    /// Does `change`, which writes a record as the next version of what this process shows; and once
    /// more where the record had moved on, and this process with it: another process was ahead.
    async fn as_it_is<F>(&self, change: impl Fn() -> F) -> Result<Operation>
    where
        F: Future<Output = Result<Operation>>,
    {
        let before = self.event();
        match change().await {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                self.shared.catch_up().await?;
                if self.event() == before { Err(error) } else { change().await }
            }
            other => other,
        }
    }

    /// A VM in the actor's sight.
    pub(super) fn find(&self, ctx: &Context, action: Action, id: VmId) -> Result<Shown> {
        let shown = self.shared.inventory.vm(id).ok_or_else(|| Error::not_found("VM"))?;
        self.authorize(ctx, action, Resource::Vm { id, owner: shown.vm.owner }, "VM")?;
        Ok(shown)
    }

    /// A VM that LIMEN made.
    pub(super) fn find_managed(&self, ctx: &Context, action: Action, id: VmId) -> Result<(Shown, Arc<VmRecord>)> {
        let shown = self.find(ctx, action, id)?;
        match shown.record.clone() {
            Some(record) => Ok((shown, record)),
            None => Err(Error::new(ErrorKind::Conflict, "LIMEN did not make this VM, and never changes it.")),
        }
    }

    pub(super) fn owner_of(&self, ctx: &Context) -> Result<OwnerId> {
        match ctx.actor() {
            Actor::User { owner, .. } | Actor::Token { owner, .. } => Ok(*owner),
            Actor::Anonymous => Err(Error::new(ErrorKind::Unauthenticated, "A token is needed: log in first.")),
            Actor::Local | Actor::System(_) => {
                self.shared.inventory.owner_named(LOCAL_OWNER).ok_or_else(|| Error::not_found("owner"))
            }
        }
    }

    fn pick_host(&self, name: Option<&str>) -> Result<Arc<HostHandle>> {
        let mut hosts = self.shared.hosts.iter();
        let found = match name {
            Some(name) => hosts.find(|host| host.name == name),
            None => hosts.next(),
        };
        found.cloned().ok_or_else(|| Error::invalid("host", "There is no such host."))
    }

    pub(super) fn host(&self, id: HostId) -> Result<&Arc<HostHandle>> {
        let found = self.shared.hosts.iter().find(|host| host.id == id);
        found.ok_or_else(|| Error::unavailable("The VM's host"))
    }

    fn endings(&self) -> HashMap<HostId, Ending> {
        let now = self.shared.clock.monotonic();
        self.shared.hosts.iter().map(|host| (host.id, host.ending(now, &self.shared.timings))).collect()
    }

    /// Chooses every id and address, and checks what can be checked before the first step.
    fn plan_vm(
        &self,
        create: &CreateVm,
        owner: OwnerId,
        host: &HostHandle,
        operation: OperationId,
    ) -> Result<CreatePlan> {
        let can = host.hypervisor.capability();
        if create.firmware == Firmware::Uefi && !can.uefi {
            return Err(Error::new(ErrorKind::Unsupported, "This host has no UEFI firmware for guests."));
        }
        if (!create.disks.is_empty() || create.iso.is_some()) && !can.volumes {
            return Err(Error::new(ErrorKind::Unsupported, "This host cannot hold volumes."));
        }
        let mut disks = Vec::with_capacity(create.disks.len());
        let mut volumes = Vec::with_capacity(create.disks.len());
        let mut images = Vec::new();
        for (index, wanted) in create.disks.iter().enumerate() {
            let image = wanted.image.map(|id| self.usable_image(&format!("disks[{index}].image"), id)).transpose()?;
            let (disk, planned) = plan_disk(index, wanted, image.as_deref(), host.id)?;
            if planned.volume.backing.is_some() {
                if !can.linked_volumes {
                    return Err(Error::new(ErrorKind::Unsupported, "This host cannot hold linked disks."));
                }
                images.extend(wanted.image);
            }
            disks.push(disk);
            volumes.push(planned);
        }
        let iso = match create.iso {
            None => None,
            Some(id) => {
                if self.usable_image("iso", id)?.format != ImageFormat::Iso {
                    return Err(Error::invalid("iso", "This image is a disk, not installation media."));
                }
                images.push(id);
                Some(Iso { image: id, volume: copy_id(id, host.id) })
            }
        };
        let nics = create.networks.iter().map(|network| Nic { mac: random_mac(), network: network.clone() }).collect();
        let now = self.now();
        images.sort_unstable();
        images.dedup();
        let record = VmRecord {
            id: VmId::generate(),
            owner,
            host: host.id,
            name: create.name.clone(),
            description: create.description.clone(),
            labels: create.labels.clone(),
            spec: VmSpec {
                vcpus: create.vcpus,
                memory_mib: create.memory_mib,
                firmware: create.firmware,
                disks,
                iso,
                nics,
            },
            raised: None,
            phase: VmPhase::Creating,
            autostart: create.autostart,
            created_by: operation,
            version: 1,
            created_at: now,
            updated_at: now,
        };
        let mark = Mark { install: self.shared.install.id, operation };
        Ok(CreatePlan { record, mark, volumes, images, start: create.start })
    }

    fn usable_image(&self, field: &str, id: ImageId) -> Result<Arc<Image>> {
        let image = self.shared.inventory.image(id).filter(|image| image.phase == ImagePhase::Ready);
        image.ok_or_else(|| Error::invalid(field, "There is no such image."))
    }
}

/// Refuses a network that is not on the host. One that came within the last seconds is looked for
/// on the host itself; where that cannot be reached, the operation will tell.
async fn check_networks(host: &HostHandle, wanted: &[String]) -> Result<()> {
    let missing =
        |networks: &[Network]| wanted.iter().position(|name| !networks.iter().any(|network| network.name == *name));
    if missing(&host.networks()).is_none() {
        return Ok(());
    }
    let Ok(networks) = host.hypervisor.list_networks().await else { return Ok(()) };
    match missing(&networks) {
        Some(index) => Err(Error::invalid(format!("networks[{index}]"), "There is no such network on the host.")),
        None => Ok(()),
    }
}

fn plan_disk(index: usize, wanted: &CreateDisk, image: Option<&Image>, host: HostId) -> Result<(Disk, PlannedVolume)> {
    let id = VolumeId::generate();
    let wanted_bytes = wanted.size_gib.unwrap_or(0) * GIB;
    let mode = wanted.mode.unwrap_or_default();
    let Some(image) = image else {
        let format = wanted.format.unwrap_or(VolumeFormat::Qcow2);
        let disk = Disk { volume: id, format, size_bytes: wanted_bytes, image: None, mode: DiskMode::Full };
        let volume = VolumeSpec { id, format, capacity_bytes: wanted_bytes, backing: None };
        return Ok((disk, PlannedVolume { volume, fill: None }));
    };
    if image.format == ImageFormat::Iso {
        let text = "This image is installation media; give it as iso.";
        return Err(Error::invalid(format!("disks[{index}].image"), text));
    }
    if wanted.size_gib.is_some() && wanted_bytes < image.capacity_bytes {
        let text = "A disk cannot be smaller than the image that fills it.";
        return Err(Error::invalid(format!("disks[{index}].size_gib"), text));
    }
    let capacity_bytes = wanted_bytes.max(image.capacity_bytes);
    let image_format = operation::copy_format(image.format);
    let (format, backing, fill) = match mode {
        DiskMode::Full => (image_format, None, Some(image.id)),
        DiskMode::Linked => {
            let copy = VolumeRef { id: copy_id(image.id, host), format: image_format };
            (VolumeFormat::Qcow2, Some(copy), None)
        }
    };
    let disk = Disk { volume: id, format, size_bytes: capacity_bytes, image: Some(image.id), mode };
    Ok((disk, PlannedVolume { volume: VolumeSpec { id, format, capacity_bytes, backing }, fill }))
}

/// The rows of the volumes that a VM owns.
pub(super) fn volume_rows(maker: OperationId, record: &VmRecord) -> Vec<VolumeRecord> {
    let rows = record.spec.disks.iter().map(|disk| VolumeRecord {
        id: disk.volume,
        host: record.host,
        format: disk.format,
        capacity_bytes: disk.size_bytes,
        vm: Some(record.id),
        image: disk.image.filter(|_| disk.mode == DiskMode::Linked),
        filled: false,
        created_by: maker,
    });
    rows.collect()
}

/// An operation on a VM that is there.
fn on_vm(kind: OperationKind, record: &VmRecord, plan: serde_json::Value) -> Proposal {
    Proposal {
        id: OperationId::generate(),
        kind,
        host: record.host,
        vm: Some(record.id),
        image: None,
        owner: Some(record.owner),
        plan,
        rows: Vec::new(),
        memory_limit: None,
        space_limit: None,
        preempt: false,
        detail: None,
    }
}

/// A locally administered unicast address, 40 random bits behind QEMU's first byte.
fn random_mac() -> String {
    let bytes: [u8; 5] = rand::rng().random();
    format!("52:{}", bytes.map(|byte| hex(&[byte])).join(":"))
}
