//! A VM that is started while it is copied is left out again; on the simulator, so that it is so at
//! the very moment.

use std::sync::Arc;

use limen_core::authz::AllowAll;
use limen_core::backup::{self, Backup, Step};
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{CreateDisk, CreateVm};
use limen_core::service::HostConfig;
use limen_core::store::PoolSettings;
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, Limen};

use super::shelf;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_is_started_while_it_is_copied_is_left_out() {
    let (home, to) = (shelf(), shelf());
    let file = home.path().join("limen.db");
    let store = Arc::new(SqliteStore::open(&file, &PoolSettings::default()).await.expect("a Store"));
    let sim = SimHypervisor::new();
    let limen = Limen::builder()
        .store(Arc::clone(&store) as _)
        .authz(Arc::new(AllowAll))
        .host(HostConfig::new("host", "sim:///", Arc::new(sim.clone())))
        .build()
        .await
        .expect("a service");
    let me = Context::local();
    let mut vms = Vec::new();
    for name in ["quiet", "restless"] {
        let disks = vec![CreateDisk { size_gib: Some(1), ..CreateDisk::default() }];
        let asked = limen.create_vm(&me, CreateVm { disks, ..CreateVm::new(name, 1, 64) }).await.expect("ask");
        let done = limen.wait_operation(&me, asked.id, super::PATIENCE).await.expect("wait");
        vms.push(done.vm_id.expect("a VM"));
    }
    let database = backup::Database::Sqlite(file);
    let images = home.path().join("images");
    let what = Backup { store: &*store, database: &database, hypervisor: &sim, host: "host", images: &images };
    let restless = vms[1];
    let tell = |step: Step| {
        if matches!(&step, Step::File(of, _) if of == "disk of restless") {
            sim.outside().start(restless).expect("start it behind the backup's back");
            sim.outside().destroy(restless).expect("and stop it");
        }
    };
    let now = time::OffsetDateTime::now_utc();
    let (place, manifest) = backup::create(what, to.path(), now, &tell).await.expect("a backup");
    assert_eq!(manifest.vms.iter().map(|vm| vm.record.id).collect::<Vec<_>>(), [vms[0]]);
    assert_eq!(manifest.left_out.len(), 1);
    assert!(manifest.left_out[0].why.contains("while it was copied"), "{:?}", manifest.left_out);
    let volumes = std::fs::read_dir(place.join("volumes")).expect("a directory").count();
    assert_eq!(volumes, 1, "nothing of it is left");
    backup::verify(&place, &|_| {}).await.expect("a whole backup");
    limen.shutdown().await;
}
