//! The numbered log: written last in a transaction, so that numbers are dense and rise as commits do.

use std::fmt::Write as _;

use sqlx::AssertSqlSafe;

use super::driver::{Arg, Line, Tx, args};
use super::failure::Outcome;
use super::value;
use crate::error::Error;
use crate::model::{Event, EventNumber, Fact, OperationId};
use crate::store::EventBatch;

/// How many events one INSERT writes, largest first.
const CHUNKS: [usize; 3] = [64, 8, 1];

/// What a commit wrote into the log.
#[derive(Debug, Clone)]
pub(super) struct Logged {
    /// The last number of the log.
    pub(super) last: EventNumber,
    /// The last event's time and document, where there was one: with its number it tells this
    /// commit from every other.
    pub(super) proof: Option<(i64, String)>,
}

/// Gives `facts` their numbers and writes them.
pub(super) async fn append(tx: &mut Tx, operation: Option<OperationId>, facts: &[Fact]) -> Outcome<Logged> {
    if facts.is_empty() {
        return Ok(Logged { last: last(tx).await?, proof: None });
    }
    let documents = facts.iter().map(value::document).collect::<Outcome<Vec<_>>>()?;
    let last = take_numbers(tx, facts.len()).await?;
    let at = value::now();
    let mut number = last - count(facts.len());
    let mut rest = facts.iter().zip(&documents).peekable();
    for chunk in CHUNKS {
        while rest.len() >= chunk {
            let mut args = Vec::with_capacity(chunk * 5);
            for (fact, document) in rest.by_ref().take(chunk) {
                number += 1;
                args.extend(args![number, at, operation, fact.kind().as_str(), document]);
            }
            insert(tx, chunk, args).await?;
        }
    }
    if tx.is_postgres() {
        tx.first("SELECT pg_notify('limen_events', $1)", args![last.to_string()]).await?;
    }
    Ok(Logged { last, proof: documents.into_iter().next_back().map(|document| (at, document)) })
}

async fn insert(tx: &mut Tx, rows: usize, args: Vec<Arg>) -> Outcome<()> {
    let mut sql = "INSERT INTO events (number, created_at, operation_id, kind, document) VALUES ".to_owned();
    for row in 0..rows {
        let at = row * 5;
        let comma = if row == 0 { "" } else { ", " };
        // Writing to a String cannot fail.
        _ = write!(sql, "{comma}(${}, ${}, ${}, ${}, ${})", at + 1, at + 2, at + 3, at + 4, at + 5);
    }
    tx.execute(AssertSqlSafe(sql), args).await?;
    Ok(())
}

fn count(facts: usize) -> i64 {
    i64::try_from(facts).unwrap_or(i64::MAX)
}

/// Locks the counter: from here to the end of the transaction no other one can make events.
pub(super) async fn take_numbers(tx: &mut Tx, facts: usize) -> Outcome<EventNumber> {
    let sql = "UPDATE event_counter SET value = value + $1 RETURNING value";
    let line = tx.first(sql, args![count(facts)]).await?;
    line.ok_or_else(|| Error::internal("no event counter"))?.int(0)
}

/// The numbers of events go on from here.
pub(super) async fn go_on_from(tx: &mut Tx, last: EventNumber) -> Outcome<()> {
    tx.execute("UPDATE event_counter SET value = $1", args![last]).await.map(drop)
}

/// The last number of the log.
pub(super) async fn last(tx: &mut Tx) -> Outcome<EventNumber> {
    let line = tx.first("SELECT value FROM event_counter", args![]).await?;
    line.ok_or_else(|| Error::internal("no event counter"))?.int(0)
}

/// Whether the event that a lost commit would have written is there.
pub(super) async fn landed(tx: &mut Tx, logged: &Logged) -> Outcome<bool> {
    // A change without an event leaves nothing to tell it by: it may have gone through.
    let Some((at, document)) = &logged.proof else { return Err(Error::unavailable("The store").into()) };
    // Waits for the lost transaction's end: it holds the counter's row as long as it lives.
    take_numbers(tx, 0).await?;
    let line = tx.first("SELECT created_at, document FROM events WHERE number = $1", args![logged.last]).await?;
    match line {
        Some(line) => Ok(line.int(0)? == *at && line.text(1)? == document),
        None => Ok(false),
    }
}

pub(super) async fn after(tx: &mut Tx, after: EventNumber, limit: u32) -> Outcome<EventBatch> {
    let oldest = "SELECT COALESCE((SELECT MIN(number) FROM events), (SELECT value + 1 FROM event_counter))";
    let oldest = tx.first(oldest, args![]).await?.ok_or_else(|| Error::internal("no event counter"))?.int(0)?;
    let mut batch = EventBatch { events: Vec::new(), oldest };
    let mut from = after;
    loop {
        let lines = tx
            .all(
                "SELECT number, created_at, operation_id, document FROM events \
                 WHERE number > $1 ORDER BY number LIMIT $2",
                args![from, i64::from(limit)],
            )
            .await?;
        let full = limit > 0 && lines.len() == limit as usize;
        if let Some(line) = lines.last() {
            from = line.int(0)?;
        }
        for line in &lines {
            batch.events.extend(event(line)?);
        }
        // A newer program's facts are skipped; a batch of nothing else must not look like the end.
        if !batch.events.is_empty() || !full {
            return Ok(batch);
        }
    }
}

fn event(line: &Line) -> Outcome<Option<Event>> {
    let number = line.int(0)?;
    let fact = match serde_json::from_str(line.text(3)?) {
        Ok(fact) => fact,
        Err(error) => {
            tracing::warn!(number, %error, "an event of an unknown kind is skipped");
            return Ok(None);
        }
    };
    Ok(Some(Event { number, at: value::time(line.int(1)?)?, operation: line.id_or_none(2)?, fact }))
}
