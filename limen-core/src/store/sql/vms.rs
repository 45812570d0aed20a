//! VM records, with the MACs that are theirs alone and the images that they need.

use std::collections::BTreeSet;

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::images::Ready;
use super::quota;
use super::rows::changed;
use super::value::{document, micros, name, record};
use crate::error::{Error, ErrorKind};
use crate::model::{Fact, ImageId, VmId, VmRecord};
use crate::store::{Expect, Row};

fn macs(record: &VmRecord) -> Vec<String> {
    record.spec.nics.iter().map(|nic| nic.mac.to_ascii_lowercase()).collect()
}

/// Frees the MACs that VMs give up, before the first VM takes one: they may swap them.
pub(super) async fn drop_changed_macs(tx: &mut Tx, rows: &[&Row]) -> Outcome<()> {
    for row in rows {
        let Row::Vm { record, expect: Expect::Version(_) } = row else { continue };
        let wanted = macs(record);
        let lines = tx.all("SELECT mac FROM macs WHERE vm_id = $1", args![record.id]).await?;
        for line in lines {
            let mac = line.text(0)?;
            if !wanted.iter().any(|wanted| wanted == mac) {
                tx.execute("DELETE FROM macs WHERE mac = $1", args![mac]).await?;
            }
        }
    }
    Ok(())
}

pub(super) async fn write(tx: &mut Tx, record: &VmRecord, expect: Expect, ready: &Ready) -> Outcome<Fact> {
    let mut record = record.clone();
    if let Expect::Version(version) = expect {
        record.version = version + 1;
    }
    let mut args = args![
        record.id,
        record.owner,
        record.host,
        &record.name,
        name(&record.phase)?,
        record.version,
        micros(record.created_at),
        micros(record.updated_at),
        document(&record)?,
    ];
    let sql = match expect {
        Expect::Absent => {
            "INSERT INTO vms (id, owner_id, host_id, name, phase, version, created_at, updated_at, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
        }
        Expect::Version(version) => {
            args.push(version.into());
            "UPDATE vms SET owner_id = $2, host_id = $3, name = $4, phase = $5, version = $6, created_at = $7, \
             updated_at = $8, document = $9 WHERE id = $1 AND version = $10"
        }
    };
    let written = tx.execute(sql, args).await;
    let taken = "There is a VM of this name already.";
    if written.map_err(|failure| failure.named(taken, "The VM's owner or host is not there."))? == 0 {
        return Err(changed("VM").into());
    }
    take_macs(tx, &record).await?;
    need_images(tx, &record, expect, ready).await?;
    Ok(Fact::Vm { record })
}

async fn take_macs(tx: &mut Tx, record: &VmRecord) -> Outcome<()> {
    let taken = "A MAC address is in use by another NIC.";
    let mut seen = BTreeSet::new();
    for mac in macs(record) {
        if !seen.insert(mac.clone()) {
            return Err(Error::new(ErrorKind::AlreadyExists, taken).into());
        }
        // A MAC of another VM's is left to the primary key.
        let sql = "INSERT INTO macs (mac, vm_id) SELECT $1, $2 \
                   WHERE NOT EXISTS (SELECT 1 FROM macs WHERE mac = $1 AND vm_id = $2)";
        tx.execute(sql, args![mac, record.id]).await.map_err(|failure| failure.named(taken, ""))?;
    }
    Ok(())
}

async fn need_images(tx: &mut Tx, record: &VmRecord, expect: Expect, ready: &Ready) -> Outcome<()> {
    let needed: BTreeSet<ImageId> = record.spec.needs().collect();
    let mut known = BTreeSet::new();
    if expect != Expect::Absent {
        for line in tx.all("SELECT image_id FROM vm_images WHERE vm_id = $1", args![record.id]).await? {
            known.insert(line.id::<ImageId>(0)?);
        }
    }
    for image in known.difference(&needed) {
        let sql = "DELETE FROM vm_images WHERE vm_id = $1 AND image_id = $2";
        tx.execute(sql, args![record.id, *image]).await?;
    }
    for image in needed.difference(&known) {
        ready.require(*image)?;
        tx.execute("INSERT INTO vm_images (vm_id, image_id) VALUES ($1, $2)", args![record.id, *image]).await?;
    }
    Ok(())
}

pub(super) async fn gone(tx: &mut Tx, id: VmId, facts: &mut Vec<Fact>) -> Outcome<()> {
    if let Some(line) = tx.first("DELETE FROM vms WHERE id = $1 RETURNING document", args![id]).await? {
        let gone: VmRecord = record(&line, 0)?;
        quota::release(tx, &gone).await?;
        facts.push(Fact::VmGone { id, owner: gone.owner });
    }
    Ok(())
}
