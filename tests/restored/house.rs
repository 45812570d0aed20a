//! A host and a database that outlive the processes on them, and the copies of that database.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use limen_core::hypervisor::VolumeRef;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{HostId, VmId};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Hypervisor, Limen, Secret};
use limen_support::postgres::{self, PrivatePostgres};
use limen_support::process;
use limen_support::world::{Script, World};
use tokio::io::AsyncReadExt as _;

/// A database that can be copied and put back.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Database {
    pub(crate) async fn open(&self) -> Arc<dyn Store> {
        let settings =
            PoolSettings { max_open: 5, acquire_timeout: Duration::from_secs(30), ..PoolSettings::default() };
        match self {
            Database::Sqlite(path) => Arc::new(SqliteStore::open(path, &settings).await.expect("a Store")),
            Database::Postgres(url) => {
                Arc::new(PostgresStore::connect(&Secret::new(url), &settings).await.expect("a Store"))
            }
        }
    }

    /// Copies it; nobody writes to it.
    pub(crate) async fn dump(&self, copy: &Path) {
        let (this, copy) = (self.clone(), copy.to_owned());
        let work = move || match this {
            Database::Sqlite(file) => backup(&file, &copy),
            Database::Postgres(url) => postgres::dump(&url, &copy),
        };
        tokio::task::spawn_blocking(work).await.expect("copied");
    }

    /// The database as it was when it was copied. A file gets a place of its own: connections to the
    /// one before may still be about to end.
    pub(crate) async fn restored(&self, copy: &Path) -> Self {
        let (this, copy) = (self.clone(), copy.to_owned());
        let work = move || match this {
            Database::Sqlite(file) => {
                let next = file.with_extension(format!("{}-again", file.extension().unwrap_or_default().display()));
                backup(&copy, &next);
                Database::Sqlite(next)
            }
            Database::Postgres(url) => {
                postgres::restore(&url, &copy);
                Database::Postgres(url)
            }
        };
        tokio::task::spawn_blocking(work).await.expect("put back")
    }
}

/// Copies a SQLite file as SQLite itself does.
fn backup(from: &Path, to: &Path) {
    let backup = "import sqlite3, sys
with sqlite3.connect(sys.argv[2]) as copy:
    sqlite3.connect(sys.argv[1], timeout=10).backup(copy)";
    let mut command = Command::new("python3");
    process::run(command.args(["-c", backup]).arg(from).arg(to), Duration::from_secs(60)).expect_success();
}

/// A host, a database, and what is kept for them.
pub(crate) struct House {
    pub(crate) world: World,
    pub(crate) sim: SimHypervisor,
    pub(crate) database: Database,
    pub(crate) directory: tempfile::TempDir,
}

impl House {
    pub(crate) async fn new(postgres: Option<&(Arc<PrivatePostgres>, String)>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let database = match postgres {
            None => Database::Sqlite(directory.path().join("limen.db")),
            Some((server, migrated)) => {
                let (server, migrated) = (Arc::clone(server), migrated.clone());
                let made = tokio::task::spawn_blocking(move || server.copy_database(&migrated));
                Database::Postgres(made.await.expect("a database"))
            }
        };
        let sim = SimHypervisor::new();
        let mut world = World::new(Arc::new(sim.clone()), database.open().await);
        world.holder = Some("the only one");
        Self { world, sim, database, directory }
    }

    pub(crate) async fn limen(&mut self) -> Limen {
        self.limen_with(Script::new(Vec::new())).await
    }

    /// A new process, so to speak, with a connection of its own.
    pub(crate) async fn limen_with(&mut self, script: Arc<Script>) -> Limen {
        self.world.hypervisor = Arc::new(self.sim.clone());
        if self.world.store.ping().await.is_err() {
            // A clean stop has closed it.
            self.world.store = self.database.open().await;
        }
        self.world.limen(script).await
    }

    pub(crate) fn copy(&self) -> PathBuf {
        self.directory.path().join("copy")
    }

    pub(crate) async fn dump(&mut self) {
        self.world.store.close().await;
        self.database.dump(&self.copy()).await;
        self.world.store = self.database.open().await;
    }

    pub(crate) async fn restore(&mut self) {
        self.world.store.close().await;
        self.database = self.database.restored(&self.copy()).await;
        self.world.store = self.database.open().await;
    }

    /// Everything on the host, to the byte, and the files of images.
    pub(crate) async fn everything(&self) -> BTreeMap<String, Vec<u8>> {
        let mut all = BTreeMap::new();
        for vm in self.sim.list().await.expect("list") {
            all.insert(format!("vm {}", vm.id), format!("{vm:?}").into_bytes());
        }
        for volume in self.sim.list_volumes().await.expect("list volumes") {
            all.insert(format!("volume {}", volume.volume.id), self.bytes(volume.volume).await);
        }
        let images = self.world.images_dir();
        for directory in [images.to_owned(), images.join("incoming")] {
            for entry in std::fs::read_dir(directory).expect("the images") {
                let path = entry.expect("the images").path();
                if path.is_file() {
                    all.insert(path.display().to_string(), std::fs::read(&path).expect("an image"));
                }
            }
        }
        all
    }

    pub(crate) async fn bytes(&self, volume: VolumeRef) -> Vec<u8> {
        let mut bytes = Vec::new();
        // Disks are sparse: what a guest writes here is at their start.
        let source = self.sim.read_volume(volume).await.expect("read a volume");
        source.take(1 << 16).read_to_end(&mut bytes).await.expect("read a volume");
        bytes
    }

    /// Every guest's disks bear its own bytes from here on.
    pub(crate) async fn guests_write(&self) -> BTreeMap<String, Vec<u8>> {
        let mut written = BTreeMap::new();
        for volume in self.world.store.volumes(self.host().await).await.expect("volumes") {
            if let Some(vm) = volume.vm {
                let volume = VolumeRef { id: volume.id, format: volume.format };
                let mut bytes = self.bytes(volume).await;
                bytes.resize(4096, 0);
                let text = vm.to_string();
                bytes[512..512 + text.len()].copy_from_slice(text.as_bytes());
                let length = bytes.len() as u64;
                let source = Box::new(std::io::Cursor::new(bytes));
                self.sim.write_volume(volume, source, length).await.expect("written");
                written.insert(format!("volume {}", volume.id), self.bytes(volume).await);
            }
        }
        written
    }

    pub(crate) async fn host(&self) -> HostId {
        self.world.store.snapshot().await.expect("snapshot").hosts[0].id
    }

    /// Removes a VM by hand, with all that is its own.
    pub(crate) async fn remove_by_hand(&self, vm: VmId, keep: &BTreeMap<String, Vec<u8>>) {
        self.sim.remove_definition(vm).await.expect("removed");
        for volume in self.sim.list_volumes().await.expect("list volumes") {
            if !keep.contains_key(&format!("volume {}", volume.volume.id)) {
                self.sim.remove_volume(volume.volume).await.expect("removed");
            }
        }
    }
}
