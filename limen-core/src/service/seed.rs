//! The VMs that a simulator starts with become records at the first look at it.

use std::collections::BTreeMap;

use super::Shared;
use super::host::Ownership;
use crate::error::{ErrorKind, Result};
use crate::hypervisor::HostVm;
use crate::model::{Firmware, OperationId, VmId, VmPhase, VmRecord, VmSpec};
use crate::store::{Change, Expect, Row};

/// Takes the VMs that a simulator starts with into an empty Store.
pub(super) async fn import(shared: &Shared, ownership: &Ownership, seen: &[(VmId, Option<HostVm>)]) -> Result<()> {
    if !ownership.host.hypervisor.capability().seeded {
        return Ok(());
    }
    let Some(owner) = shared.seed_owner() else { return Ok(()) };
    let new: Vec<&HostVm> = seen
        .iter()
        .filter_map(|(_, vm)| vm.as_ref())
        .filter(|vm| vm.mark.is_some_and(|mark| mark.install.0.is_nil()))
        .filter(|vm| shared.inventory.vm(vm.id).is_none_or(|shown| shown.record.is_none() && shown.seen.is_none()))
        .collect();
    let now = shared.clock.now();
    for batch in new.chunks(500) {
        let rows = batch.iter().map(|vm| Row::Vm {
            record: Box::new(VmRecord {
                id: vm.id,
                owner,
                host: ownership.host.id,
                name: vm.name.clone(),
                description: String::new(),
                labels: BTreeMap::new(),
                spec: VmSpec {
                    vcpus: vm.vcpus,
                    memory_mib: vm.memory_mib,
                    firmware: Firmware::Bios,
                    disks: Vec::new(),
                    iso: None,
                    nics: Vec::new(),
                },
                raised: None,
                phase: VmPhase::Defined,
                autostart: vm.autostart,
                created_by: vm.mark.map_or(OperationId(uuid::Uuid::nil()), |mark| mark.operation),
                version: 1,
                created_at: now,
                updated_at: now,
            }),
            expect: Expect::Absent,
        });
        let change = Change { fence: Some(ownership.fence()), rows: rows.collect(), ..Change::default() };
        match shared.store.commit(change).await {
            Ok(_) => {}
            // Taken in by an earlier look that this process has not read of yet.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
            // They are shown, as VMs that LIMEN did not make.
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
                tracing::warn!(%error, "the simulator's VMs are not taken in");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
