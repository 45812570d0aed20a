//! Files that their owner alone may read, with their checksums.

use std::io::SeekFrom;
use std::path::Path;

use sha2::{Digest, Sha256};
use tokio::fs;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::manifest::BackedUpFile;
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;

/// How much is read at a time; a piece of zeros alone becomes a hole.
const PIECE: usize = 256 << 10;

/// An error on a file, which it names: the caller owns the machine.
pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{path}: {error}.")).with_source(error)
    }
}

/// Makes a directory for its owner alone; one that is there is kept as it is.
pub(super) async fn make_directory(path: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    builder.mode(0o700);
    builder.create(path).await.map_err(at(path))
}

/// Makes what is in a directory outlive a loss of power.
pub(super) async fn sync_directory(path: &Path) -> Result<()> {
    fs::File::open(path).await.map_err(at(path))?.sync_all().await.map_err(at(path))
}

/// Writes a new file of `source`, with holes where there are zeros alone, and syncs it.
pub(super) async fn write(root: &Path, name: &str, mut source: impl AsyncRead + Unpin) -> Result<BackedUpFile> {
    let path = root.join(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    let mut file = options.open(&path).await.map_err(at(&path))?;
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; PIECE]);
    loop {
        let read = fill(&mut source, &mut buffer).await.map_err(at(&path))?;
        let piece = &buffer[..read];
        if piece.is_empty() {
            break;
        }
        digest.update(piece);
        bytes += read as u64;
        if piece.iter().all(|byte| *byte == 0) {
            file.seek(SeekFrom::Start(bytes)).await.map_err(at(&path))?;
        } else {
            file.write_all(piece).await.map_err(at(&path))?;
        }
    }
    file.flush().await.map_err(at(&path))?;
    file.set_len(bytes).await.map_err(at(&path))?;
    file.sync_all().await.map_err(at(&path))?;
    Ok(BackedUpFile { path: name.to_owned(), bytes, sha256: hex(&digest.finalize()) })
}

/// What another program has written: made private, synced, and summed up.
pub(super) async fn adopt(root: &Path, name: &str) -> Result<BackedUpFile> {
    let path = root.join(name);
    #[cfg(unix)]
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).await.map_err(at(&path))?;
    fs::File::open(&path).await.map_err(at(&path))?.sync_all().await.map_err(at(&path))?;
    sum(root, name).await
}

/// Reads a file to its end for its checksum.
pub(super) async fn sum(root: &Path, name: &str) -> Result<BackedUpFile> {
    let path = root.join(name);
    let mut file = fs::File::open(&path).await.map_err(at(&path))?;
    let (mut digest, mut bytes, mut buffer) = (Sha256::new(), 0_u64, vec![0; PIECE]);
    loop {
        let read = fill(&mut file, &mut buffer).await.map_err(at(&path))?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(BackedUpFile { path: name.to_owned(), bytes, sha256: hex(&digest.finalize()) })
}

/// Fills the buffer as far as the source goes.
async fn fill(source: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]).await? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}
