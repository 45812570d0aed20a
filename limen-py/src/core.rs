//! The runtime with one `Limen` on it, embedded or a server's: opened, asked, closed.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use limen_core::ErrorKind;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use tokio::runtime::{Handle, Runtime};

use crate::answer::{Failure, answer};
use crate::calls;
use crate::open::{Opened, Options};
use crate::pending::Pending;

/// How long closing may take; a Store or host that hangs is left.
const CLOSING: Duration = Duration::from_secs(5);

/// The process that opened the first client. A fork of it may have locks of SQLite's, of libvirt's or of
/// others' that no thread will ever release, so none is opened there.
static PROCESS: OnceLock<u32> = OnceLock::new();

type Opening = Shared<BoxFuture<'static, Result<Arc<Opened>, Failure>>>;

/// One `Limen`, opened by this process and for it alone.
#[pyclass(frozen, weakref)]
#[derive(Debug)]
pub(crate) struct Core {
    process: u32,
    handle: Handle,
    opening: Opening,
    closed: AtomicBool,
    /// Taken when it is closed.
    runtime: Mutex<Option<Runtime>>,
}

#[pymethods]
impl Core {
    /// Begins to open one; what is wrong with the options every call tells, `open` first.
    #[new]
    fn new(py: Python<'_>, options: Vec<u8>) -> PyResult<Self> {
        py.detach(|| {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.enable_all().thread_name("limen").build();
            let runtime = runtime.map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
            let opening: BoxFuture<'static, Result<Arc<Opened>, Failure>> =
                async move { Ok(Arc::new(Options::parse(&options)?.open().await?)) }.boxed();
            let opening = opening.shared();
            let process = *PROCESS.get_or_init(std::process::id);
            if process == std::process::id() {
                // It goes on though nobody waits for it.
                runtime.spawn(opening.clone());
            }
            Ok(Self {
                process,
                handle: runtime.handle().clone(),
                opening,
                closed: AtomicBool::new(false),
                runtime: Mutex::new(Some(runtime)),
            })
        })
    }

    /// Calls `method` with `message`, who asks and the arguments as JSON, and with `body`, where
    /// bytes belong to it. The call goes on whether or not anybody waits for it.
    #[pyo3(signature = (method, message, body=None))]
    fn start(&self, py: Python<'_>, method: String, message: Vec<u8>, body: Option<Vec<u8>>) -> Pending {
        if self.process != std::process::id() {
            return Pending::ready(answer(Err(Failure::Forked)));
        }
        if self.closed.load(Ordering::Acquire) {
            return Pending::ready(answer(Err(Failure::Closed)));
        }
        let (pending, filler) = Pending::new();
        let opening = self.opening.clone();
        py.detach(|| {
            let is_open = opening.peek().is_some();
            let work = async move { calls::answer_call(&*opening.await?, &method, &message, body).await };
            // A panic is an error of this call.
            let defect = "An internal error occurred: a defect of LIMEN, or of a back end.";
            let work = AssertUnwindSafe(work).catch_unwind();
            let mut work =
                work.map(|ended| ended.unwrap_or_else(|_| Err(Failure::new(ErrorKind::Internal, defect)))).boxed();
            // What is answered from memory is there at the first look: no thread need be woken for it.
            let _runtime = self.handle.enter();
            match is_open.then(|| (&mut work).now_or_never()).flatten() {
                Some(answered) => filler.fill(answer(answered)),
                None => drop(self.handle.spawn(async move { filler.fill(answer(work.await)) })),
            }
        });
        pending
    }

    /// Stops: gives the hosts back to other processes and closes the Store, within five seconds.
    /// What is unfinished goes on when the Store is opened again. Idempotent.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.end());
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Core {
    fn end(&self) {
        self.closed.store(true, Ordering::Release);
        let Some(runtime) = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        if self.process != std::process::id() {
            // Its threads are the parent's: there is nobody here to wait for.
            std::mem::forget(runtime);
            return;
        }
        let opening = self.opening.clone();
        runtime.block_on(async move {
            let parting = async {
                if let Ok(opened) = opening.await {
                    opened.close().await;
                }
            };
            _ = tokio::time::timeout(CLOSING, parting).await;
        });
        runtime.shutdown_background();
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.end();
    }
}
