//! One look at everything.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::error::{Error, Result};
use crate::hypervisor::{HostVm, HostVolume};
use crate::model::FindingKind as Kind;
use crate::model::{
    HostId, Image, ImageId, ImagePhase, Operation, OperationId, OperationKind, OperationState, Quota, Usage, VmId,
    VmPhase, VmRecord, VmState, VolumeRecord,
};
use crate::service::Shared;
use crate::service::host::HostHandle;
use crate::service::images::ImageFile;
use crate::service::inventory::{Held, Inventory};
use crate::store::{Lease, OperationRow, Snapshot};

/// A part of an image that grew no more for so long is abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Events read at once.
const BATCH: u32 = 1000;

/// What tells one finding from another: what, about what, on which host.
type Key = (Kind, String, Option<String>);

/// A finding, in a sentence.
#[derive(Debug)]
struct Found {
    detail: String,
    /// Another number when what it is about has moved: then it is no finding yet.
    as_of: i64,
}

/// What one look has found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// The hosts that were compared.
    hosts: Vec<String>,
    found: BTreeMap<Key, Found>,
    /// The leases that are held, by the host's name.
    held: HashMap<String, Lease>,
}

/// What a host shows.
struct View {
    vms: Vec<HostVm>,
    volumes: Vec<HostVolume>,
}

/// What is at work, and is no finding for that.
struct Busy<'a> {
    operations: HashSet<OperationId>,
    vms: HashSet<VmId>,
    images: HashSet<ImageId>,
    all: &'a [Operation],
}

impl<'a> Busy<'a> {
    fn new(all: &'a [Operation]) -> Self {
        Self {
            operations: all.iter().map(|operation| operation.id).collect(),
            vms: all.iter().filter_map(|operation| operation.vm_id).collect(),
            images: all.iter().filter_map(|operation| operation.image_id).collect(),
            all,
        }
    }

    fn volume(&self, row: &VolumeRecord) -> bool {
        row.vm.is_some_and(|vm| self.vms.contains(&vm))
            || row.image.is_some_and(|image| self.images.contains(&image))
            || self.operations.contains(&row.created_by)
    }
}

async fn view(host: &HostHandle) -> Result<View> {
    let vms = host.hypervisor.list().await?;
    let has_volumes = host.hypervisor.capability().volumes;
    let volumes = if has_volumes { host.hypervisor.list_volumes().await? } else { Vec::new() };
    Ok(View { vms, volumes })
}

impl Look {
    pub(super) async fn take(shared: &Shared) -> Result<Self> {
        let mut look = Self::default();
        let views = join_all(shared.hosts.iter().map(|host| view(host))).await;
        let files = match shared.images() {
            Ok(images) => Some(images.list().await),
            Err(_) => None,
        };
        let snapshot = shared.store.snapshot().await?;
        let locks = shared.store.locks().await?;
        let leases = shared.store.leases().await?;
        let busy = Busy::new(&snapshot.operations);
        for lease in leases.iter().filter(|lease| lease.holder.is_some()) {
            let record = snapshot.hosts.iter().find(|host| host.id == lease.fence.host);
            look.held.extend(record.map(|host| (host.name.clone(), lease.clone())));
        }
        for (host, view) in shared.hosts.iter().zip(views) {
            let rows = shared.store.volumes(host.id).await?;
            look.volume_rows(host, &rows, &snapshot, &busy);
            match view {
                Ok(view) => {
                    look.hosts.push(host.name.clone());
                    look.definitions(host, &view.vms, &snapshot, &busy, shared);
                    look.statuses(host, &view.vms, &snapshot, &busy);
                    if host.hypervisor.capability().volumes {
                        look.volumes(host, &view.volumes, &rows, &busy);
                    }
                    look.steps(host, &shared.store.unfinished(host.id).await?, shared);
                }
                Err(error) => {
                    tracing::debug!(host = %host.name, %error, cause = error.causes(), "a host was not compared");
                    let detail = format!("{error} Nothing on it was compared.");
                    look.add(Kind::HostUnreachable, format!("host:{}", host.id), Some(host), detail);
                }
            }
        }
        look.unserved(&snapshot, shared);
        look.half_made(&snapshot, &busy, shared);
        look.quotas(&snapshot, &busy);
        look.locks(&locks, &snapshot, &busy);
        match files {
            Some(Ok(files)) => look.images(&files, &snapshot.images, &busy),
            Some(Err(error)) => {
                let detail =
                    format!("The directory of images cannot be read ({}); no image was compared.", error.kind());
                look.add(Kind::ImagesUnreadable, "directory:images".to_owned(), None, detail);
            }
            None => {}
        }
        look.memory(snapshot, shared).await?;
        Ok(look)
    }

    pub(super) fn is_clean(&self) -> bool {
        self.found.is_empty()
    }

    /// What an earlier look has found as well.
    pub(super) fn confirming(mut self, earlier: &Self) -> Self {
        let held = std::mem::take(&mut self.held);
        let alive = |host: &Option<String>| {
            let lease = |held: &HashMap<String, Lease>| host.as_ref().and_then(|host| held.get(host).cloned());
            let (now, before) = (lease(&held), lease(&earlier.held));
            now.zip(before).is_some_and(|(now, before)| now.fence == before.fence && now.beat > before.beat)
        };
        self.found.retain(|key, found| {
            let for_the_owner = matches!(key.0, Kind::StatusDiffers | Kind::OperationStuck);
            let before = earlier.found.get(key);
            before.is_some_and(|before| before.as_of == found.as_of) && (!for_the_owner || alive(&key.2))
        });
        self
    }

    /// The hosts that were compared, and what was found.
    pub(super) fn end(self) -> (Vec<String>, impl Iterator<Item = (Key, String)>) {
        (self.hosts, self.found.into_iter().map(|(key, found)| (key, found.detail)))
    }

    fn add(&mut self, kind: Kind, subject: String, host: Option<&Arc<HostHandle>>, detail: impl Into<String>) {
        self.add_as_of(0, kind, subject, host.map(|host| host.name.clone()), detail.into());
    }

    fn add_as_of(&mut self, as_of: i64, kind: Kind, subject: String, host: Option<String>, detail: String) {
        self.found.insert((kind, subject, host), Found { detail, as_of });
    }

    fn definitions(
        &mut self,
        host: &Arc<HostHandle>,
        vms: &[HostVm],
        snapshot: &Snapshot,
        busy: &Busy<'_>,
        shared: &Shared,
    ) {
        let records: HashMap<VmId, _> =
            snapshot.vms.iter().filter(|record| record.host == host.id).map(|record| (record.id, record)).collect();
        for vm in vms.iter().filter(|vm| !busy.vms.contains(&vm.id)) {
            let ours = vm.mark.is_some_and(|mark| mark.install == shared.install.id);
            let seeded = vm.mark.is_some_and(|mark| mark.install.0.is_nil());
            let subject = format!("vm:{}", vm.id);
            match records.get(&vm.id) {
                None if ours => {
                    let detail = format!("The host has a definition {:?} of LIMEN's making without a record.", vm.name);
                    self.add(Kind::VmUnrecorded, subject, Some(host), detail);
                }
                Some(record) if !ours && !seeded => {
                    let name = &record.name;
                    let detail = format!("The definition of VM {name:?} was not made by this installation.");
                    self.add(Kind::VmUnmarked, subject, Some(host), detail);
                }
                _ => {}
            }
        }
        let present: HashSet<VmId> = vms.iter().map(|vm| vm.id).collect();
        for (id, record) in records {
            if record.phase == VmPhase::Defined && !present.contains(&id) && !busy.vms.contains(&id) {
                let detail = format!("The host has no definition of VM {:?} any more.", record.name);
                self.add(Kind::VmMissing, format!("vm:{id}"), Some(host), detail);
            }
        }
    }

    fn statuses(&mut self, host: &Arc<HostHandle>, vms: &[HostVm], snapshot: &Snapshot, busy: &Busy<'_>) {
        let on_host: BTreeMap<VmId, _> = vms.iter().map(|vm| (vm.id, vm.state)).collect();
        let statuses = snapshot.statuses.iter().filter(|(on, ..)| *on == host.id);
        let recorded: BTreeMap<VmId, _> = statuses.map(|(_, seen, at)| (seen.id, (seen.state, *at))).collect();
        let all: BTreeSet<&VmId> = on_host.keys().chain(recorded.keys()).collect();
        for id in all.into_iter().filter(|id| !busy.vms.contains(id)) {
            let word = |state: Option<VmState>| state.map_or("absent", VmState::as_str);
            let (shown, revision) = recorded.get(id).copied().unzip();
            let (is, shown) = (word(on_host.get(id).copied()), word(shown));
            if is != shown {
                let detail = format!("On the host the VM is {is}, in the Store it is {shown}.");
                let (subject, host) = (format!("vm:{id}"), Some(host.name.clone()));
                self.add_as_of(revision.unwrap_or_default(), Kind::StatusDiffers, subject, host, detail);
            }
        }
    }

    /// What rows alone tell.
    fn volume_rows(&mut self, host: &Arc<HostHandle>, rows: &[VolumeRecord], snapshot: &Snapshot, busy: &Busy<'_>) {
        let vms: HashSet<VmId> = snapshot.vms.iter().map(|record| record.id).collect();
        for row in rows.iter().filter(|row| !busy.volume(row)) {
            let subject = format!("volume:{}", row.id);
            match row.vm {
                Some(vm) if !vms.contains(&vm) => {
                    let detail = format!("The row of the volume is for VM {vm}, which has no record.");
                    self.add(Kind::VolumeUnowned, subject, Some(host), detail);
                }
                _ if !row.filled => {
                    let detail = "The volume was never filled to its end, and nothing is at work on it.";
                    self.add(Kind::VolumeUnfilled, subject, Some(host), detail);
                }
                _ => {}
            }
        }
    }

    fn volumes(&mut self, host: &Arc<HostHandle>, there: &[HostVolume], rows: &[VolumeRecord], busy: &Busy<'_>) {
        let recorded: HashMap<_, _> = rows.iter().map(|row| (row.id, row)).collect();
        let mut present = HashSet::new();
        for found in there {
            let (id, format) = (found.volume.id, found.volume.format);
            let (is, subject) = (found.capacity_bytes, format!("volume:{id}"));
            match recorded.get(&id) {
                None => {
                    let detail = format!("The pool has a {} volume of {is} bytes without a row.", format.as_str());
                    self.add(Kind::VolumeUnrecorded, subject, Some(host), detail);
                }
                Some(row) => {
                    present.insert(id);
                    // Sizes are whole sectors on a host.
                    let fits = (row.capacity_bytes..=row.capacity_bytes.next_multiple_of(4096)).contains(&is);
                    if !busy.volume(row) && row.filled && (format != row.format || !fits) {
                        let (format, wanted) = (format.as_str(), row.format.as_str());
                        let recorded = row.capacity_bytes;
                        let detail =
                            format!("The volume is {format} of {is} bytes; its row says {wanted} of {recorded}.");
                        self.add(Kind::VolumeDiffers, subject, Some(host), detail);
                    }
                }
            }
        }
        // One that is not filled is told of as that, whether or not it is there.
        for row in rows.iter().filter(|row| row.filled && !present.contains(&row.id) && !busy.volume(row)) {
            let of = row.vm.map(|vm| format!(" of VM {vm}")).unwrap_or_default();
            let detail = format!("A volume{of} has a row and is not in the pool.");
            self.add(Kind::VolumeMissing, format!("volume:{}", row.id), Some(host), detail);
        }
    }

    fn steps(&mut self, host: &Arc<HostHandle>, unfinished: &[OperationRow], shared: &Shared) {
        let now = shared.clock.now();
        let held = |row: &&OperationRow| row.operation.state == OperationState::Held;
        for OperationRow { operation, .. } in unfinished.iter().filter(held) {
            let detail = format!("{} is held since the store was restored.", operation.kind.as_str());
            self.add(Kind::OperationHeld, format!("operation:{}", operation.id), Some(host), detail);
        }
        for OperationRow { operation, journal } in unfinished.iter().filter(|row| !row.journal.waiting && !held(row)) {
            let moved_at = journal.moved_at.unwrap_or(operation.created_at);
            let idle = now - moved_at;
            if idle >= shared.timings.stuck {
                let (kind, state, seconds) = (operation.kind.as_str(), operation.state.as_str(), idle.whole_seconds());
                let detail = format!("{kind} is {state} and has not moved for {seconds} s.");
                let (subject, host) = (format!("operation:{}", operation.id), Some(host.name.clone()));
                self.add_as_of(moved_at.unix_timestamp(), Kind::OperationStuck, subject, host, detail);
            }
        }
    }

    /// Hosts of others that nobody looks after.
    fn unserved(&mut self, snapshot: &Snapshot, shared: &Shared) {
        let ours: HashSet<HostId> = shared.hosts.iter().map(|host| host.id).collect();
        for host in snapshot.hosts.iter().filter(|host| !ours.contains(&host.id)) {
            let vms = snapshot.vms.iter().filter(|record| record.host == host.id).count();
            let operations = snapshot.operations.iter().filter(|operation| operation.host == host.id).count();
            if !self.held.contains_key(&host.name) && vms + operations > 0 {
                let name = &host.name;
                let detail = format!(
                    "Host {name:?} has {vms} VM(s) and {operations} unfinished operation(s), and no server works on it."
                );
                self.add_as_of(0, Kind::HostUnserved, format!("host:{}", host.id), Some(name.clone()), detail);
            }
        }
    }

    fn half_made(&mut self, snapshot: &Snapshot, busy: &Busy<'_>, shared: &Shared) {
        let half = |record: &&VmRecord| record.phase != VmPhase::Defined;
        for record in snapshot.vms.iter().filter(half).filter(|record| !busy.vms.contains(&record.id)) {
            let host = shared.hosts.iter().find(|host| host.id == record.host);
            let phase = if record.phase == VmPhase::Creating { "creating" } else { "deleting" };
            let detail = format!("VM {:?} is {phase}, and no operation is at work on it.", record.name);
            self.add(Kind::VmHalfMade, format!("vm:{}", record.id), host, detail);
        }
    }

    fn quotas(&mut self, snapshot: &Snapshot, busy: &Busy<'_>) {
        let (mut owners, mut hosts): (BTreeMap<_, Usage>, BTreeMap<_, i64>) = Default::default();
        for record in &snapshot.vms {
            let usage = Usage::of(record);
            let owner = owners.entry(record.owner).or_default();
            *owner = *owner + usage;
            *hosts.entry(record.host).or_default() += usage.memory_mib;
            if record.raised.is_some() && !busy.vms.contains(&record.id) {
                let detail = format!("VM {:?} still counts for an update that is over.", record.name);
                self.add(Kind::QuotaDiffers, format!("vm:{}", record.id), None, detail);
            }
        }
        for (id, counted) in &snapshot.used {
            let sum = owners.remove(id).unwrap_or_default();
            if sum != *counted {
                let named = |usage: &Usage| {
                    let figures = Quota::RESOURCES.iter().zip(usage.figures());
                    figures.map(|(name, figure)| format!("{name} {figure}")).collect::<Vec<_>>().join(", ")
                };
                let (counted, sum) = (named(counted), named(&sum));
                let detail = format!("For the owner count {counted}; the VMs come to {sum}.");
                self.add(Kind::QuotaDiffers, format!("owner:{id}"), None, detail);
            }
        }
        for host in &snapshot.hosts {
            let counted = snapshot.host_memory_mib.get(&host.id).copied().unwrap_or_default();
            let sum = hosts.get(&host.id).copied().unwrap_or_default();
            if sum != counted {
                let detail = format!("{counted} MiB count for the host; its VMs come to {sum}.");
                self.add_as_of(0, Kind::QuotaDiffers, format!("host:{}", host.id), Some(host.name.clone()), detail);
            }
        }
    }

    fn locks(&mut self, locks: &[(String, OperationId)], snapshot: &Snapshot, busy: &Busy<'_>) {
        for (resource, holder) in locks.iter().filter(|(_, holder)| !busy.operations.contains(holder)) {
            let detail = format!("The lock of {resource} is held by an operation that is not at work.");
            self.add(Kind::LockOrphaned, format!("operation:{holder}"), None, detail);
        }
        let holders: HashSet<OperationId> = locks.iter().map(|(_, holder)| *holder).collect();
        let recorded = |vm: Option<VmId>| snapshot.vms.iter().any(|record| Some(record.id) == vm);
        for operation in busy.all.iter().filter(|operation| !holders.contains(&operation.id)) {
            // The undo that a late effect has opened again needs none: its VM has no record.
            let reopened = operation.kind == OperationKind::CreateVm
                && operation.state == OperationState::Undoing
                && !recorded(operation.vm_id);
            // Nor does one that another operation has taken the place of.
            if !operation.cancel_requested && !reopened {
                let detail = format!("{} is not finished and holds no lock.", operation.kind.as_str());
                self.add(Kind::OperationUnlocked, format!("operation:{}", operation.id), None, detail);
            }
        }
    }

    fn images(&mut self, files: &[ImageFile], images: &[Image], busy: &Busy<'_>) {
        let known: HashMap<String, &Image> = images.iter().map(|image| (image.id.to_string(), image)).collect();
        let kept: HashMap<&str, u64> =
            files.iter().filter(|file| file.received).map(|file| (file.name.as_str(), file.bytes)).collect();
        for image in images.iter().filter(|image| !busy.images.contains(&image.id)) {
            let (subject, name) = (format!("image:{}", image.id), &image.name);
            match (image.phase, kept.get(image.id.to_string().as_str())) {
                (ImagePhase::Adding | ImagePhase::Deleting, _) => {
                    let phase = if image.phase == ImagePhase::Adding { "adding" } else { "deleting" };
                    let detail = format!("Image {name:?} is {phase}, and no operation is at work on it.");
                    self.add(Kind::ImageHalfMade, subject, None, detail);
                }
                (ImagePhase::Ready, None) => {
                    self.add(Kind::ImageMissing, subject, None, format!("The file of image {name:?} is missing."));
                }
                (ImagePhase::Ready, Some(is)) if *is != image.size_bytes => {
                    let detail =
                        format!("The file of image {name:?} has {is} bytes; its record says {}.", image.size_bytes);
                    self.add(Kind::ImageDiffers, subject, None, detail);
                }
                (ImagePhase::Ready, Some(_)) => {}
            }
        }
        for file in files.iter().filter(|file| !known.contains_key(&file.name)) {
            let subject = format!("file:{}", file.name);
            if file.received {
                let detail = "A file in the directory of images belongs to no image.";
                self.add(Kind::ImageUnrecorded, subject, None, detail);
            } else if file.idle > ABANDONED {
                let detail = format!("An upload ended after {} bytes and was not taken away.", file.bytes);
                self.add(Kind::UploadAbandoned, subject, None, detail);
            }
        }
    }

    /// Compares what this process shows with the Store as of the same event.
    async fn memory(&mut self, snapshot: Snapshot, shared: &Shared) -> Result<()> {
        let taken = snapshot.event;
        if shared.inventory.wait_for(taken, shared.timings.show).await.is_err() {
            let detail = format!("The Store is at event {taken}; this process shows {}.", shared.inventory.event());
            self.add(Kind::InventoryDiffers, "inventory".to_owned(), None, detail);
            return Ok(());
        }
        let (event, shown) = shared.inventory.held();
        let load = move || {
            let stored = Inventory::new();
            stored.load(snapshot);
            stored
        };
        let stored = tokio::task::spawn_blocking(load).await.map_err(Error::internal)?;
        while stored.event() < event {
            let batch = shared.store.events_after(stored.event(), BATCH).await?;
            if batch.events.is_empty() || batch.oldest > stored.event() + 1 {
                // The log was pruned past it: the next check will tell.
                return Ok(());
            }
            stored.apply(batch.events.into_iter().filter(|next| next.number <= event).collect());
        }
        let (_, stored) = stored.held();
        let differs = |name: &&String| shown.get::<str>(name) != stored.get::<str>(name);
        let names: BTreeSet<&String> = shown.keys().chain(stored.keys()).collect();
        for name in names.into_iter().filter(differs) {
            let there = |held: &BTreeMap<String, Held>| if held.contains_key(name) { "there" } else { "absent" };
            let detail = match (there(&shown), there(&stored)) {
                ("there", "there") => "This process shows it otherwise than the Store.".to_owned(),
                (here, there) => format!("It is {here} in this process and {there} in the Store."),
            };
            self.add(Kind::InventoryDiffers, name.clone(), None, detail);
        }
        Ok(())
    }
}
