//! `limen backup` and `limen restore`: the command line of [`limen_core::backup`].

use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use limen_core::backup::{self, Backup, Database, Manifest, Step, Target};
use limen_core::model::{CreateDisk, CreateVm, ImageFormat, VolumeFormat};
use limen_core::service::AddImage;
use limen_core::{Context, Error, ErrorKind, Limen};
use serde_json::json;
use time::OffsetDateTime;
use time::macros::format_description;

use super::door::{Intent, open_local};
use super::{Failure, Result, output};
use crate::config::{CoreConfig, StoreChoice};
use crate::start;

pub(super) const BACKUP_HELP: &str = "\
Takes the database, the images, and the VMs that are shut off; a VM that runs is named and left out. The server may
run meanwhile. Every backup is a directory of its own below DIR; docs/backup.md tells more.

Examples:
  limen backup --to /backup
  limen backup --to /backup --keep-days 30

Exit codes: 0 everything is in it, 6 it was made and VMs were left out; the others as everywhere.";

pub(super) const RESTORE_HELP: &str = "\
Everything goes back to where nothing is: an empty database, a host without these VMs. The server must not run.
With --vm one VM comes back as a new one, beside those that are there.

Examples:
  limen restore --from /backup/limen-20260301T120000Z --verify
  limen restore --from /backup/limen-20260301T120000Z
  limen restore --from /backup/limen-20260301T120000Z --vm web-1 --as web-1-again";

/// VMs were left out.
const INCOMPLETE: u8 = 6;
/// How long a step of a restored VM may take.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    /// The directory that holds backups; it is made where it is absent
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Then remove backups of this installation that are older than so many days, never the newest
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..=36500))]
    keep_days: Option<u16>,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    /// The backup: a directory that `limen backup` has made
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Only check that it is whole and undamaged
    #[arg(long, conflicts_with_all = ["vm", "overwrite"])]
    verify: bool,
    /// Only this VM, by name or id, as a new VM
    #[arg(long, value_name = "NAME", requires = "new_name")]
    vm: Option<String>,
    /// The new VM's name
    #[arg(long = "as", value_name = "NAME", requires = "vm")]
    new_name: Option<String>,
    /// Write over volumes, images and definitions of this backup that are there: to go on with a
    /// restore that was cut off
    #[arg(long, conflicts_with = "vm")]
    overwrite: bool,
}

pub(super) async fn run(config: &CoreConfig, args: &BackupArgs, as_json: bool) -> Result<u8> {
    let store = start::open_store_read_only(config).await?;
    let hypervisor = start::open_hypervisor(config).await?;
    let database = database(config)?;
    let what = Backup {
        store: &*store,
        database: &database,
        hypervisor: &*hypervisor,
        host: start::HOST,
        images: &config.images_dir,
    };
    let progress = Progress::new();
    let made = backup::create(what, &args.to, OffsetDateTime::now_utc(), &|step| progress.tell(step)).await;
    let (place, manifest) = made.map_err(|error| place_named(error, &args.to))?;
    start::note_backup(config).await;
    let days = args.keep_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 3600));
    let removed = match days {
        Some(keep) => backup::prune(&args.to, manifest.install, keep, OffsetDateTime::now_utc()).await?,
        None => Vec::new(),
    };
    hypervisor.close().await;
    if as_json {
        let removed: Vec<_> = removed.iter().map(|path| path.display().to_string()).collect();
        output::json(&json!({ "directory": place.display().to_string(), "manifest": manifest, "removed": removed }));
    } else {
        for old in &removed {
            output::line(format!("Removed {}", old.display()));
        }
        output::line(format!("{}: {}", place.display(), summary(&manifest)));
        for vm in &manifest.left_out {
            eprintln!("limen: NOT in this backup: {} ({}). {}", vm.name, vm.id, vm.why);
        }
    }
    Ok(if manifest.left_out.is_empty() { 0 } else { INCOMPLETE })
}

pub(super) async fn restore(config: &CoreConfig, args: &RestoreArgs, as_json: bool) -> Result<u8> {
    if !args.verify {
        must_be_owner(config)?;
    }
    let progress = Progress::new();
    let tell = |step| progress.tell(step);
    if let (Some(vm), Some(name)) = (&args.vm, &args.new_name) {
        return restore_one(config, &args.from, vm, name, &tell, as_json).await.map(|()| 0);
    }
    let manifest = if args.verify {
        backup::verify(&args.from, &tell).await?
    } else {
        start::make_data_dir(config)?;
        let Some(_alone) = start::lock_data_dir(config) else {
            return Err(Failure::new(
                1,
                "a server runs on this data directory: stop it first (systemctl stop limen.service)",
            ));
        };
        let hypervisor = start::open_hypervisor(config).await?;
        let database = database(config)?;
        let to = Target {
            database: &database,
            hypervisor: &*hypervisor,
            images: &config.images_dir,
            overwrite: args.overwrite,
        };
        let restored = backup::restore(&args.from, to, &tell).await;
        hypervisor.close().await;
        restored?
    };
    if as_json {
        output::json(&serde_json::to_value(&manifest).map_err(Error::internal)?);
    } else {
        let done = if args.verify {
            "whole and undamaged"
        } else {
            "restored; start the server, then run `limen --local check`"
        };
        output::line(format!("{}: {}; {done}.", args.from.display(), summary(&manifest)));
        for vm in &manifest.left_out {
            eprintln!("limen: {} ({}) was not in this backup: {}", vm.name, vm.id, vm.why);
        }
    }
    Ok(0)
}

/// One VM as a new one: each disk is added as an image, copied into the VM, and the image deleted.
/// These are LIMEN's usual operations, so a VM that cannot be made leaves nothing.
async fn restore_one(
    config: &CoreConfig,
    from: &Path,
    named: &str,
    new_name: &str,
    tell: &(dyn Fn(Step) + Send + Sync),
    as_json: bool,
) -> Result {
    let vm = backup::verify_vm(from, named, tell).await?;
    if let Some(linked) = vm.record.spec.disks.iter().find(|disk| disk.mode == limen_core::model::DiskMode::Linked) {
        let text = format!("disk {} is linked to an image, and comes back only with the whole backup", linked.volume);
        return Err(Failure::new(1, text));
    }
    let limen = open_local(config, Intent::Change).await?;
    let done = make_again(&limen, from, &vm, new_name, tell).await;
    limen.shutdown().await;
    let id = done?;
    if as_json {
        output::json(&json!({ "id": id, "name": new_name }));
    } else {
        output::line(format!("{named} is back as {new_name} ({id}), shut off."));
    }
    Ok(())
}

async fn make_again(
    limen: &Limen,
    from: &Path,
    vm: &backup::BackedUpVm,
    new_name: &str,
    tell: &(dyn Fn(Step) + Send + Sync),
) -> Result<String> {
    let me = Context::local();
    let mut images = Vec::new();
    let made = async {
        let mut disks = Vec::new();
        for disk in &vm.record.spec.disks {
            let volume = vm.volumes.iter().find(|volume| volume.volume.id == disk.volume);
            let volume = volume.ok_or_else(|| Failure::new(4, format!("disk {} is not in the backup", disk.volume)))?;
            tell(Step::File(format!("disk {}", disk.volume), volume.file.bytes));
            let path = from.join(&volume.file.path);
            let file = tokio::fs::File::open(&path)
                .await
                .map_err(|error| Failure::new(4, format!("{}: {error}", path.display())))?;
            let format = match volume.volume.format {
                VolumeFormat::Raw => ImageFormat::Raw,
                VolumeFormat::Qcow2 => ImageFormat::Qcow2,
            };
            let add = AddImage { name: format!("restore-{}", disk.volume), format };
            let added = limen.add_image(&me, add, Box::new(file)).await?;
            images.extend(added.image_id);
            finished(limen, &me, added).await?;
            disks.push(CreateDisk { image: images.last().copied(), ..CreateDisk::default() });
        }
        let record = &vm.record;
        let create = CreateVm {
            description: record.description.clone(),
            labels: record.labels.clone(),
            firmware: record.spec.firmware,
            disks,
            networks: record.spec.nics.iter().map(|nic| nic.network.clone()).collect(),
            autostart: record.autostart,
            ..CreateVm::new(new_name, record.spec.vcpus, record.spec.memory_mib)
        };
        let asked = limen.create_vm(&me, create).await?;
        let done = finished(limen, &me, asked).await?;
        done.vm_id.map(|id| id.to_string()).ok_or_else(|| Failure::new(1, "the VM has no id"))
    }
    .await;
    for image in images {
        let deleting = limen.delete_image(&me, image).await?;
        finished(limen, &me, deleting).await?;
    }
    made
}

async fn finished(
    limen: &Limen,
    me: &Context,
    operation: limen_core::model::Operation,
) -> Result<limen_core::model::Operation> {
    let done = limen.wait_operation(me, operation.id, PATIENCE).await?;
    match done.error {
        Some(error) => Err(Failure::from(Error::from(error))),
        None => Ok(done),
    }
}

/// What another user restores the server's user could not read.
fn must_be_owner(config: &CoreConfig) -> Result {
    let Ok(data) = std::fs::metadata(&config.data_dir) else { return Ok(()) };
    if data.uid() == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let place = config.data_dir.display();
    Err(Failure::new(
        1,
        format!("{place} belongs to another user: run this as that one (sudo -u limen limen restore …)"),
    ))
}

fn database(config: &CoreConfig) -> Result<Database> {
    match &config.store {
        StoreChoice::Sqlite(path) if path == ":memory:" => {
            Err(Failure::usage("DATABASE_URL: a database in memory cannot be backed up or restored"))
        }
        StoreChoice::Sqlite(path) => Ok(Database::Sqlite(path.into())),
        StoreChoice::Postgres(url) => Ok(Database::Postgres(url.clone())),
    }
}

fn place_named(error: Error, to: &Path) -> Failure {
    if error.kind() == ErrorKind::NoSpace {
        return Failure::new(
            1,
            format!("{} has no space left for the backup; what was written is removed again", to.display()),
        );
    }
    error.into()
}

fn summary(manifest: &Manifest) -> String {
    let bytes: u64 = manifest.files().map(|file| file.bytes).sum();
    let missing = match manifest.left_out.len() {
        0 => String::new(),
        count => format!(", {count} LEFT OUT"),
    };
    let Manifest { vms, images, .. } = manifest;
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let at = manifest.made_at.format(format).unwrap_or_default();
    format!("{} VMs{missing}, {} images and the database of {at}; {}", vms.len(), images.len(), size(bytes))
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// What is being done, a line at a time on standard error: in place on a terminal, else each once.
struct Progress {
    terminal: bool,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    fn tell(&self, step: Step) {
        let text = match step {
            Step::Database => "the database".to_owned(),
            Step::File(what, bytes) => format!("{what}, {}", size(bytes)),
            Step::LeftOut(name, why) => format!("{name} is LEFT OUT: {why}"),
            Step::RemovedPartial(name) => format!("removed {name}, which a backup that was cut off has left"),
            _ => return,
        };
        let mut out = std::io::stderr().lock();
        // Nobody may be there to read it.
        if self.terminal {
            write!(out, "\r\x1b[K  {text}").and_then(|()| out.flush()).ok();
        } else {
            writeln!(out, "limen: {text}").ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
