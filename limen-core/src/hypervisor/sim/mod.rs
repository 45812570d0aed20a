//! A hypervisor that exists only in memory, for tests of programs that use LIMEN, and of LIMEN.
//!
//! It keeps every guarantee of [`Hypervisor`](crate::Hypervisor) and adds what a real host never does on demand: time
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

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::error::Result;
use crate::model::VmId;

mod builder;
mod call;
mod clock;
mod console;
mod fault;
mod methods;
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

use call::Host;

/// A simulated host, and one connection to it. See the [module](self).
#[derive(Debug)]
pub struct SimHypervisor {
    host: Arc<Host>,
    closed: AtomicBool,
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
    /// [`Invalid`](crate::ErrorKind::Invalid) with the parameter's name as its field.
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

    /// Cuts the connection: calls answer [`Unavailable`](crate::ErrorKind::Unavailable), also those that
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
    /// [`NotFound`](crate::ErrorKind::NotFound).
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
}
