//! `limen image`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use limen_core::model::{Image, ImageFormat};
use limen_core::service::AddImage;
use limen_core::{Context, Error, Limen};
use serde_json::Value;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::door::{Door, Intent, open_local};
use super::{DoorArgs, Failure, Result, output};
use crate::config::CoreConfig;

/// How long an image that was received may take to be recorded.
const LONGEST_ADD: Duration = Duration::from_secs(3600);

#[derive(Subcommand, Debug)]
pub(super) enum ImageCommand {
    /// Add an image from a file of this machine, beside a running server or without one
    #[command(after_help = "Examples:\n  limen image add debian-12.qcow2 --name debian-12\n  \
        limen image add installer.iso --name installer")]
    Add {
        /// The file; it is copied
        path: PathBuf,
        /// The image's name
        #[arg(long)]
        name: String,
        /// What the file is [default: by its first bytes where they say so, else by its name]
        #[arg(long, value_enum)]
        format: Option<FormatArg>,
    },
    /// List images
    List,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum FormatArg {
    /// A disk in QEMU's copy-on-write format
    Qcow2,
    /// A disk, byte for byte
    Raw,
    /// Installation media
    Iso,
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: ImageCommand) -> Result {
    match command {
        ImageCommand::Add { path, name, format } => add(args, config, &path, name, format).await,
        ImageCommand::List => list(args, config).await,
    }
}

async fn list(args: &DoorArgs, config: &CoreConfig) -> Result {
    let door = Door::open(args, config, Intent::Look).await?;
    let images = door.list("/api/images").await;
    door.close().await;
    let images = images?;
    if args.json {
        output::json(&Value::Array(images));
    } else {
        let columns = [
            ("NAME", "/name"),
            ("FORMAT", "/format"),
            ("FILE_BYTES", "/size_bytes"),
            ("DISK_BYTES", "/capacity_bytes"),
            ("PHASE", "/phase"),
            ("ID", "/id"),
        ];
        output::table(&columns, &images);
    }
    Ok(())
}

async fn add(args: &DoorArgs, config: &CoreConfig, path: &Path, name: String, format: Option<FormatArg>) -> Result {
    let unreadable = |error: std::io::Error| Failure::new(4, format!("{}: {error}", path.display()));
    let format = match format {
        Some(FormatArg::Qcow2) => ImageFormat::Qcow2,
        Some(FormatArg::Raw) => ImageFormat::Raw,
        Some(FormatArg::Iso) => ImageFormat::Iso,
        None => guess(path).await.map_err(unreadable)?,
    };
    let file = File::open(path).await.map_err(unreadable)?;
    let limen = open_local(config, Intent::Change).await?;
    let image = receive(&limen, AddImage { name, format }, file).await;
    limen.shutdown().await;
    let image = image?;
    if args.json {
        output::json(&serde_json::to_value(&image).map_err(std::io::Error::from)?);
    } else {
        output::line(format!("Added {} ({}), id {}.", image.name, image.format.as_str(), image.id));
    }
    Ok(())
}

async fn receive(limen: &Limen, add: AddImage, file: File) -> limen_core::Result<Image> {
    let context = Context::local();
    let operation = limen.add_image(&context, add, Box::new(file)).await?;
    let operation = limen.wait_operation(&context, operation.id, LONGEST_ADD).await?;
    if let Some(error) = operation.error {
        return Err(Error::from(error));
    }
    let image = operation.image_id.ok_or_else(|| Error::not_found("image"))?;
    limen.get_image(&context, image).await
}

/// What the operator most likely means; LIMEN checks the bytes against it and keeps it.
async fn guess(path: &Path) -> std::io::Result<ImageFormat> {
    let mut start = [0_u8; 4];
    let mut file = File::open(path).await?;
    let is_qcow2 = file.read_exact(&mut start).await.is_ok() && start == *b"QFI\xfb";
    let is_iso = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("iso"));
    Ok(match (is_qcow2, is_iso) {
        (true, _) => ImageFormat::Qcow2,
        (_, true) => ImageFormat::Iso,
        _ => ImageFormat::Raw,
    })
}
