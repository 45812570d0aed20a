//! Every behaviour of a Store, on a SQLite file, on SQLite in memory and on PostgreSQL.

use std::sync::Arc;

use limen_core::Secret;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::testing::store::ALL;
use limen_support::postgres::PrivatePostgres;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// Runs every behaviour on a Store of its own; names all that fail.
fn run_all<F, G>(open: F)
where
    F: Fn(&'static str) -> G,
    G: Future<Output = Arc<dyn Store>>,
{
    let mut failed = Vec::new();
    for (name, behaviour) in ALL {
        let started = std::time::Instant::now();
        let runtime = runtime();
        let answer = runtime.block_on(async {
            let store = open(name).await;
            tokio::spawn(behaviour(store)).await
        });
        eprintln!("{name}: {} in {:?}", if answer.is_ok() { "ok" } else { "FAILED" }, started.elapsed());
        if answer.is_err() {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn sqlite_file() {
    let directory = tempfile::tempdir().expect("a directory");
    run_all(async |name| {
        let path = directory.path().join(name).join("limen.db");
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(path, &PoolSettings::default()).await.expect("open"));
        store
    });
}

#[test]
fn sqlite_memory() {
    run_all(async |_| {
        let store: Arc<dyn Store> = Arc::new(SqliteStore::in_memory().await.expect("open"));
        store
    });
}

#[test]
fn postgres() {
    let server = PrivatePostgres::start();
    run_all(async |_| {
        let url = Secret::new(server.create_database());
        let store: Arc<dyn Store> =
            Arc::new(PostgresStore::connect(&url, &PoolSettings::default()).await.expect("open"));
        store
    });
}
