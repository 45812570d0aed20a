//! The audit.

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use time::Duration;

use super::driver::{Arg, Tx, args};
use super::failure::Outcome;
use super::value::{document, micros, record, time};
use crate::error::Error;
use crate::model::{AuditOutcome, AuditQuery, AuditRecord, Page, PageRequest};
use crate::store::Retention;

/// What stands before the colon of a resource.
fn kind(resource: &str) -> &str {
    resource.split(':').next().unwrap_or_default()
}

pub(super) async fn insert(tx: &mut Tx, record: &AuditRecord) -> Outcome<()> {
    let sql = "INSERT INTO audit (id, created_at, actor, user_id, request_id, action, kind, resource, outcome, \
               operation_id, document) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let args = args![
        record.id,
        micros(record.at),
        &record.actor.label,
        record.actor.user,
        &record.request_id,
        record.action.as_str(),
        kind(&record.resource),
        &record.resource,
        record.outcome.as_str(),
        record.operation,
        document(record)?,
    ];
    tx.execute(sql, args).await?;
    Ok(())
}

pub(super) async fn page(tx: &mut Tx, query: &AuditQuery, request: PageRequest) -> Outcome<Page<AuditRecord>> {
    let texts = [&query.actor, &query.resource, &query.request_id];
    // No record holds a NUL, and PostgreSQL would not take the question.
    if texts.into_iter().flatten().any(|text| text.contains('\0')) {
        return Ok(Page { items: Vec::new(), next_cursor: None });
    }
    let mut sql = "SELECT document FROM audit WHERE 1 = 1".to_owned();
    let mut args: Vec<Arg> = Vec::new();
    let mut only = |condition: &str, value: Option<Arg>| {
        if let Some(value) = value {
            args.push(value);
            // Writing to a String cannot fail.
            _ = write!(sql, " AND {condition} ${}", args.len());
        }
    };
    only("id <", request.after().map(Arg::from));
    only("actor =", query.actor.as_ref().map(Arg::from));
    only("user_id =", query.user.map(Arg::from));
    only("request_id =", query.request_id.as_ref().map(Arg::from));
    only("action =", query.action.map(|action| action.as_str().into()));
    let (one, all): (Option<&String>, Option<&String>) = match &query.resource {
        Some(resource) if resource.contains(':') => (Some(resource), None),
        resource => (None, resource.as_ref()),
    };
    only("resource =", one.map(Arg::from));
    only("kind =", all.map(Arg::from));
    // Ids are ordered by time, to the millisecond at least: they bound what has to be looked at.
    only("id >=", query.from.map(|from| AuditRecord::first_id_at(from).into()));
    only("created_at >=", query.from.map(|from| micros(from).into()));
    only("id <", query.to.map(|to| AuditRecord::first_id_at(to.saturating_add(Duration::MILLISECOND)).into()));
    only("created_at <", query.to.map(|to| micros(to).into()));
    if let Some(outcome) = query.outcome {
        only("outcome =", Some(outcome.as_str().into()));
        if !matches!(outcome, AuditOutcome::Accepted | AuditOutcome::Succeeded) {
            // In the words of the index, which holds the others alone.
            sql.push_str(" AND outcome <> 'accepted' AND outcome <> 'succeeded'");
        }
    }
    args.push((i64::from(request.limit()) + 1).into());
    _ = write!(sql, " ORDER BY id DESC LIMIT ${}", args.len());
    let lines = tx.all(AssertSqlSafe(sql), args).await?;
    super::read::page(&lines, request, |line| record(line, 0), |record: &AuditRecord| record.id)
}

/// Removes at most `most` records from before this time, the oldest first, and none that is younger
/// than the least by the database's own clock: those the database itself refuses to lose.
pub(super) async fn prune(tx: &mut Tx, before: i64, most: i64) -> Outcome<u64> {
    let now = if tx.is_postgres() {
        "SELECT EXTRACT(EPOCH FROM clock_timestamp())::BIGINT"
    } else {
        "SELECT CAST(strftime('%s', 'now') AS INTEGER)"
    };
    let now = tx.first(now, args![]).await?.ok_or_else(|| Error::internal("no time"))?.int(0)?;
    let least = i64::try_from(Retention::LEAST_AUDIT.as_secs()).unwrap_or(i64::MAX);
    // A second of room: the clock goes on until the rows are looked at.
    let before = before.min(now.saturating_sub(least).saturating_sub(1).saturating_mul(1_000_000));
    let bound = AuditRecord::first_id_at(time(before)?.saturating_add(Duration::MILLISECOND));
    let sql = "DELETE FROM audit WHERE id IN \
               (SELECT id FROM audit WHERE id < $1 AND created_at < $2 ORDER BY id LIMIT $3)";
    tx.execute(sql, args![bound, before, most]).await
}
