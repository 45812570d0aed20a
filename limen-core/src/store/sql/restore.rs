//! A Store that is older than a host knows it: noticed, and taken account of, in one transaction.
//!
//! The event that a witness names is in the log of the Store that it was written for, and of every
//! copy of that which is as new. A log without it, or with another one in its place, is another
//! history. What hosts remember of a history whose loss was noticed ends below the number that the
//! events went on from then.

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::log::{self, Logged};
use super::value::{document, micros, record, time};
use super::{audit, migrate, operations};
use crate::model::{AuditRecord, Fact, Restore, Witness};

/// How far the numbers of events go on beyond the last that a host knows of: more than can have
/// been given out before it was told of them.
const BEYOND: i64 = 1_000_000;
/// How far fences go on: beyond any that was held in the time that was lost.
const FENCES: i64 = 1_000_000;

/// How far the Store has got.
pub(super) async fn witness(tx: &mut Tx) -> Outcome<Witness> {
    let install = migrate::install(tx).await?;
    let event = log::last(tx).await?;
    let at = event_at(tx, event).await?.unwrap_or_default();
    Ok(Witness { install: install.id, epoch: install.epoch, event, at })
}

async fn event_at(tx: &mut Tx, number: i64) -> Outcome<Option<i64>> {
    let line = tx.first("SELECT created_at FROM events WHERE number = $1", args![number]).await?;
    line.map(|line| line.int(0)).transpose()
}

pub(super) async fn all(tx: &mut Tx) -> Outcome<Vec<Restore>> {
    let lines = tx.all("SELECT document FROM restores ORDER BY epoch", args![]).await?;
    lines.iter().map(|line| record(line, 0)).collect()
}

/// Whether `seen` is of this Store's own history.
async fn knows(tx: &mut Tx, seen: &Witness) -> Outcome<bool> {
    if seen.event > log::last(tx).await? {
        return Ok(false);
    }
    if let Some(at) = event_at(tx, seen.event).await? {
        return Ok(seen.at == 0 || seen.at == at);
    }
    // One that is kept no longer cannot be compared.
    let line = tx.first("SELECT MIN(number) FROM events", args![]).await?;
    let oldest = line.map(|line| line.int_or_none(0)).transpose()?.flatten();
    Ok(oldest.is_none_or(|oldest| seen.event < oldest))
}

/// What is judged: what a host remembers, the host's name, and the record of it.
pub(super) type Case = (Witness, String, AuditRecord);

/// What came of it, and what was written.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) restore: Option<Restore>,
    pub(super) logged: Logged,
}

pub(super) async fn judge(tx: &mut Tx, (seen, host, record): &Case) -> Outcome<Judged> {
    // Locks it: of several that notice at once, the second finds a new epoch.
    tx.execute("UPDATE install SET epoch = epoch", args![]).await?;
    let install = migrate::install(tx).await?;
    let beyond = all(tx).await?.last().map_or(0, |restore| restore.next_event);
    let is_ours = match seen.epoch.cmp(&install.epoch) {
        _ if seen.install != install.id => true,
        std::cmp::Ordering::Less => seen.event < beyond,
        std::cmp::Ordering::Equal => knows(tx, seen).await?,
        std::cmp::Ordering::Greater => false,
    };
    if is_ours {
        let logged = log::append(tx, None, &[]).await?;
        return Ok(Judged { restore: None, logged });
    }
    let epoch = install.epoch.max(seen.epoch) + 1;
    tx.execute("UPDATE install SET epoch = $1", args![epoch]).await?;
    tx.execute("UPDATE leases SET fence = fence + $1, beat = beat + 1, holder = NULL", args![FENCES]).await?;
    let held = operations::hold(tx).await?;
    let mut ended = Vec::new();
    for line in tx.all("DELETE FROM sessions RETURNING id", args![]).await? {
        ended.push(Fact::SessionGone { id: line.id(0)? });
    }
    audit::insert(tx, record).await?;

    let had = log::take_numbers(tx, 0).await?;
    let last = had.max(seen.event).max(beyond).saturating_add(BEYOND);
    log::go_on_from(tx, last).await?;
    let restore = Restore {
        epoch,
        noticed_at: record.at,
        host: host.clone(),
        store_event: had,
        store_event_at: event_at(tx, had).await?.map(time).transpose()?,
        host_event: seen.event,
        host_event_at: if seen.at == 0 { None } else { Some(time(seen.at)?) },
        // Where the Store has got further with other events, nobody can tell whose is whose.
        kept_event: if seen.event > had { had } else { 0 },
        next_event: last + 1,
        operations_held: held.len() as u64,
        sessions_ended: ended.len() as u64,
    };
    let sql = "INSERT INTO restores (epoch, noticed_at, document) VALUES ($1, $2, $3)";
    tx.execute(sql, args![epoch, micros(record.at), document(&restore)?]).await?;
    let mut facts = vec![Fact::Restored { restore: restore.clone() }];
    facts.extend(held.into_iter().chain(ended));
    let logged = log::append(tx, None, &facts).await?;
    Ok(Judged { restore: Some(restore), logged })
}
