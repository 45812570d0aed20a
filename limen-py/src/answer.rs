//! What a call comes to: JSON of an answer, or JSON of a failure; a list of VMs as it is in memory.

use limen_core::service::VmPage;
use limen_core::{Error, ErrorKind};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;
use serde_json::json;

use crate::listed;

/// Whether the call succeeded, and its answer or failure.
pub(crate) type Answer = (bool, Reply);

/// What is put down for Python.
#[derive(Debug)]
pub(crate) enum Reply {
    Bytes(Vec<u8>),
    Vms(VmPage),
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Reply::Bytes(bytes)
    }
}

impl From<VmPage> for Reply {
    fn from(page: VmPage) -> Self {
        Reply::Vms(page)
    }
}

impl Reply {
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Reply::Bytes(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
            Reply::Vms(page) => listed::page(py, page),
        }
    }
}

/// What the library or a server calls what callers know as an argument of another name.
const NAMES: [(&str, &str); 6] = [
    ("username", "name"),
    ("current_password", "current"),
    ("new_password", "new"),
    ("user_id", "user"),
    ("vm_id", "vm"),
    ("idempotency-key", "idempotency_key"),
];

/// The argument that a field is.
pub(crate) fn argument(field: &str) -> &str {
    NAMES.iter().find(|(there, _)| *there == field).map_or(field, |(_, here)| here)
}

/// Why a call did not succeed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    /// What the core says.
    Core(serde_json::Value),
    /// The client was closed before or during the call.
    Closed,
    /// The process was forked from one that had opened a client.
    Forked,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Core(json!({
            "kind": error.kind().code(),
            "message": error.to_string(),
            "field": error.field().map(argument),
            "quota": error.quota(),
            "operation_id": error.operation_id(),
            "oldest": error.oldest(),
            "retry_after": error.retry_after().map(|after| after.as_secs_f64()),
        }))
    }
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: &str) -> Self {
        Error::new(kind, message).into()
    }

    fn to_json(&self) -> Vec<u8> {
        match self {
            Self::Core(error) => error.to_string(),
            Self::Closed => json!({ "kind": "closed", "message": "The client is closed." }).to_string(),
            Self::Forked => {
                let text = "This process was forked from one that had a client: open the first one in the child, or \
                            start processes with the method spawn.";
                json!({ "kind": "forked", "message": text }).to_string()
            }
        }
        .into_bytes()
    }
}

pub(crate) fn answer(result: Result<Reply, Failure>) -> Answer {
    match result {
        Ok(reply) => (true, reply),
        Err(failure) => (false, failure.to_json().into()),
    }
}

/// A value as JSON.
pub(crate) fn json_of(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(value).map_err(|error| Error::internal(error).into())
}
