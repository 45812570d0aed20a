//! The table of kinds and their steps.
//!
//! | nature | when it fails | after a crash |
//! |---|---|---|
//! | `Undoable` | everything is undone, last step first | done again |
//! | `ForwardOnly` | tried again until it succeeds | done again |
//! | `Target` | a definite refusal fails the operation; nothing is undone | done again: it aims at a state and reads it first |
//! | `Once` | fails the operation; nothing is undone | never sent again: `interrupted` |
//!
//! A step that `waits` gives way to a forced action (power_off, reset, delete_vm) and can be cancelled.
//! To add an operation: an [`OperationKind`] and its action, a plan and its steps, a row here and in
//! [`of`]; `docs/architecture.md` walks through it.

use std::pin::Pin;

use serde_json::Value;

use super::runner::StepContext;
use super::{images, vms};
use crate::error::Result;
use crate::model::{OperationKind, PowerAction};
use crate::store::{OperationRow, Row};

/// The version of the steps below; an operation of another version is left alone.
pub(super) const VERSION: u32 = 1;

type Future<'a, T> = Pin<Box<dyn std::future::Future<Output = Result<T>> + Send + 'a>>;
/// Does a step, or takes it back. What it answers is kept for later steps.
pub(super) type StepFn = for<'a> fn(&'a StepContext) -> Future<'a, Value>;
/// The rows that go with the end of an operation.
pub(super) type EndFn = for<'a> fn(&'a StepContext) -> Future<'a, Vec<Row>>;

/// How a step behaves when it fails or is repeated; see the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nature {
    Undoable,
    ForwardOnly,
    Target,
    Once,
}

#[derive(Debug)]
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) nature: Nature,
    pub(super) waits: bool,
    pub(super) forward: StepFn,
    pub(super) undo: Option<StepFn>,
}

#[derive(Debug)]
pub(super) struct Kind {
    pub(super) steps: &'static [Step],
    /// The rows of a success.
    pub(super) finish: EndFn,
    /// The rows once everything is undone.
    pub(super) undone: EndFn,
}

const fn step(name: &'static str, nature: Nature, forward: StepFn) -> Step {
    Step { name, nature, waits: false, forward, undo: None }
}

impl Step {
    const fn undo(mut self, undo: StepFn) -> Self {
        self.undo = Some(undo);
        self
    }

    const fn waits(mut self) -> Self {
        self.waits = true;
        self
    }
}

static CREATE_VM: Kind = Kind {
    steps: &[
        step("place_images", Nature::Undoable, |cx| Box::pin(images::place_images(cx))),
        step("create_volumes", Nature::Undoable, |cx| Box::pin(vms::create_volumes(cx)))
            .undo(|cx| Box::pin(vms::remove_new_volumes(cx))),
        step("fill_volumes", Nature::Undoable, |cx| Box::pin(vms::fill_volumes(cx))),
        step("define", Nature::Undoable, |cx| Box::pin(vms::define(cx))).undo(|cx| Box::pin(vms::undefine(cx))),
        step("start", Nature::Undoable, |cx| Box::pin(vms::start_new(cx))),
    ],
    finish: |cx| Box::pin(vms::created(cx)),
    undone: |cx| Box::pin(vms::not_created(cx)),
};

static DELETE_VM: Kind = Kind {
    steps: &[
        step("remove_definition", Nature::ForwardOnly, |cx| Box::pin(vms::remove_definition(cx))),
        step("remove_volumes", Nature::ForwardOnly, |cx| Box::pin(vms::remove_volumes(cx))),
    ],
    finish: |cx| Box::pin(vms::deleted(cx)),
    undone: |_| Box::pin(nothing()),
};

static CHANGE_POWER: Kind = Kind {
    steps: &[step("apply", Nature::Target, |cx| Box::pin(vms::apply_power(cx)))],
    finish: |_| Box::pin(nothing()),
    undone: |_| Box::pin(nothing()),
};

static RESET: Kind = Kind {
    steps: &[step("send", Nature::Once, |cx| Box::pin(vms::apply_power(cx)))],
    finish: |_| Box::pin(nothing()),
    undone: |_| Box::pin(nothing()),
};

static SHUTDOWN: Kind = Kind {
    steps: &[
        step("ask", Nature::Once, |cx| Box::pin(vms::ask_guest(cx))).waits(),
        step("wait", Nature::Target, |cx| Box::pin(vms::wait_until_off(cx))).waits(),
    ],
    finish: |_| Box::pin(nothing()),
    undone: |_| Box::pin(nothing()),
};

static REBOOT: Kind = Kind {
    steps: &[step("ask_and_wait", Nature::Once, |cx| Box::pin(vms::ask_and_wait_for_reset(cx))).waits()],
    finish: |_| Box::pin(nothing()),
    undone: |_| Box::pin(nothing()),
};

static UPDATE_VM: Kind = Kind {
    steps: &[
        step("read_definition", Nature::Undoable, |cx| Box::pin(vms::read_definition(cx))),
        step("change_definition", Nature::Undoable, |cx| Box::pin(vms::change_definition(cx)))
            .undo(|cx| Box::pin(vms::restore_definition(cx))),
    ],
    finish: |cx| Box::pin(vms::updated(cx)),
    undone: |cx| Box::pin(vms::not_updated(cx)),
};

static ADD_IMAGE: Kind = Kind {
    steps: &[step("store_file", Nature::Undoable, |cx| Box::pin(images::store_file(cx)))
        .undo(|cx| Box::pin(images::discard_file(cx)))],
    finish: |cx| Box::pin(images::added(cx)),
    undone: |cx| Box::pin(images::gone(cx)),
};

static DELETE_IMAGE: Kind = Kind {
    steps: &[
        step("remove_copies", Nature::ForwardOnly, |cx| Box::pin(images::remove_copies(cx))),
        step("remove_file", Nature::ForwardOnly, |cx| Box::pin(images::discard_file(cx))),
    ],
    finish: |cx| Box::pin(images::gone(cx)),
    undone: |_| Box::pin(nothing()),
};

async fn nothing() -> Result<Vec<Row>> {
    Ok(Vec::new())
}

/// The row of the table for an operation; none when this program does not know it.
pub(super) fn of(row: &OperationRow) -> Option<&'static Kind> {
    if row.journal.kind_version != VERSION {
        return None;
    }
    Some(match row.operation.kind {
        OperationKind::CreateVm => &CREATE_VM,
        OperationKind::DeleteVm => &DELETE_VM,
        OperationKind::UpdateVm => &UPDATE_VM,
        OperationKind::AddImage => &ADD_IMAGE,
        OperationKind::DeleteImage => &DELETE_IMAGE,
        OperationKind::ChangePower => {
            match serde_json::from_value::<vms::PowerPlan>(row.journal.plan.clone()).ok()?.action {
                PowerAction::Shutdown => &SHUTDOWN,
                PowerAction::Reboot => &REBOOT,
                PowerAction::Reset => &RESET,
                _ => &CHANGE_POWER,
            }
        }
    })
}

/// Whether the operation gives way to a forced action from its very beginning.
pub(super) fn waits_first(row: &OperationRow) -> bool {
    of(row).and_then(|kind| kind.steps.first()).is_some_and(|step| step.waits)
}

/// Whether a cancel still finds something to stop: every step so far and the next can be undone or waits.
pub(super) fn can_cancel(row: &OperationRow) -> bool {
    let Some(kind) = of(row) else { return false };
    let begun = row.journal.steps.len().max(1);
    row.journal.waiting || kind.steps.iter().take(begun).all(|step| step.nature == Nature::Undoable || step.waits)
}

#[cfg(feature = "testing")]
impl Nature {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Undoable => "undoable",
            Self::ForwardOnly => "forward-only",
            Self::Target => "target",
            Self::Once => "once",
        }
    }
}

/// Every kind with its steps and their natures, for the crash matrix and the documentation.
#[cfg(feature = "testing")]
pub(in crate::service) fn table() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let kinds: [(&str, &Kind); 9] = [
        ("create_vm", &CREATE_VM),
        ("delete_vm", &DELETE_VM),
        ("change_power", &CHANGE_POWER),
        ("change_power reset", &RESET),
        ("change_power shutdown", &SHUTDOWN),
        ("change_power reboot", &REBOOT),
        ("update_vm", &UPDATE_VM),
        ("add_image", &ADD_IMAGE),
        ("delete_image", &DELETE_IMAGE),
    ];
    let steps = |kind: &Kind| kind.steps.iter().map(|step| (step.name, step.nature.as_str())).collect();
    kinds.into_iter().map(|(name, kind)| (name, steps(kind))).collect()
}
