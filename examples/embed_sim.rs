//! LIMEN in a program of your own: one VM, made, listed and deleted on a simulated host, with a
//! Store in memory. It needs nothing on the machine.
//!
//! `cargo run --example embed_sim`

use std::sync::Arc;
use std::time::Duration;

use limen_core::authz::AllowAll;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{CreateDisk, CreateVm, PageRequest};
use limen_core::service::{HostConfig, VmQuery};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, Limen, Result};

#[tokio::main]
async fn main() -> Result<()> {
    let limen = Limen::builder()
        .store(Arc::new(SqliteStore::in_memory().await?))
        .authz(Arc::new(AllowAll))
        .host(HostConfig::new("host-1", "sim:///", Arc::new(SimHypervisor::new())))
        .build()
        .await?;
    let me = Context::local();
    let soon = Duration::from_secs(30);

    let disks = vec![CreateDisk { size_gib: Some(10), ..CreateDisk::default() }];
    let create = CreateVm { disks, start: true, ..CreateVm::new("web-1", 2, 1024) };
    let asked = limen.create_vm(&me, create).await?;
    println!("create_vm is {}: the VM is recorded, its work goes on", asked.state.as_str());
    let done = limen.wait_operation(&me, asked.id, soon).await?;
    println!("create_vm is {}", done.state.as_str());
    if let Some(error) = done.error {
        return Err(error.into());
    }

    let page = limen.list_vms(&me, &VmQuery::default(), PageRequest::default()).await?;
    for listed in page.vms.iter() {
        println!("{} is {}", listed.vm.name, listed.vm.status.state.as_str());
    }

    if let Some(vm) = done.vm_id {
        let deleting = limen.delete_vm(&me, vm, None).await?;
        println!("delete_vm is {}", limen.wait_operation(&me, deleting.id, soon).await?.state.as_str());
    }
    limen.shutdown().await;
    Ok(())
}
