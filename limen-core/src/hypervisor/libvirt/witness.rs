//! What the host remembers of the Store: an empty file in LIMEN's pool, whose name says it all.
//!
//! A name is there whole or not at all, whenever a process or the machine ends. The newest name
//! counts: so one that is made late changes nothing, and two writers need not know of each other.
//! Older ones are removed once a newer one is there.

use virt::connect::Connect;
use virt::error::ErrorNumber;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

use super::connection::Link;
use super::error::{during, from_libvirt, is};
use super::storage::{pool, refresh};
use super::xml::storage as xml;
use crate::error::Result;
use crate::model::{InstallId, Witness};

const SUFFIX: &str = "witness";

fn file_name(witness: &Witness) -> String {
    let Witness { install, epoch, event, at } = witness;
    format!("{install}.{epoch}.{event}.{at}.{SUFFIX}")
}

/// The witness that a file's name is; none for any other file, and for a name that is damaged.
fn witness_of(name: &str) -> Option<Witness> {
    let [install, epoch, event, at, SUFFIX] = name.split('.').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str| text.parse::<i64>().ok();
    let witness =
        Witness { install: install.parse().ok()?, epoch: number(epoch)?, event: number(event)?, at: number(at)? };
    (file_name(&witness) == name).then_some(witness)
}

/// Every witness of an installation, as libvirt knows the pool now.
fn all(pool: &StoragePool, install: InstallId) -> Result<Vec<(Witness, StorageVol)>> {
    let mut found = Vec::new();
    for handle in pool.list_all_volumes(0).map_err(during("virStoragePoolListAllVolumes"))? {
        let name = handle.name().map_err(during("virStorageVolGetName"))?;
        if let Some(witness) = witness_of(&name).filter(|witness| witness.install == install) {
            found.push((witness, handle));
        }
    }
    Ok(found)
}

pub(super) fn read(link: &Link, conn: &Connect, install: InstallId) -> Result<Option<Witness>> {
    let pool = pool(link, conn)?;
    refresh(&pool)?;
    let newest = |newest: Option<Witness>, (witness, _): (Witness, _)| match newest {
        Some(newest) if !witness.is_newer_than(&newest) => Some(newest),
        _ => Some(witness),
    };
    Ok(all(&pool, install)?.into_iter().fold(None, newest))
}

pub(super) fn write(link: &Link, conn: &Connect, witness: &Witness) -> Result<()> {
    let pool = pool(link, conn)?;
    let known = all(&pool, witness.install)?;
    if known.iter().any(|(known, _)| known == witness || known.is_newer_than(witness)) {
        return Ok(());
    }
    match StorageVol::create_xml(&pool, &xml::name_only(&file_name(witness))?, 0) {
        Ok(_) => {}
        Err(error) if is(&error, ErrorNumber::StorageVolExist) => {}
        Err(error) => return Err(from_libvirt("virStorageVolCreateXML", error)),
    }
    for (older, handle) in known {
        if witness.is_newer_than(&older)
            && let Err(error) = handle.delete(0)
        {
            // The next one takes it along.
            tracing::debug!(%error, "an older witness stays");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_witness_or_nothing() {
        let witness = Witness { install: InstallId::generate(), epoch: 2, event: 1_000_417, at: 1_790_000_000_000_001 };
        let name = file_name(&witness);
        assert_eq!(witness_of(&name), Some(witness));
        for other in [name.replace(".2.", ".+2."), name.replace(".2.", ".."), name.replace("witness", "raw")] {
            assert_eq!(witness_of(&other), None, "{other}");
        }
        assert_eq!(witness_of(&name[1..]), None);
        assert_eq!(witness_of(&[&name, ".qcow2"].concat()), None);
    }
}
