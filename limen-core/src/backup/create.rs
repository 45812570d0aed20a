//! Making a backup, and removing old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::broadcast;

use super::database::Database;
use super::files::{adopt, at, make_directory, sync_directory, write};
use super::manifest::{BackedUpImage, BackedUpVm, BackedUpVolume, FILE, LeftOut, Manifest};
use super::{Step, Tell};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{HostEvent, HostVm, Hypervisor, VolumeRef};
use crate::model::{ImagePhase, VmId, VmPhase, VmRecord, VmState, VolumeRecord};
use crate::store::{Snapshot, Store};

/// What a backup is made of.
#[derive(Debug, Clone, Copy)]
pub struct Backup<'a> {
    /// The Store; it is only read.
    pub store: &'a dyn Store,
    /// The database that it is in.
    pub database: &'a Database,
    /// The host whose VMs are taken.
    pub hypervisor: &'a dyn Hypervisor,
    /// That host's name in the Store.
    pub host: &'a str,
    /// The directory of the images.
    pub images: &'a Path,
}

/// How a backup that is not whole is called.
const PARTIAL: &str = ".partial-";
const PREFIX: &str = "limen-";

/// Makes a backup in a new directory below `to`, and answers that directory and what is in it.
/// Removes what was left of a backup that was cut off. Beside a running server or without one.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict): another backup is being made below `to`.
/// [`NoSpace`](ErrorKind::NoSpace). What Store, host and files answer; nothing that could be taken
/// for a backup is left then.
pub async fn create(what: Backup<'_>, to: &Path, now: OffsetDateTime, tell: Tell<'_>) -> Result<(PathBuf, Manifest)> {
    make_directory(to).await?;
    let _lock = lock(to)?;
    for entry in entries(to).await? {
        if entry.starts_with(PARTIAL) {
            tokio::fs::remove_dir_all(to.join(&entry)).await.map_err(at(&to.join(&entry)))?;
            tell(Step::RemovedPartial(entry));
        }
    }
    let stamp =
        now.format(format_description!("[year][month][day]T[hour][minute][second]Z")).map_err(Error::internal)?;
    let name = format!("{PREFIX}{stamp}");
    let place = to.join(&name);
    if place.exists() {
        return Err(Error::new(ErrorKind::AlreadyExists, format!("{} is there already.", place.display())));
    }
    let root = to.join(format!("{PARTIAL}{stamp}"));
    let made = fill(what, &root, now, tell).await;
    let manifest = match made {
        Ok(manifest) => manifest,
        Err(error) => {
            tokio::fs::remove_dir_all(&root).await.ok();
            return Err(error);
        }
    };
    tokio::fs::rename(&root, &place).await.map_err(at(&place))?;
    sync_directory(to).await?;
    Ok((place, manifest))
}

/// Removes backups of this installation below `to` that are older than `keep`, and never the newest
/// one. Answers what was removed; what is no whole backup is left alone.
///
/// # Errors
/// A file that cannot be removed.
pub async fn prune(
    to: &Path,
    install: crate::model::InstallId,
    keep: Duration,
    now: OffsetDateTime,
) -> Result<Vec<PathBuf>> {
    let _lock = lock(to)?;
    let mut whole: Vec<(OffsetDateTime, PathBuf)> = Vec::new();
    for entry in entries(to).await?.into_iter().filter(|entry| entry.starts_with(PREFIX)) {
        let directory = to.join(entry);
        let Ok(text) = tokio::fs::read_to_string(directory.join(FILE)).await else { continue };
        let Ok(manifest) = Manifest::parse(&text) else { continue };
        if manifest.install == install {
            whole.push((manifest.made_at, directory));
        }
    }
    whole.sort();
    whole.pop();
    let mut removed = Vec::new();
    for (_, directory) in whole.into_iter().filter(|(made_at, _)| now - *made_at > keep) {
        // It is no backup from here on, and goes with the next one if this removal is cut off.
        let name = directory.file_name().unwrap_or_default().to_string_lossy();
        let doomed = to.join(format!("{PARTIAL}{name}"));
        tokio::fs::rename(&directory, &doomed).await.map_err(at(&directory))?;
        tokio::fs::remove_dir_all(&doomed).await.map_err(at(&doomed))?;
        removed.push(directory);
    }
    Ok(removed)
}

/// Holds the directory until it is dropped.
fn lock(to: &Path) -> Result<std::fs::File> {
    let path = to.join(".lock");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(&path).map_err(at(&path))?;
    file.try_lock().map_err(|error| {
        let text = format!("Another backup is being made in {}.", to.display());
        Error::new(ErrorKind::Conflict, text).with_source(error)
    })?;
    Ok(file)
}

async fn entries(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut entries = tokio::fs::read_dir(directory).await.map_err(at(directory))?;
    while let Some(entry) = entries.next_entry().await.map_err(at(directory))? {
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Makes everything in `root`, the manifest last.
async fn fill(what: Backup<'_>, root: &Path, now: OffsetDateTime, tell: Tell<'_>) -> Result<Manifest> {
    for directory in ["", "definitions", "volumes", "images"] {
        make_directory(&root.join(directory)).await?;
    }
    // Whatever happens to a VM from here on is heard of.
    let mut watch = Watch { events: what.hypervisor.subscribe(), changed: BTreeSet::new(), deaf: false };
    let before = what.store.snapshot().await?;
    tell(Step::Database);
    let database = what.database.file();
    what.database.dump(&root.join(database)).await?;
    let after = what.store.snapshot().await?;
    let install = what.store.install().await?.id;
    let mut manifest = Manifest::new(install, now, what.database.kind(), adopt(root, database).await?);

    let host = before.hosts.iter().find(|host| host.name == what.host);
    let host =
        host.ok_or_else(|| Error::new(ErrorKind::NotFound, "The Store knows no such host: start the server once."))?;
    let rows = what.store.volumes(host.id).await?;
    let shown: BTreeMap<VmId, HostVm> = what.hypervisor.list().await?.into_iter().map(|vm| (vm.id, vm)).collect();
    for record in &after.vms {
        let unfit = unfit(record, &before, &after, shown.get(&record.id))
            .or_else(|| (record.host != host.id).then(|| "It is on another host: make a backup there.".to_owned()));
        let taken = match unfit {
            Some(why) => Err(why),
            None => take(what, root, record, &rows, &mut watch, tell).await?,
        };
        match taken {
            Ok(vm) => manifest.vms.push(vm),
            Err(why) => {
                tell(Step::LeftOut(record.name.clone(), why.clone()));
                manifest.left_out.push(LeftOut { id: record.id, name: record.name.clone(), why });
            }
        }
    }
    for row in rows.iter().filter(|row| row.vm.is_none() && row.filled) {
        manifest.copies.push(copy(what, root, row, "an image's copy", tell).await?);
    }
    for image in after.images.iter().filter(|image| image.phase == ImagePhase::Ready) {
        tell(Step::File(format!("image {}", image.name), image.size_bytes));
        let path = what.images.join(image.id.to_string());
        let source = tokio::fs::File::open(&path).await.map_err(at(&path))?;
        let file = write(root, &format!("images/{}", image.id), source).await?;
        if file.sha256 != image.sha256 {
            let text = format!(
                "The file of image {} is not what was added: its checksum differs. Delete the image, or put its file back.",
                image.name
            );
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        manifest.images.push(BackedUpImage { id: image.id, name: image.name.clone(), format: image.format, file });
    }
    let text = serde_json::to_vec_pretty(&manifest).map_err(Error::internal)?;
    for directory in ["definitions", "volumes", "images"] {
        sync_directory(&root.join(directory)).await?;
    }
    write(root, FILE, &text[..]).await?;
    sync_directory(root).await?;
    Ok(manifest)
}

/// Why a VM cannot be taken; none when it can.
fn unfit(record: &VmRecord, before: &Snapshot, after: &Snapshot, shown: Option<&HostVm>) -> Option<String> {
    let known = before.vms.iter().find(|vm| vm.id == record.id);
    if known.is_none_or(|known| known.version != record.version) || record.phase != VmPhase::Defined {
        return Some("It is being made or changed just now.".to_owned());
    }
    let at_work = |operation: &crate::model::Operation| operation.vm_id == Some(record.id);
    if before.operations.iter().chain(&after.operations).any(at_work) {
        return Some("An operation is at work on it.".to_owned());
    }
    match shown.map(|vm| vm.state) {
        None => Some("Its host does not have it.".to_owned()),
        Some(VmState::ShutOff) => None,
        Some(VmState::Saved) => {
            Some("Its memory is saved: start it, shut it down, and make a backup again.".to_owned())
        }
        Some(_) => Some(
            "It is not shut off: its disks change under the copy. Shut it down and make a backup again.".to_owned(),
        ),
    }
}

/// Copies a VM that is off; why not, where it did not stay so.
async fn take(
    what: Backup<'_>,
    root: &Path,
    record: &VmRecord,
    rows: &[VolumeRecord],
    watch: &mut Watch,
    tell: Tell<'_>,
) -> Result<std::result::Result<BackedUpVm, String>> {
    let text = what.hypervisor.read_definition(record.id).await?;
    let definition = write(root, &format!("definitions/{}.xml", record.id), text.as_bytes()).await?;
    let mut volumes = Vec::new();
    let mut failed = None;
    for row in rows.iter().filter(|row| row.vm == Some(record.id)) {
        match copy(what, root, row, &format!("disk of {}", record.name), tell).await {
            Ok(volume) => volumes.push(volume),
            // It may have been deleted meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                failed = Some("A disk of it is missing on its host.".to_owned());
            }
            Err(error) => return Err(error),
        }
    }
    if failed.is_none() && watch.has_changed(record.id) {
        failed = Some("It was started or changed while it was copied.".to_owned());
    }
    let Some(why) = failed else {
        return Ok(Ok(BackedUpVm { record: record.clone(), definition, volumes }));
    };
    for path in std::iter::once(&definition.path).chain(volumes.iter().map(|volume| &volume.file.path)) {
        tokio::fs::remove_file(root.join(path)).await.map_err(at(&root.join(path)))?;
    }
    Ok(Err(why))
}

async fn copy(what: Backup<'_>, root: &Path, row: &VolumeRecord, of: &str, tell: Tell<'_>) -> Result<BackedUpVolume> {
    let volume = VolumeRef { id: row.id, format: row.format };
    tell(Step::File(of.to_owned(), row.capacity_bytes));
    let source = what.hypervisor.read_volume(volume).await?;
    let name = format!("volumes/{}.{}", row.id, row.format.as_str());
    let file = match write(root, &name, source).await {
        Ok(file) => file,
        Err(error) => {
            tokio::fs::remove_file(root.join(&name)).await.ok();
            return Err(error);
        }
    };
    Ok(BackedUpVolume { volume, capacity_bytes: row.capacity_bytes, image: row.image, file })
}

/// What the host tells of its VMs meanwhile.
struct Watch {
    events: broadcast::Receiver<HostEvent>,
    changed: BTreeSet<VmId>,
    /// Something may have been missed.
    deaf: bool,
}

impl Watch {
    fn has_changed(&mut self, id: VmId) -> bool {
        loop {
            match self.events.try_recv() {
                Ok(HostEvent::VmChanged(id) | HostEvent::VmRebooted(id)) => drop(self.changed.insert(id)),
                Ok(HostEvent::Disconnected) | Err(broadcast::error::TryRecvError::Lagged(_)) => self.deaf = true,
                Ok(_) => {}
                Err(_) => return self.deaf || self.changed.contains(&id),
            }
        }
    }
}
