//! Runs the operations of one owned host, each in a task of its own, from where its journal ends.
//!
//! ```text
//!             a step's start is recorded ─► its effect ─► the next write records it as done
//!  queued ─► running ──────────────────────────────────────────────────────► succeeded
//!               │ a step fails, or a cancel is asked for
//!               ▼
//!            undoing: steps taken back, last first; tried again until it is so ─► failed | cancelled
//! ```
//!
//! Invariant: an effect is made only after the step that makes it is recorded as started, and an
//! operation is finished only after every effect is recorded. Every write carries the fence.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use super::fault::{Fault, FaultPoint, Moment};
use super::kinds::{self, EndFn, Kind, Nature, Step, StepFn};
use super::pauses::Pauses;
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::Hypervisor;
use crate::model::{
    AuditOutcome, AuditRecord, EventNumber, Operation, OperationError, OperationId, OperationState, StepRecord,
    StepState, VmId,
};
use crate::service::Shared;
use crate::service::host::Ownership;
use crate::service::tasks::guarded;
use crate::store::{Change, OperationRow, OperationWrite, Row};

/// What a step sees.
#[derive(Debug)]
pub(super) struct StepContext {
    pub(super) shared: Arc<Shared>,
    pub(super) ownership: Ownership,
    pub(super) operation: Operation,
    /// Whether more of it may be done than its steps say: it was held, and resumed.
    pub(super) resumed: bool,
    plan: Value,
    outputs: HashMap<String, Value>,
    pub(super) bytes: Arc<Bytes>,
}

/// How many bytes a step has moved.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    pub(super) done: AtomicU64,
    pub(super) total: AtomicU64,
}

impl StepContext {
    /// The plan made before the first step.
    pub(super) fn plan<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.plan.clone()).map_err(Error::internal)
    }

    /// What an earlier step left.
    pub(super) fn output<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        let value = self.outputs.get(step).filter(|value| !value.is_null());
        value.map(|value| serde_json::from_value(value.clone()).map_err(Error::internal)).transpose()
    }

    /// The host, for one call: it begins only while the lease is fresh.
    pub(super) async fn hypervisor(&self) -> &Arc<dyn Hypervisor> {
        self.ownership.fresh(&self.shared).await;
        &self.ownership.host.hypervisor
    }

    /// Looks at the VM, so that what a step did is in the log before the operation ends.
    pub(super) async fn look_at(&self, vm: VmId) -> Result<()> {
        self.ownership.host.look_at(vm).await.map(drop)
    }
}

/// Runs every operation of the host that is not finished, until the future is dropped.
pub(crate) async fn run(shared: Arc<Shared>, ownership: Ownership) {
    let mut running: HashSet<OperationId> = HashSet::new();
    let mut tasks = JoinSet::new();
    let mut applied = shared.inventory.follow();
    loop {
        for operation in shared.inventory.operations_of(ownership.host.id) {
            if operation.state != OperationState::Held && running.insert(operation.id) {
                tasks.spawn(drive(Arc::clone(&shared), ownership.clone(), operation.id));
            }
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            Some(ended) = tasks.join_next() => match ended {
                Ok(id) => drop(running.remove(&id)),
                Err(error) => tracing::error!(%error, "the task of an operation ended by itself"),
            },
        }
    }
}

/// Drives an operation as far as it goes. Where it did not come to its end it is found unfinished
/// again: the caller starts anew.
async fn drive(shared: Arc<Shared>, ownership: Ownership, id: OperationId) -> OperationId {
    if let Err(error) = guarded(drive_once(shared, ownership, id)).await {
        tracing::warn!(operation = %id, %error, cause = error.causes(), "an operation is given up by this process");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    id
}

async fn drive_once(shared: Arc<Shared>, ownership: Ownership, id: OperationId) -> Result<()> {
    let mut pauses = Pauses::new();
    let row = loop {
        match shared.store.operation(id).await {
            Ok(row) => break row,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(_) => pauses.pause().await,
        }
    };
    if row.operation.state.is_finished() || row.operation.state == OperationState::Held {
        return Ok(());
    }
    let Some(kind) = kinds::of(&row) else {
        tracing::warn!(operation = %id, kind = row.operation.kind.as_str(), "an operation of another version is left alone");
        return std::future::pending().await;
    };
    // This process has read of it, so its record is no younger.
    let recorded = shared.inventory.event();
    Run { shared, ownership, kind, row, recorded, bytes: Arc::default() }.finish().await
}

struct Run {
    shared: Arc<Shared>,
    ownership: Ownership,
    kind: &'static Kind,
    row: OperationRow,
    /// The event that the host must remember before anything is done there.
    recorded: EventNumber,
    bytes: Arc<Bytes>,
}

impl Run {
    /// # Errors
    /// The Store refused a write for good: this process no longer owns the host.
    async fn finish(&mut self) -> Result<()> {
        loop {
            match self.row.operation.state {
                OperationState::Queued | OperationState::Running => self.go_forward().await?,
                OperationState::Undoing => self.go_back().await?,
                _ => return Ok(()),
            }
        }
    }

    async fn go_forward(&mut self) -> Result<()> {
        for (index, step) in self.kind.steps.iter().enumerate() {
            match self.record(step).map(|record| record.state) {
                Some(StepState::Done) => continue,
                Some(_) if step.nature == Nature::Once => {
                    let text = "The server ended between the request to the guest and its record; look at the VM.";
                    return self.fail(&Error::new(ErrorKind::Interrupted, text)).await;
                }
                _ => {}
            }
            if self.can_cancel(index) && self.cancel_requested() {
                return self.fail(&cancelled()).await;
            }
            self.row.operation.state = OperationState::Running;
            self.row.operation.step = Some(step.name.to_owned());
            self.row.journal.waiting = step.waits;
            self.set(step, StepState::Started, Value::Null);
            self.save().await?;
            match self.attempt(step, index).await? {
                Ok(output) => {
                    self.row.operation.error = None;
                    self.set(step, StepState::Done, output);
                    let share = (index + 1) as f64 / (self.kind.steps.len() + 1) as f64;
                    self.row.operation.progress.fraction = share.max(self.row.operation.progress.fraction);
                }
                Err(error) => return self.fail(&error).await,
            }
        }
        self.row.journal.waiting = false;
        self.row.operation.progress.fraction = 1.0;
        self.row.operation.state = OperationState::Succeeded;
        let finish = self.kind.finish;
        match self.end(finish, "finish", Moment::BeforeForward).await? {
            Ok(()) => Ok(()),
            Err(error) => self.fail(&error).await,
        }
    }

    async fn go_back(&mut self) -> Result<()> {
        for step in self.kind.steps.iter().rev() {
            let Some(undo) = step.undo else { continue };
            if !self.record(step).is_some_and(|record| record.state != StepState::Undone) {
                continue;
            }
            let mut pauses = Pauses::new();
            loop {
                match self.call(step.name, undo, Moment::BeforeUndo, Moment::AfterUndo).await {
                    Ok(_) => break,
                    Err(error) => {
                        let cause = error.causes();
                        tracing::warn!(operation = %self.row.operation.id, step = step.name, %error, cause, "an undo is tried again");
                        pauses.pause().await;
                    }
                }
            }
            self.set(step, StepState::Undone, Value::Null);
            self.save().await?;
        }
        let undone = self.kind.undone;
        let mut pauses = Pauses::new();
        loop {
            self.row.operation.state = match &self.row.operation.error {
                None => OperationState::Succeeded,
                Some(error) if error.code == ErrorKind::Cancelled => OperationState::Cancelled,
                Some(_) => OperationState::Failed,
            };
            match self.end(undone, "end_undo", Moment::BeforeUndo).await? {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let cause = error.causes();
                    tracing::warn!(operation = %self.row.operation.id, %error, cause, "an undo is tried again");
                    self.row.operation.state = OperationState::Undoing;
                    pauses.pause().await;
                }
            }
        }
    }

    /// Does a step until it succeeds or has failed for good. The outer error ends the run.
    async fn attempt(&mut self, step: &'static Step, index: usize) -> Result<Result<Value>> {
        let mut first_failure = None;
        let mut pauses = Pauses::new();
        loop {
            let may_cancel = self.can_cancel(index) || self.row.journal.waiting;
            let error = match self.interruptible(step, may_cancel).await? {
                Ok(output) => return Ok(Ok(output)),
                Err(error) => error,
            };
            let host_away = error.kind() == ErrorKind::Unavailable;
            let call_out = error.kind() == ErrorKind::Timeout && !step.waits;
            let now = self.shared.clock.monotonic();
            let since = now.duration_since(*first_failure.get_or_insert(now));
            // What was done in the time that was lost is not to be undone because the host is away.
            let patient = self.row.journal.resumed || since < self.shared.timings.host_patience;
            let again = match step.nature {
                Nature::ForwardOnly => true,
                Nature::Undoable => (host_away || call_out) && patient,
                Nature::Target => call_out || (host_away && patient),
                Nature::Once => false,
            };
            if !again {
                return Ok(Err(error));
            }
            if call_out && step.nature == Nature::Target && !self.row.journal.waiting {
                // The call outlived its deadline: a forced action may take the VM over.
                self.row.journal.waiting = true;
                self.save().await?;
            }
            let told = self.row.operation.error.as_ref().map(|error| error.code);
            if step.nature == Nature::ForwardOnly && told != Some(error.kind()) {
                // It goes on, and whoever looks can see what holds it up.
                self.row.operation.error = Some(OperationError::from(&error));
                self.save().await?;
            }
            let id = self.row.operation.id;
            tracing::info!(operation = %id, step = step.name, %error, cause = error.causes(), "a step is tried again");
            pauses.pause().await;
        }
    }

    /// Does a step once, reports its progress meanwhile, and drops it when a cancel is asked for.
    async fn interruptible(&mut self, step: &'static Step, may_cancel: bool) -> Result<Result<Value>> {
        let inventory = Arc::clone(&self.shared);
        let id = self.row.operation.id;
        let mut applied = inventory.inventory.follow();
        let cancelled_now = async {
            let asked = |_: &i64| inventory.inventory.operation(id).is_some_and(|operation| operation.cancel_requested);
            if !may_cancel || applied.wait_for(asked).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(cancelled_now);
        let context = Arc::new(self.context());
        let work = self.call_with(&context, step.name, step.forward, Moment::BeforeForward, Moment::AfterForward);
        let shared = Arc::clone(&self.shared);
        let bytes = Arc::clone(&self.bytes);
        let mut reported = bytes.done.load(Ordering::Relaxed);
        // A task of its own: what it holds of the Store is given back while progress is saved.
        let mut working = JoinSet::new();
        working.spawn(work);
        loop {
            tokio::select! {
                biased;
                Some(result) = working.join_next() => return Ok(result.unwrap_or_else(|error| Err(Error::internal(error)))),
                () = &mut cancelled_now => {
                    working.shutdown().await;
                    return Ok(Err(cancelled()));
                }
                () = tokio::time::sleep(shared.timings.progress) => {}
            }
            let done = bytes.done.load(Ordering::Relaxed);
            if done != reported {
                reported = done;
                self.row.operation.progress.bytes_done = Some(done);
                self.row.operation.progress.bytes_total = Some(bytes.total.load(Ordering::Relaxed));
                self.save().await?;
            }
        }
    }

    async fn call(&self, name: &'static str, function: StepFn, before: Moment, after: Moment) -> Result<Value> {
        let context = Arc::new(self.context());
        self.call_with(&context, name, function, before, after).await
    }

    /// One call of a step's function, with the faults that a test asks for around it. It borrows
    /// nothing of the run, so that progress can be saved while it is out.
    fn call_with(
        &self,
        context: &Arc<StepContext>,
        name: &'static str,
        function: StepFn,
        before: Moment,
        after: Moment,
    ) -> impl Future<Output = Result<Value>> + Send + 'static {
        let (context, shared, ownership) = (Arc::clone(context), Arc::clone(&self.shared), self.ownership.clone());
        let (kind, recorded) = (self.row.operation.kind, self.recorded);
        async move {
            ownership.host.covered(recorded).await?;
            ownership.fresh(&shared).await;
            let mut repeat = false;
            match shared.fault(&FaultPoint { kind, step: name, moment: before }).await {
                Fault::Fail(kind) => return Err(Error::new(kind, "A fault was asked for.")),
                Fault::Repeat => repeat = true,
                _ => {}
            }
            let once = || guarded(function(&context));
            let mut output = once().await?;
            if repeat {
                output = once().await?;
            }
            match shared.fault(&FaultPoint { kind, step: name, moment: after }).await {
                Fault::Fail(kind) => Err(Error::new(kind, "A fault was asked for.")),
                Fault::Repeat => once().await,
                _ => Ok(output),
            }
        }
    }

    fn context(&self) -> StepContext {
        let outputs = self.row.journal.steps.iter().map(|step| (step.name.clone(), step.output.clone()));
        StepContext {
            shared: Arc::clone(&self.shared),
            ownership: self.ownership.clone(),
            operation: self.row.operation.clone(),
            plan: self.row.journal.plan.clone(),
            resumed: self.row.journal.resumed,
            outputs: outputs.collect(),
            bytes: Arc::clone(&self.bytes),
        }
    }

    fn record(&self, step: &Step) -> Option<&StepRecord> {
        self.row.journal.steps.iter().find(|record| record.name == step.name)
    }

    fn set(&mut self, step: &Step, state: StepState, output: Value) {
        match self.row.journal.steps.iter_mut().find(|record| record.name == step.name) {
            Some(record) if state == StepState::Undone => record.state = state,
            Some(record) => {
                record.state = state;
                record.output = output;
            }
            None => self.row.journal.steps.push(StepRecord { name: step.name.to_owned(), state, output }),
        }
    }

    fn can_cancel(&self, index: usize) -> bool {
        let steps = &self.kind.steps[..=index];
        steps.iter().all(|step| step.nature == Nature::Undoable || step.waits)
    }

    fn cancel_requested(&self) -> bool {
        let known = self.shared.inventory.operation(self.row.operation.id);
        self.row.operation.cancel_requested || known.is_some_and(|operation| operation.cancel_requested)
    }

    async fn fail(&mut self, error: &Error) -> Result<()> {
        let id = self.row.operation.id;
        if error.kind() == ErrorKind::Internal {
            tracing::error!(operation = %id, %error, cause = error.causes(), "an operation failed");
        } else {
            tracing::info!(operation = %id, %error, cause = error.causes(), "an operation failed");
        }
        self.row.operation.error = Some(OperationError::from(error));
        self.row.operation.state = OperationState::Undoing;
        self.row.journal.waiting = false;
        self.recorded = self.write(Vec::new(), Vec::new()).await?;
        Ok(())
    }

    /// Writes the end of the operation with its rows and its audit record. The inner error is one
    /// that the rows met.
    async fn end(&mut self, rows: EndFn, name: &'static str, moment: Moment) -> Result<Result<()>> {
        let kind = self.row.operation.kind;
        if let Fault::Fail(kind) = self.shared.fault(&FaultPoint { kind, step: name, moment }).await {
            return Ok(Err(Error::new(kind, "A fault was asked for.")));
        }
        let rows = match rows(&self.context()).await {
            Ok(rows) => rows,
            Err(error) => return Ok(Err(error)),
        };
        let now = self.shared.clock.now();
        self.row.operation.finished_at = Some(now);
        let operation = &self.row.operation;
        let outcome = match operation.state {
            OperationState::Succeeded => AuditOutcome::Succeeded,
            OperationState::Cancelled => AuditOutcome::Cancelled,
            _ => AuditOutcome::Failed,
        };
        let audit = AuditRecord {
            id: AuditRecord::id_at(now),
            at: now,
            count: 1,
            last_at: None,
            actor: operation.actor.clone(),
            origin: None,
            request_id: operation.request_id.clone(),
            action: super::action_of(operation.kind),
            resource: match (operation.vm_id, operation.image_id) {
                (Some(vm), _) => format!("vm:{vm}"),
                (None, Some(image)) => format!("image:{image}"),
                (None, None) => format!("operation:{}", operation.id),
            },
            outcome,
            operation: Some(operation.id),
            detail: operation.error.as_ref().map(|error| error.code.code().to_owned()),
        };
        let after = if moment == Moment::BeforeForward { Moment::AfterForward } else { Moment::AfterUndo };
        let written = self.write(rows, vec![audit]).await;
        self.shared.fault(&FaultPoint { kind, step: name, moment: after }).await;
        match written {
            Ok(_) => Ok(Ok(())),
            Err(error)
                if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::QuotaExceeded | ErrorKind::NoSpace) =>
            {
                self.row.operation.finished_at = None;
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn save(&mut self) -> Result<()> {
        self.write(Vec::new(), Vec::new()).await.map(drop)
    }

    /// Writes the operation as it is, and answers the event; waits for a Store that is away.
    async fn write(&mut self, rows: Vec<Row>, audit: Vec<AuditRecord>) -> Result<EventNumber> {
        self.row.journal.moved_at = Some(self.shared.clock.now());
        let mut pauses = Pauses::new();
        loop {
            let change = Change {
                fence: Some(self.ownership.fence()),
                operation: Some(OperationWrite::Update(Box::new(self.row.clone()))),
                rows: rows.clone(),
                audit: audit.clone(),
                ..Change::default()
            };
            match self.shared.store.commit(change).await {
                Ok(committed) => return Ok(committed.event),
                Err(error) if error.kind() == ErrorKind::Unavailable => pauses.pause().await,
                Err(error) => return Err(error),
            }
        }
    }
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "The operation was cancelled.")
}
