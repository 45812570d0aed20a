//! The pool: sparse files in memory, of which only what was written is kept.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{HostVolume, VolumeRef, VolumeSpec};
use crate::model::{VolumeFormat, VolumeId};

const BLOCK: u64 = 64 * 1024;
const QCOW2_MAGIC: &[u8; 4] = b"QFI\xfb";
/// Where a qcow2 header keeps the size that a guest sees, as 8 bytes, big end first.
const QCOW2_SIZE_AT: u64 = 24;

/// A sparse file; what was never written, or written with zeros, reads as zeros.
#[derive(Debug, Clone, Default)]
struct File {
    blocks: BTreeMap<u64, Arc<Vec<u8>>>,
    length: u64,
    allocation: u64,
}

impl File {
    fn write(&mut self, mut at: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (block, inside) = (at / BLOCK, (at % BLOCK) as usize);
            let part = bytes.len().min(BLOCK as usize - inside);
            let (now, rest) = bytes.split_at(part);
            if self.blocks.contains_key(&block) || now.iter().any(|byte| *byte != 0) {
                let stored = Arc::make_mut(self.blocks.entry(block).or_default());
                if stored.len() < inside + part {
                    self.allocation += (inside + part - stored.len()) as u64;
                    stored.resize(inside + part, 0);
                }
                stored[inside..inside + part].copy_from_slice(now);
            }
            at += part as u64;
            bytes = rest;
        }
        self.length = self.length.max(at);
    }

    fn read(&self, at: u64, into: &mut [u8]) {
        let (block, inside) = (at / BLOCK, (at % BLOCK) as usize);
        into.fill(0);
        if let Some(stored) = self.blocks.get(&block)
            && inside < stored.len()
        {
            let part = into.len().min(stored.len() - inside);
            into[..part].copy_from_slice(&stored[inside..inside + part]);
        }
    }

    /// The size that a guest sees, where the file begins as qcow2 does.
    fn qcow2_size(&self) -> Option<u64> {
        let mut header = [0; 32];
        self.read(0, &mut header);
        let size = header[QCOW2_SIZE_AT as usize..].try_into().map(u64::from_be_bytes).ok();
        size.filter(|_| header.starts_with(QCOW2_MAGIC))
    }
}

#[derive(Debug)]
struct Volume {
    file: File,
    capacity: u64,
}

/// All volumes, and how many bytes they may take together.
#[derive(Debug)]
pub(super) struct Pool {
    volumes: BTreeMap<(VolumeId, &'static str), (VolumeRef, Volume)>,
    used: u64,
    pub(super) limit: u64,
}

fn key(volume: VolumeRef) -> (VolumeId, &'static str) {
    (volume.id, volume.format.as_str())
}

impl Pool {
    pub(super) fn new(limit: u64) -> Self {
        Self { volumes: BTreeMap::new(), used: 0, limit }
    }

    pub(super) fn free(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    pub(super) fn contains(&self, volume: VolumeRef) -> bool {
        self.volumes.contains_key(&key(volume))
    }

    pub(super) fn create(&mut self, spec: &VolumeSpec) -> Result<()> {
        let volume = VolumeRef { id: spec.id, format: spec.format };
        if self.contains(volume) {
            return Ok(());
        }
        if let Some(backing) = spec.backing {
            if spec.format != VolumeFormat::Qcow2 {
                return Err(Error::invalid("format", "Only a qcow2 volume can be copy-on-write over another."));
            }
            if !self.contains(backing) {
                return Err(Error::not_found("volume"));
            }
        }
        let mut file = File::default();
        match spec.format {
            VolumeFormat::Raw => file.length = spec.capacity_bytes,
            VolumeFormat::Qcow2 => {
                file.write(0, QCOW2_MAGIC);
                file.write(4, &3_u32.to_be_bytes());
                file.write(QCOW2_SIZE_AT, &spec.capacity_bytes.to_be_bytes());
            }
        }
        if file.allocation > self.free() {
            return Err(no_space());
        }
        self.used += file.allocation;
        self.volumes.insert(key(volume), (volume, Volume { file, capacity: spec.capacity_bytes }));
        Ok(())
    }

    /// Writes some bytes of a volume's file; a qcow2 header among them says what a guest sees.
    pub(super) fn write(&mut self, volume: VolumeRef, at: u64, bytes: &[u8]) -> Result<()> {
        let free = self.free();
        let (reference, volume) = self.volumes.get_mut(&key(volume)).ok_or_else(|| Error::not_found("volume"))?;
        if bytes.len() as u64 > free && bytes.iter().any(|byte| *byte != 0) {
            return Err(no_space());
        }
        let before = volume.file.allocation;
        volume.file.write(at, bytes);
        self.used += volume.file.allocation - before;
        if at < QCOW2_SIZE_AT + 8 && reference.format == VolumeFormat::Qcow2 {
            volume.capacity = volume.file.qcow2_size().unwrap_or(volume.capacity);
        }
        Ok(())
    }

    pub(super) fn read(&self, volume: VolumeRef) -> Result<Reader> {
        let (_, volume) = self.volumes.get(&key(volume)).ok_or_else(|| Error::not_found("volume"))?;
        Ok(Reader { file: volume.file.clone(), at: 0 })
    }

    pub(super) fn resize(&mut self, volume: VolumeRef, capacity: u64) -> Result<()> {
        let (reference, volume) = self.volumes.get_mut(&key(volume)).ok_or_else(|| Error::not_found("volume"))?;
        if capacity > volume.capacity {
            volume.capacity = capacity;
            match reference.format {
                VolumeFormat::Raw => volume.file.length = volume.file.length.max(capacity),
                VolumeFormat::Qcow2 if volume.file.qcow2_size().is_some() => {
                    volume.file.write(QCOW2_SIZE_AT, &capacity.to_be_bytes());
                }
                VolumeFormat::Qcow2 => {}
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, volume: VolumeRef) {
        if let Some((_, volume)) = self.volumes.remove(&key(volume)) {
            self.used -= volume.file.allocation;
        }
    }

    pub(super) fn list(&self) -> Vec<HostVolume> {
        let shown = self.volumes.values().map(|(volume, inner)| HostVolume {
            volume: *volume,
            capacity_bytes: inner.capacity,
            allocation_bytes: inner.file.allocation,
        });
        shown.collect()
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::NoSpace, "The host has no space left for the volume.")
}

/// Reads a volume's file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    at: u64,
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = (self.file.length - self.at).min(BLOCK - self.at % BLOCK);
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.remaining());
        self.file.read(self.at, buffer.initialize_unfilled_to(part));
        buffer.advance(part);
        self.at += part as u64;
        Poll::Ready(Ok(()))
    }
}
