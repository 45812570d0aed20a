//! An answer that is on its way, and how Python waits for it.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::prelude::*;

use crate::answer::{Answer, Failure, answer};

/// How long a signal (Ctrl-C) may wait for its handler.
const SLICE: Duration = Duration::from_millis(100);

/// Where an answer is put down.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Empty,
    /// Empty, and whom to tell.
    Watched(Arc<Post>, u64),
    Filled(Answer),
    Taken,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, answer: Answer) {
        let mut state = self.lock();
        let before = match &*state {
            State::Filled(_) | State::Taken => return,
            _ => std::mem::replace(&mut *state, State::Filled(answer)),
        };
        drop(state);
        self.filled.notify_all();
        if let State::Watched(post, number) = before {
            post.deliver(number);
        }
    }

    fn take(state: &mut State) -> Option<Answer> {
        match std::mem::replace(state, State::Taken) {
            State::Filled(answer) => Some(answer),
            other => {
                *state = other;
                None
            }
        }
    }
}

/// Puts an answer down; where its task ends without one, that the client is closed.
#[derive(Debug)]
pub(crate) struct Filler(Arc<Slot>);

impl Filler {
    pub(crate) fn fill(self, answer: Answer) {
        self.0.fill(answer);
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.0.fill(answer(Err(Failure::Closed)));
    }
}

/// The answer to a call, as soon as it is there. Dropping it takes nothing back.
#[pyclass(frozen)]
#[derive(Debug)]
pub(crate) struct Pending {
    slot: Arc<Slot>,
}

impl Pending {
    /// One to wait for, and what fills it.
    pub(crate) fn new() -> (Self, Filler) {
        let slot = Arc::<Slot>::default();
        (Self { slot: Arc::clone(&slot) }, Filler(slot))
    }

    /// One that is there already.
    pub(crate) fn ready(answer: Answer) -> Self {
        let (pending, filler) = Self::new();
        filler.fill(answer);
        pending
    }
}

#[pymethods]
impl Pending {
    /// Waits, for `timeout` seconds at most: whether the call succeeded, and its answer; None when
    /// it is not there yet. Signals are handled meanwhile, and what their handler raises ends the
    /// wait; the answer can then still be waited for.
    #[pyo3(signature = (timeout=None))]
    fn wait<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<(bool, Bound<'py, PyAny>)>> {
        let deadline = timeout
            .and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok())
            .and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let answer = py.detach(|| {
                let rest = deadline.map_or(SLICE, |deadline| deadline.saturating_duration_since(Instant::now()));
                let state = self.slot.lock();
                let waits = |state: &mut State| matches!(state, State::Empty | State::Watched(..));
                let waited = self.slot.filled.wait_timeout_while(state, rest.min(SLICE), waits);
                let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                if matches!(&*state, State::Taken) { Err(()) } else { Ok(Slot::take(&mut state)) }
            });
            match answer {
                Err(()) => return Err(PyRuntimeError::new_err("this answer was taken already")),
                Ok(Some((succeeded, reply))) => return Ok(Some((succeeded, reply.to_python(py)?))),
                Ok(None) => py.check_signals()?,
            }
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(None);
            }
        }
    }

    /// Has `mailbox` told of the answer, under `number`.
    fn notify(&self, mailbox: &Mailbox, number: u64) {
        let mut state = self.slot.lock();
        match &*state {
            State::Empty | State::Watched(..) => *state = State::Watched(Arc::clone(&mailbox.post), number),
            State::Filled(_) | State::Taken => {
                drop(state);
                mailbox.post.deliver(number);
            }
        }
    }
}

/// What has arrived, and the socket that wakes whoever fetches it.
#[derive(Debug)]
struct Post {
    arrived: Mutex<Vec<u64>>,
    bell: UnixStream,
}

impl Post {
    fn deliver(&self, number: u64) {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived.push(number);
        if arrived.len() == 1 {
            // A socket that is full has rung already.
            _ = (&self.bell).write(&[0]);
        }
    }
}

/// Tells an event loop which answers are there: its socket is readable when there are some.
#[pyclass(frozen)]
#[derive(Debug)]
pub(crate) struct Mailbox {
    post: Arc<Post>,
    socket: UnixStream,
}

#[pymethods]
impl Mailbox {
    #[new]
    fn new() -> PyResult<Self> {
        let pair = || {
            let (socket, bell) = UnixStream::pair()?;
            socket.set_nonblocking(true)?;
            bell.set_nonblocking(true)?;
            Ok((socket, bell))
        };
        let (socket, bell) = pair().map_err(|error: std::io::Error| PyOSError::new_err(error))?;
        Ok(Self { post: Arc::new(Post { arrived: Mutex::default(), bell }), socket })
    }

    /// The socket's descriptor.
    fn fileno(&self) -> i32 {
        self.socket.as_raw_fd()
    }

    /// The numbers of the answers that have arrived since the last time.
    fn fetch(&self) -> Vec<u64> {
        let mut rung = [0; 64];
        while matches!((&self.socket).read(&mut rung), Ok(count) if count > 0) {}
        std::mem::take(&mut *self.post.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
