//! The compiled part of the Python package `limen`: one `Limen`, embedded or a server's, behind calls of
//! bytes.
//!
//! Python's classes are Python (`python/limen`). What crosses the border is the name of a method,
//! its arguments as JSON and its answer as JSON; a list of VMs alone is answered from as it is in memory
//! (`listed`). Here is one table of methods (`calls`), one way to wait for an answer (`pending`), and
//! nothing that knows of a Python object but those and `core`.
//!
//! Invariant: no thread of the runtime ever takes Python's lock. Answers are put down, and fetched by
//! the thread that asked or by its event loop, which is woken through a socket. So no thread is ever
//! caught in an interpreter that ends, and none holds it up.

mod answer;
mod calls;
mod core;
mod listed;
mod open;
mod pending;
mod sim;
mod streams;

/// What `limen` is made of; its own users are the modules of that package alone.
#[pyo3::pymodule(gil_used = false)]
mod _limen {
    use limen_core::ErrorKind;
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::core::Core;
    #[pymodule_export]
    use crate::pending::{Mailbox, Pending};

    /// The names of the methods that `Core.start` knows.
    #[pyfunction]
    fn methods() -> Vec<&'static str> {
        crate::calls::methods()
    }

    /// Every kind of error: its code, and whether the same call may succeed later.
    #[pyfunction]
    fn error_kinds() -> Vec<(&'static str, bool)> {
        ErrorKind::ALL.iter().map(|kind| (kind.code(), kind.is_retryable())).collect()
    }

    /// Whether this build can reach libvirt.
    #[pyfunction]
    fn has_libvirt() -> bool {
        cfg!(feature = "libvirt")
    }
}
