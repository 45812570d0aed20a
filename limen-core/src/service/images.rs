//! Images: files that live with the server and are streamed to hosts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use uuid::Uuid;

use super::access::page_of;
use super::operation::{AddImagePlan, DeleteImagePlan, Proposal};
use super::{Limen, validate};
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::hypervisor::ByteSource;
use crate::model::{
    HostId, Image, ImageFormat, ImageId, ImagePhase, Operation, OperationId, OperationKind, Page, PageRequest, VolumeId,
};
use crate::store::{Expect, Row};

/// The volume that holds an image's copy on a host: always the same one.
pub(crate) fn copy_id(image: ImageId, host: HostId) -> VolumeId {
    VolumeId(Uuid::new_v5(&image.0, host.0.as_bytes()))
}

/// The directory of image files: `<id>`, and `incoming/<id>` while one is being received.
#[derive(Debug)]
pub(crate) struct ImageDir {
    files: PathBuf,
    incoming: PathBuf,
}

/// A file in the directory of images.
#[derive(Debug)]
pub(crate) struct ImageFile {
    pub(crate) name: String,
    /// Whether it is in its place; else it is on its way there.
    pub(crate) received: bool,
    pub(crate) bytes: u64,
    /// How long ago it was written to.
    pub(crate) idle: std::time::Duration,
}

/// A file that is being received: gone again unless an operation has taken it over.
#[derive(Debug)]
struct Incoming {
    file: Option<PathBuf>,
}

impl Incoming {
    fn keep(mut self) {
        self.file = None;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            // It may not have been made yet.
            _ = std::fs::remove_file(file);
        }
    }
}

/// What a killed process was receiving is removed after this.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

fn io_error(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::NoSpace, "There is no space left for images.").with_source(error)
        }
        _ => Error::internal(error),
    }
}

impl ImageDir {
    /// Makes the directories where they are absent; `tidy` also removes what is abandoned in them.
    pub(super) async fn at(files: PathBuf, tidy: bool) -> Result<Self> {
        let directories = Self::of(files);
        let incoming = &directories.incoming;
        fs::create_dir_all(incoming).await.map_err(io_error)?;
        let mut entries = fs::read_dir(incoming).await.map_err(io_error)?;
        while let Some(entry) = entries.next_entry().await.map_err(io_error)? {
            let modified = entry.metadata().await.and_then(|metadata| metadata.modified());
            let age = modified.ok().and_then(|modified| modified.elapsed().ok());
            if tidy && age.is_some_and(|age| age > ABANDONED) {
                fs::remove_file(entry.path()).await.map_err(io_error)?;
            }
        }
        Ok(directories)
    }

    /// The directories as they are, if they are.
    pub(super) fn of(files: PathBuf) -> Self {
        Self { incoming: files.join("incoming"), files }
    }

    fn file(&self, id: ImageId) -> PathBuf {
        self.files.join(id.to_string())
    }

    fn incoming(&self, id: ImageId) -> PathBuf {
        self.incoming.join(id.to_string())
    }

    /// An image's bytes and their number.
    pub(crate) async fn open(&self, id: ImageId) -> Result<(fs::File, u64)> {
        match fs::File::open(self.file(id)).await {
            Ok(file) => {
                let length = file.metadata().await.map_err(io_error)?.len();
                Ok((file, length))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let text = "The image's file is missing on the server.";
                Err(Error::new(ErrorKind::Conflict, text).with_source(error))
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// Moves a received file to its place. Idempotent.
    pub(crate) async fn keep(&self, id: ImageId) -> Result<()> {
        match fs::rename(self.incoming(id), self.file(id)).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                fs::metadata(self.file(id)).await.map_err(io_error)?;
            }
            other => other.map_err(io_error)?,
        }
        let directory = fs::File::open(&self.files).await.map_err(io_error)?;
        directory.sync_all().await.map_err(io_error)
    }

    /// Removes an image's file, received or in its place. Idempotent.
    pub(crate) async fn remove(&self, id: ImageId) -> Result<()> {
        for path in [self.incoming(id), self.file(id)] {
            match fs::remove_file(&path).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io_error(error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every file, in its place or being received; none in a directory that is not there.
    pub(crate) async fn list(&self) -> std::io::Result<Vec<ImageFile>> {
        let mut found = Vec::new();
        for (directory, received) in [(&self.files, true), (&self.incoming, false)] {
            let mut entries = match fs::read_dir(directory).await {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            while let Some(entry) = entries.next_entry().await? {
                // One that went meanwhile is none.
                let Ok(metadata) = entry.metadata().await else { continue };
                if entry.path() == self.incoming {
                    continue;
                }
                let idle = metadata.modified().ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
                let name = entry.file_name().to_string_lossy().into_owned();
                found.push(ImageFile { name, received, bytes: metadata.len(), idle });
            }
        }
        Ok(found)
    }

    /// Receives `source`; answers its length and SHA-256.
    async fn receive(&self, id: ImageId, mut source: ByteSource) -> Result<(u64, String)> {
        let path = self.incoming(id);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o640);
        let mut file = options.open(&path).await.map_err(io_error)?;
        let (mut length, mut digest, mut buffer) = (0_u64, Sha256::new(), vec![0_u8; 1 << 20]);
        loop {
            let read = source.read(&mut buffer).await.map_err(io_error)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            file.write_all(&buffer[..read]).await.map_err(io_error)?;
            length += read as u64;
        }
        file.flush().await.map_err(io_error)?;
        file.sync_all().await.map_err(io_error)?;
        Ok((length, hex(&digest.finalize())))
    }

    async fn inspect(&self, id: ImageId, format: ImageFormat, length: u64) -> Result<u64> {
        inspect(&self.incoming(id), format, length).await
    }
}

const QCOW2_MAGIC: &[u8] = b"QFI\xfb";
const MAX_CAPACITY: u64 = 64 << 40;

/// Checks that a file is what it is said to be and refers to no other file; answers what a guest
/// sees as its size in bytes. (qcow2: QEMU's docs/interop/qcow2.rst; ISO: ECMA-119.)
async fn inspect(path: &Path, format: ImageFormat, length: u64) -> Result<u64> {
    let bad = |text: &str| Error::invalid("format", text);
    let mut file = fs::File::open(path).await.map_err(io_error)?;
    let mut head = vec![0_u8; 104.min(usize::try_from(length).unwrap_or(104))];
    file.read_exact(&mut head).await.map_err(io_error)?;
    match format {
        ImageFormat::Raw => {
            let foreign: [(&[u8], &str); 5] = [
                (QCOW2_MAGIC, "qcow2"),
                (b"KDMV", "VMDK"),
                (b"vhdxfile", "VHDX"),
                (b"QED\0", "QED"),
                (b"# Disk DescriptorFile", "VMDK"),
            ];
            if let Some((_, name)) = foreign.iter().find(|(magic, _)| head.starts_with(magic)) {
                return Err(bad(&format!("This file is {name}, not a raw disk.")));
            }
            if length == 0 || !length.is_multiple_of(512) {
                return Err(bad("A raw disk has a length that is a multiple of 512 bytes, and is not empty."));
            }
            Ok(length)
        }
        ImageFormat::Iso => {
            let mut mark = [0_u8; 5];
            let found = file.seek(std::io::SeekFrom::Start(32769)).await.is_ok()
                && file.read_exact(&mut mark).await.is_ok()
                && &mark == b"CD001";
            if found { Ok(length) } else { Err(bad("This file is no ISO 9660 image.")) }
        }
        ImageFormat::Qcow2 => {
            let word = |at: usize| head.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
            let long = |at: usize| Some(u64::from(word(at)?) << 32 | u64::from(word(at + 4)?));
            if !head.starts_with(QCOW2_MAGIC) {
                return Err(bad("This file is no qcow2 image."));
            }
            let (Some(version), Some(backing), Some(capacity), Some(crypt)) = (word(4), long(8), long(24), word(32))
            else {
                return Err(bad("This qcow2 image is cut short."));
            };
            let incompatible = if version >= 3 { long(72).unwrap_or(u64::MAX) } else { 0 };
            if !(2..=3).contains(&version) {
                return Err(bad("Only qcow2 of version 2 or 3 is taken."));
            }
            if backing != 0 {
                return Err(bad("This qcow2 image has a backing file; flatten it first (qemu-img convert)."));
            }
            // Bit 0: not closed cleanly, bit 1: corrupt, bit 2: data in another file; 3: compression type.
            if incompatible & !0b1001 != 0 {
                return Err(bad("This qcow2 image is damaged, or keeps its data in another file."));
            }
            if crypt != 0 || capacity == 0 || capacity > MAX_CAPACITY {
                return Err(bad("This qcow2 image is encrypted, empty, or claims more than 64 TiB."));
            }
            Ok(capacity)
        }
    }
}

/// An image to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddImage {
    /// Its name, unique; the rules of a VM's name.
    pub name: String,
    /// What its bytes are; they are checked against it.
    pub format: ImageFormat,
}

impl Limen {
    /// A page of images.
    pub async fn list_images(&self, ctx: &Context, page: PageRequest) -> Result<Page<Image>> {
        self.authorize(ctx, Action::ListImages, Resource::Shared, "image")?;
        let images = self.shared.inventory.images();
        Ok(page_of(images.into_iter().map(|image| (image.id.0, (*image).clone())), page))
    }

    /// One image.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub async fn get_image(&self, ctx: &Context, id: ImageId) -> Result<Image> {
        self.authorize_one(ctx, Action::GetImage, Resource::Shared, "image", id.0)?;
        let image = self.shared.inventory.image(id).ok_or_else(|| Error::not_found("image"))?;
        Ok((*image).clone())
    }

    /// Receives an image's bytes, checks them, and records the operation that keeps them. Bytes
    /// that were received are removed again when it fails.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid): the name, or bytes that are not of the format or refer to
    /// another file. [`AlreadyExists`](ErrorKind::AlreadyExists), [`NoSpace`](ErrorKind::NoSpace).
    pub async fn add_image(&self, ctx: &Context, add: AddImage, source: ByteSource) -> Result<Operation> {
        self.authorize(ctx, Action::AddImage, Resource::Shared, "image")?;
        self.once(ctx, Action::AddImage, &add, self.add_new_image(ctx, &add, source)).await
    }

    async fn add_new_image(&self, ctx: &Context, add: &AddImage, source: ByteSource) -> Result<Operation> {
        validate::name("name", &add.name)?;
        if self.shared.inventory.images().iter().any(|image| image.name == add.name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "There is an image of this name already."));
        }
        let id = ImageId::generate();
        let incoming = Incoming { file: Some(self.shared.images()?.incoming(id)) };
        let operation = self.receive_image(ctx, add, id, source).await?;
        if operation.image_id == Some(id) {
            incoming.keep();
        }
        Ok(operation)
    }

    async fn receive_image(&self, ctx: &Context, add: &AddImage, id: ImageId, source: ByteSource) -> Result<Operation> {
        let images = self.shared.images()?;
        let host = self.shared.hosts.first().ok_or_else(|| Error::unavailable("Any host"))?.id;
        let (size_bytes, sha256) = images.receive(id, source).await?;
        let capacity_bytes = images.inspect(id, add.format, size_bytes).await?;
        let image = Image {
            id,
            name: add.name.clone(),
            format: add.format,
            size_bytes,
            capacity_bytes,
            sha256,
            phase: ImagePhase::Adding,
            version: 1,
            created_at: self.now(),
        };
        let rows = vec![Row::Image { image: Box::new(image.clone()), expect: Expect::Absent }];
        let plan = serde_json::to_value(AddImagePlan { image }).map_err(Error::internal)?;
        let proposal = on_image(OperationKind::AddImage, id, host, plan, rows, add.name.clone());
        self.submit(ctx, add, proposal).await
    }

    /// Deletes an image and its copies on hosts.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): a VM needs it; the sentence names some.
    pub async fn delete_image(&self, ctx: &Context, id: ImageId) -> Result<Operation> {
        let image = self.get_image(ctx, id).await?;
        self.authorize_one(ctx, Action::DeleteImage, Resource::Shared, "image", id.0)?;
        let needing = self.shared.inventory.vms_needing(id);
        if !needing.is_empty() {
            let names = needing.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
            let text = format!("{} VM(s) need this image, among them {names}.", needing.len());
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let host = self.shared.hosts.first().ok_or_else(|| Error::unavailable("Any host"))?.id;
        let deleting = Image { phase: ImagePhase::Deleting, version: image.version + 1, ..image.clone() };
        let rows = vec![Row::Image { image: Box::new(deleting), expect: Expect::Version(image.version) }];
        let name = image.name.clone();
        let plan = serde_json::to_value(DeleteImagePlan { image }).map_err(Error::internal)?;
        let proposal = on_image(OperationKind::DeleteImage, id, host, plan, rows, name);
        self.submit(ctx, &id, proposal).await
    }
}

/// An operation on an image; the first host's owner runs it.
fn on_image(
    kind: OperationKind,
    image: ImageId,
    host: HostId,
    plan: serde_json::Value,
    rows: Vec<Row>,
    name: String,
) -> Proposal {
    Proposal {
        id: OperationId::generate(),
        kind,
        host,
        vm: None,
        image: Some(image),
        owner: None,
        plan,
        rows,
        memory_limit: None,
        space_limit: None,
        preempt: false,
        detail: Some(name),
    }
}
