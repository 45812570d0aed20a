//! Figures of the Store: what a commit and a snapshot take on each database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::Secret;
use limen_core::model::VmState;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{Expect, PoolSettings, Row, Store};
use limen_core::testing::store::Fixture;
use limen_support::postgres::PrivatePostgres;

const VMS: usize = 10_000;
const BATCH: usize = 500;

#[tokio::main]
async fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = PoolSettings::default();
    let file = SqliteStore::open(directory.path().join("limen.db"), &settings).await.expect("open");
    figures("sqlite file", Arc::new(file)).await;
    figures("sqlite memory", Arc::new(SqliteStore::in_memory().await.expect("open"))).await;
    let server = PrivatePostgres::start();
    let url = Secret::new(server.create_database());
    figures("postgres (no fsync)", Arc::new(PostgresStore::connect(&url, &settings).await.expect("connect"))).await;
}

async fn figures(name: &str, store: Arc<dyn Store>) {
    let fixture = Fixture::new(store).await;
    let started = Instant::now();
    for batch in 0..VMS / BATCH {
        let mut rows = Vec::new();
        for number in 0..BATCH {
            let vm = fixture.vm(&format!("vm-{batch}-{number}"));
            rows.push(fixture.status(vm.id, VmState::ShutOff));
            rows.push(Row::Vm { record: Box::new(vm), expect: Expect::Absent });
        }
        fixture.write(rows).await.expect("commit");
    }
    let filled = started.elapsed();

    let mut commits = Vec::new();
    for number in 0..200 {
        let row = Row::Vm { record: Box::new(fixture.vm(&format!("one-{number}"))), expect: Expect::Absent };
        let started = Instant::now();
        fixture.write(vec![row]).await.expect("commit");
        commits.push(started.elapsed());
    }
    let mut snapshots = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(fixture.store.snapshot().await.expect("snapshot").statuses.len(), VMS);
        snapshots.push(started.elapsed());
    }
    let mut unchanged = Vec::new();
    let vms = fixture.store.snapshot().await.expect("snapshot").vms;
    for _ in 0..20 {
        let rows = vms.iter().take(BATCH).map(|vm| fixture.status(vm.id, VmState::ShutOff)).collect();
        let started = Instant::now();
        fixture.write(rows).await.expect("commit");
        unchanged.push(started.elapsed());
    }
    println!(
        "{name}: {VMS} VMs with statuses in commits of {BATCH}: {filled:.1?}; one VM: p50 {:.2?} p99 {:.2?}; \
         {BATCH} statuses as before: p50 {:.1?}; snapshot: p50 {:.0?}",
        part(&mut commits, 50),
        part(&mut commits, 99),
        part(&mut unchanged, 50),
        part(&mut snapshots, 50),
    );
}

fn part(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}
