//! One change, in one transaction.
//!
//! What is locked comes in one order: idempotency key, lease, operation locks, owner, host, image,
//! VM, operation, counter; a VM that goes is deleted before its owner and host get back what it
//! counted for. What goes, goes before what comes, so that a name is free again in the same
//! change; each kind of row in the order of its ids.

use super::driver::Tx;
use super::failure::Outcome;
use super::log::{self, Logged};
use super::{audit, images, lease, operations, rows};
use crate::error::Error;
use crate::model::{Fact, OperationId};
use crate::store::{Change, OperationWrite, Row};

/// What a transaction of a change came to.
#[derive(Debug, Clone)]
pub(super) enum Written {
    /// It is written, when the commit goes through.
    Change(Logged),
    /// The idempotency key stands for this operation: the transaction keeps nothing of the change.
    Repeated(OperationId),
}

/// Writes `change` into `tx`.
pub(super) async fn write(tx: &mut Tx, change: &Change) -> Outcome<Written> {
    let mut preempted = Vec::new();
    if let Some(OperationWrite::Insert { row, .. }) = &change.operation {
        operations::insert(tx, row).await?;
    }
    if let Some(key) = &change.idempotency {
        let Some(OperationWrite::Insert { row, .. }) = &change.operation else {
            return Err(Error::internal("an idempotency key stands for a new operation").into());
        };
        if let Some(earlier) = operations::remember(tx, key, row.operation.id).await? {
            operations::discard(tx, row.operation.id).await?;
            return Ok(Written::Repeated(earlier));
        }
    }
    if let Some(fence) = change.fence {
        lease::hold(tx, fence).await?;
    }
    match &change.operation {
        Some(OperationWrite::Insert { row, locks, preempt }) => {
            preempted = operations::lock(tx, row.operation.id, locks, *preempt).await?;
        }
        Some(OperationWrite::Update(row) | OperationWrite::Settle(row)) if row.operation.state.is_finished() => {
            operations::release(tx, row.operation.id).await?;
        }
        _ => {}
    }

    let mut ordered: Vec<&Row> = change.rows.iter().collect();
    ordered.sort_by_key(|row| rows::order(row));
    let mut facts = Vec::with_capacity(ordered.len() + 1);
    rows::write(tx, &ordered, change, &mut facts).await?;

    let mut operation = None;
    match &change.operation {
        Some(OperationWrite::Insert { row, .. }) => {
            for id in preempted {
                facts.push(operations::preempt(tx, id).await?);
            }
            operation = Some(row.operation.id);
            facts.push(Fact::Operation { operation: row.operation.clone() });
        }
        Some(OperationWrite::Update(row)) => {
            operation = Some(row.operation.id);
            facts.push(operations::update(tx, row).await?);
        }
        Some(OperationWrite::Settle(row)) => {
            operation = Some(row.operation.id);
            facts.push(operations::settle(tx, row).await?);
        }
        Some(OperationWrite::RequestCancel(id)) => {
            operation = Some(*id);
            facts.extend(operations::request_cancel(tx, *id).await?);
        }
        None => {}
    }
    for record in &change.audit {
        audit::insert(tx, record).await?;
    }
    let logged = log::append(tx, operation, &facts).await?;
    images::date(tx, &ordered, logged.last).await?;
    Ok(Written::Change(logged))
}
