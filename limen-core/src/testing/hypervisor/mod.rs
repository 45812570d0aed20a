//! What every [`Hypervisor`] must do.
//!
//! Each behaviour is a function of its own; the first sentence of its documentation is the promise.
//! Where a capability is false, the *unsupported* answer is the promise: nothing is skipped.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use std::sync::Arc;
//! use limen_core::Hypervisor;
//! use limen_core::hypervisor::sim::SimHypervisor;
//! use limen_core::testing::hypervisor::{Fixture, run_all};
//!
//! let sim = SimHypervisor::new();
//! let report = run_all(&Fixture::default(), || Arc::new(sim.clone()) as Arc<dyn Hypervisor>).await;
//! assert!(report.failed.is_empty(), "{report:#?}");
//! # }
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::hypervisor::{HostVm, Hypervisor, Mark, VmDefinition, VolumeRef, VolumeSpec};
use crate::model::{
    Disk, DiskMode, Firmware, InstallId, Nic, OperationId, OwnerId, PowerAction, VmId, VmSpec, VmState, VolumeFormat,
    VolumeId,
};

mod consoles;
mod definitions;
mod host;
mod power;
mod volumes;
mod witness;

#[cfg(test)]
mod lies;

pub use consoles::*;
pub use definitions::*;
pub use host::*;
pub use power::*;
pub use volumes::*;
pub use witness::*;

/// What a back end's behaviours are tried with.
#[derive(Debug, Clone)]
pub struct Fixture {
    /// Names of VMs begin with it, so that somebody who finds a left one knows where it is from.
    pub prefix: String,
    /// A network that NICs can be on.
    pub network: String,
    /// A raw disk to boot from; it may be anything where guests are not real.
    pub image: Vec<u8>,
    /// What the guest on that disk says first on its serial console; none where it says nothing.
    pub greeting: Option<String>,
    /// Whether the guest on that disk powers off and reboots when it is asked.
    pub obeys: bool,
    /// Memory that it needs, in MiB.
    pub memory_mib: u64,
    /// How long anything may take that is not done when its call returns, booting included.
    pub patience: Duration,
}

impl Default for Fixture {
    /// What fits the simulator.
    fn default() -> Self {
        Self {
            prefix: "conform".to_owned(),
            network: "default".to_owned(),
            image: b"a disk's first bytes".repeat(5_000),
            greeting: Some("Hello from ".to_owned()),
            obeys: true,
            memory_mib: 96,
            patience: Duration::from_secs(30),
        }
    }
}

/// A promise, by name.
#[derive(Debug, Clone, Copy)]
pub struct Behaviour {
    /// The function's name.
    pub name: &'static str,
    /// The function.
    pub run: for<'a> fn(&'a dyn Hypervisor, &'a Fixture) -> BoxFuture<'a, ()>,
}

macro_rules! behaviours {
    ($($name:ident)+) => {
        /// Every behaviour.
        pub const BEHAVIOURS: &[Behaviour] = &[$(Behaviour {
            name: stringify!($name),
            run: |hypervisor, fixture| Box::pin($name(hypervisor, fixture)),
        },)+];
    };
}

behaviours! {
    capability_does_not_change
    host_info_tells_what_the_host_has
    networks_are_listed
    events_tell_of_changes
    stats_tell_of_running_vms_alone
    a_closed_connection_answers_unavailable
    create_defines_a_vm_powered_off
    definition_that_was_read_is_restored
    create_again_with_the_same_mark_is_a_success
    create_with_another_mark_is_refused_and_changes_nothing
    create_under_a_taken_name_is_refused_and_changes_nothing
    create_at_the_same_time_makes_one
    create_on_a_missing_network_never_runs
    create_with_uefi_is_done_or_unsupported
    autostart_is_kept_or_unsupported
    names_and_labels_are_kept_from_harm
    change_shows_in_the_definition
    change_again_is_a_success
    change_after_an_edit_is_refused_and_changes_nothing
    change_of_a_running_vm_waits_for_its_next_boot
    change_of_an_unknown_vm_is_not_found
    definition_hash_stays_while_the_definition_does
    remove_takes_a_vm_from_every_state
    remove_again_is_a_success
    remove_leaves_the_volumes
    get_of_an_unknown_vm_is_not_found
    list_shows_what_get_shows
    power_follows_the_table
    power_of_an_unknown_vm_is_not_found
    shutdown_and_reboot_are_asked_for
    reset_is_told
    consoles_of_a_stopped_vm_are_refused
    consoles_of_an_unknown_vm_are_not_found
    serial_console_speaks_and_ends_with_the_vm
    vnc_console_shakes_hands_and_ends_with_the_vm
    open_consoles_delay_nobody
    volume_creation_is_idempotent
    volume_is_blank_and_sparse
    volume_reads_back_what_was_written
    volume_written_again_starts_over
    volume_refuses_a_short_source
    volume_write_can_be_dropped
    volume_only_grows
    volume_over_another_is_copy_on_write
    volume_removal_is_idempotent
    volume_that_is_unknown_is_not_found
    witness_is_kept_or_unsupported
    witness_only_gets_newer
    witness_is_an_installations_own
    witness_is_no_volume
}

/// How a back end did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The behaviours that held.
    pub held: Vec<&'static str>,
    /// Those that did not, and why.
    pub failed: Vec<(&'static str, String)>,
}

/// Tries every behaviour, each on a connection of its own from `connect`, one after another.
pub async fn run_all(fixture: &Fixture, connect: impl Fn() -> Arc<dyn Hypervisor>) -> Report {
    let mut report = Report::default();
    for behaviour in BEHAVIOURS {
        let hypervisor = connect();
        let run = AssertUnwindSafe((behaviour.run)(&*hypervisor, fixture)).catch_unwind();
        match tokio::time::timeout(fixture.patience * 10, run).await {
            Ok(Ok(())) => report.held.push(behaviour.name),
            Ok(Err(panic)) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                report.failed.push((behaviour.name, text.unwrap_or_default()));
            }
            Err(_) => report.failed.push((behaviour.name, "It does not come to an end.".to_owned())),
        }
        hypervisor.close().await;
    }
    report
}

/// A VM of a behaviour's own, with what has to be removed after it.
struct TestVm<'a> {
    hypervisor: &'a dyn Hypervisor,
    fixture: &'a Fixture,
    definition: VmDefinition,
}

impl<'a> TestVm<'a> {
    /// Not defined yet: one virtual CPU, no disk, no NIC.
    fn new(hypervisor: &'a dyn Hypervisor, fixture: &'a Fixture, name: &str) -> Self {
        let definition = VmDefinition {
            id: VmId::generate(),
            mark: Mark { install: InstallId::generate(), operation: OperationId::generate() },
            owner: OwnerId::generate(),
            name: format!("{}-{name}", fixture.prefix),
            labels: BTreeMap::new(),
            spec: VmSpec {
                vcpus: 1,
                memory_mib: fixture.memory_mib,
                firmware: Firmware::Bios,
                disks: Vec::new(),
                iso: None,
                nics: Vec::new(),
            },
            autostart: false,
        };
        Self { hypervisor, fixture, definition }
    }

    /// Defined, powered off.
    async fn defined(hypervisor: &'a dyn Hypervisor, fixture: &'a Fixture, name: &str) -> Self {
        let vm = Self::new(hypervisor, fixture, name);
        vm.define().await;
        vm
    }

    /// Defined, with the fixture's image on its disk where the back end has volumes.
    async fn bootable(hypervisor: &'a dyn Hypervisor, fixture: &'a Fixture, name: &str) -> Self {
        let mut vm = Self::new(hypervisor, fixture, name);
        if hypervisor.capability().volumes {
            let length = fixture.image.len() as u64;
            let volume = blank(hypervisor, VolumeFormat::Raw, length).await;
            write(hypervisor, volume, fixture.image.clone()).await;
            vm.attach(volume, length);
        }
        vm.define().await;
        vm
    }

    fn attach(&mut self, volume: VolumeRef, size_bytes: u64) {
        let disk = Disk { volume: volume.id, format: volume.format, size_bytes, image: None, mode: DiskMode::Full };
        self.definition.spec.disks.push(disk);
    }

    fn id(&self) -> VmId {
        self.definition.id
    }

    async fn define(&self) {
        done(self.hypervisor.create_definition(&self.definition).await, "create_definition");
    }

    async fn get(&self) -> HostVm {
        done(self.hypervisor.get(self.id()).await, "get")
    }

    async fn power(&self, action: PowerAction) {
        done(self.hypervisor.change_power(self.id(), action).await, action.as_str());
    }

    /// Brings it into a state that power actions lead to, from wherever it is.
    async fn bring(&self, state: VmState) {
        self.power(PowerAction::PowerOff).await;
        if state != VmState::ShutOff {
            self.power(PowerAction::Start).await;
        }
        match state {
            VmState::Paused => self.power(PowerAction::Pause).await,
            VmState::Saved => self.power(PowerAction::Save).await,
            _ => {}
        }
        assert_eq!(self.get().await.state, state, "the state that it was brought to");
    }

    async fn wait_for(&self, state: VmState) {
        let deadline = tokio::time::Instant::now() + self.fixture.patience;
        loop {
            let seen = self.get().await.state;
            if seen == state {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "it is still {seen:?} and not {state:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes it and its disks.
    async fn clean(self) {
        done(self.hypervisor.remove_definition(self.id()).await, "remove_definition");
        for disk in &self.definition.spec.disks {
            let volume = VolumeRef { id: disk.volume, format: disk.format };
            done(self.hypervisor.remove_volume(volume).await, "remove_volume");
        }
    }
}

/// The states that power actions lead to on this back end.
fn reachable(hypervisor: &dyn Hypervisor) -> Vec<VmState> {
    let mut states = vec![VmState::Running, VmState::Paused, VmState::ShutOff];
    if hypervisor.capability().save {
        states.push(VmState::Saved);
    }
    states
}

async fn blank(hypervisor: &dyn Hypervisor, format: VolumeFormat, capacity_bytes: u64) -> VolumeRef {
    let spec = VolumeSpec { id: VolumeId::generate(), format, capacity_bytes, backing: None };
    done(hypervisor.create_volume(&spec).await, "create_volume");
    VolumeRef { id: spec.id, format }
}

async fn write(hypervisor: &dyn Hypervisor, volume: VolumeRef, bytes: Vec<u8>) {
    let length = bytes.len() as u64;
    let source = Box::new(std::io::Cursor::new(bytes));
    done(hypervisor.write_volume(volume, source, length).await, "write_volume");
}

/// A locally administered address that nobody else has.
fn mac() -> String {
    let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
    format!("52:54:00:{a:02x}:{b:02x}:{c:02x}")
}

fn nic(fixture: &Fixture) -> Nic {
    Nic { mac: mac(), network: fixture.network.clone() }
}

#[track_caller]
fn done<T>(result: Result<T>, what: &str) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {error:?}"))
}

/// The call was refused with this kind, in a sentence that any client may read.
#[track_caller]
fn refused<T>(result: Result<T>, kind: ErrorKind, what: &str) {
    let Err(error) = result else { panic!("{what}: a success where {kind:?} is due") };
    assert_eq!(error.kind(), kind, "{what}: {error:?}");
    let text = error.to_string();
    assert!(text.ends_with('.') && !text.contains('\n'), "{what}: no sentence: {text:?}");
    for secret in ["/", "<", "libvirt", "virDomain", "virStorage", "qemu"] {
        assert!(!text.contains(secret), "{what}: {secret:?} must not reach a client: {text:?}");
    }
}
