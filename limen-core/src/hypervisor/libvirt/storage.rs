//! LIMEN's pool of volumes on the host: a directory of files named `<volume id>.<format>`.
//!
//! Formats are stated at every use. libvirt itself looks at its volumes' first bytes, and a guest
//! writes what it likes there: so nothing that libvirt believes about a raw volume's format is
//! ever used, and a raw volume is made larger by a byte at its new end, never by qemu-img.
//!
//! Bytes travel over connections of their own, a piece at a time. libvirt's client takes in all
//! that a stream has to give, so a volume is read in pieces no larger than [`PIECE`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::sync::mpsc;
use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::stream::Stream;

use super::connection::Link;
use super::error::{during, from_libvirt, is, unavailable, unexpected};
use super::xml::write::{DiskFile, Files};
use super::xml::{read, storage as xml};
use super::{LibvirtHypervisor, ffi};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{ByteSource, HostVolume, VmDefinition, VolumeRef, VolumeSpec};
use crate::model::{DiskMode, VolumeFormat, VolumeId};

/// Transfers at once on one host.
pub(super) const TRANSFERS: usize = 4;
/// How much is read of a volume at a time.
const PIECE: u64 = 4 << 20;
/// How much is sent to libvirt at a time.
const CHUNK: usize = 256 << 10;
/// How long a refresh of the pool waits for volumes that are being made, and how often it asks.
const REFRESH_PATIENCE: Duration = Duration::from_secs(5);
const REFRESH_PAUSE: Duration = Duration::from_millis(20);
/// The longest chain of backing volumes that is followed.
const LONGEST_CHAIN: usize = 8;

fn file_name(volume: VolumeRef) -> String {
    [&volume.id.to_string(), ".", volume.format.as_str()].concat()
}

/// The volume of a file name of LIMEN's making.
fn volume_of(name: &str) -> Option<VolumeRef> {
    let (id, format) = name.split_once('.')?;
    let format = [VolumeFormat::Qcow2, VolumeFormat::Raw].into_iter().find(|f| f.as_str() == format)?;
    let volume = VolumeRef { id: id.parse::<VolumeId>().ok()?, format };
    (file_name(volume) == name).then_some(volume)
}

fn directory(link: &Link) -> Result<&str> {
    let path = link.options.directory.to_str().ok_or_else(|| unexpected("the directory is not UTF-8"))?;
    let trimmed = path.trim_end_matches('/');
    Ok(if trimmed.is_empty() { "/" } else { trimmed })
}

/// LIMEN's pool, active. Its name is made of its directory, so that installations with different
/// directories do not meet; where the directory is a pool already, that one is used.
pub(super) fn pool(link: &Link, conn: &Connect) -> Result<StoragePool> {
    let directory = directory(link)?;
    let digest = Sha256::digest(directory.as_bytes());
    let name = format!("limen-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
    let pool = match conn.lookup_storage_pool_by_name(&name) {
        Ok(pool) => pool,
        Err(error) if is(&error, ErrorNumber::NoStoragePool) => match pool_at(conn, directory)? {
            Some(pool) => pool,
            None => define(conn, &name, directory)?,
        },
        Err(error) => return Err(from_libvirt("virStoragePoolLookupByName", error)),
    };
    if !pool.is_active().map_err(during("virStoragePoolIsActive"))?
        && let Err(error) = pool.create(virt_sys::VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        && !pool.is_active().unwrap_or(false)
    {
        return Err(from_libvirt("virStoragePoolCreate", error));
    }
    Ok(pool)
}

fn define(conn: &Connect, name: &str, directory: &str) -> Result<StoragePool> {
    let text = xml::pool(name, directory)?;
    let pool = match conn.define_storage_pool_xml(&text, 0) {
        Ok(pool) => pool,
        // Another call was first.
        Err(error) => match conn.lookup_storage_pool_by_name(name) {
            Ok(pool) => pool,
            Err(_) => return Err(from_libvirt("virStoragePoolDefineXML", error)),
        },
    };
    pool.set_autostart(true).map_err(during("virStoragePoolSetAutostart"))?;
    Ok(pool)
}

fn pool_at(conn: &Connect, directory: &str) -> Result<Option<StoragePool>> {
    for pool in conn.list_all_storage_pools(0).map_err(during("virConnectListAllStoragePools"))? {
        let text = pool.xml_desc(0).map_err(during("virStoragePoolGetXMLDesc"))?;
        if read::pool_directory(&text)?.is_some_and(|path| path.trim_end_matches('/') == directory) {
            return Ok(Some(pool));
        }
    }
    Ok(None)
}

pub(super) fn free_bytes(link: &Link, conn: &Connect) -> Result<u64> {
    // The figures of a pool are those of its last refresh, so they are refreshed.
    let pool = pool(link, conn)?;
    pool.refresh(0).ok();
    Ok(pool.info().map_err(during("virStoragePoolGetInfo"))?.available)
}

/// Lets libvirt look at the pool's files anew. It refuses with an internal error while a volume is
/// being made, which takes moments: so it is asked again.
pub(super) fn refresh(pool: &StoragePool) -> Result<()> {
    let end = Instant::now() + REFRESH_PATIENCE;
    loop {
        match pool.refresh(0) {
            Ok(_) => return Ok(()),
            Err(error) if is(&error, ErrorNumber::InternalError) && Instant::now() < end => {
                std::thread::sleep(REFRESH_PAUSE);
            }
            Err(error) if is(&error, ErrorNumber::InternalError) => {
                let cause = from_libvirt("virStoragePoolRefresh", error);
                return Err(unavailable().with_source(cause));
            }
            Err(error) => return Err(from_libvirt("virStoragePoolRefresh", error)),
        }
    }
}

fn find(pool: &StoragePool, volume: VolumeRef) -> Result<Option<StorageVol>> {
    match pool.lookup_storage_vol_by_name(&file_name(volume)) {
        Ok(found) => Ok(Some(found)),
        Err(error) if is(&error, ErrorNumber::NoStorageVolume) => Ok(None),
        Err(error) => Err(from_libvirt("virStorageVolLookupByName", error)),
    }
}

fn existing(pool: &StoragePool, volume: VolumeRef) -> Result<StorageVol> {
    find(pool, volume)?.ok_or_else(|| Error::not_found("volume"))
}

pub(super) fn create(link: &Link, conn: &Connect, spec: &VolumeSpec) -> Result<()> {
    let pool = pool(link, conn)?;
    let volume = VolumeRef { id: spec.id, format: spec.format };
    if find(&pool, volume)?.is_some() {
        return Ok(());
    }
    let backing = match spec.backing {
        Some(backing) => Some(existing(&pool, backing)?.path().map_err(during("virStorageVolGetPath"))?),
        None => None,
    };
    let text = xml::volume(&file_name(volume), spec, backing.as_deref())?;
    match StorageVol::create_xml(&pool, &text, 0) {
        Ok(_) => Ok(()),
        Err(error) if is(&error, ErrorNumber::StorageVolExist) => Ok(()),
        Err(error) => Err(from_libvirt("virStorageVolCreateXML", error)),
    }
}

pub(super) fn resize(link: &Link, conn: &Connect, volume: VolumeRef, capacity_bytes: u64) -> Result<()> {
    let pool = pool(link, conn)?;
    let handle = existing(&pool, volume)?;
    if capacity(&handle, volume)?.0 >= capacity_bytes {
        return Ok(());
    }
    match volume.format {
        VolumeFormat::Qcow2 => {
            handle.resize(capacity_bytes, 0).map_err(during("virStorageVolResize"))?;
        }
        VolumeFormat::Raw => {
            let stream = Stream::new(conn, 0).map_err(during("virStreamNew"))?;
            handle.upload(&stream, capacity_bytes - 1, 1, 0).map_err(during("virStorageVolUpload"))?;
            ffi::send_all(&stream, &[0]).map_err(during("virStreamSend"))?;
            stream.finish().map_err(during("virStreamFinish"))?;
        }
    }
    Ok(())
}

/// What a guest sees as the size, and what is taken on the host. The size of a raw volume is that
/// of its file.
fn capacity(handle: &StorageVol, volume: VolumeRef) -> Result<(u64, u64)> {
    let info = handle.info().map_err(during("virStorageVolGetInfo"))?;
    match volume.format {
        VolumeFormat::Qcow2 => Ok((info.capacity, info.allocation)),
        VolumeFormat::Raw => Ok((file_length(handle)?, info.allocation)),
    }
}

fn file_length(handle: &StorageVol) -> Result<u64> {
    let info =
        handle.info_flags(virt_sys::VIR_STORAGE_VOL_GET_PHYSICAL).map_err(during("virStorageVolGetInfoFlags"))?;
    Ok(info.allocation)
}

pub(super) fn remove(link: &Link, conn: &Connect, volume: VolumeRef) -> Result<()> {
    let pool = pool(link, conn)?;
    let handle = match find(&pool, volume)? {
        Some(handle) => handle,
        None => {
            // libvirt may not have seen a file that came late.
            refresh(&pool)?;
            match find(&pool, volume)? {
                Some(handle) => handle,
                None => return Ok(()),
            }
        }
    };
    match handle.delete(0) {
        Ok(()) => Ok(()),
        Err(error) => match find(&pool, volume)? {
            Some(_) => Err(from_libvirt("virStorageVolDelete", error)),
            None => Ok(()),
        },
    }
}

pub(super) fn list(link: &Link, conn: &Connect) -> Result<Vec<HostVolume>> {
    let pool = pool(link, conn)?;
    // libvirt knows the files that were there when it last looked. It refuses while one is being
    // made: then its word is as good as new.
    pool.refresh(0).ok();
    let mut volumes = Vec::new();
    for handle in pool.list_all_volumes(0).map_err(during("virStoragePoolListAllVolumes"))? {
        let name = handle.name().map_err(during("virStorageVolGetName"))?;
        let Some(volume) = volume_of(&name) else { continue };
        match capacity(&handle, volume) {
            Ok((capacity_bytes, allocation_bytes)) => {
                volumes.push(HostVolume { volume, capacity_bytes, allocation_bytes });
            }
            // It went meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(volumes)
}

/// Where a definition's volumes are, with the chains of those that are copy-on-write.
pub(super) fn files_of(link: &Link, conn: &Connect, vm: &VmDefinition) -> Result<Files> {
    let spec = &vm.spec;
    let nvram = [directory(link)?, "/", &vm.id.to_string(), "_VARS.fd"].concat();
    if link.is_test() || (spec.disks.is_empty() && spec.iso.is_none()) {
        return Ok(Files { nvram, ..Files::default() });
    }
    let pool = pool(link, conn)?;
    let path_of = |volume| existing(&pool, volume)?.path().map_err(during("virStorageVolGetPath"));
    let mut files = Files { nvram, ..Files::default() };
    for disk in &spec.disks {
        let volume = VolumeRef { id: disk.volume, format: disk.format };
        let backing = match disk.mode {
            DiskMode::Linked => chain(&pool, volume)?,
            DiskMode::Full => Vec::new(),
        };
        files.disks.push(DiskFile { volume, path: path_of(volume)?, backing });
    }
    if let Some(iso) = &spec.iso {
        files.iso = Some(path_of(VolumeRef { id: iso.volume, format: VolumeFormat::Raw })?);
    }
    Ok(files)
}

/// The volumes under a copy-on-write one. Which they are, its header says, that only LIMEN wrote;
/// their formats are in their names, and a file that is not LIMEN's is refused.
fn chain(pool: &StoragePool, top: VolumeRef) -> Result<Vec<(String, VolumeRef)>> {
    let mut chain = Vec::new();
    let mut next = top;
    while next.format == VolumeFormat::Qcow2 && chain.len() < LONGEST_CHAIN {
        let text = existing(pool, next)?.xml_desc(0).map_err(during("virStorageVolGetXMLDesc"))?;
        let (own, Some(backing)) = read::volume_paths(&text)? else { break };
        let own_directory = own.rsplit_once('/').map(|(directory, _)| directory);
        let volume = match backing.rsplit_once('/') {
            Some((directory, name)) if Some(directory) == own_directory => volume_of(name),
            _ => None,
        };
        next = volume.ok_or_else(|| unexpected("a volume is over a file that is not LIMEN's"))?;
        chain.push((backing, next));
    }
    Ok(chain)
}

/// Fills a volume. The bytes go through a short queue to a thread that sends them; a queue that
/// closes before its end aborts the upload.
pub(super) async fn write(
    host: &LibvirtHypervisor,
    volume: VolumeRef,
    mut source: ByteSource,
    length: u64,
) -> Result<()> {
    const NAME: &str = "write_volume";
    let permit = Arc::clone(&host.transfers).acquire_owned().await.map_err(|_| unavailable())?;
    host.link.check().map_err(|error| error.with_operation(NAME))?;
    let deadline = host.link.options.change_deadline;
    let (chunks, received) = mpsc::channel(4);
    let (outcome, end) = tokio::sync::oneshot::channel();
    let link = Arc::clone(&host.link);
    host.slots.detach(move || {
        outcome.send(upload(&link, volume, received, length)).ok();
        drop(permit);
    })?;
    let late = || Error::new(ErrorKind::Timeout, "The host did not take the volume's bytes in time.");
    let mut left = length;
    while left > 0 {
        let mut buffer = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        let got = match source.read(&mut buffer).await {
            Ok(got) if got > 0 => got,
            read => {
                // Until the upload is aborted it may still write what came before: a next one waits.
                drop(chunks);
                tokio::time::timeout(deadline, end).await.ok();
                return Err(match read {
                    Ok(_) => Error::invalid("source", "The bytes end before the length that was told."),
                    Err(error) => {
                        Error::invalid("source", "The bytes could not be read to their end.").with_source(error)
                    }
                });
            }
        };
        buffer.truncate(got);
        left -= got as u64;
        match tokio::time::timeout(deadline, chunks.send(Chunk::Bytes(buffer))).await {
            Err(_) => return Err(late().with_operation(NAME)),
            // The thread ended early: it tells why below.
            Ok(Err(_)) => break,
            Ok(Ok(())) => {}
        }
    }
    if left == 0 {
        chunks.send(Chunk::End).await.ok();
    }
    let result = tokio::time::timeout(deadline, end).await.map_err(|_| late())?;
    result.unwrap_or_else(|_| Err(unexpected("an upload ended without an answer"))).map_err(|e| e.with_operation(NAME))
}

enum Chunk {
    Bytes(Vec<u8>),
    End,
}

fn upload(link: &Link, volume: VolumeRef, mut chunks: mpsc::Receiver<Chunk>, length: u64) -> Result<()> {
    let conn = link.own_connection()?;
    let pool = pool(link, &conn)?;
    let handle = existing(&pool, volume)?;
    if length == 0 {
        return Ok(());
    }
    let stream = Stream::new(&conn, 0).map_err(during("virStreamNew"))?;
    handle.upload(&stream, 0, length, 0).map_err(during("virStorageVolUpload"))?;
    loop {
        match chunks.blocking_recv() {
            Some(Chunk::Bytes(bytes)) => {
                if let Err(error) = ffi::send_all(&stream, &bytes) {
                    stream.abort().ok();
                    return Err(from_libvirt("virStreamSend", error));
                }
            }
            Some(Chunk::End) => return stream.finish().map_err(during("virStreamFinish")),
            None => {
                stream.abort().ok();
                return Err(Error::new(ErrorKind::Cancelled, "The upload was given up."));
            }
        }
    }
}

/// Reads a volume, a piece ahead of the reader.
pub(super) async fn read(host: &LibvirtHypervisor, volume: VolumeRef) -> Result<ByteSource> {
    const NAME: &str = "read_volume";
    let permit = Arc::clone(&host.transfers).acquire_owned().await.map_err(|_| unavailable())?;
    host.link.check().map_err(|error| error.with_operation(NAME))?;
    let (found, answer) = tokio::sync::oneshot::channel();
    let (pieces, received) = mpsc::channel(1);
    let link = Arc::clone(&host.link);
    host.slots.detach(move || {
        download(&link, volume, found, &pieces);
        drop(permit);
    })?;
    let deadline = host.link.options.change_deadline;
    let late = |_| Error::new(ErrorKind::Timeout, "The host did not answer in time.").with_operation(NAME);
    let answer = tokio::time::timeout(deadline, answer).await.map_err(late)?;
    let length = answer.unwrap_or_else(|_| Err(unexpected("a download ended without an answer")))?;
    Ok(Box::new(VolumeReader { pieces: received, piece: Vec::new(), taken: 0, left: length }))
}

/// The bytes of a volume as they arrive.
struct VolumeReader {
    pieces: mpsc::Receiver<Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
    left: u64,
}

impl AsyncRead for VolumeReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.left == 0 {
            return Poll::Ready(Ok(()));
        }
        if this.taken == this.piece.len() {
            match task::ready!(this.pieces.poll_recv(cx)) {
                Some(Ok(piece)) => (this.piece, this.taken) = (piece, 0),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let now = buffer.remaining().min(this.piece.len() - this.taken);
        buffer.put_slice(&this.piece[this.taken..this.taken + now]);
        this.taken += now;
        this.left = this.left.saturating_sub(now as u64);
        Poll::Ready(Ok(()))
    }
}

fn download(
    link: &Link,
    volume: VolumeRef,
    found: tokio::sync::oneshot::Sender<Result<u64>>,
    pieces: &mpsc::Sender<Result<Vec<u8>>>,
) {
    let opened = (|| {
        let conn = link.own_connection()?;
        let pool = pool(link, &conn)?;
        let handle = existing(&pool, volume)?;
        let length = file_length(&handle)?;
        Ok((conn, handle, length))
    })();
    let (conn, handle, length) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            found.send(Err(error)).ok();
            return;
        }
    };
    found.send(Ok(length)).ok();
    let mut offset = 0;
    while offset < length {
        let piece = piece(&conn, &handle, offset, PIECE.min(length - offset));
        let failed = piece.is_err();
        offset += PIECE;
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

fn piece(conn: &Connect, handle: &StorageVol, offset: u64, length: u64) -> Result<Vec<u8>> {
    let stream = Stream::new(conn, 0).map_err(during("virStreamNew"))?;
    handle.download(&stream, offset, length, 0).map_err(during("virStorageVolDownload"))?;
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = stream.recv(&mut bytes[filled..]).map_err(during("virStreamRecv"))?;
        match usize::try_from(got) {
            Ok(0) | Err(_) => return Err(unexpected("a volume is shorter than it was")),
            Ok(got) => filled += got,
        }
    }
    stream.finish().map_err(during("virStreamFinish"))?;
    Ok(bytes)
}
