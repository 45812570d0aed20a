//! Held operations: what somebody decides about each after the Store was restored.
//!
//! Invariant: abandoning one changes the Store alone. What its VM or image is from then on is what is
//! there: a VM is `defined` as its host shows it, or `missing` and can be deleted, with whatever
//! files are there of it.

use super::images::copy_record;
use super::{CreatePlan, action_of, vms};
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    AuditOutcome, AuditRecord, Image, ImageId, ImagePhase, Mark, Operation, OperationError, OperationId, OperationKind,
    OperationState, VmId, VmPhase, VmRecord, VolumeRecord,
};
use crate::service::Limen;
use crate::store::{Change, Expect, OperationRow, OperationWrite, Row};

impl Limen {
    /// Lets a held operation go on from where its journal ends, as after a crash. What it makes that
    /// is there already is left as it is.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): it is not held, or not any more.
    pub async fn resume_operation(&self, ctx: &Context, id: OperationId) -> Result<Operation> {
        let mut row = self.held(ctx, Action::ResumeOperation, id).await?;
        row.operation.state = row.journal.held.take().unwrap_or(OperationState::Running);
        row.journal.resumed = true;
        row.journal.moved_at = Some(self.now());
        let resource = format!("operation:{id}");
        let audit = self.audit_record(ctx, Action::ResumeOperation, resource, AuditOutcome::Accepted, None);
        self.settle(row, Vec::new(), vec![audit]).await
    }

    /// Gives a held operation up: it has failed with [`Abandoned`](ErrorKind::Abandoned), and what it
    /// held is free. No host and no file is touched: a VM that was `creating` or `deleting` is
    /// `defined` as its host shows it, or `missing` and can be deleted; an image is there when its
    /// file is.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): it is not held, or not any more.
    pub async fn abandon_operation(&self, ctx: &Context, id: OperationId) -> Result<Operation> {
        let mut row = self.held(ctx, Action::AbandonOperation, id).await?;
        let rows = self.given_up(&row).await?;
        let now = self.now();
        let text = "It was held when the store was restored, and given up by hand: look at what it was about.";
        row.operation.state = OperationState::Failed;
        row.operation.error = Some(OperationError::from(&Error::new(ErrorKind::Abandoned, text)));
        row.operation.finished_at = Some(now);
        row.journal.moved_at = Some(now);
        let asked = format!("operation:{id}");
        let asked = self.audit_record(ctx, Action::AbandonOperation, asked, AuditOutcome::Succeeded, None);
        let operation = &row.operation;
        let ended = AuditRecord {
            action: action_of(operation.kind),
            actor: operation.actor.clone(),
            request_id: operation.request_id.clone(),
            resource: match (operation.vm_id, operation.image_id) {
                (Some(vm), _) => format!("vm:{vm}"),
                (None, Some(image)) => format!("image:{image}"),
                (None, None) => format!("operation:{id}"),
            },
            operation: Some(id),
            outcome: AuditOutcome::Failed,
            detail: Some(ErrorKind::Abandoned.code().to_owned()),
            id: AuditRecord::id_at(now),
            origin: None,
            ..asked.clone()
        };
        self.settle(row, rows, vec![asked, ended]).await
    }

    /// A held operation, for somebody who may settle it.
    async fn held(&self, ctx: &Context, action: Action, id: OperationId) -> Result<OperationRow> {
        let operation = self.get_operation(ctx, id).await?;
        let resource = Resource::Operation { owner: operation.owner, vm: operation.vm_id };
        self.authorize_one(ctx, action, resource, "operation", id.0)?;
        let row = self.shared.store.operation(id).await?;
        if row.operation.state != OperationState::Held {
            let text = "The operation is not held: there is nothing to resume or to abandon.";
            return Err(Error::new(ErrorKind::Conflict, text).with_operation_id(id));
        }
        Ok(row)
    }

    async fn settle(&self, row: OperationRow, rows: Vec<Row>, audit: Vec<AuditRecord>) -> Result<Operation> {
        let operation = row.operation.clone();
        let write = Some(OperationWrite::Settle(Box::new(row)));
        self.commit_detached(Change { operation: write, rows, audit, ..Change::default() }).await?;
        Ok(operation)
    }

    /// What becomes of the object of an operation that is given up.
    async fn given_up(&self, row: &OperationRow) -> Result<Vec<Row>> {
        let Operation { kind, host, vm_id, image_id, .. } = row.operation;
        Ok(match (kind, vm_id, image_id) {
            (OperationKind::CreateVm, Some(vm), _) => {
                let plan: CreatePlan = serde_json::from_value(row.journal.plan.clone()).map_err(Error::internal)?;
                let mut rows = self.defined(vm);
                // A definition is made of volumes that are filled.
                if !rows.is_empty() && self.shows(vm, plan.mark) {
                    let volumes = self.shared.store.volumes(host).await?;
                    let own = volumes.into_iter().filter(|volume| volume.vm == Some(vm));
                    let images = plan.images.iter().filter_map(|id| self.shared.inventory.image(*id));
                    let copies = images.map(|image| copy_record(&image, host, row.operation.id));
                    let all = own.chain(copies);
                    rows.extend(all.map(|volume| Row::Volume(VolumeRecord { filled: true, ..volume })));
                }
                rows
            }
            (OperationKind::DeleteVm, Some(vm), _) => self.defined(vm),
            (OperationKind::UpdateVm, Some(vm), _) => vms::no_longer_raised(&self.shared, vm),
            (OperationKind::AddImage, _, Some(image)) => self.added_or_gone(image).await,
            (OperationKind::DeleteImage, _, Some(image)) => self.ready(image),
            _ => Vec::new(),
        })
    }

    /// Whether the host shows this VM with this mark.
    fn shows(&self, vm: VmId, mark: Mark) -> bool {
        let seen = self.shared.inventory.vm(vm).and_then(|shown| shown.seen);
        seen.is_some_and(|seen| seen.mark == Some(mark))
    }

    fn defined(&self, vm: VmId) -> Vec<Row> {
        let record = self.shared.inventory.vm(vm).and_then(|shown| shown.record);
        let record = record.filter(|record| record.phase != VmPhase::Defined);
        let row = record.map(|record| {
            let expect = Expect::Version(record.version);
            let (version, updated_at) = (record.version + 1, self.now());
            let record = VmRecord { phase: VmPhase::Defined, version, updated_at, ..(*record).clone() };
            Row::Vm { record: Box::new(record), expect }
        });
        row.into_iter().collect()
    }

    fn ready(&self, image: ImageId) -> Vec<Row> {
        let image = self.shared.inventory.image(image).filter(|image| image.phase != ImagePhase::Ready);
        let row = image.map(|image| {
            let expect = Expect::Version(image.version);
            let image = Image { phase: ImagePhase::Ready, version: image.version + 1, ..(*image).clone() };
            Row::Image { image: Box::new(image), expect }
        });
        row.into_iter().collect()
    }

    async fn added_or_gone(&self, id: ImageId) -> Vec<Row> {
        let Some(image) = self.shared.inventory.image(id) else { return Vec::new() };
        let whole = match self.shared.images() {
            Ok(images) => images.open(id).await.is_ok_and(|(_, length)| length == image.size_bytes),
            Err(_) => false,
        };
        if whole { self.ready(id) } else { vec![Row::ImageGone(id)] }
    }
}
