//! What is read: the snapshot, and lists that the inventory does not hold.

use uuid::Uuid;

use super::driver::{Line, Tx, args};
use super::failure::{Failure, Outcome};
use super::value::record;
use super::{log, operations};
use crate::error::Error;
use crate::model::{HostId, HostVm, Page, PageRequest, TicketRecord, UserId, VolumeRecord};
use crate::secret::Secret;
use crate::store::Snapshot;

/// Everything that the inventory holds, out of one state of the database.
pub(super) async fn snapshot(tx: &mut Tx) -> Outcome<Snapshot> {
    let event = log::last(tx).await?;
    let vms = tx.all("SELECT document FROM vms ORDER BY id", args![]).await?;
    let statuses = "SELECT host_id, document, revision FROM statuses ORDER BY host_id, vm_id";
    let statuses = tx.all(statuses, args![]).await?;
    let operations = operations::live(tx).await?;
    let images = tx.all("SELECT document FROM images ORDER BY id", args![]).await?;
    let hosts = tx.all("SELECT document FROM hosts ORDER BY id", args![]).await?;
    let owners = tx.all("SELECT document FROM owners ORDER BY id", args![]).await?;
    let used = super::quota::used(tx).await?;
    let host_memory_mib = super::quota::host_memory_mib(tx).await?;
    let users = tx.all("SELECT document FROM users ORDER BY id", args![]).await?;
    let sessions = tx.all("SELECT document FROM sessions ORDER BY id", args![]).await?;
    let restores = super::restore::all(tx).await?;
    let tokens = tx.all("SELECT document FROM tokens ORDER BY id", args![]).await?;
    // Ten thousand documents take too long to parse for a thread that serves others.
    let parse = move || {
        Ok(Snapshot {
            event,
            vms: records(&vms)?,
            statuses: statuses.iter().map(status).collect::<Outcome<_>>()?,
            operations,
            images: records(&images)?,
            hosts: records(&hosts)?,
            owners: records(&owners)?,
            used,
            host_memory_mib,
            users: records(&users)?,
            sessions: records(&sessions)?,
            tokens: records(&tokens)?,
            restores,
        })
    };
    tokio::task::spawn_blocking(parse).await.map_err(|error| Failure::Refused(Error::internal(error)))?
}

fn records<T: serde::de::DeserializeOwned>(lines: &[Line]) -> Outcome<Vec<T>> {
    lines.iter().map(|line| record(line, 0)).collect()
}

fn status(line: &Line) -> Outcome<(HostId, HostVm, i64)> {
    Ok((line.id(0)?, record(line, 1)?, line.int(2)?))
}

/// A page of `lines`, which hold one item more than the page when there is a next one.
pub(super) fn page<T>(
    lines: &[Line],
    request: PageRequest,
    item: impl Fn(&Line) -> Outcome<T>,
    id: impl Fn(&T) -> Uuid,
) -> Outcome<Page<T>> {
    let limit = request.limit() as usize;
    let items = lines.iter().take(limit).map(item).collect::<Outcome<Vec<_>>>()?;
    let more = lines.len() > limit;
    let next_cursor = items.last().filter(|_| more).map(|last| id(last).to_string());
    Ok(Page { items, next_cursor })
}

pub(super) async fn volumes(tx: &mut Tx, host: HostId) -> Outcome<Vec<VolumeRecord>> {
    records(&tx.all("SELECT document FROM volumes WHERE host_id = $1 ORDER BY id", args![host]).await?)
}

pub(super) async fn ticket(tx: &mut Tx, hash: &str) -> Outcome<Option<TicketRecord>> {
    let line = tx.first("SELECT document FROM tickets WHERE hash = $1", args![hash]).await?;
    line.map(|line| record(&line, 0)).transpose()
}

pub(super) async fn password_hash(tx: &mut Tx, name: &str) -> Outcome<Option<(UserId, Secret)>> {
    // No name holds a NUL, and the question must not tell so by an error.
    if name.contains('\0') {
        return Ok(None);
    }
    let sql = "SELECT id, password_hash FROM users WHERE name = $1 AND password_hash IS NOT NULL";
    match tx.first(sql, args![name]).await? {
        Some(line) => Ok(Some((line.id(0)?, Secret::new(line.text(1)?)))),
        None => Ok(None),
    }
}
