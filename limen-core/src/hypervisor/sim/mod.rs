//! A hypervisor that exists only in memory, for tests of programs that use LIMEN, and of LIMEN.
//!
//! It keeps every guarantee of [`Hypervisor`] and adds what a real host never does on demand: time
//! that stands still ([`SimClock`]), calls that fail, hang or land late ([`Fault`]), edits behind
//! LIMEN's back ([`Outside`]), and a log of all calls. The same seed and the same calls, one after
//! another, give the same log to the byte.
//!
//! ```
//! use limen_core::Hypervisor;
//! use limen_core::hypervisor::sim::{Fault, Method, On, SimHypervisor};
//! use limen_core::model::{PowerAction, VmState};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> limen_core::Result<()> {
//! let sim = SimHypervisor::from_uri("sim:///?vms=3&seed=7")?;
//! let off = sim.list().await?.into_iter().find(|vm| vm.state == VmState::ShutOff);
//! let id = off.expect("a third of the VMs are off").id;
//!
//! // The first start lands late: the caller is told so at once, the VM starts all the same.
//! sim.inject(On::method(Method::ChangePower).vm(id), Fault::LandsLate(std::time::Duration::ZERO));
//! assert!(sim.change_power(id, PowerAction::Start).await.is_err());
//! assert_eq!(sim.get(id).await?.state, VmState::Running);
//! assert_eq!(sim.calls_of(Method::ChangePower), 1);
//! # Ok(())
//! # }
//! ```
//!
//! A clone is another connection to the same host: closing one leaves the others open, so a test
//! can drop a [`Limen`](crate::Limen) and build a new one on the same host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{
    ByteSource, Capability, ConsoleKind, ConsoleStream, DefinitionChange, HostEvent, HostVm, HostVolume, Hypervisor,
    VmDefinition, VmStats, VolumeRef, VolumeSpec,
};
use crate::model::{HostInfo, Network, PowerAction, VirtType, VmId};

mod builder;
mod clock;
mod console;
mod fault;
mod outside;
mod state;
mod volume;

#[cfg(test)]
mod tests;

pub use builder::SimBuilder;
pub use clock::SimClock;
pub use fault::{Call, Fault, Method, On, Outcome};
pub use outside::{Edit, Outside};
pub use state::Guest;

use clock::Time;
use state::{Effect, State};

/// A simulated host, and one connection to it. See the [module](self).
#[derive(Debug)]
pub struct SimHypervisor {
    host: Arc<Host>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Host {
    state: Mutex<State>,
    time: Time,
    deadline: Duration,
}

impl Clone for SimHypervisor {
    fn clone(&self) -> Self {
        Self::connect(Arc::clone(&self.host))
    }
}

impl Default for SimHypervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// The state, with everything that has fallen due already done.
    fn lock(self: &Arc<Self>) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up();
        state
    }

    /// Lets what was scheduled happen on time, even when nobody calls.
    fn wake_later(self: &Arc<Self>, state: &mut State) {
        let Some(at) = state.wake.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (host, time) = (Arc::downgrade(self), self.time.clone());
        runtime.spawn(async move {
            time.reached(at).await;
            if let Some(host) = host.upgrade() {
                drop(host.lock());
            }
        });
    }
}

/// How a call goes on after the script was asked.
enum Gate {
    Open { number: u64, mute: bool },
    Half { number: u64, kind: ErrorKind },
    Late { number: u64, after: Duration },
    Hung { number: u64, after: Option<Duration> },
}

impl SimHypervisor {
    /// An empty host in real time.
    #[must_use]
    pub fn new() -> Self {
        SimBuilder::default().build()
    }

    /// Settings for a host.
    #[must_use]
    pub fn builder() -> SimBuilder {
        SimBuilder::default()
    }

    /// A host from `sim:///`, with `vms` (0 to 10,000; 0 when not given) and `seed` (0 when not
    /// given) as parameters.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) with the parameter's name as its field.
    pub fn from_uri(uri: &str) -> Result<Self> {
        SimBuilder::from_uri(uri).map(SimBuilder::build)
    }

    fn connect(host: Arc<Host>) -> Self {
        Self { host, closed: AtomicBool::new(false) }
    }

    /// Scripts a fault.
    pub fn inject(&self, on: On, fault: Fault) {
        self.host.lock().script.add(on, fault);
    }

    /// Forgets all scripted faults that have not hit yet.
    pub fn clear_faults(&self) {
        self.host.lock().script.clear();
    }

    /// Lets all calls that hang without a time go on, in the order in which they came.
    pub fn release(&self) {
        let mut state = self.host.lock();
        for effect in std::mem::take(&mut state.held) {
            effect(&mut state);
        }
    }

    /// The next `count` events are lost.
    pub fn lose_events(&self, count: usize) {
        self.host.lock().lose_events = count;
    }

    /// Cuts the connection: calls answer [`Unavailable`](ErrorKind::Unavailable), also those that
    /// hang now, and no event comes through. Guests go on.
    pub fn disconnect(&self) {
        self.host.lock().disconnect();
    }

    /// Brings the connection back.
    pub fn reconnect(&self) {
        self.host.lock().reconnect();
    }

    /// How guests without a way of their own take a shutdown or a reboot from now on.
    pub fn set_guests(&self, guest: Guest) {
        self.host.lock().guest = guest;
    }

    /// How this VM's guest takes a shutdown or a reboot from now on.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub fn set_guest(&self, id: VmId, guest: Guest) -> Result<()> {
        self.host.lock().vm_mut(id)?.guest = Some(guest);
        Ok(())
    }

    /// Sets how many bytes the pool holds; what is there already stays.
    pub fn set_pool_bytes(&self, bytes: u64) {
        self.host.lock().pool.limit = bytes;
    }

    /// What somebody with `virsh` on the host can do behind LIMEN's back.
    #[must_use]
    pub fn outside(&self) -> Outside<'_> {
        Outside { host: &self.host }
    }

    /// The last 100,000 calls in the order in which they came.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.host.lock().log.calls()
    }

    /// How often `method` was called. A call on a lost or closed connection reaches no host and is
    /// not counted.
    #[must_use]
    pub fn calls_of(&self, method: Method) -> u64 {
        self.host.lock().log.count(method)
    }

    /// Empties the log and sets its counters to zero.
    pub fn clear_calls(&self) {
        self.host.lock().log.clear();
    }

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
            Some(Fault::LandsLate(after)) => Ok(Gate::Late { number, after }),
            Some(Fault::Hangs(after)) => Ok(Gate::Hung { number, after }),
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
    async fn call<T: Send + 'static>(
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
        let mut lost = {
            let mut state = self.host.lock();
            let state = &mut *state;
            let lost = state.lost.subscribe();
            match self.gate(state, method, subject)? {
                Gate::Open { number, mute } => run(number, mute)(state),
                Gate::Late { number, after } => {
                    state.schedule(after, run(number, false));
                    self.host.wake_later(state);
                    return Err(Self::timeout());
                }
                Gate::Hung { number, after: Some(after) } => state.schedule(after, run(number, false)),
                Gate::Hung { number, after: None } => state.held.push(run(number, false)),
                Gate::Half { number, kind } => {
                    state.log.end(number, Some(kind));
                    return Err(Self::failure(kind));
                }
            }
            self.host.wake_later(state);
            lost
        };
        let deadline = self.host.time.monotonic() + self.host.deadline;
        tokio::select! {
            biased;
            result = answer => result.map_err(|_| Self::unavailable())?,
            _ = lost.changed() => Err(Self::unavailable()),
            () = self.host.time.reached(deadline) => Err(Self::timeout()),
        }
    }

    async fn pour(host: Arc<Host>, volume: VolumeRef, mut source: ByteSource, length: u64) -> Result<()> {
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
                return Err(Self::unavailable());
            }
            state.pool.write(volume, at, &buffer[..read])?;
            at += read as u64;
        }
        Ok(())
    }
}

#[async_trait]
impl Hypervisor for SimHypervisor {
    fn capability(&self) -> Capability {
        Capability {
            volumes: true,
            linked_volumes: true,
            vnc_console: true,
            serial_console: true,
            save: true,
            autostart: true,
            stats: true,
            change_definition: true,
            uefi: true,
            seeded: true,
        }
    }

    async fn host_info(&self) -> Result<HostInfo> {
        self.call(Method::HostInfo, None, |state| {
            Ok(HostInfo {
                hostname: "simulator".to_owned(),
                hypervisor: concat!("LIMEN simulator ", env!("CARGO_PKG_VERSION")).to_owned(),
                architecture: "x86_64".to_owned(),
                cpus: 64,
                memory_mib: 256 * 1024,
                virt_type: VirtType::Test,
                free_bytes: state.pool.free(),
            })
        })
        .await
    }

    async fn create_definition(&self, definition: &VmDefinition) -> Result<()> {
        let definition = definition.clone();
        self.call(Method::CreateDefinition, Some(definition.id.0), move |state| state.create(&definition)).await
    }

    async fn change_definition(&self, id: VmId, expected: &str, change: &DefinitionChange) -> Result<String> {
        let (expected, change) = (expected.to_owned(), change.clone());
        self.call(Method::ChangeDefinition, Some(id.0), move |state| state.change(id, &expected, &change)).await
    }

    async fn remove_definition(&self, id: VmId) -> Result<()> {
        let remove = move |state: &mut State| {
            state.remove(id);
            Ok(())
        };
        self.call(Method::RemoveDefinition, Some(id.0), remove).await
    }

    async fn get(&self, id: VmId) -> Result<HostVm> {
        self.call(Method::Get, Some(id.0), move |state| state.vm(id).map(state::SimVm::show)).await
    }

    async fn list(&self) -> Result<Vec<HostVm>> {
        self.call(Method::List, None, |state| Ok(state.vms.values().map(state::SimVm::show).collect())).await
    }

    async fn change_power(&self, id: VmId, action: PowerAction) -> Result<()> {
        self.call(Method::ChangePower, Some(id.0), move |state| state.change_power(id, action)).await
    }

    async fn stats(&self) -> Result<Vec<(VmId, VmStats)>> {
        self.call(Method::Stats, None, |state| Ok(state.stats())).await
    }

    async fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<ConsoleStream> {
        let find = move |state: &mut State| {
            let vm = state.vm(id)?;
            let power = vm
                .power
                .as_ref()
                .ok_or_else(|| Error::new(ErrorKind::Conflict, "The VM is not running: it has no console to open."))?;
            Ok((vm.definition.name.clone(), power.subscribe()))
        };
        let (name, power) = self.call(Method::OpenConsole, Some(id.0), find).await?;
        Ok(console::open(kind, name, power))
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        let volume = volume.clone();
        self.call(Method::CreateVolume, Some(volume.id.0), move |state| state.pool.create(&volume)).await
    }

    async fn write_volume(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
        let (gate, mut lost) = {
            let mut state = self.host.lock();
            let lost = state.lost.subscribe();
            let gate = self.gate(&mut state, Method::WriteVolume, Some(volume.id.0))?;
            if !state.pool.contains(volume) {
                let (Gate::Open { number, .. }
                | Gate::Half { number, .. }
                | Gate::Late { number, .. }
                | Gate::Hung { number, .. }) = gate;
                state.log.end(number, Some(ErrorKind::NotFound));
                return Err(Error::not_found("volume"));
            }
            (gate, lost)
        };
        let host = Arc::clone(&self.host);
        let pour = async move |number: u64, length: u64, kind: Option<ErrorKind>| {
            let poured = Self::pour(Arc::clone(&host), volume, source, length).await;
            let result = poured.and_then(|()| kind.map_or(Ok(()), |kind| Err(Self::failure(kind))));
            host.lock().log.end(number, result.as_ref().err().map(Error::kind));
            result
        };
        match gate {
            Gate::Open { number, .. } => pour(number, length, None).await,
            Gate::Half { number, kind } => pour(number, length / 2, Some(kind)).await,
            Gate::Late { number, after } => {
                let (time, at) = (self.host.time.clone(), self.host.time.monotonic() + after);
                tokio::spawn(async move {
                    time.reached(at).await;
                    pour(number, length, None).await
                });
                Err(Self::timeout())
            }
            Gate::Hung { number, after } => {
                let (open, opened) = oneshot::channel::<()>();
                let open: Effect = Box::new(move |_| {
                    let _ = open.send(());
                });
                {
                    let mut state = self.host.lock();
                    match after {
                        Some(after) => state.schedule(after, open),
                        None => state.held.push(open),
                    }
                    self.host.wake_later(&mut state);
                }
                let deadline = self.host.time.monotonic() + self.host.deadline;
                tokio::select! {
                    biased;
                    _ = opened => pour(number, length, None).await,
                    _ = lost.changed() => Err(Self::unavailable()),
                    () = self.host.time.reached(deadline) => Err(Self::timeout()),
                }
            }
        }
    }

    async fn read_volume(&self, volume: VolumeRef) -> Result<ByteSource> {
        let read = move |state: &mut State| state.pool.read(volume);
        Ok(Box::new(self.call(Method::ReadVolume, Some(volume.id.0), read).await?))
    }

    async fn resize_volume(&self, volume: VolumeRef, capacity_bytes: u64) -> Result<()> {
        let resize = move |state: &mut State| state.resize(volume, capacity_bytes);
        self.call(Method::ResizeVolume, Some(volume.id.0), resize).await
    }

    async fn remove_volume(&self, volume: VolumeRef) -> Result<()> {
        let remove = move |state: &mut State| {
            state.pool.remove(volume);
            Ok(())
        };
        self.call(Method::RemoveVolume, Some(volume.id.0), remove).await
    }

    async fn list_volumes(&self) -> Result<Vec<HostVolume>> {
        self.call(Method::ListVolumes, None, |state| Ok(state.pool.list())).await
    }

    async fn list_networks(&self) -> Result<Vec<Network>> {
        let networks = |state: &mut State| {
            let networks = state.networks.iter().enumerate().map(|(n, name)| Network {
                host: String::new(),
                name: name.clone(),
                active: true,
                bridge: Some(format!("virbr{n}")),
            });
            Ok(networks.collect())
        };
        self.call(Method::ListNetworks, None, networks).await
    }

    fn subscribe(&self) -> broadcast::Receiver<HostEvent> {
        self.host.lock().subscribe()
    }

    async fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            let mut state = self.host.lock();
            let number = state.log.begin(Method::Close, None);
            state.log.end(number, None);
        }
    }
}
