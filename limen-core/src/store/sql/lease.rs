//! Leases: one process at a time owns a host.

use time::OffsetDateTime;

use super::driver::{Line, Tx, args};
use super::failure::Outcome;
use super::value::{micros, time};
use crate::error::{Error, ErrorKind};
use crate::model::HostId;
use crate::store::{Fence, Lease};

fn lease(line: &Line) -> Outcome<Lease> {
    Ok(Lease {
        fence: Fence { host: line.id(0)?, value: line.int(1)? },
        holder: line.text_or_none(2)?.map(str::to_owned),
        beat: line.int(3)?,
        observed_at: line.int_or_none(4)?.map(time).transpose()?,
    })
}

pub(super) async fn get(tx: &mut Tx, host: HostId) -> Outcome<Option<Lease>> {
    let sql = "SELECT host_id, fence, holder, beat, observed_at FROM leases WHERE host_id = $1";
    tx.first(sql, args![host]).await?.map(|line| lease(&line)).transpose()
}

pub(super) async fn all(tx: &mut Tx) -> Outcome<Vec<Lease>> {
    let sql = "SELECT host_id, fence, holder, beat, observed_at FROM leases ORDER BY host_id";
    tx.all(sql, args![]).await?.iter().map(lease).collect()
}

pub(super) async fn make(tx: &mut Tx, host: HostId) -> Outcome<Lease> {
    let sql = "INSERT INTO leases (host_id, fence, beat) VALUES ($1, 0, 0) ON CONFLICT (host_id) DO NOTHING";
    if tx.first("SELECT 1 FROM hosts WHERE id = $1", args![host]).await?.is_none() {
        return Err(Error::not_found("host").into());
    }
    tx.execute(sql, args![host]).await?;
    get(tx, host).await?.ok_or_else(|| Error::not_found("host").into())
}

pub(super) async fn take(tx: &mut Tx, seen: &Lease, holder: &str) -> Outcome<Option<Lease>> {
    let sql = "UPDATE leases SET fence = fence + 1, beat = beat + 1, holder = $4 \
               WHERE host_id = $1 AND fence = $2 AND beat = $3 AND COALESCE(holder, '') = $5 \
               RETURNING host_id, fence, holder, beat, observed_at";
    let before = seen.holder.clone().unwrap_or_default();
    let args = args![seen.fence.host, seen.fence.value, seen.beat, holder, before];
    tx.first(sql, args).await?.map(|line| lease(&line)).transpose()
}

pub(super) async fn renew(tx: &mut Tx, held: &Lease, observed_at: Option<OffsetDateTime>) -> Outcome<Option<Lease>> {
    let Some(holder) = &held.holder else { return Ok(None) };
    // The beat is not compared: where the answer to an earlier renewal was lost, it is ahead.
    let sql = "UPDATE leases SET beat = beat + 1, observed_at = $4 WHERE host_id = $1 AND fence = $2 AND holder = $3 \
               RETURNING host_id, fence, holder, beat, observed_at";
    let args = args![held.fence.host, held.fence.value, holder, observed_at.map(micros)];
    tx.first(sql, args).await?.map(|line| lease(&line)).transpose()
}

pub(super) async fn release(tx: &mut Tx, held: &Lease) -> Outcome<()> {
    let Some(holder) = &held.holder else { return Ok(()) };
    let sql = "UPDATE leases SET beat = beat + 1, holder = NULL WHERE host_id = $1 AND fence = $2 AND holder = $3";
    tx.execute(sql, args![held.fence.host, held.fence.value, holder]).await?;
    Ok(())
}

/// Locks the lease that a change is made under, so that nobody takes it over before the commit.
pub(super) async fn hold(tx: &mut Tx, fence: Fence) -> Outcome<()> {
    let sql = "UPDATE leases SET beat = beat WHERE host_id = $1 AND fence = $2 AND holder IS NOT NULL";
    if tx.execute(sql, args![fence.host, fence.value]).await? == 1 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Conflict, "The host has another owner now.").into())
}
