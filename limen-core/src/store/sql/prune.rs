//! Takes away what is old, a bounded number of rows a call.

use std::collections::BTreeMap;
use std::time::Duration;

use time::OffsetDateTime;

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::value::micros;
use super::{audit, log};
use crate::model::Fact;
use crate::store::{PRUNED_AT_ONCE, Retention};

/// Rows of one table at most.
const BOUND: i64 = PRUNED_AT_ONCE as i64;

/// What to take away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prune {
    pub(super) retention: Retention,
    pub(super) now: OffsetDateTime,
}

impl Prune {
    fn before(&self, kept: Duration) -> i64 {
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        micros(self.now).saturating_sub(kept)
    }
}

/// What went.
#[derive(Debug, Clone)]
pub(super) struct Pruned {
    pub(super) rows: BTreeMap<String, u64>,
    pub(super) last: i64,
}

pub(super) async fn prune(tx: &mut Tx, prune: &Prune) -> Outcome<Pruned> {
    let mut rows = BTreeMap::new();
    let kept = &prune.retention;
    for (table, sql, kept) in [
        (
            "idempotency_keys",
            "DELETE FROM idempotency_keys WHERE (scope, key) IN \
             (SELECT scope, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)",
            kept.keys.max(Retention::LEAST_KEYS),
        ),
        (
            "operations",
            "DELETE FROM operations WHERE id IN \
             (SELECT id FROM operations WHERE finished = 1 AND finished_at < $1 ORDER BY finished_at LIMIT $2)",
            kept.operations.max(Retention::LEAST_OPERATIONS),
        ),
        (
            "tickets",
            "DELETE FROM tickets WHERE hash IN \
             (SELECT hash FROM tickets WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
            Duration::ZERO,
        ),
    ] {
        let gone = tx.execute(sql, args![prune.before(kept), BOUND]).await?;
        rows.insert(table.to_owned(), gone);
    }
    rows.insert("audit".to_owned(), audit::prune(tx, prune.before(kept.audit), BOUND).await?);
    let sql = "DELETE FROM sessions WHERE id IN \
               (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) RETURNING id";
    let mut facts = Vec::new();
    for line in tx.all(sql, args![prune.before(kept.ended), BOUND]).await? {
        facts.push(Fact::SessionGone { id: line.id(0)? });
    }
    rows.insert("sessions".to_owned(), facts.len() as u64);
    let sql = "DELETE FROM tokens WHERE id IN \
               (SELECT id FROM tokens WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2) RETURNING id";
    let tokens = tx.all(sql, args![prune.before(kept.ended), BOUND]).await?;
    for line in &tokens {
        facts.push(Fact::TokenGone { id: line.id(0)? });
    }
    rows.insert("tokens".to_owned(), tokens.len() as u64);
    rows.insert("events".to_owned(), events(tx, prune.before(kept.events)).await?);
    let logged = log::append(tx, None, &facts).await?;
    Ok(Pruned { rows, last: logged.last })
}

/// Only from the start of the log up to the first event that is kept: what is left has no gap.
async fn events(tx: &mut Tx, before: i64) -> Outcome<u64> {
    let sql = "SELECT number, created_at FROM events ORDER BY number LIMIT $1";
    let mut last = None;
    for line in tx.all(sql, args![BOUND]).await? {
        if line.int(1)? >= before {
            break;
        }
        last = Some(line.int(0)?);
    }
    match last {
        Some(last) => tx.execute("DELETE FROM events WHERE number <= $1", args![last]).await,
        None => Ok(0),
    }
}
