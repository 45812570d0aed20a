//! What a full look at a host finds beside the records: late effects.
//!
//! Invariant: nothing is removed here. A definition or volume whose maker is a known and finished
//! operation, and that no record and no unfinished operation holds, is a *late effect*: a call
//! that landed after its client had given up. The undo of its maker is opened again by itself.
//! That an operation is finished is proof only for what bears its own id: what the Store does not
//! know, as after it was restored, is left alone, and so is what somebody has abandoned.

use std::collections::HashSet;

use crate::error::{ErrorKind, Result};
use crate::hypervisor::HostVm;
use crate::model::{OperationId, OperationKind, OperationState, StepState, VmId};
use crate::service::Shared;
use crate::service::host::Ownership;
use crate::store::{Change, OperationWrite};

/// Finds definitions that landed late.
pub(crate) async fn late_definitions(
    shared: &Shared,
    ownership: &Ownership,
    seen: &[(VmId, Option<HostVm>)],
) -> Result<()> {
    for vm in seen.iter().filter_map(|(_, vm)| vm.as_ref()) {
        let Some(mark) = vm.mark.filter(|mark| mark.install == shared.install.id) else { continue };
        let held =
            shared.inventory.vm(vm.id).is_some_and(|shown| shown.record.is_some() || shown.vm.operation.is_some());
        if !held {
            reopen(shared, ownership, mark.operation, Some(vm.id)).await?;
        }
    }
    Ok(())
}

/// Finds volumes that landed late; rarer than definitions, so looked for less often.
pub(crate) async fn late_volumes(shared: &Shared, ownership: &Ownership) -> Result<()> {
    let on_host = ownership.host.hypervisor.list_volumes().await?;
    let recorded: HashSet<_> = shared.store.volumes(ownership.host.id).await?.into_iter().map(|v| v.id).collect();
    for volume in on_host.iter().filter(|volume| !recorded.contains(&volume.volume.id)) {
        if let Some(maker) = shared.store.volume_maker(volume.volume.id).await? {
            reopen(shared, ownership, maker, None).await?;
        }
    }
    Ok(())
}

/// Opens the undo of a finished `create_vm` again; anything else is left as it is.
async fn reopen(shared: &Shared, ownership: &Ownership, maker: OperationId, vm: Option<VmId>) -> Result<()> {
    let mut row = match shared.store.operation(maker).await {
        Ok(row) => row,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let operation = &mut row.operation;
    let same_vm = vm.is_none() || operation.vm_id == vm;
    let record_gone = operation.vm_id.is_some_and(|id| shared.inventory.vm(id).is_none_or(|vm| vm.record.is_none()));
    let abandoned = operation.error.as_ref().is_some_and(|error| error.code == ErrorKind::Abandoned);
    if abandoned
        || operation.kind != OperationKind::CreateVm
        || !operation.state.is_finished()
        || !same_vm
        || !record_gone
    {
        return Ok(());
    }
    tracing::warn!(operation = %maker, "a late effect was found; its undo is opened again");
    operation.state = OperationState::Undoing;
    operation.finished_at = None;
    for step in &mut row.journal.steps {
        step.state = StepState::Done;
    }
    let change = Change {
        fence: Some(ownership.fence()),
        operation: Some(OperationWrite::Update(Box::new(row))),
        ..Change::default()
    };
    match shared.store.commit(change).await {
        Err(error) if error.kind() == ErrorKind::Conflict => Ok(()),
        other => other.map(drop),
    }
}
