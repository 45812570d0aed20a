//! How many connections the Store opens to a database that others use too.

use std::sync::Arc;
use std::time::Duration;

use limen_core::Secret;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::{PoolSettings, Store};
use limen_support::postgres::{PrivatePostgres, psql};

#[tokio::test(flavor = "multi_thread")]
async fn ten_of_the_connections_that_the_database_allows_are_left_to_others() {
    let server = PrivatePostgres::start_with(&["max_connections=25"]);
    let url = server.create_database();
    let settings = PoolSettings { acquire_timeout: Duration::from_secs(30), ..PoolSettings::default() };
    assert_eq!(settings.max_open, 100);
    let store: Arc<dyn Store> = Arc::new(PostgresStore::connect(&Secret::new(&url), &settings).await.expect("connect"));
    let held = {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            psql(&url, "BEGIN; LOCK TABLE schema_migrations; SELECT pg_sleep(8); COMMIT")
        })
    };
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                  AND relation = 'schema_migrations'::regclass";
    while psql(&url, locked).expect_success().trim() == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls: Vec<_> = (0..60)
        .map(|_| {
            tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.ping().await }
            })
        })
        .collect();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'limen'";
    let mut most = 0;
    while !calls.iter().all(tokio::task::JoinHandle::is_finished) {
        let open: u32 = psql(&url, count).expect_success().trim().parse().expect("a number");
        most = most.max(open);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for call in calls {
        call.await.expect("no panic").expect("it waits for a connection, and gets one");
    }
    held.await.expect("no panic").expect_success();
    // Thirteen, and at most two that look for others' commits: ten of 25 are free for everybody else.
    assert!((13..=15).contains(&most), "{most}");
}
