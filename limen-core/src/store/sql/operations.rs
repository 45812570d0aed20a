//! Operations with their journals, locks and idempotency keys.

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;

use super::driver::{Arg, Line, Tx, args};
use super::failure::Outcome;
use super::value::{self, document, micros, record};
use crate::error::{Error, ErrorKind};
use crate::model::{Fact, HostId, Operation, OperationId, OperationKind, OperationState, Page, VolumeId};
use crate::store::{IdempotencyKey, OperationQuery, OperationRow};

/// How long an idempotency key is remembered, in microseconds: 24 hours.
const KEY_LIFE_US: i64 = 24 * 3_600 * 1_000_000;

/// Writes a new operation. Its locks come next, its event comes last.
pub(super) async fn insert(tx: &mut Tx, row: &OperationRow) -> Outcome<()> {
    let operation = &row.operation;
    let args = args![
        operation.id,
        operation.kind.as_str(),
        i64::from(row.journal.kind_version),
        operation.state.as_str(),
        operation.state.is_finished(),
        row.journal.waiting,
        operation.cancel_requested,
        operation.host,
        operation.vm_id,
        operation.image_id,
        operation.owner,
        &operation.actor.label,
        &operation.request_id,
        micros(operation.created_at),
        operation.finished_at.map(micros),
        document(operation)?,
        document(&row.journal)?,
    ];
    let sql = "INSERT INTO operations (id, kind, kind_version, state, finished, waiting, cancel_requested, host_id, \
               vm_id, image_id, owner_id, actor, request_id, created_at, finished_at, document, journal) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";
    let written = tx.execute(sql, args).await;
    written.map_err(|failure| failure.named("There is such an operation already.", "There is no such host."))?;
    Ok(())
}

/// Takes `locks` for `id`; answers the operations that they were taken over from.
pub(super) async fn lock(tx: &mut Tx, id: OperationId, locks: &[String], preempt: bool) -> Outcome<Vec<OperationId>> {
    let mut locks: Vec<_> = locks.iter().collect();
    locks.sort_unstable();
    locks.dedup();
    let mut preempted = Vec::new();
    for resource in locks {
        let sql = "INSERT INTO operation_locks (resource, operation_id) VALUES ($1, $2) \
                   ON CONFLICT (resource) DO UPDATE SET resource = excluded.resource RETURNING operation_id";
        let line = tx.first(sql, args![resource, id]).await?;
        let holder: OperationId = line.ok_or_else(|| Error::internal("no lock"))?.id(0)?;
        if holder == id {
            continue;
        }
        if !preempt {
            return Err(Error::busy(holder).into());
        }
        tx.execute("UPDATE operation_locks SET operation_id = $1 WHERE resource = $2", args![id, resource]).await?;
        if !preempted.contains(&holder) {
            preempted.push(holder);
        }
    }
    Ok(preempted)
}

/// Releases what a finished operation holds.
pub(super) async fn release(tx: &mut Tx, id: OperationId) -> Outcome<()> {
    tx.execute("DELETE FROM operation_locks WHERE operation_id = $1", args![id]).await?;
    Ok(())
}

/// Asks an operation that lost its locks to cancel; one that no longer waits keeps them.
pub(super) async fn preempt(tx: &mut Tx, id: OperationId) -> Outcome<Fact> {
    let sql = "UPDATE operations SET cancel_requested = 1 WHERE id = $1 AND waiting = 1 AND finished = 0 \
               RETURNING document, cancel_requested";
    match tx.first(sql, args![id]).await? {
        Some(line) => Ok(Fact::Operation { operation: operation(&line)? }),
        None => Err(Error::busy(id).into()),
    }
}

/// Writes a known operation as it shall be.
pub(super) async fn update(tx: &mut Tx, row: &OperationRow) -> Outcome<Fact> {
    let operation = &row.operation;
    let sql = "UPDATE operations SET kind_version = $2, state = $3, finished = $4, waiting = $5, \
               cancel_requested = CASE WHEN cancel_requested = 1 THEN 1 ELSE $6 END, \
               finished_at = $7, document = $8, journal = $9 \
               WHERE id = $1 AND (finished = 0 OR $10 = 1) RETURNING document, cancel_requested";
    let args = args![
        operation.id,
        i64::from(row.journal.kind_version),
        operation.state.as_str(),
        operation.state.is_finished(),
        row.journal.waiting,
        operation.cancel_requested,
        operation.finished_at.map(micros),
        document(operation)?,
        document(&row.journal)?,
        operation.state == OperationState::Undoing,
    ];
    match tx.first(sql, args).await? {
        Some(line) => Ok(Fact::Operation { operation: self::operation(&line)? }),
        None => Err(absent_or_finished(tx, operation.id).await?.into()),
    }
}

/// Writes a held operation as it shall be; one that is not held any more was settled before.
pub(super) async fn settle(tx: &mut Tx, row: &OperationRow) -> Outcome<Fact> {
    let id = row.operation.id;
    let sql = "UPDATE operations SET finished = 0 WHERE id = $1 AND state = 'held'";
    if tx.execute(sql, args![id]).await? == 1 {
        return update(tx, row).await;
    }
    Err(match absent_or_finished(tx, id).await? {
        error if error.kind() == ErrorKind::Conflict => {
            Error::new(ErrorKind::Conflict, "The operation is not held.").with_operation_id(id)
        }
        error => error,
    }
    .into())
}

/// Holds every operation that is not finished, and that this program knows.
pub(super) async fn hold(tx: &mut Tx) -> Outcome<Vec<Fact>> {
    let sql = format!(
        "SELECT document, cancel_requested, journal FROM operations \
         WHERE finished = 0 AND state <> 'held' AND kind IN ({}) ORDER BY id",
        known_kinds()
    );
    let rows = tx.all(AssertSqlSafe(sql), args![]).await?.iter().map(row).collect::<Outcome<Vec<_>>>()?;
    let mut facts = Vec::with_capacity(rows.len());
    for mut row in rows {
        row.journal.held = Some(row.operation.state);
        // It gives way to nobody.
        row.journal.waiting = false;
        row.operation.state = OperationState::Held;
        facts.push(update(tx, &row).await?);
    }
    Ok(facts)
}

/// Sets `cancel_requested`; no event where that changes nothing.
pub(super) async fn request_cancel(tx: &mut Tx, id: OperationId) -> Outcome<Option<Fact>> {
    let sql = "UPDATE operations SET cancel_requested = 1 WHERE id = $1 AND finished = 0 AND cancel_requested = 0 \
               RETURNING document, cancel_requested";
    if let Some(line) = tx.first(sql, args![id]).await? {
        return Ok(Some(Fact::Operation { operation: operation(&line)? }));
    }
    match tx.first("SELECT 1 FROM operations WHERE id = $1", args![id]).await? {
        Some(_) => Ok(None),
        None => Err(Error::not_found("operation").into()),
    }
}

async fn absent_or_finished(tx: &mut Tx, id: OperationId) -> Outcome<Error> {
    Ok(match tx.first("SELECT 1 FROM operations WHERE id = $1", args![id]).await? {
        Some(_) => Error::new(ErrorKind::Conflict, "The operation is finished.").with_operation_id(id),
        None => Error::not_found("operation"),
    })
}

/// Takes an operation back that was inserted in this very transaction.
pub(super) async fn discard(tx: &mut Tx, id: OperationId) -> Outcome<()> {
    tx.execute("DELETE FROM operations WHERE id = $1", args![id]).await.map(drop)
}

/// Remembers `id` under `key`; answers what the key stands for already.
pub(super) async fn remember(tx: &mut Tx, key: &IdempotencyKey, id: OperationId) -> Outcome<Option<OperationId>> {
    let now = value::now();
    let sql = "INSERT INTO idempotency_keys (scope, key, digest, operation_id, created_at) \
               VALUES ($1, $2, $3, $4, $5) ON CONFLICT (scope, key) DO UPDATE \
               SET digest = excluded.digest, operation_id = excluded.operation_id, created_at = excluded.created_at \
               WHERE idempotency_keys.created_at <= $6";
    let args = args![&key.scope, &key.key, &key.digest, id, now, now - KEY_LIFE_US];
    if tx.execute(sql, args).await? > 0 {
        return Ok(None);
    }
    let (digest, earlier) =
        remembered(tx, &key.scope, &key.key).await?.ok_or_else(|| Error::unavailable("The store"))?;
    if digest == key.digest {
        Ok(Some(earlier))
    } else {
        let message = "This idempotency key was used for another request.";
        Err(Error::new(ErrorKind::Conflict, message).with_operation_id(earlier).into())
    }
}

pub(super) async fn remembered(tx: &mut Tx, scope: &str, key: &str) -> Outcome<Option<(String, OperationId)>> {
    let sql = "SELECT digest, operation_id FROM idempotency_keys WHERE scope = $1 AND key = $2 AND created_at > $3";
    match tx.first(sql, args![scope, key, value::now() - KEY_LIFE_US]).await? {
        Some(line) => Ok(Some((line.text(0)?.to_owned(), line.id(1)?))),
        None => Ok(None),
    }
}

/// The operation in columns `document, cancel_requested`.
fn operation(line: &Line) -> Outcome<Operation> {
    let mut operation: Operation = record(line, 0)?;
    operation.cancel_requested = line.int(1)? == 1;
    Ok(operation)
}

/// The names of the kinds that this program knows: operations of others are left alone.
fn known_kinds() -> String {
    OperationKind::ALL.map(|kind| format!("'{}'", kind.as_str())).join(", ")
}

pub(super) async fn get(tx: &mut Tx, id: OperationId) -> Outcome<OperationRow> {
    let sql = format!(
        "SELECT document, cancel_requested, journal FROM operations WHERE id = $1 AND kind IN ({})",
        known_kinds()
    );
    let line = tx.first(AssertSqlSafe(sql), args![id]).await?;
    row(&line.ok_or_else(|| Error::not_found("operation"))?)
}

fn row(line: &Line) -> Outcome<OperationRow> {
    Ok(OperationRow { operation: operation(line)?, journal: record(line, 2)? })
}

pub(super) async fn unfinished(tx: &mut Tx, host: HostId) -> Outcome<Vec<OperationRow>> {
    let sql = format!(
        "SELECT document, cancel_requested, journal FROM operations \
         WHERE host_id = $1 AND finished = 0 AND kind IN ({}) ORDER BY id",
        known_kinds()
    );
    tx.all(AssertSqlSafe(sql), args![host]).await?.iter().map(row).collect()
}

/// The unfinished operations of all hosts, as documents with `cancel_requested`.
pub(super) async fn live(tx: &mut Tx) -> Outcome<Vec<Operation>> {
    let sql = format!(
        "SELECT document, cancel_requested FROM operations WHERE finished = 0 AND kind IN ({}) ORDER BY id",
        known_kinds()
    );
    tx.all(AssertSqlSafe(sql), args![]).await?.iter().map(operation).collect()
}

pub(super) async fn page(tx: &mut Tx, query: &OperationQuery) -> Outcome<Page<Operation>> {
    let mut sql = format!("SELECT document, cancel_requested FROM operations WHERE kind IN ({})", known_kinds());
    let mut args: Vec<Arg> = Vec::new();
    // Writing to a String cannot fail.
    if let Some(after) = query.page.after() {
        args.push(after.into());
        _ = write!(sql, " AND id < ${}", args.len());
    }
    if let Some(vm) = query.vm {
        args.push(vm.into());
        _ = write!(sql, " AND vm_id = ${}", args.len());
    }
    if let Some(owners) = &query.owners {
        let first = args.len() + 1;
        args.extend(owners.iter().map(|owner| Arg::from(*owner)));
        let places: Vec<_> = (first..=args.len()).map(|place| format!("${place}")).collect();
        // An empty list of owners owns nothing.
        _ = if places.is_empty() {
            write!(sql, " AND 1 = 0")
        } else {
            write!(sql, " AND owner_id IN ({})", places.join(", "))
        };
    }
    args.push((i64::from(query.page.limit()) + 1).into());
    _ = write!(sql, " ORDER BY id DESC LIMIT ${}", args.len());
    let lines = tx.all(AssertSqlSafe(sql), args).await?;
    super::read::page(&lines, query.page, operation, |operation| operation.id.0)
}

pub(super) async fn volume_maker(tx: &mut Tx, volume: VolumeId) -> Outcome<Option<OperationId>> {
    let sql = "SELECT operation_id FROM volume_makers WHERE volume_id = $1";
    tx.first(sql, args![volume]).await?.map(|line| line.id(0)).transpose()
}

pub(super) async fn locks(tx: &mut Tx) -> Outcome<Vec<(String, OperationId)>> {
    let lines = tx.all("SELECT resource, operation_id FROM operation_locks ORDER BY resource", args![]).await?;
    lines.iter().map(|line| Ok((line.text(0)?.to_owned(), line.id(1)?))).collect()
}
