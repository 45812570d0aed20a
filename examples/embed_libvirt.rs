//! LIMEN in a program of your own, on libvirt: a VM is made, started, powered off and deleted.
//!
//! `cargo run --example embed_libvirt [URI [DIRECTORY]]`
//!
//! Without a URI it takes libvirt's own test driver, which is part of the library and runs no
//! guest. `qemu:///system` is this machine's QEMU; DIRECTORY is then where volumes go, on the host.

use std::sync::Arc;
use std::time::Duration;

use limen_core::authz::AllowAll;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::model::{CreateDisk, CreateVm, Operation, OperationState, PowerAction};
use limen_core::service::HostConfig;
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, Error, ErrorKind, Hypervisor, Limen, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let uri = arguments.next().unwrap_or_else(|| "test:///default".to_owned());
    let directory = arguments.next().unwrap_or_else(|| "/var/lib/limen/vms".to_owned());

    let hypervisor = Arc::new(LibvirtHypervisor::connect(LibvirtOptions::new(uri.clone(), directory)).await?);
    let info = hypervisor.host_info().await?;
    println!("{} runs {} on {} CPUs", info.hostname, info.hypervisor, info.cpus);
    // The test driver has no volumes that could be disks.
    let size_gib = hypervisor.capability().volumes.then_some(1);
    let disks = size_gib.map(|size| CreateDisk { size_gib: Some(size), ..CreateDisk::default() });

    let limen = Limen::builder()
        .store(Arc::new(SqliteStore::in_memory().await?))
        .authz(Arc::new(AllowAll))
        .host(HostConfig::new("host-1", uri, hypervisor))
        .build()
        .await?;
    let me = Context::local();

    let create = CreateVm { disks: disks.into_iter().collect(), ..CreateVm::new("limen-example", 1, 128) };
    let made = done(&limen, limen.create_vm(&me, create).await?).await?;
    if let Some(vm) = made.vm_id {
        for action in [PowerAction::Start, PowerAction::Pause, PowerAction::Resume, PowerAction::PowerOff] {
            done(&limen, limen.change_power(&me, vm, action, None).await?).await?;
            println!("  the VM is {}", limen.get_vm(&me, vm).await?.vm.status.state.as_str());
        }
        done(&limen, limen.delete_vm(&me, vm, None).await?).await?;
    }
    limen.shutdown().await;
    Ok(())
}

/// Waits until an operation is finished; one that did not succeed is an error.
async fn done(limen: &Limen, operation: Operation) -> Result<Operation> {
    let operation = limen.wait_operation(&Context::local(), operation.id, Duration::from_secs(120)).await?;
    println!("{} {}", operation.kind.as_str(), operation.state.as_str());
    match operation.error {
        None if operation.state == OperationState::Succeeded => Ok(operation),
        None => Err(Error::new(ErrorKind::Timeout, "The operation is not finished after two minutes.")),
        Some(error) => Err(error.into()),
    }
}
