//! What is so on a simulated host. All of it changes under one lock, in the order of its clock.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::clock::Time;
use super::fault::{Log, Script};
use super::volume::Pool;
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{DefinitionChange, HostEvent, HostVm, Mark, VmDefinition, VmStats, VolumeRef};
use crate::model::{
    Address, DiskStats, InstallId, Nic, NicStats, OwnerId, PowerAction, Traffic, Transition, VmId, VmSpec, VmState,
    Witness,
};

/// How guests take a shutdown or a reboot that they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guest {
    /// They do it this much later; at once when zero.
    Obeys(Duration),
    /// They never do.
    Ignores,
}

pub(super) type Effect = Box<dyn FnOnce(&mut State) + Send>;

/// The inactive definition; its serialised form is what an edit must keep to the byte.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(super) struct Definition {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) mark: Option<Mark>,
    pub(super) owner: Option<OwnerId>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) spec: VmSpec,
    /// What LIMEN does not model.
    pub(super) unknown: String,
}

impl Definition {
    pub(super) fn text(&self) -> String {
        // Plain values with string keys: serialising them cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    fn hash(&self) -> String {
        Uuid::new_v5(&Uuid::nil(), self.text().as_bytes()).simple().to_string()
    }
}

#[derive(Debug)]
pub(super) struct SimVm {
    pub(super) id: VmId,
    pub(super) definition: Definition,
    pub(super) hash: String,
    pub(super) state: VmState,
    pub(super) reason: &'static str,
    pub(super) autostart: bool,
    pub(super) guest: Option<Guest>,
    /// Undefined while it was running: it goes when it stops.
    pub(super) transient: bool,
    /// There while a process holds the guest; consoles end when it goes.
    pub(super) power: Option<watch::Sender<()>>,
    started: Option<Instant>,
    /// Its QEMU answers no question until it is started again.
    pub(super) silent: bool,
    /// Rises with each start and reset, so that a request to an earlier boot is known.
    boot: u64,
    /// What a paused guest was asked for; it obeys when it runs again.
    asked: Option<PowerAction>,
}

impl SimVm {
    pub(super) fn new(id: VmId, definition: Definition, autostart: bool) -> Self {
        let hash = definition.hash();
        Self {
            id,
            definition,
            hash,
            state: VmState::ShutOff,
            reason: "unknown",
            autostart,
            guest: None,
            transient: false,
            power: None,
            started: None,
            silent: false,
            boot: 0,
            asked: None,
        }
    }

    pub(super) fn show(&self) -> HostVm {
        HostVm {
            id: self.id,
            name: self.definition.name.clone(),
            mark: self.definition.mark,
            state: self.state,
            reason: Some(self.reason.to_owned()),
            autostart: self.autostart,
            vcpus: self.definition.spec.vcpus,
            memory_mib: self.definition.spec.memory_mib,
            definition_hash: self.hash.clone(),
            addresses: self.addresses(),
        }
    }

    /// A running guest has an address on its first NIC, made from its id.
    fn addresses(&self) -> Vec<Address> {
        let first = self.definition.spec.nics.first().filter(|_| self.state == VmState::Running);
        let [.., a, b, c] = *self.id.0.as_bytes();
        let address = |nic: &Nic| Address {
            mac: nic.mac.clone(),
            address: Ipv4Addr::new(10, a, b, c).into(),
            source: "lease".to_owned(),
        };
        first.map(address).into_iter().collect()
    }

    /// Changes the definition as `virsh edit` does.
    pub(super) fn edit(&mut self, edit: &super::Edit) {
        let spec = &mut self.definition.spec;
        spec.vcpus = edit.vcpus.unwrap_or(spec.vcpus);
        spec.memory_mib = edit.memory_mib.unwrap_or(spec.memory_mib);
        if let Some(unknown) = &edit.unknown {
            self.definition.unknown.clone_from(unknown);
        }
        self.hash = self.definition.hash();
    }

    /// Puts the VM into `state`, with what belongs to it.
    pub(super) fn enter(&mut self, state: VmState, reason: &'static str, now: Instant) {
        let was_active = self.state.is_active();
        self.state = state;
        self.reason = reason;
        if !state.is_active() {
            (self.power, self.started, self.asked) = (None, None, None);
        } else if !was_active {
            self.power = Some(watch::Sender::new(()));
            self.started = Some(now);
            self.silent = false;
            self.boot += 1;
        }
    }

    fn uses(&self, volume: VolumeRef) -> bool {
        let spec = &self.definition.spec;
        self.state.is_active()
            && (spec.disks.iter().any(|disk| disk.volume == volume.id && disk.format == volume.format)
                || spec.iso.as_ref().is_some_and(|iso| iso.volume == volume.id))
    }
}

pub(super) struct State {
    pub(super) time: Time,
    pub(super) vms: BTreeMap<VmId, SimVm>,
    pub(super) pool: Pool,
    pub(super) witnesses: BTreeMap<InstallId, Witness>,
    pub(super) networks: Vec<String>,
    pub(super) script: Script,
    pub(super) log: Log,
    pub(super) guest: Guest,
    pub(super) connected: bool,
    /// Changes when the connection is lost: calls that hang give up.
    pub(super) lost: watch::Sender<u64>,
    /// What hangs until it is released.
    pub(super) held: Vec<Effect>,
    /// How many of the next events are lost.
    pub(super) lose_events: usize,
    /// Events of what is being done now are lost.
    pub(super) mute: bool,
    events: broadcast::Sender<HostEvent>,
    due: BTreeMap<(Instant, u64), Effect>,
    scheduled: u64,
    /// The task that wakes the host for what is due next, and when it does.
    pub(super) armed: Option<(Instant, JoinHandle<()>)>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("vms", &self.vms.len())
            .field("connected", &self.connected)
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn new(time: Time, pool: Pool, networks: Vec<String>, guest: Guest) -> Self {
        Self {
            time,
            vms: BTreeMap::new(),
            pool,
            witnesses: BTreeMap::new(),
            networks,
            script: Script::default(),
            log: Log::default(),
            guest,
            connected: true,
            lost: watch::Sender::new(0),
            held: Vec::new(),
            lose_events: 0,
            mute: false,
            events: broadcast::Sender::new(1024),
            due: BTreeMap::new(),
            scheduled: 0,
            armed: None,
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<HostEvent> {
        self.events.subscribe()
    }

    pub(super) fn now(&self) -> Instant {
        self.time.monotonic()
    }

    /// Does what has fallen due, in the order in which it fell due.
    pub(super) fn catch_up(&mut self) {
        let now = self.now();
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let effect = entry.remove();
            effect(self);
        }
    }

    pub(super) fn schedule(&mut self, after: Duration, effect: Effect) {
        let at = self.now() + after;
        self.scheduled += 1;
        self.due.insert((at, self.scheduled), effect);
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }

    /// The waker for `at` has done its work.
    pub(super) fn disarm(&mut self, at: Instant) {
        self.armed.take_if(|(armed, _)| *armed == at);
    }

    pub(super) fn emit(&mut self, event: HostEvent) {
        if self.mute || !self.connected {
            return;
        }
        if self.lose_events > 0 {
            self.lose_events -= 1;
            return;
        }
        // Nobody listening is no error.
        let _ = self.events.send(event);
    }

    pub(super) fn disconnect(&mut self) {
        if self.connected {
            let _ = self.events.send(HostEvent::Disconnected);
            self.connected = false;
            self.lost.send_modify(|times| *times += 1);
        }
    }

    pub(super) fn reconnect(&mut self) {
        if !self.connected {
            self.connected = true;
            let _ = self.events.send(HostEvent::Connected);
        }
    }

    pub(super) fn vm(&self, id: VmId) -> Result<&SimVm> {
        self.vms.get(&id).ok_or_else(|| Error::not_found("VM"))
    }

    pub(super) fn vm_mut(&mut self, id: VmId) -> Result<&mut SimVm> {
        self.vms.get_mut(&id).ok_or_else(|| Error::not_found("VM"))
    }

    pub(super) fn restore(&mut self, id: VmId, text: &str) -> Result<()> {
        let no_definition = || Error::invalid("definition", "It is no definition of this VM.");
        let definition: Definition = serde_json::from_str(text).map_err(|error| no_definition().with_source(error))?;
        let digits = id.0.simple().to_string();
        if !definition.name.ends_with(&digits[digits.len() - 12..]) {
            return Err(no_definition());
        }
        let taken = || Error::new(ErrorKind::AlreadyExists, "The host has another VM with this id or name.");
        if let Some(vm) = self.vms.get(&id) {
            return if vm.definition.mark == definition.mark { Ok(()) } else { Err(taken()) };
        }
        if self.vms.values().any(|vm| vm.definition.name == definition.name) {
            return Err(taken());
        }
        self.vms.insert(id, SimVm::new(id, definition, false));
        self.emit(HostEvent::VmChanged(id));
        Ok(())
    }

    pub(super) fn create(&mut self, wanted: &VmDefinition) -> Result<()> {
        if let Some(vm) = self.vms.get(&wanted.id) {
            return match vm.definition.mark {
                Some(mark) if mark == wanted.mark => Ok(()),
                _ => Err(Error::new(ErrorKind::AlreadyExists, "The host has another VM with this id.")),
            };
        }
        let name = wanted.domain_name();
        if self.vms.values().any(|vm| vm.definition.name == name) {
            return Err(Error::new(ErrorKind::AlreadyExists, "The host has another VM with this name."));
        }
        let spec = &wanted.spec;
        if spec.vcpus == 0 || spec.memory_mib == 0 {
            return Err(Error::invalid("spec", "A VM needs at least one virtual CPU and some memory."));
        }
        if let Some(nic) = spec.nics.iter().find(|nic| !self.networks.contains(&nic.network)) {
            let message = format!("The host has no network {:?}.", nic.network);
            return Err(Error::invalid("networks", message));
        }
        let definition = Definition {
            name,
            title: wanted.name.clone(),
            mark: Some(wanted.mark),
            owner: Some(wanted.owner),
            labels: wanted.labels.clone(),
            spec: spec.clone(),
            unknown: String::new(),
        };
        self.vms.insert(wanted.id, SimVm::new(wanted.id, definition, wanted.autostart));
        self.emit(HostEvent::VmChanged(wanted.id));
        Ok(())
    }

    pub(super) fn change(&mut self, id: VmId, expected: &str, change: &DefinitionChange) -> Result<String> {
        let vm = self.vm_mut(id)?;
        let mut wanted = vm.definition.clone();
        if let Some(title) = &change.title {
            wanted.title.clone_from(title);
        }
        if let Some(labels) = &change.labels {
            wanted.labels.clone_from(labels);
        }
        wanted.spec.vcpus = change.vcpus.unwrap_or(wanted.spec.vcpus);
        wanted.spec.memory_mib = change.memory_mib.unwrap_or(wanted.spec.memory_mib);
        let autostart = change.autostart.unwrap_or(vm.autostart);
        let hash = wanted.hash();
        if hash == vm.hash && autostart == vm.autostart {
            return Ok(hash);
        }
        if vm.hash != expected {
            return Err(Error::new(ErrorKind::Conflict, "The VM's definition was changed on its host meanwhile."));
        }
        (vm.definition, vm.hash, vm.autostart) = (wanted, hash.clone(), autostart);
        self.emit(HostEvent::VmChanged(id));
        Ok(hash)
    }

    pub(super) fn remove(&mut self, id: VmId) {
        if self.vms.remove(&id).is_some() {
            self.emit(HostEvent::VmChanged(id));
        }
    }

    /// Puts a VM into `state` and tells it; a transient one that stops is gone.
    pub(super) fn enter(&mut self, id: VmId, state: VmState, reason: &'static str) -> Result<()> {
        let now = self.now();
        let vm = self.vm_mut(id)?;
        vm.enter(state, reason, now);
        if vm.transient && !state.is_active() {
            self.vms.remove(&id);
        }
        self.emit(HostEvent::VmChanged(id));
        Ok(())
    }

    pub(super) fn change_power(&mut self, id: VmId, action: PowerAction) -> Result<()> {
        let vm = self.vm(id)?;
        let state = vm.state;
        match action.on(state) {
            Transition::Already => return Ok(()),
            Transition::Refused => {
                let message = format!("A VM that is {} does not take {}.", state.as_str(), action.as_str());
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            Transition::To(_) => {}
        }
        match action {
            PowerAction::Start => self.start(id),
            PowerAction::PowerOff => self.enter(id, VmState::ShutOff, "destroyed"),
            PowerAction::Pause => self.enter(id, VmState::Paused, "user"),
            PowerAction::Save => self.enter(id, VmState::Saved, "saved"),
            PowerAction::Resume => {
                self.enter(id, VmState::Running, "unpaused")?;
                match self.vm_mut(id)?.asked.take() {
                    Some(asked) => self.obey(id, asked),
                    None => Ok(()),
                }
            }
            PowerAction::Reset => {
                self.reboot(id)?;
                Ok(())
            }
            PowerAction::Shutdown | PowerAction::Reboot => self.ask(id, action),
        }
    }

    pub(super) fn start(&mut self, id: VmId) -> Result<()> {
        let vm = self.vm(id)?;
        let reason = if vm.state == VmState::Saved { "restored" } else { "booted" };
        let missing = vm.definition.spec.disks.iter().find(|disk| {
            let volume = VolumeRef { id: disk.volume, format: disk.format };
            !self.pool.contains(volume)
        });
        if missing.is_some() {
            return Err(Error::new(ErrorKind::Conflict, "A disk of the VM is not there."));
        }
        self.enter(id, VmState::Running, reason)
    }

    fn reboot(&mut self, id: VmId) -> Result<()> {
        let vm = self.vm_mut(id)?;
        vm.boot += 1;
        vm.asked = None;
        self.emit(HostEvent::VmRebooted(id));
        Ok(())
    }

    /// The guest is asked; it obeys when and if it wants.
    fn ask(&mut self, id: VmId, action: PowerAction) -> Result<()> {
        let vm = self.vm(id)?;
        let (boot, mute) = (vm.boot, self.mute);
        match vm.guest.unwrap_or(self.guest) {
            Guest::Ignores => Ok(()),
            Guest::Obeys(Duration::ZERO) => self.obey(id, action),
            Guest::Obeys(after) => {
                let obey = move |state: &mut State| {
                    let outer = std::mem::replace(&mut state.mute, mute);
                    match state.vms.get_mut(&id) {
                        Some(vm) if vm.boot != boot => {}
                        Some(vm) if vm.state == VmState::Paused => vm.asked = Some(action),
                        // The VM is there: obeying cannot fail.
                        Some(vm) if vm.state == VmState::Running => drop(state.obey(id, action)),
                        _ => {}
                    }
                    state.mute = outer;
                };
                self.schedule(after, Box::new(obey));
                Ok(())
            }
        }
    }

    fn obey(&mut self, id: VmId, action: PowerAction) -> Result<()> {
        if action == PowerAction::Reboot { self.reboot(id) } else { self.enter(id, VmState::ShutOff, "shutdown") }
    }

    pub(super) fn resize(&mut self, volume: VolumeRef, capacity: u64) -> Result<()> {
        if self.vms.values().any(|vm| vm.uses(volume)) {
            return Err(Error::new(ErrorKind::Conflict, "The volume is in use by a running VM."));
        }
        self.pool.resize(volume, capacity)
    }

    /// A busy guest: one virtual CPU at a tenth, some traffic. One that hangs tells nothing.
    pub(super) fn stats(&self) -> Vec<(VmId, VmStats)> {
        let now = self.now();
        let active = self.vms.values().filter(|vm| !vm.silent).filter_map(|vm| Some((vm, vm.started?)));
        let stats = active.map(|(vm, started)| {
            let up = now.saturating_duration_since(started);
            let millis = u64::try_from(up.as_millis()).unwrap_or(u64::MAX);
            let spec = &vm.definition.spec;
            let disk = |(n, _)| DiskStats {
                device: format!("vd{}", char::from(b'a' + u8::try_from(n).unwrap_or(25).min(25))),
                read_bytes: millis.saturating_mul(64),
                read_requests: millis / 64,
                written_bytes: millis.saturating_mul(16),
                write_requests: millis / 256,
            };
            let traffic =
                |bytes| Traffic { bytes: millis.saturating_mul(bytes), packets: millis / 128, ..Traffic::default() };
            let nic = |(n, _)| NicStats { device: format!("vnet{n}"), received: traffic(8), sent: traffic(4) };
            let stats = VmStats {
                cpu_time_ns: u64::try_from(up.as_nanos() / 10).unwrap_or(u64::MAX),
                memory_mib: spec.memory_mib,
                memory_rss_mib: spec.memory_mib / 2,
                memory_usable_mib: Some(spec.memory_mib / 4),
                disks: spec.disks.iter().enumerate().map(disk).collect(),
                nics: spec.nics.iter().enumerate().map(nic).collect(),
            };
            (vm.id, stats)
        });
        stats.collect()
    }
}
