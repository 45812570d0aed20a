//! Faults on purpose: a test decides what happens around every step.

use std::fmt::Debug;

use crate::error::ErrorKind;
use crate::model::OperationKind;

/// A moment in the life of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FaultPoint {
    /// The operation's kind.
    pub kind: OperationKind,
    /// The step; `finish` and `end_undo` are the commits that end an operation.
    pub step: &'static str,
    /// When.
    pub moment: Moment,
}

/// When, around a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// It is recorded as started; its effect is not there.
    BeforeForward,
    /// Its effect is there; it is not recorded as done.
    AfterForward,
    /// It is about to be taken back.
    BeforeUndo,
    /// Its effect is taken back; that is not recorded.
    AfterUndo,
}

/// What happens at a [`FaultPoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// The step fails with this kind.
    Fail(ErrorKind),
    /// The step, or its undo, is done a second time.
    Repeat,
    /// The code there panics.
    Panic,
    /// The process stops here: nothing more is written, the lease is not given back.
    Crash,
}

/// Decides what happens at each point. Given to a builder by tests; there is none otherwise.
pub trait FaultPlan: Debug + Send + Sync + 'static {
    /// Called once for each point that is reached.
    fn at(&self, point: &FaultPoint) -> Fault;
}
