//! How a call reaches the simulated host: counted, logged, and with the fault that it is to meet.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::clock::Time;
use super::console::Elsewhere;
use super::state::{Effect, State};
use super::{Fault, Method, SimHypervisor};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{ByteSource, VolumeRef};

#[derive(Debug)]
pub(super) struct Host {
    pub(super) state: Mutex<State>,
    pub(super) time: Time,
    pub(super) deadline: Duration,
    pub(super) consoles: Option<Elsewhere>,
}

/// The state, locked; when it is let go, what was scheduled meanwhile is seen to.
pub(super) struct Locked<'a> {
    host: &'a Arc<Host>,
    state: MutexGuard<'a, State>,
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.host.arm(&mut self.state);
    }
}

impl Host {
    /// The state, with everything that has fallen due already done.
    pub(super) fn lock(self: &Arc<Self>) -> Locked<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        Locked { host: self, state }
    }

    /// Lets what is due next happen on time, even when nobody calls until then. Without a runtime
    /// it happens at the next call.
    fn arm(self: &Arc<Self>, state: &mut State) {
        let armed = state.armed.as_ref().filter(|(_, waker)| !waker.is_finished()).map(|(at, _)| *at);
        let Some(at) = state.next_due().filter(|at| armed.is_none_or(|armed| *at < armed)) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (host, time) = (Arc::downgrade(self), self.time.clone());
        let waker = runtime.spawn(async move {
            time.reached(at).await;
            if let Some(host) = host.upgrade() {
                host.lock().disarm(at);
            }
        });
        state.armed = Some((at, waker));
    }
}

/// How a call goes on after the script was asked.
enum Gate {
    Open { number: u64, mute: bool },
    Slow { number: u64, after: Duration },
    Half { number: u64, kind: ErrorKind },
    Late { number: u64, after: Duration },
    Hung { number: u64, after: Option<Duration> },
}

impl SimHypervisor {
    fn unavailable() -> Error {
        Error::unavailable("The host")
    }

    fn timeout() -> Error {
        Error::new(ErrorKind::Timeout, "The host did not answer in time; the call may still take effect.")
    }

    fn failure(kind: ErrorKind) -> Error {
        Error::new(kind, format!("The simulated host was told to answer {}.", kind.code()))
    }

    /// Counts and records a call, and asks the script what becomes of it.
    fn gate(&self, state: &mut State, method: Method, subject: Option<Uuid>) -> Result<Gate> {
        if !state.connected || self.closed.load(Ordering::Acquire) {
            return Err(Self::unavailable());
        }
        let number = state.log.begin(method, subject);
        let fail = |state: &mut State, kind, error| {
            state.log.end(number, Some(kind));
            Err(error)
        };
        match state.script.next(method, subject) {
            None => Ok(Gate::Open { number, mute: false }),
            Some(Fault::EventLost) => Ok(Gate::Open { number, mute: true }),
            Some(Fault::AnswersLate(after)) => Ok(Gate::Slow { number, after }),
            Some(Fault::LandsLate(after)) => Ok(Gate::Late { number, after }),
            Some(Fault::Hangs(after)) => Ok(Gate::Hung { number, after }),
            Some(Fault::Panics) => {
                state.log.end(number, Some(ErrorKind::Internal));
                panic!("a panic was asked for")
            }
            Some(Fault::ConnectionLost) => {
                state.disconnect();
                fail(state, ErrorKind::Unavailable, Self::unavailable())
            }
            Some(fault @ (Fault::Fails(_) | Fault::NoSpace)) => {
                let kind = if let Fault::Fails(kind) = fault { kind } else { ErrorKind::NoSpace };
                if method == Method::WriteVolume {
                    return Ok(Gate::Half { number, kind });
                }
                fail(state, kind, Self::failure(kind))
            }
        }
    }

    /// Does `effect` on the host, as and when the script says. Without a fault there is no await in
    /// it: the calls of one task happen in their order.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        method: Method,
        subject: Option<Uuid>,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let run = move |number: u64, mute: bool| -> Effect {
            Box::new(move |state: &mut State| {
                let outer = std::mem::replace(&mut state.mute, mute);
                let result = effect(state);
                state.mute = outer;
                state.log.end(number, result.as_ref().err().map(Error::kind));
                // A caller that went away does not take the effect back.
                let _ = done.send(result);
            })
        };
        let mut answers_at = None;
        let mut lost = {
            let mut state = self.host.lock();
            let state = &mut *state;
            let lost = state.lost.subscribe();
            match self.gate(state, method, subject)? {
                Gate::Open { number, mute } => run(number, mute)(state),
                Gate::Slow { number, after } => {
                    run(number, false)(state);
                    answers_at = Some(self.host.time.monotonic() + after);
                }
                Gate::Late { number, after } => {
                    state.schedule(after, run(number, false));
                    return Err(Self::timeout());
                }
                Gate::Hung { number, after: Some(after) } => state.schedule(after, run(number, false)),
                Gate::Hung { number, after: None } => state.held.push(run(number, false)),
                Gate::Half { number, kind } => {
                    state.log.end(number, Some(kind));
                    return Err(Self::failure(kind));
                }
            }
            lost
        };
        let deadline = self.host.time.monotonic() + self.host.deadline;
        if let Some(at) = answers_at {
            self.host.time.reached(at).await;
        }
        tokio::select! {
            biased;
            result = answer => result.map_err(|_| Self::unavailable())?,
            _ = lost.changed() => Err(Self::unavailable()),
            () = self.host.time.reached(deadline) => Err(Self::timeout()),
        }
    }

    /// Writes a volume, as and when the script says. Unlike the other calls it stops when it is
    /// dropped.
    pub(super) async fn write(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
        let (gate, mut lost) = {
            let mut state = self.host.lock();
            let lost = state.lost.subscribe();
            (self.gate(&mut state, Method::WriteVolume, Some(volume.id.0))?, lost)
        };
        let host = Arc::clone(&self.host);
        match gate {
            Gate::Open { number, .. } => pour(host, number, volume, source, length).await,
            Gate::Slow { number, after } => {
                let result = pour(Arc::clone(&host), number, volume, source, length).await;
                host.time.reached(host.time.monotonic() + after).await;
                result
            }
            Gate::Half { number, kind } => {
                pour(Arc::clone(&host), number, volume, source, length / 2).await?;
                host.lock().log.end(number, Some(kind));
                Err(Self::failure(kind))
            }
            Gate::Late { number, after } => {
                let (time, at) = (host.time.clone(), host.time.monotonic() + after);
                tokio::spawn(async move {
                    time.reached(at).await;
                    pour(host, number, volume, source, length).await
                });
                Err(Self::timeout())
            }
            Gate::Hung { number, after } => {
                let (open, opened) = oneshot::channel();
                let open: Effect = Box::new(move |_| {
                    // A caller that went away takes its bytes along.
                    let _ = open.send(());
                });
                match after {
                    Some(after) => host.lock().schedule(after, open),
                    None => host.lock().held.push(open),
                }
                let deadline = host.time.monotonic() + host.deadline;
                tokio::select! {
                    biased;
                    _ = opened => pour(Arc::clone(&host), number, volume, source, length).await,
                    _ = lost.changed() => Err(Self::unavailable()),
                    () = host.time.reached(deadline) => Err(Self::timeout()),
                }
            }
        }
    }
}

/// Copies `length` bytes into a volume, one buffer at a time, and records how call `number` ended.
async fn pour(host: Arc<Host>, number: u64, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
    let result = copy(&host, volume, source, length).await;
    host.lock().log.end(number, result.as_ref().err().map(Error::kind));
    result
}

async fn copy(host: &Arc<Host>, volume: VolumeRef, mut source: ByteSource, length: u64) -> Result<()> {
    if !host.lock().pool.contains(volume) {
        return Err(Error::not_found("volume"));
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut at = 0;
    while at < length {
        let part = usize::try_from(length - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = source.read(&mut buffer[..part]).await.map_err(Error::internal)?;
        if read == 0 {
            return Err(Error::invalid("source", format!("The source ended after {at} of {length} bytes.")));
        }
        let mut state = host.lock();
        if !state.connected {
            return Err(SimHypervisor::unavailable());
        }
        state.pool.write(volume, at, &buffer[..read])?;
        at += read as u64;
    }
    Ok(())
}
