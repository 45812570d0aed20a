//! Operations: how every change of a host is asked for, run, undone and recovered.
//!
//! A change is *prepared* (checked and planned, no effect), *recorded* (one transaction with its
//! locks, rows, audit record and event) and then *run* by the owner of its host, step by step
//! ([`kinds`] is the table, [`runner`] the machine). There is no separate recovery: whoever owns
//! the host runs every operation of it that is not finished, from where its journal ends.

pub(crate) mod fault;
mod held;
mod images;
mod kinds;
mod pauses;
pub(crate) mod runner;
pub(crate) mod sweep;
mod vms;

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Limen;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::model::{
    ActorRef, AuditOutcome, AuditRecord, HostId, ImageId, Journal, Operation, OperationId, OperationKind,
    OperationState, OwnerId, Page, PageRequest, Progress, VmId,
};
use crate::store::{
    Change, IdempotencyKey, MemoryLimit, OperationQuery, OperationRow, OperationWrite, Row, SpaceLimit,
};

pub(super) use images::{AddImagePlan, DeleteImagePlan, copy_format};
pub(super) use vms::{
    CreatePlan, DeletePlan, PlannedVolume, PowerPlan, UpdatePlan, refuse_other_version, refuse_unless_defined,
};

/// What `prepare` comes to: everything that is recorded before the first step.
#[derive(Debug)]
pub(super) struct Proposal {
    pub(super) id: OperationId,
    pub(super) kind: OperationKind,
    pub(super) host: HostId,
    pub(super) vm: Option<VmId>,
    pub(super) image: Option<ImageId>,
    pub(super) owner: Option<OwnerId>,
    pub(super) plan: Value,
    pub(super) rows: Vec<Row>,
    pub(super) memory_limit: Option<MemoryLimit>,
    pub(super) space_limit: Option<SpaceLimit>,
    pub(super) preempt: bool,
    /// A word for the audit: the power action, the name.
    pub(super) detail: Option<String>,
}

impl Proposal {
    fn resource(&self) -> String {
        match (self.vm, self.image) {
            (Some(vm), _) => format!("vm:{vm}"),
            (None, Some(image)) => format!("image:{image}"),
            (None, None) => format!("operation:{}", self.id),
        }
    }
}

#[cfg(feature = "testing")]
pub(super) use kinds::table as steps;

/// The action behind a kind: they bear the same name.
const fn action_of(kind: OperationKind) -> Action {
    match kind {
        OperationKind::CreateVm => Action::CreateVm,
        OperationKind::DeleteVm => Action::DeleteVm,
        OperationKind::ChangePower => Action::ChangePower,
        OperationKind::UpdateVm => Action::UpdateVm,
        OperationKind::AddImage => Action::AddImage,
        OperationKind::DeleteImage => Action::DeleteImage,
    }
}

/// The idempotency key of a request, with its scope and digest.
fn key_of(ctx: &Context, action: Action, request: &impl Serialize) -> Result<Option<IdempotencyKey>> {
    let Some(key) = ctx.idempotency_key() else { return Ok(None) };
    if !(1..=255).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid("Idempotency-Key", "An idempotency key is 1 to 255 visible ASCII characters."));
    }
    let body = serde_json::to_vec(request).map_err(Error::internal)?;
    let digest = hex(&Sha256::digest(body));
    // By id: a later user of the same name is another one.
    let who = ctx.actor().user_id().map_or_else(|| ctx.actor().label(), |user| user.to_string());
    let scope = format!("{who}/{action}");
    Ok(Some(IdempotencyKey { scope, key: key.to_owned(), digest }))
}

impl Limen {
    /// Answers a repeated request with its operation, before `work` checks it against the state of
    /// now; and once more where `work` was refused: what stood in its way may be the same request,
    /// at work at the same time, here or at another process.
    pub(super) async fn once(
        &self,
        ctx: &Context,
        action: Action,
        request: &(impl Serialize + Sync),
        work: impl Future<Output = Result<Operation>> + Send,
    ) -> Result<Operation> {
        if let Some(operation) = self.repeated(ctx, action, request).await? {
            return Ok(operation);
        }
        let refusal = match work.await {
            Err(error) if ctx.idempotency_key().is_some() => error,
            other => return other,
        };
        match self.repeated(ctx, action, request).await {
            Ok(Some(operation)) => Ok(operation),
            Ok(None) | Err(_) => Err(refusal),
        }
    }

    async fn repeated(
        &self,
        ctx: &Context,
        action: Action,
        request: &(impl Serialize + Sync),
    ) -> Result<Option<Operation>> {
        let Some(key) = key_of(ctx, action, request)? else { return Ok(None) };
        match self.shared.store.remembered(&key.scope, &key.key).await? {
            None => Ok(None),
            Some((digest, id)) if digest == key.digest => {
                let operation = self.shared.store.operation(id).await?.operation;
                // Another process may have recorded it.
                self.shared.catch_up().await?;
                Ok(Some(operation))
            }
            Some(_) => Err(Error::new(ErrorKind::Conflict, "This idempotency key was used for another request.")),
        }
    }

    /// Records an operation. It is visible in this process's inventory when this returns, and goes
    /// on whether or not anybody waits for it.
    pub(super) async fn submit(
        &self,
        ctx: &Context,
        request: &(impl Serialize + Sync),
        proposal: Proposal,
    ) -> Result<Operation> {
        let action = action_of(proposal.kind);
        let idempotency = key_of(ctx, action, request)?;
        let now = self.shared.clock.now();
        let actor = ActorRef { label: ctx.actor().label(), user: ctx.actor().user_id() };
        let operation = Operation {
            id: proposal.id,
            kind: proposal.kind,
            state: OperationState::Queued,
            host: proposal.host,
            vm_id: proposal.vm,
            image_id: proposal.image,
            owner: proposal.owner,
            actor: actor.clone(),
            request_id: ctx.request_id().to_owned(),
            step: None,
            progress: Progress::default(),
            cancel_requested: false,
            error: None,
            created_at: now,
            finished_at: None,
        };
        let audit = AuditRecord {
            id: AuditRecord::id_at(now),
            at: now,
            count: 1,
            last_at: None,
            actor,
            origin: ctx.origin(),
            request_id: ctx.request_id().to_owned(),
            action,
            resource: proposal.resource(),
            outcome: AuditOutcome::Accepted,
            operation: Some(proposal.id),
            detail: proposal.detail.clone(),
        };
        let locks = vec![proposal.resource()];
        let journal = Journal {
            kind_version: kinds::VERSION,
            plan: proposal.plan,
            steps: Vec::new(),
            waiting: false,
            moved_at: None,
            held: None,
            resumed: false,
        };
        let mut row = Box::new(OperationRow { operation: operation.clone(), journal });
        row.journal.waiting = kinds::waits_first(&row);
        let change = Change {
            fence: None,
            operation: Some(OperationWrite::Insert { row, locks, preempt: proposal.preempt }),
            idempotency,
            rows: proposal.rows,
            audit: vec![audit],
            memory_limit: proposal.memory_limit,
            space_limit: proposal.space_limit,
        };
        let committed = self.commit_detached(change).await.map_err(|error| match error.kind() {
            ErrorKind::Timeout => error.with_operation_id(operation.id),
            ErrorKind::QuotaExceeded => {
                // Whose quota it is: what would have been made has no name that anybody knows.
                let owner = operation.owner.map_or_else(|| "owner".to_owned(), |owner| format!("owner:{owner}"));
                self.note_refusal(ctx, action, owner, ErrorKind::QuotaExceeded.code());
                error
            }
            _ => error,
        })?;
        match committed.repeated {
            Some(id) => Ok(self.shared.store.operation(id).await?.operation),
            None => Ok(operation),
        }
    }

    /// A page of operations, newest first: those that are about objects in the actor's sight.
    pub async fn list_operations(&self, ctx: &Context, vm: Option<VmId>, page: PageRequest) -> Result<Page<Operation>> {
        self.authorize(ctx, Action::ListOperations, Resource::Any, "operation")?;
        let scope = self.shared.authz.list_scope(ctx.actor());
        let vm = match (vm, scope.vms) {
            (vm, None) => vm,
            (Some(vm), Some(vms)) if vms.contains(&vm) => Some(vm),
            (None, Some(vms)) if vms.len() == 1 => vms.into_iter().next(),
            (Some(_), Some(_)) => return Ok(Page { items: Vec::new(), next_cursor: None }),
            (None, Some(_)) => return Err(Error::invalid("vm", "You see only some VMs: name the one.")),
        };
        let owners = scope.owners.map(|owners| owners.into_iter().collect());
        self.shared.store.operations(&OperationQuery { owners, vm, page }).await
    }

    /// One operation. The inventory of this process shows what it did, where it is finished.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also for one that is not in the actor's sight.
    pub async fn get_operation(&self, ctx: &Context, id: OperationId) -> Result<Operation> {
        let (operation, live) = self.read_operation(ctx, id).await?;
        if !live {
            self.shared.catch_up().await?;
        }
        Ok(operation)
    }

    /// One operation, and whether it is in memory: else the history has it, and it may be finished
    /// or begun where this process has not come to yet.
    async fn read_operation(&self, ctx: &Context, id: OperationId) -> Result<(Operation, bool)> {
        let (operation, live) = match self.shared.inventory.operation(id) {
            Some(operation) => ((*operation).clone(), true),
            None => match self.shared.store.operation(id).await {
                Ok(row) => (row.operation, false),
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::not_found("operation")),
                Err(error) => return Err(error),
            },
        };
        let resource = Resource::Operation { owner: operation.owner, vm: operation.vm_id };
        self.authorize_one(ctx, Action::GetOperation, resource, "operation", id.0)?;
        Ok((operation, live))
    }

    /// Waits until the operation is finished, at most `at_most`, and answers it as it is then. The
    /// inventory of this process shows what it did when this returns.
    pub async fn wait_operation(&self, ctx: &Context, id: OperationId, at_most: Duration) -> Result<Operation> {
        let mut applied = self.shared.inventory.follow();
        let mut stopping = self.shared.stopping.subscribe();
        let deadline = tokio::time::Instant::now() + at_most;
        let mut was_live = false;
        loop {
            applied.mark_unchanged();
            let (operation, live) = self.read_operation(ctx, id).await?;
            was_live |= live;
            // Where it is in memory, its end is an event; where it is not yet, its beginning is.
            let moved = async {
                let in_memory = self.shared.inventory.operation(id).is_some();
                let waited = applied.wait_for(|_| self.shared.inventory.operation(id).is_some() != in_memory);
                waited.await.is_ok()
            };
            if operation.state.is_finished() {
                // What was in memory went from there with its end.
                if !was_live {
                    self.shared.catch_up().await?;
                }
                return Ok(operation);
            }
            tokio::select! {
                true = moved => {}
                () = tokio::time::sleep_until(deadline) => return self.get_operation(ctx, id).await,
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    return self.get_operation(ctx, id).await;
                }
            }
        }
    }

    /// Asks an operation to stop and to take back what it did. Idempotent; the answer is the
    /// operation as it is now, which may end otherwise when it was about to finish.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): it is finished, or can only be driven forward any more.
    pub async fn cancel_operation(&self, ctx: &Context, id: OperationId) -> Result<Operation> {
        let operation = self.get_operation(ctx, id).await?;
        let resource = Resource::Operation { owner: operation.owner, vm: operation.vm_id };
        self.authorize_one(ctx, Action::CancelOperation, resource, "operation", id.0)?;
        let row = self.shared.store.operation(id).await?;
        if row.operation.state.is_finished() {
            return Err(Error::new(ErrorKind::Conflict, "The operation is finished.").with_operation_id(id));
        }
        if row.operation.state == OperationState::Held {
            let text = "The operation is held since the store was restored; an admin resumes or abandons it.";
            return Err(Error::new(ErrorKind::Conflict, text).with_operation_id(id));
        }
        if !kinds::can_cancel(&row) {
            let text = "The operation can only be driven forward any more; it cannot be cancelled.";
            return Err(Error::new(ErrorKind::Conflict, text).with_operation_id(id));
        }
        let resource = format!("operation:{id}");
        let audit = vec![self.audit_record(ctx, Action::CancelOperation, resource, AuditOutcome::Accepted, None)];
        let operation = Some(OperationWrite::RequestCancel(id));
        self.commit_detached(Change { operation, audit, ..Change::default() }).await?;
        self.get_operation(ctx, id).await
    }
}
