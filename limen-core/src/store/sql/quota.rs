//! What VMs count for: each owner's use against the owner's limits, each host's memory.
//!
//! Invariant: what is used is the sum over the VM records, because it changes in the statement's
//! own transaction whenever a record comes, changes or goes, and at no other time. So it is
//! reserved with the operation that inserts a record, and given back once, by whoever deletes it.
//! An owner's row is locked by its update: of any number of changes at once each sees the sum of
//! those before it.

use std::collections::BTreeMap;

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::rows::changed;
use super::value::{document, record};
use crate::error::{Error, ErrorKind, QuotaFigures};
use crate::model::{Fact, HostId, OwnerId, OwnerRecord, Quota, Usage, VmRecord};
use crate::store::{Expect, MemoryLimit, Row, SpaceLimit};

/// What a change adds to owners and hosts, in the order in which their rows are locked.
#[derive(Debug, Default)]
struct Difference {
    owners: BTreeMap<OwnerId, Usage>,
    hosts: BTreeMap<HostId, i64>,
}

impl Difference {
    fn comes(&mut self, record: &VmRecord) {
        self.add(record, Usage::of(record));
    }

    fn goes(&mut self, record: &VmRecord) {
        self.add(record, -Usage::of(record));
    }

    fn add(&mut self, record: &VmRecord, usage: Usage) {
        let owner = self.owners.entry(record.owner).or_default();
        *owner = *owner + usage;
        *self.hosts.entry(record.host).or_default() += usage.memory_mib;
    }

    /// Writes it. An owner or host that is not there is left to the VM's references.
    async fn write(self, tx: &mut Tx, memory_limit: Option<MemoryLimit>) -> Outcome<()> {
        for (owner, added) in self.owners {
            if added != Usage::default() {
                self::owner(tx, owner, added).await?;
            }
        }
        for (host, added) in self.hosts {
            if added == 0 {
                continue;
            }
            let sql = "UPDATE hosts SET used_memory_mib = used_memory_mib + $2 WHERE id = $1 RETURNING used_memory_mib";
            let Some(line) = tx.first(sql, args![host, added]).await? else { continue };
            let limit = memory_limit.filter(|limit| limit.host == host).map_or(i64::MAX, |limit| limit.mib);
            if added > 0 && line.int(0)? > limit {
                let text = "The host's memory is taken by its VMs, running or not; delete some or make them smaller.";
                return Err(Error::new(ErrorKind::NoSpace, text).with_context("limit_mib", limit).into());
            }
        }
        Ok(())
    }
}

async fn owner(tx: &mut Tx, owner: OwnerId, added: Usage) -> Outcome<()> {
    let sql = "UPDATE owners SET used_vms = used_vms + $2, used_vcpus = used_vcpus + $3, \
               used_memory_mib = used_memory_mib + $4, used_disk_gib = used_disk_gib + $5, \
               used_snapshots = used_snapshots + $6 WHERE id = $1 \
               RETURNING used_vms, limit_vms, used_vcpus, limit_vcpus, used_memory_mib, limit_memory_mib, \
               used_disk_gib, limit_disk_gib, used_snapshots, limit_snapshots";
    let mut args = args![owner];
    args.extend(added.figures().map(Into::into));
    let Some(line) = tx.first(sql, args).await? else { return Ok(()) };
    for (index, (resource, added)) in Quota::RESOURCES.into_iter().zip(added.figures()).enumerate() {
        let used = line.int(2 * index)? - added;
        let Some(limit) = line.int_or_none(2 * index + 1)? else { continue };
        if added > 0 && used + added > limit {
            let text = format!("The quota of {resource} is {limit}, {used} are in use, and this takes {added}.");
            let figures = QuotaFigures { resource: resource.to_owned(), limit, used };
            return Err(Error::new(ErrorKind::QuotaExceeded, text).with_quota(figures).into());
        }
    }
    Ok(())
}

/// Reserves what the VMs among `rows` add, before any of them is written.
pub(super) async fn reserve(tx: &mut Tx, rows: &[&Row], memory_limit: Option<MemoryLimit>) -> Outcome<()> {
    let mut difference = Difference::default();
    for row in rows {
        let Row::Vm { record: wanted, expect } = row else { continue };
        if let Expect::Version(version) = expect {
            // Not locked yet: where it changes meanwhile, the VM's own update finds another version.
            let sql = "SELECT document FROM vms WHERE id = $1 AND version = $2";
            let line = tx.first(sql, args![wanted.id, *version]).await?.ok_or_else(|| changed("VM"))?;
            difference.goes(&record(&line, 0)?);
        }
        difference.comes(wanted);
    }
    difference.write(tx, memory_limit).await
}

/// Refuses the volumes of VMs among `rows` that the host has no space for, beside those that it
/// could not tell of when it told what is free.
pub(super) async fn refuse_without_space(tx: &mut Tx, rows: &[&Row], limit: SpaceLimit) -> Outcome<()> {
    let of_a_vm = |row: &&Row| match row {
        Row::Volume(record) if record.host == limit.host && record.vm.is_some() => Some(record.capacity_bytes),
        _ => None,
    };
    let wanted: u64 = rows.iter().filter_map(of_a_vm).sum();
    if wanted == 0 {
        return Ok(());
    }
    // Locks the host: of changes at once each sees the volumes of those before it.
    tx.execute("UPDATE hosts SET version = version WHERE id = $1", args![limit.host]).await?;
    let sql = "SELECT CAST(COALESCE(SUM(capacity_bytes), 0) AS BIGINT) FROM volumes \
               WHERE host_id = $1 AND vm_id IS NOT NULL AND (filled = 0 OR event > $2)";
    let line = tx.first(sql, args![limit.host, limit.as_of]).await?;
    let promised = line.ok_or_else(|| Error::internal("no sum of volumes"))?.int(0)?;
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    if promised.saturating_add(wanted) <= limit.bytes {
        return Ok(());
    }
    let text = "The host has less free space than the disks may grow to, with those just made; make them smaller.";
    Err(Error::new(ErrorKind::NoSpace, text).with_context("promised_bytes", promised).into())
}

/// Gives back what a VM counted for whose row was deleted in this transaction.
pub(super) async fn release(tx: &mut Tx, gone: &VmRecord) -> Outcome<()> {
    let mut difference = Difference::default();
    difference.goes(gone);
    difference.write(tx, None).await
}

/// Sets an owner's limits.
pub(super) async fn limit(tx: &mut Tx, owner: OwnerId, quota: &Quota) -> Outcome<Fact> {
    let sql = "UPDATE owners SET limit_vms = $2, limit_vcpus = $3, limit_memory_mib = $4, limit_disk_gib = $5, \
               limit_snapshots = $6 WHERE id = $1 RETURNING document";
    let mut args = args![owner];
    args.extend(quota.limits().map(Into::into));
    let line = tx.first(sql, args).await?.ok_or_else(|| Error::not_found("owner"))?;
    let record = OwnerRecord { quota: *quota, ..record(&line, 0)? };
    tx.execute("UPDATE owners SET document = $2 WHERE id = $1", args![owner, document(&record)?]).await?;
    Ok(Fact::Owner { record })
}

/// What counts for each owner.
pub(super) async fn used(tx: &mut Tx) -> Outcome<BTreeMap<OwnerId, Usage>> {
    let sql = "SELECT id, used_vms, used_vcpus, used_memory_mib, used_disk_gib, used_snapshots FROM owners";
    let mut used = BTreeMap::new();
    for line in tx.all(sql, args![]).await? {
        let usage = Usage {
            vms: line.int(1)?,
            vcpus: line.int(2)?,
            memory_mib: line.int(3)?,
            disk_gib: line.int(4)?,
            snapshots: line.int(5)?,
        };
        used.insert(line.id(0)?, usage);
    }
    Ok(used)
}

/// The memory of the VMs of each host.
pub(super) async fn host_memory_mib(tx: &mut Tx) -> Outcome<BTreeMap<HostId, i64>> {
    let lines = tx.all("SELECT id, used_memory_mib FROM hosts", args![]).await?;
    lines.iter().map(|line| Ok((line.id(0)?, line.int(1)?))).collect()
}
