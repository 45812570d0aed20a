//! The methods of [`Hypervisor`]; what they do is in the state and the pool.

use async_trait::async_trait;
use tokio::sync::broadcast;

use std::sync::atomic::Ordering;

use super::state::{SimVm, State};
use super::{Method, SimHypervisor, console};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::{
    ByteSource, Capability, ConsoleKind, ConsoleStream, DefinitionChange, HostEvent, HostVm, HostVolume, Hypervisor,
    VmDefinition, VmStats, VolumeRef, VolumeSpec,
};
use crate::model::{HostInfo, InstallId, Network, PowerAction, VirtType, VmId, Witness};

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
            witness: true,
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
                memory_mib: 64 * 1024 * 1024,
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

    async fn read_definition(&self, id: VmId) -> Result<String> {
        self.call(Method::ReadDefinition, Some(id.0), move |state| Ok(state.vm(id)?.definition.text())).await
    }

    async fn restore_definition(&self, id: VmId, text: &str) -> Result<()> {
        let text = text.to_owned();
        self.call(Method::RestoreDefinition, Some(id.0), move |state| state.restore(id, &text)).await
    }

    async fn remove_definition(&self, id: VmId) -> Result<()> {
        let remove = move |state: &mut State| {
            state.remove(id);
            Ok(())
        };
        self.call(Method::RemoveDefinition, Some(id.0), remove).await
    }

    async fn get(&self, id: VmId) -> Result<HostVm> {
        self.call(Method::Get, Some(id.0), move |state| state.vm(id).map(SimVm::show)).await
    }

    async fn list(&self) -> Result<Vec<HostVm>> {
        self.call(Method::List, None, |state| Ok(state.vms.values().map(SimVm::show).collect())).await
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
        match &self.host.consoles {
            Some(elsewhere) => Ok((elsewhere.0)(kind)),
            None => Ok(console::open(kind, name, power)),
        }
    }

    async fn create_volume(&self, volume: &VolumeSpec) -> Result<()> {
        let volume = volume.clone();
        self.call(Method::CreateVolume, Some(volume.id.0), move |state| state.pool.create(&volume)).await
    }

    async fn write_volume(&self, volume: VolumeRef, source: ByteSource, length: u64) -> Result<()> {
        self.write(volume, source, length).await
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

    async fn read_witness(&self, install: InstallId) -> Result<Option<Witness>> {
        let read = move |state: &mut State| Ok(state.witnesses.get(&install).copied());
        self.call(Method::ReadWitness, None, read).await
    }

    async fn write_witness(&self, witness: &Witness) -> Result<()> {
        let witness = *witness;
        let write = move |state: &mut State| {
            let kept = state.witnesses.entry(witness.install).or_insert(witness);
            if witness.is_newer_than(kept) {
                *kept = witness;
            }
            Ok(())
        };
        self.call(Method::WriteWitness, None, write).await
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
