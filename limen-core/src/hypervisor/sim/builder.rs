//! How a simulated host begins.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::SimHypervisor;
use super::call::Host;
use super::clock::{SimClock, Time};
use super::console::Elsewhere;
use super::state::{Definition, Guest, SimVm, State};
use super::volume::Pool;
use crate::error::{Error, Result};
use crate::hypervisor::{ConsoleKind, ConsoleStream, Mark};
use crate::model::{Firmware, GIB, InstallId, Nic, OperationId, VmId, VmSpec, VmState};

/// Settings of a [`SimHypervisor`].
///
/// ```
/// use std::time::Duration;
/// use limen_core::hypervisor::sim::{Guest, SimClock, SimHypervisor};
///
/// let clock = SimClock::new();
/// let sim = SimHypervisor::builder()
///     .vms(1_000)
///     .seed(42)
///     .clock(&clock)
///     .guests(Guest::Obeys(Duration::from_secs(3)))
///     .pool_bytes(1 << 30)
///     .build();
/// # drop(sim);
/// ```
#[derive(Debug, Clone)]
pub struct SimBuilder {
    vms: u32,
    seed: u64,
    time: Time,
    guests: Guest,
    deadline: Duration,
    pool_bytes: u64,
    networks: Vec<String>,
    consoles: Option<Elsewhere>,
}

impl Default for SimBuilder {
    fn default() -> Self {
        Self {
            vms: 0,
            seed: 0,
            time: Time::Real,
            guests: Guest::Obeys(Duration::from_millis(50)),
            deadline: Duration::from_secs(30),
            pool_bytes: 1024 * GIB,
            networks: vec!["default".to_owned()],
            consoles: None,
        }
    }
}

impl SimBuilder {
    /// The most VMs that a host can begin with.
    pub const MAX_VMS: u32 = 10_000;

    /// See [`SimHypervisor::from_uri`]; other settings can be added.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) with the parameter's name as its field.
    pub fn from_uri(uri: &str) -> Result<Self> {
        let wrong = || Error::invalid("uri", "The simulator's URI is sim:///?vms=N&seed=N.");
        let rest = uri.strip_prefix("sim://").ok_or_else(wrong)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !matches!(path, "" | "/") {
            return Err(wrong());
        }
        let mut builder = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "vms" => {
                    let vms = value.parse().ok().filter(|vms| *vms <= Self::MAX_VMS);
                    builder.vms =
                        vms.ok_or_else(|| Error::invalid("vms", "The parameter vms is a number from 0 to 10000."))?;
                }
                "seed" => {
                    let seed = value.parse().ok();
                    builder.seed = seed.ok_or_else(|| {
                        Error::invalid("seed", "The parameter seed is a number from 0 to 18446744073709551615.")
                    })?;
                }
                _ => {
                    let message = format!("The simulator has no parameter {name:?}; it has vms and seed.");
                    return Err(Error::invalid(name, message));
                }
            }
        }
        Ok(builder)
    }

    /// How many VMs the host begins with, at most [`MAX_VMS`](Self::MAX_VMS): they bear LIMEN's mark
    /// with the nil install id, are of mixed size, and are running, off, paused, saved or crashed.
    #[must_use]
    pub fn vms(mut self, vms: u32) -> Self {
        self.vms = vms.min(Self::MAX_VMS);
        self
    }

    /// What those VMs are made from: hosts with the same seed begin alike, also in their ids.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Takes the time from `clock`; without one, time is the machine's.
    #[must_use]
    pub fn clock(mut self, clock: &SimClock) -> Self {
        self.time = Time::Manual(clock.clone());
        self
    }

    /// How guests take a shutdown or a reboot; after 50 ms when not set.
    #[must_use]
    pub fn guests(mut self, guests: Guest) -> Self {
        self.guests = guests;
        self
    }

    /// After how long a call that hangs answers [`Timeout`](crate::ErrorKind::Timeout); 30 s when
    /// not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How many bytes the pool holds; 1 TiB when not set. Only bytes written count.
    #[must_use]
    pub fn pool_bytes(mut self, bytes: u64) -> Self {
        self.pool_bytes = bytes;
        self
    }

    /// The networks by name; `default` alone when not set.
    #[must_use]
    pub fn networks<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.networks = names.into_iter().map(Into::into).collect();
        self
    }

    /// Takes the consoles of running VMs from `open`, in the place of a guest that says hello and
    /// repeats what it hears. They end when what it gives ends, not with their VM.
    #[must_use]
    pub fn consoles(mut self, open: impl Fn(ConsoleKind) -> ConsoleStream + Send + Sync + 'static) -> Self {
        self.consoles = Some(Elsewhere(Arc::new(open)));
        self
    }

    /// The host, and a first connection to it.
    #[must_use]
    pub fn build(self) -> SimHypervisor {
        let mut state = State::new(self.time.clone(), Pool::new(self.pool_bytes), self.networks, self.guests);
        for number in 1..=self.vms {
            let vm = seeded(self.seed, number, state.networks.first(), &self.time);
            state.vms.insert(vm.id, vm);
        }
        let Self { time, deadline, consoles, .. } = self;
        SimHypervisor::connect(Arc::new(Host { state: Mutex::new(state), time, deadline, consoles }))
    }
}

/// VM `number` of a seed. Its id is a hash of both, and the id's bytes decide the rest.
fn seeded(seed: u64, number: u32, network: Option<&String>, time: &Time) -> SimVm {
    let uuid = Uuid::new_v5(&Uuid::nil(), format!("limen-sim/{seed}/{number}").as_bytes());
    let bytes = uuid.as_bytes();
    let (id, name) = (VmId(uuid), format!("vm-{number:05}"));
    let short = &uuid.simple().to_string()[20..];
    let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[3], bytes[4], bytes[5]);
    let operation = OperationId(Uuid::new_v5(&uuid, b"create"));
    let definition = Definition {
        name: format!("{name}-{short}"),
        title: name,
        mark: Some(Mark { install: InstallId(Uuid::nil()), operation }),
        owner: None,
        labels: BTreeMap::new(),
        spec: VmSpec {
            vcpus: 1 << (bytes[0] % 4),
            memory_mib: 512 << (bytes[1] % 5),
            firmware: if bytes[2].is_multiple_of(4) { Firmware::Uefi } else { Firmware::Bios },
            disks: Vec::new(),
            iso: None,
            nics: network.map(|network| Nic { mac, network: network.clone() }).into_iter().collect(),
        },
        unknown: String::new(),
    };
    let mut vm = SimVm::new(id, definition, bytes[9].is_multiple_of(4));
    let (state, reason) = match bytes[15] % 16 {
        0..=7 => (VmState::Running, "booted"),
        8..=12 => (VmState::ShutOff, "shutdown"),
        13 => (VmState::Paused, "user"),
        14 => (VmState::Saved, "saved"),
        _ => (VmState::Crashed, "crashed"),
    };
    vm.enter(state, reason, time.monotonic());
    vm
}
