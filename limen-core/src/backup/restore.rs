//! Checking a backup, and bringing it back.

use std::collections::BTreeSet;
use std::path::Path;

use super::database::Database;
use super::files::{at, make_directory, sum, sync_directory, write};
use super::manifest::{BackedUpFile, BackedUpVm, BackedUpVolume, FILE, Manifest};
use super::{Step, Tell};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{DefinitionChange, Hypervisor, VolumeSpec};

/// What a backup is restored to.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The database; it must be empty, and is loaded last: until then there is no installation.
    pub database: &'a Database,
    /// The host for the VMs.
    pub hypervisor: &'a dyn Hypervisor,
    /// The directory for the images.
    pub images: &'a Path,
    /// Whether volumes, images and definitions of this backup that are there already, as a restore
    /// that was cut off leaves them, are written over. Else they are refused.
    pub overwrite: bool,
}

/// Checks that a backup is whole: the manifest, and every file by length and SHA-256.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound): it is no backup, or a file is missing.
/// [`Conflict`](ErrorKind::Conflict): the manifest or a file is damaged; it is named.
/// [`Unsupported`](ErrorKind::Unsupported): it was made by a newer LIMEN.
pub async fn verify(from: &Path, tell: Tell<'_>) -> Result<Manifest> {
    let manifest = open(from).await?;
    for file in manifest.files() {
        check(from, file, tell).await?;
    }
    Ok(manifest)
}

/// The same for the files of one VM, by its id or name.
///
/// # Errors
/// Those of [`verify`]; the VM is not in it.
pub async fn verify_vm(from: &Path, named: &str, tell: Tell<'_>) -> Result<BackedUpVm> {
    let manifest = open(from).await?;
    let vm = manifest.vm(named)?;
    for file in std::iter::once(&vm.definition).chain(vm.volumes.iter().map(|volume| &volume.file)) {
        check(from, file, tell).await?;
    }
    Ok(vm.clone())
}

async fn open(from: &Path) -> Result<Manifest> {
    let path = from.join(FILE);
    let text = tokio::fs::read_to_string(&path).await.map_err(|error| {
        let text = format!("{} is no whole backup: there is no {FILE} to be read in it.", from.display());
        Error::new(ErrorKind::NotFound, text).with_source(error)
    })?;
    let manifest = Manifest::parse(&text)?;
    // Names of its own making alone: a manifest leads nowhere else.
    let plain = |path: &str| path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    if let Some(file) = manifest.files().find(|file| !plain(&file.path)) {
        return Err(Error::new(ErrorKind::Conflict, format!("The backup's manifest is damaged: {:?}.", file.path)));
    }
    Ok(manifest)
}

async fn check(from: &Path, file: &BackedUpFile, tell: Tell<'_>) -> Result<()> {
    tell(Step::File(format!("checking {}", file.path), file.bytes));
    if sum(from, &file.path).await? == *file {
        return Ok(());
    }
    let text = format!("The backup is damaged: {} is not what was written. Take another backup.", file.path);
    Err(Error::new(ErrorKind::Conflict, text))
}

/// Restores everything: volumes, images, definitions, and last the database. The server must not
/// run. Nothing is written before the whole backup was checked and nothing was found in its way.
///
/// # Errors
/// Those of [`verify`]. [`AlreadyExists`](ErrorKind::AlreadyExists): the database is not empty, or,
/// unless [`Target::overwrite`], the host or the images have something of it already.
/// [`Invalid`](ErrorKind::Invalid): the backup is of the other kind of database.
pub async fn restore(from: &Path, to: Target<'_>, tell: Tell<'_>) -> Result<Manifest> {
    let manifest = open(from).await?;
    if manifest.database != to.database.kind() {
        let text = format!("The backup is of {}, and the settings name {}.", manifest.database, to.database.kind());
        return Err(Error::invalid("database_url", text));
    }
    to.database.must_be_empty().await?;
    let in_the_way = in_the_way(&manifest, to).await?;
    if !in_the_way.is_empty() && !to.overwrite {
        let shown: Vec<&str> = in_the_way.iter().take(5).map(String::as_str).collect();
        let more = if in_the_way.len() > shown.len() { " and more" } else { "" };
        let text = format!("Nothing was restored: {}{more} is there already.", shown.join(", "));
        return Err(Error::new(ErrorKind::AlreadyExists, text));
    }
    verify(from, tell).await?;
    for volume in manifest.copies.iter().chain(manifest.vms.iter().flat_map(|vm| &vm.volumes)) {
        put_volume(from, volume, to.hypervisor, tell).await?;
    }
    make_directory(to.images).await?;
    for image in &manifest.images {
        tell(Step::File(format!("image {}", image.name), image.file.bytes));
        let path = to.images.join(image.id.to_string());
        if to.overwrite {
            tokio::fs::remove_file(&path).await.ok();
        }
        let source = from.join(&image.file.path);
        let source = tokio::fs::File::open(&source).await.map_err(at(&source))?;
        write(to.images, &image.id.to_string(), source).await?;
    }
    sync_directory(to.images).await?;
    for vm in &manifest.vms {
        let path = from.join(&vm.definition.path);
        let text = tokio::fs::read_to_string(&path).await.map_err(at(&path))?;
        to.hypervisor.restore_definition(vm.record.id, &text).await?;
        if vm.record.autostart {
            let hash = to.hypervisor.get(vm.record.id).await?.definition_hash;
            let change = DefinitionChange { autostart: Some(true), ..DefinitionChange::default() };
            to.hypervisor.change_definition(vm.record.id, &hash, &change).await?;
        }
    }
    tell(Step::Database);
    to.database.load(&from.join(&manifest.store.path)).await?;
    Ok(manifest)
}

async fn put_volume(from: &Path, volume: &BackedUpVolume, host: &dyn Hypervisor, tell: Tell<'_>) -> Result<()> {
    tell(Step::File(format!("volume {}", volume.volume.id), volume.file.bytes));
    let path = from.join(&volume.file.path);
    let source = tokio::fs::File::open(&path).await.map_err(at(&path))?;
    let spec = VolumeSpec {
        id: volume.volume.id,
        format: volume.volume.format,
        capacity_bytes: volume.capacity_bytes,
        // Its own bytes tell what it is over.
        backing: None,
    };
    host.create_volume(&spec).await?;
    host.write_volume(volume.volume, Box::new(source), volume.file.bytes).await
}

/// What the host and the images have of this backup already.
async fn in_the_way(manifest: &Manifest, to: Target<'_>) -> Result<Vec<String>> {
    let vms: BTreeSet<_> = to.hypervisor.list().await?.into_iter().map(|vm| vm.id).collect();
    let volumes: BTreeSet<_> = to.hypervisor.list_volumes().await?.into_iter().map(|volume| volume.volume.id).collect();
    let mut found = Vec::new();
    for vm in &manifest.vms {
        if vms.contains(&vm.record.id) {
            found.push(format!("VM {} ({})", vm.record.name, vm.record.id));
        }
    }
    for volume in manifest.copies.iter().chain(manifest.vms.iter().flat_map(|vm| &vm.volumes)) {
        if volumes.contains(&volume.volume.id) {
            found.push(format!("volume {}", volume.volume.id));
        }
    }
    for image in &manifest.images {
        if to.images.join(image.id.to_string()).exists() {
            found.push(format!("image {} ({})", image.name, image.id));
        }
    }
    Ok(found)
}
