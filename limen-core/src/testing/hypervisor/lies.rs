//! The suite can fail: back ends that break one promise each are caught by the behaviour that
//! holds it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::sync::broadcast;

use super::*;
use crate::error::Error;
use crate::hypervisor::sim::SimHypervisor;
use crate::hypervisor::{
    ByteSource, Capability, ConsoleKind, ConsoleStream, DefinitionChange, HostEvent, HostVolume, VmStats,
};
use crate::model::{HostInfo, Network, Witness};

/// What is wrong with a [`Liar`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    CapabilityFlips,
    NoCpus,
    NetworkHasHost,
    NoEvents,
    NoRebootEvents,
    StatsOfAll,
    CloseDoesNothing,
    CreatesRunning,
    CreateAgainFails,
    CreateReplaces,
    DeniesUefi,
    DeniesSave,
    DeniesVolumes,
    DeniesLinked,
    ForgetsAutostart,
    MixesLabels,
    ChangeDoesNothing,
    ChangeAgainConflicts,
    ChangeIgnoresHash,
    ChangeStopsTheGuest,
    HashByState,
    RestoreReplaces,
    RestoresAnything,
    RemoveOnlyWhenOff,
    RemoveAgainFails,
    RemoveTakesVolumes,
    UnknownIsInternal,
    LeaksPaths,
    ListForgetsPaused,
    AlreadyIsConflict,
    StartResumes,
    ShutdownIsForgotten,
    OpensAnyConsole,
    MuteConsoles,
    EndlessConsoles,
    CreateVolumeReplaces,
    FatVolumes,
    ReadsHalf,
    WritesOnce,
    PadsShortSources,
    WritesOn,
    ResizeShrinks,
    RemovedVolumeStays,
    LinksOverNothing,
    DeniesWitness,
    ForgetsWitness,
    WitnessGoesBack,
    WitnessIsShared,
    WitnessIsListed,
}

/// Each lie, and a behaviour that must notice it.
const CAUGHT: &[(Lie, &str)] = &[
    (Lie::CapabilityFlips, "capability_does_not_change"),
    (Lie::NoCpus, "host_info_tells_what_the_host_has"),
    (Lie::NetworkHasHost, "networks_are_listed"),
    (Lie::NoEvents, "events_tell_of_changes"),
    (Lie::NoRebootEvents, "reset_is_told"),
    (Lie::NoRebootEvents, "shutdown_and_reboot_are_asked_for"),
    (Lie::StatsOfAll, "stats_tell_of_running_vms_alone"),
    (Lie::CloseDoesNothing, "a_closed_connection_answers_unavailable"),
    (Lie::CreatesRunning, "create_defines_a_vm_powered_off"),
    (Lie::CreateAgainFails, "create_again_with_the_same_mark_is_a_success"),
    (Lie::CreateAgainFails, "create_at_the_same_time_makes_one"),
    (Lie::CreateReplaces, "create_with_another_mark_is_refused_and_changes_nothing"),
    (Lie::CreateReplaces, "create_under_a_taken_name_is_refused_and_changes_nothing"),
    (Lie::DeniesUefi, "create_with_uefi_is_done_or_unsupported"),
    (Lie::DeniesSave, "power_follows_the_table"),
    (Lie::DeniesVolumes, "volume_is_blank_and_sparse"),
    (Lie::DeniesLinked, "volume_over_another_is_copy_on_write"),
    (Lie::ForgetsAutostart, "autostart_is_kept_or_unsupported"),
    (Lie::MixesLabels, "names_and_labels_are_kept_from_harm"),
    (Lie::ChangeDoesNothing, "change_shows_in_the_definition"),
    (Lie::ChangeAgainConflicts, "change_again_is_a_success"),
    (Lie::ChangeIgnoresHash, "change_after_an_edit_is_refused_and_changes_nothing"),
    (Lie::ChangeStopsTheGuest, "change_of_a_running_vm_waits_for_its_next_boot"),
    (Lie::UnknownIsInternal, "change_of_an_unknown_vm_is_not_found"),
    (Lie::HashByState, "definition_hash_stays_while_the_definition_does"),
    (Lie::RestoreReplaces, "definition_that_was_read_is_restored"),
    (Lie::RestoresAnything, "definition_that_was_read_is_restored"),
    (Lie::UnknownIsInternal, "definition_that_was_read_is_restored"),
    (Lie::RemoveOnlyWhenOff, "remove_takes_a_vm_from_every_state"),
    (Lie::RemoveAgainFails, "remove_again_is_a_success"),
    (Lie::RemoveTakesVolumes, "remove_leaves_the_volumes"),
    (Lie::UnknownIsInternal, "get_of_an_unknown_vm_is_not_found"),
    (Lie::LeaksPaths, "get_of_an_unknown_vm_is_not_found"),
    (Lie::ListForgetsPaused, "list_shows_what_get_shows"),
    (Lie::AlreadyIsConflict, "power_follows_the_table"),
    (Lie::StartResumes, "power_follows_the_table"),
    (Lie::UnknownIsInternal, "power_of_an_unknown_vm_is_not_found"),
    (Lie::ShutdownIsForgotten, "shutdown_and_reboot_are_asked_for"),
    (Lie::OpensAnyConsole, "consoles_of_a_stopped_vm_are_refused"),
    (Lie::OpensAnyConsole, "consoles_of_an_unknown_vm_are_not_found"),
    (Lie::MuteConsoles, "serial_console_speaks_and_ends_with_the_vm"),
    (Lie::MuteConsoles, "vnc_console_shakes_hands_and_ends_with_the_vm"),
    (Lie::EndlessConsoles, "serial_console_speaks_and_ends_with_the_vm"),
    (Lie::EndlessConsoles, "vnc_console_shakes_hands_and_ends_with_the_vm"),
    (Lie::CreateVolumeReplaces, "volume_creation_is_idempotent"),
    (Lie::FatVolumes, "volume_is_blank_and_sparse"),
    (Lie::ReadsHalf, "volume_reads_back_what_was_written"),
    (Lie::WritesOnce, "volume_written_again_starts_over"),
    (Lie::PadsShortSources, "volume_refuses_a_short_source"),
    (Lie::WritesOn, "volume_write_can_be_dropped"),
    (Lie::ResizeShrinks, "volume_only_grows"),
    (Lie::RemovedVolumeStays, "volume_removal_is_idempotent"),
    (Lie::LinksOverNothing, "volume_over_another_is_copy_on_write"),
    (Lie::UnknownIsInternal, "volume_that_is_unknown_is_not_found"),
    (Lie::DeniesWitness, "witness_is_kept_or_unsupported"),
    (Lie::ForgetsWitness, "witness_is_kept_or_unsupported"),
    (Lie::WitnessGoesBack, "witness_only_gets_newer"),
    (Lie::WitnessIsShared, "witness_is_an_installations_own"),
    (Lie::WitnessIsListed, "witness_is_no_volume"),
];

#[tokio::test]
async fn every_lie_is_caught() {
    let fixture = Fixture { patience: Duration::from_millis(300), ..Fixture::default() };
    for (lie, name) in CAUGHT {
        let behaviour = BEHAVIOURS.iter().find(|behaviour| behaviour.name == *name).expect(name);
        for (lie, holds) in [(None, true), (Some(*lie), false)] {
            let liar = Liar { sim: SimHypervisor::new(), lie, looks: AtomicU64::new(0), witness: Mutex::default() };
            let run = AssertUnwindSafe((behaviour.run)(&liar, &fixture)).catch_unwind();
            let held = matches!(tokio::time::timeout(fixture.patience * 40, run).await, Ok(Ok(())));
            assert_eq!(held, holds, "{lie:?} under {name}");
        }
    }
}

/// The simulator, with one promise broken.
#[derive(Debug)]
struct Liar {
    sim: SimHypervisor,
    lie: Option<Lie>,
    looks: AtomicU64,
    witness: Mutex<Option<Witness>>,
}

impl Liar {
    fn tells(&self, lie: Lie) -> bool {
        self.lie == Some(lie)
    }

    fn error<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match (self.lie, error.kind()) {
            (Some(Lie::UnknownIsInternal), ErrorKind::NotFound) => Error::internal("lost"),
            (Some(Lie::LeaksPaths), kind) => Error::new(kind, "Not in /var/lib/limen."),
            _ => error,
        })
    }

    fn seen(&self, mut vm: HostVm) -> HostVm {
        if self.tells(Lie::HashByState) {
            vm.definition_hash = format!("{:?}", vm.state);
        }
        vm
    }
}

#[async_trait]
impl Hypervisor for Liar {
    fn capability(&self) -> Capability {
        let mut capability = self.sim.capability();
        capability.uefi &= !self.tells(Lie::DeniesUefi);
        capability.witness &= !self.tells(Lie::DeniesWitness);
        capability.save &= !self.tells(Lie::DeniesSave);
        capability.linked_volumes &= !self.tells(Lie::DeniesLinked);
        if self.tells(Lie::DeniesVolumes) {
            (capability.volumes, capability.linked_volumes) = (false, false);
        }
        if self.tells(Lie::CapabilityFlips) {
            capability.stats = self.looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        }
        capability
    }

    async fn host_info(&self) -> Result<HostInfo> {
        let info = self.sim.host_info().await?;
        Ok(if self.tells(Lie::NoCpus) { HostInfo { cpus: 0, ..info } } else { info })
    }

    async fn create_definition(&self, definition: &VmDefinition) -> Result<()> {
        let mut definition = definition.clone();
        definition.autostart &= !self.tells(Lie::ForgetsAutostart);
        if self.tells(Lie::MixesLabels) {
            definition.labels.values_mut().for_each(|label| *label = label.trim().to_owned());
        }
        let known = self.sim.get(definition.id).await.is_ok();
        if known && self.tells(Lie::CreateAgainFails) {
            return Err(Error::new(ErrorKind::AlreadyExists, "Again."));
        }
        if self.tells(Lie::CreateReplaces) {
            let name = definition.domain_name();
            for vm in self.sim.list().await?.into_iter().filter(|vm| vm.name == name) {
                self.sim.remove_definition(vm.id).await?;
            }
        }
        self.sim.create_definition(&definition).await?;
        if self.tells(Lie::CreatesRunning) {
            self.sim.change_power(definition.id, PowerAction::Start).await?;
        }
        Ok(())
    }

    async fn change_definition(&self, id: VmId, expected: &str, change: &DefinitionChange) -> Result<String> {
        let current = self.error(self.sim.get(id).await)?.definition_hash;
        if self.tells(Lie::ChangeDoesNothing) {
            return Ok(current);
        }
        if self.tells(Lie::ChangeAgainConflicts) && current != expected {
            return Err(Error::new(ErrorKind::Conflict, "Changed."));
        }
        if self.tells(Lie::ChangeStopsTheGuest) {
            self.sim.change_power(id, PowerAction::PowerOff).await?;
        }
        let expected = if self.tells(Lie::ChangeIgnoresHash) { &current } else { expected };
        self.sim.change_definition(id, expected, change).await
    }

    async fn read_definition(&self, id: VmId) -> Result<String> {
        self.error(self.sim.read_definition(id).await)
    }

    async fn restore_definition(&self, id: VmId, text: &str) -> Result<()> {
        if self.tells(Lie::RestoreReplaces) {
            self.sim.remove_definition(id).await?;
        }
        if self.tells(Lie::RestoresAnything) && self.sim.restore_definition(id, text).await.is_err() {
            return Ok(());
        }
        self.sim.restore_definition(id, text).await
    }

    async fn remove_definition(&self, id: VmId) -> Result<()> {
        let vm = self.sim.get(id).await;
        if vm.is_err() && self.tells(Lie::RemoveAgainFails) {
            return Err(Error::not_found("VM"));
        }
        if vm.is_ok_and(|vm| vm.state != VmState::ShutOff) && self.tells(Lie::RemoveOnlyWhenOff) {
            return Ok(());
        }
        if self.tells(Lie::RemoveTakesVolumes) {
            for volume in self.sim.list_volumes().await? {
                self.sim.remove_volume(volume.volume).await?;
            }
        }
        self.sim.remove_definition(id).await
    }

    async fn get(&self, id: VmId) -> Result<HostVm> {
        Ok(self.seen(self.error(self.sim.get(id).await)?))
    }

    async fn list(&self) -> Result<Vec<HostVm>> {
        let mut all = self.sim.list().await?;
        all.retain(|vm| vm.state != VmState::Paused || !self.tells(Lie::ListForgetsPaused));
        Ok(all.into_iter().map(|vm| self.seen(vm)).collect())
    }

    async fn change_power(&self, id: VmId, action: PowerAction) -> Result<()> {
        let state = self.error(self.sim.get(id).await)?.state;
        let already = action.on(state) == crate::model::Transition::Already;
        // The suite's own way to a state uses power_off alone again and again.
        if already && action != PowerAction::PowerOff && self.tells(Lie::AlreadyIsConflict) {
            return Err(Error::new(ErrorKind::Conflict, "Already."));
        }
        if action == PowerAction::Start && state == VmState::Paused && self.tells(Lie::StartResumes) {
            return self.sim.change_power(id, PowerAction::Resume).await;
        }
        if action == PowerAction::Shutdown && self.tells(Lie::ShutdownIsForgotten) {
            return Ok(());
        }
        self.sim.change_power(id, action).await
    }

    async fn stats(&self) -> Result<Vec<(VmId, VmStats)>> {
        let mut stats = self.sim.stats().await?;
        if self.tells(Lie::StatsOfAll) {
            stats = self.sim.list().await?.into_iter().map(|vm| (vm.id, VmStats::default())).collect();
        }
        Ok(stats)
    }

    async fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<ConsoleStream> {
        if self.tells(Lie::OpensAnyConsole) {
            return Ok(Box::new(tokio::io::duplex(1).0));
        }
        let mut inner = self.sim.open_console(id, kind).await?;
        let (near, far) = tokio::io::duplex(4096);
        if self.tells(Lie::MuteConsoles) {
            tokio::spawn(async move { inner.read_to_end(&mut Vec::new()).await.map(|_| drop(far)) });
            return Ok(Box::new(near));
        }
        if self.tells(Lie::EndlessConsoles) {
            tokio::spawn(async move {
                let (mut from_vm, mut to_vm) = tokio::io::split(inner);
                let (mut from_reader, mut to_reader) = tokio::io::split(far);
                let there = async {
                    let copied = tokio::io::copy(&mut from_vm, &mut to_reader).await;
                    std::future::pending::<()>().await;
                    copied
                };
                tokio::join!(there, tokio::io::copy(&mut from_reader, &mut to_vm))
            });
            return Ok(Box::new(near));
        }
        Ok(inner)
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        let reference = VolumeRef { id: volume.id, format: volume.format };
        if self.tells(Lie::CreateVolumeReplaces) {
            self.sim.remove_volume(reference).await?;
        }
        let created = self.sim.create_volume(volume).await;
        if created.is_err() && self.tells(Lie::LinksOverNothing) {
            return self.sim.create_volume(&VolumeSpec { backing: None, ..volume.clone() }).await;
        }
        created
    }

    async fn write_volume(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
        if self.tells(Lie::WritesOnce) && self.looks.fetch_add(1, Ordering::Relaxed) > 0 {
            return Ok(());
        }
        if self.tells(Lie::PadsShortSources) {
            let padded = Box::new(source.chain(tokio::io::repeat(0)));
            return self.sim.write_volume(volume, padded, length).await;
        }
        if self.tells(Lie::WritesOn) {
            // What the source does not give in time is made up, whether the caller waits or not.
            let (sim, sim_too) = (self.sim.clone(), self.sim.clone());
            let whole = source.take(length);
            let made_up = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                sim_too.write_volume(volume, Box::new(tokio::io::repeat(9)), length).await
            });
            let _ = tokio::time::timeout(Duration::from_millis(50), sim.write_volume(volume, Box::new(whole), length))
                .await;
            return made_up.await.map_err(Error::internal)?;
        }
        self.error(self.sim.write_volume(volume, source, length).await)
    }

    async fn read_volume(&self, volume: VolumeRef) -> Result<ByteSource> {
        let source = self.error(self.sim.read_volume(volume).await)?;
        Ok(if self.tells(Lie::ReadsHalf) { Box::new(source.take(500)) } else { source })
    }

    async fn resize_volume(&self, volume: VolumeRef, capacity_bytes: u64) -> Result<()> {
        if self.tells(Lie::ResizeShrinks) {
            self.sim.remove_volume(volume).await?;
            let spec = VolumeSpec { id: volume.id, format: volume.format, capacity_bytes, backing: None };
            return self.sim.create_volume(&spec).await;
        }
        self.error(self.sim.resize_volume(volume, capacity_bytes).await)
    }

    async fn remove_volume(&self, volume: VolumeRef) -> Result<()> {
        if self.tells(Lie::RemovedVolumeStays) { Ok(()) } else { self.sim.remove_volume(volume).await }
    }

    async fn list_volumes(&self) -> Result<Vec<HostVolume>> {
        let mut volumes = self.sim.list_volumes().await?;
        if self.tells(Lie::FatVolumes) {
            volumes.iter_mut().for_each(|volume| volume.allocation_bytes = volume.capacity_bytes);
        }
        Ok(volumes)
    }

    async fn read_witness(&self, install: InstallId) -> Result<Option<Witness>> {
        match self.lie {
            Some(Lie::ForgetsWitness) => Ok(None),
            Some(Lie::WitnessGoesBack | Lie::WitnessIsShared) => Ok(*self.witness.lock().expect("no poison")),
            _ => self.sim.read_witness(install).await,
        }
    }

    async fn write_witness(&self, witness: &Witness) -> Result<()> {
        let mut kept = self.witness.lock().expect("no poison").replace(*witness);
        if self.tells(Lie::WitnessIsShared) {
            kept = kept.filter(|kept| kept.is_newer_than(witness));
            self.witness.lock().expect("no poison").replace(kept.unwrap_or(*witness));
        }
        if self.tells(Lie::WitnessIsListed) {
            let spec =
                VolumeSpec { id: VolumeId::generate(), format: VolumeFormat::Raw, capacity_bytes: 0, backing: None };
            self.sim.create_volume(&spec).await?;
        }
        self.sim.write_witness(witness).await
    }

    async fn list_networks(&self) -> Result<Vec<Network>> {
        let mut networks = self.sim.list_networks().await?;
        if self.tells(Lie::NetworkHasHost) {
            networks.iter_mut().for_each(|network| network.host = "here".to_owned());
        }
        Ok(networks)
    }

    fn subscribe(&self) -> broadcast::Receiver<HostEvent> {
        let (sender, events) = broadcast::channel(64);
        let (mut inner, no_reboots) = (self.sim.subscribe(), self.tells(Lie::NoRebootEvents));
        if self.tells(Lie::NoEvents) {
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(sender);
            });
            return events;
        }
        tokio::spawn(async move {
            while let Ok(event) = inner.recv().await {
                if !(no_reboots && matches!(event, HostEvent::VmRebooted(_))) {
                    let _ = sender.send(event);
                }
            }
        });
        events
    }

    async fn close(&self) {
        if !self.tells(Lie::CloseDoesNothing) {
            self.sim.close().await;
        }
    }
}

#[test]
fn every_behaviour_is_run_under_its_name() {
    let sources = [
        include_str!("consoles.rs"),
        include_str!("definitions.rs"),
        include_str!("host.rs"),
        include_str!("power.rs"),
        include_str!("volumes.rs"),
        include_str!("witness.rs"),
    ];
    let written: Vec<_> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.strip_prefix("pub async fn ")?.split('(').next())
        .collect();
    for name in &written {
        assert!(BEHAVIOURS.iter().any(|behaviour| behaviour.name == *name), "{name} is never run");
    }
    assert_eq!(written.len(), BEHAVIOURS.len());
}
