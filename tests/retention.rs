//! What is kept and what is removed: every table has a rule, and the database itself keeps the audit.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::authz::AllowAll;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{ActorRef, AuditOutcome, AuditQuery, AuditRecord, PageRequest, PowerAction};
use limen_core::service::{AdminSeed, HostConfig};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{Change, PRUNED_AT_ONCE, PoolSettings, Retention, Store};
use limen_core::testing::store::Fixture;
use limen_core::{Action, Context, Limen, Secret};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::process::{self, Output};
use limen_support::server::Server;
use limen_support::world::{QUICK, bare, succeeded};

async fn sqlite(path: &Path) -> Arc<dyn Store> {
    Arc::new(SqliteStore::open(path, &PoolSettings::default()).await.expect("open"))
}

async fn postgres(url: &str) -> Arc<dyn Store> {
    Arc::new(PostgresStore::connect(&Secret::new(url), &PoolSettings::default()).await.expect("connect"))
}

/// Runs SQL on a SQLite file from outside; the rows come as psql prints them.
fn sqlite3(path: &Path, sql: &str) -> Output {
    const SCRIPT: &str = "import sqlite3, sys
c = sqlite3.connect(sys.argv[1], timeout=20)
for row in c.execute(sys.argv[2]): print(*row, sep='|')
c.commit()";
    let mut python = Command::new("python3");
    process::run(python.args(["-c", SCRIPT]).arg(path).arg(sql), Duration::from_secs(500))
}

/// Every table that the schema has, and what keeps it from growing for ever.
const TABLES: [(&str, &str); 23] = [
    ("audit", "retention"),
    ("event_counter", "one row"),
    ("events", "retention"),
    ("hosts", "as many as are configured"),
    ("idempotency_keys", "retention"),
    ("images", "go with the image"),
    ("install", "one row"),
    ("leases", "one a host"),
    ("macs", "go with the VM"),
    ("operation_locks", "released at the end of the operation"),
    ("operations", "retention"),
    ("owners", "go with the user"),
    ("restores", "one for each that was noticed"),
    ("schema_migrations", "as many as there are"),
    ("sessions", "retention"),
    ("statuses", "go with what the host shows"),
    ("tickets", "retention"),
    ("tokens", "retention"),
    ("users", "as many as there are"),
    ("vm_images", "go with the VM"),
    ("vms", "as many as there are"),
    ("volume_makers", "go with the operation"),
    ("volumes", "go with the volume"),
];

#[tokio::test]
async fn every_table_is_kept_from_growing_for_ever() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    sqlite(&path).await.close().await;
    let server = PrivatePostgres::start();
    let url = server.create_database();
    postgres(&url).await.close().await;
    let known = TABLES.map(|(table, _)| format!("{table}\n")).concat();
    let sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    assert_eq!(sqlite3(&path, sql).expect_success(), known, "a new table needs a rule");
    let sql = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename COLLATE \"C\"";
    assert_eq!(psql(&url, sql).expect_success(), known);
}

/// What nobody may do to a record of the audit that is younger than 30 days.
const FORBIDDEN: [&str; 4] = [
    "UPDATE audit SET actor = 'somebody else' WHERE resource = 'vm:young'",
    "UPDATE audit SET created_at = 0",
    "DELETE FROM audit WHERE resource = 'vm:young'",
    "DELETE FROM audit",
];

/// Three records: two that must stay, one that may go.
async fn with_audit(store: &dyn Store) {
    let record = |resource: &str, days: i64| {
        let at = time::OffsetDateTime::now_utc() - time::Duration::days(days);
        AuditRecord {
            id: AuditRecord::id_at(at),
            at,
            count: 1,
            last_at: None,
            actor: ActorRef { label: "local".to_owned(), user: None },
            origin: None,
            request_id: "request".to_owned(),
            action: Action::DeleteVm,
            resource: resource.to_owned(),
            outcome: AuditOutcome::Accepted,
            operation: None,
            detail: None,
        }
    };
    let audit = vec![record("vm:young", 29), record("vm:old", 31), record("vm:new", 0)];
    store.commit(Change { audit, ..Change::default() }).await.expect("audit");
}

#[tokio::test]
async fn a_young_record_of_the_audit_is_neither_changed_nor_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    let store = sqlite(&path).await;
    with_audit(&*store).await;
    let resources = "SELECT resource FROM audit ORDER BY id";
    for sql in FORBIDDEN {
        assert!(!sqlite3(&path, sql).success(), "{sql}");
    }
    assert_eq!(sqlite3(&path, resources).expect_success(), "vm:old\nvm:young\nvm:new\n");
    sqlite3(&path, "DELETE FROM audit WHERE resource = 'vm:old'").expect_success();
    assert_eq!(sqlite3(&path, resources).expect_success(), "vm:young\nvm:new\n");

    // Its owner and a superuser at that; and a server that need not be either.
    let server = PrivatePostgres::start();
    let url = server.create_database();
    postgres(&url).await.close().await;
    let grant = "CREATE ROLE server LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC; \
                 GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO server";
    psql(&url, grant).expect_success();
    let lesser = url.replace("limen:limen@", "server:server@");
    let store = postgres(&lesser).await;
    with_audit(&*store).await;
    Fixture::new(Arc::clone(&store)).await;
    for sql in FORBIDDEN.into_iter().chain(["TRUNCATE audit"]) {
        assert!(!psql(&url, sql).success() && !psql(&lesser, sql).success(), "{sql}");
    }
    for sql in ["ALTER TABLE audit DISABLE TRIGGER ALL", "DROP TRIGGER audit_stays ON audit", "DROP TABLE audit"] {
        assert!(!psql(&lesser, sql).success(), "{sql}");
    }
    assert_eq!(psql(&url, resources).expect_success(), "vm:old\nvm:young\nvm:new\n");
    let month = Duration::from_secs(30 * 24 * 3600);
    let retention = Retention { audit: month, ..Retention::default() };
    let gone = store.prune(&retention, time::OffsetDateTime::now_utc()).await.expect("prune");
    assert_eq!(gone["audit"], 1);
    assert_eq!(psql(&url, resources).expect_success(), "vm:young\nvm:new\n");
}

/// A database to put a year into.
#[derive(Clone, Copy, Debug)]
enum On<'a> {
    Sqlite(&'a Path),
    Postgres(&'a str),
}

impl On<'_> {
    fn run(self, sql: &str) -> String {
        match self {
            On::Sqlite(path) => sqlite3(path, sql),
            On::Postgres(url) => {
                let mut psql = Command::new("psql");
                psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql]);
                process::run(&mut psql, Duration::from_secs(500))
            }
        }
        .expect_success()
        .trim()
        .to_owned()
    }

    fn number(self, sql: &str) -> i64 {
        self.run(sql).parse().unwrap_or_else(|error| panic!("{error}: {sql}"))
    }

    /// `count` rows `i, at`: from 0, and so many microseconds apart from `first` on.
    fn series(self, count: i64, first: i64, apart: i64) -> String {
        match self {
            On::Sqlite(_) => format!(
                "(WITH RECURSIVE s (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM s WHERE i < {count} - 1) \
                 SELECT i, {first} + i * {apart} AS at FROM s) AS s"
            ),
            On::Postgres(_) => {
                format!(
                    "(SELECT i, {first} + i * {apart} AS at FROM generate_series(0::BIGINT, {count} - 1) AS i) AS s"
                )
            }
        }
    }

    /// The id of row `s.i`, number `part` of those that are made for it.
    fn id(self, part: u8) -> String {
        match self {
            On::Sqlite(_) => {
                let hex = "printf('%012x', s.at / 1000)";
                format!("substr({hex}, 1, 8) || '-' || substr({hex}, 9) || '-7000-8{part:03}-' || printf('%012x', s.i)")
            }
            On::Postgres(_) => {
                let hex = "lpad(to_hex(s.at / 1000), 12, '0')";
                format!(
                    "substr({hex}, 1, 8) || '-' || substr({hex}, 9) || '-7000-8{part:03}-' || lpad(to_hex(s.i), 12, '0')"
                )
            }
        }
    }

    fn open(self) -> futures_util::future::BoxFuture<'static, Arc<dyn Store>> {
        match self {
            On::Sqlite(path) => {
                let path = path.to_owned();
                Box::pin(async move { sqlite(&path).await })
            }
            On::Postgres(url) => {
                let url = url.to_owned();
                Box::pin(async move { postgres(&url).await })
            }
        }
    }

    fn url(self) -> String {
        match self {
            On::Sqlite(path) => format!("sqlite://{}", path.display()),
            On::Postgres(url) => url.to_owned(),
        }
    }

    /// Bytes of the whole, its indexes too.
    fn bytes(self) -> i64 {
        match self {
            On::Sqlite(_) => self.number("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"),
            On::Postgres(_) => self.number("SELECT pg_database_size(current_database())"),
        }
    }
}

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// Fills a database with what is left of a year of so many changes a day, and a day more of
/// everything that is too old by now. Every row is a copy of one that a real change made; answers how
/// many events a change makes.
async fn fill(on: On<'_>, changes_a_day: i64) -> i64 {
    let store = on.open().await;
    let limen = Limen::builder()
        .store(Arc::clone(&store))
        .authz(Arc::new(AllowAll))
        .host(HostConfig::new("local", "sim:///?vms=0", Arc::new(SimHypervisor::new())))
        .admin(AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") })
        .timings(QUICK)
        .build()
        .await
        .expect("build");
    let ctx = Context::local();
    let made = succeeded(&limen, limen.create_vm(&ctx, bare("one")).await).await;
    let vm = made.vm_id.expect("a VM");
    let before = limen.event();
    let operation = succeeded(&limen, limen.change_power(&ctx, vm, PowerAction::Start, None).await).await;
    let after = limen.event();
    limen
        .login(&Context::new(limen_core::Actor::Anonymous), "admin", &Secret::new("correct horse 1"))
        .await
        .expect("in");
    limen.shutdown().await;
    let of = operation.id;

    let now = on.number(match on {
        On::Sqlite(_) => "SELECT CAST(strftime('%s', 'now') AS INTEGER) * 1000000",
        On::Postgres(_) => "SELECT EXTRACT(EPOCH FROM now())::BIGINT * 1000000",
    });
    let apart = DAY_US / changes_a_day;
    let series = |days: i64, from_days_ago: i64| on.series(days * changes_a_day, now - from_days_ago * DAY_US, apart);
    // A month at a time: a transaction of millions of rows is another test.
    let months = |days: i64| (0..days).step_by(30).map(move |begun| (30.min(days - begun), days - begun));
    for (days, ago) in months(91) {
        on.run(&format!(
            "INSERT INTO operations (id, kind, kind_version, state, finished, waiting, cancel_requested, host_id, vm_id, \
             owner_id, actor, request_id, created_at, finished_at, document, journal) \
             SELECT {id}, o.kind, o.kind_version, o.state, 1, 0, 0, o.host_id, o.vm_id, o.owner_id, o.actor, {id}, \
             s.at, s.at, replace(o.document, o.id, {id}), o.journal FROM operations o, {series} WHERE o.id = '{of}'",
            id = on.id(0),
            series = series(days, ago)
        ));
    }
    for (days, ago) in months(365).chain([(1, 402)]) {
        on.run(&format!(
            "INSERT INTO audit (id, created_at, actor, user_id, request_id, action, kind, resource, outcome, \
             operation_id, document) \
             SELECT CASE WHEN a.outcome = 'accepted' THEN {first} ELSE {second} END, s.at, a.actor, a.user_id, {first}, \
             a.action, a.kind, a.resource, a.outcome, {first}, replace(a.document, '{of}', {first}) \
             FROM audit a, {series} WHERE a.operation_id = '{of}'",
            first = on.id(1),
            second = on.id(2),
            series = series(days, ago)
        ));
    }
    let last = on.number("SELECT value FROM event_counter");
    let of_each = after - before;
    let mut number = last;
    for (days, ago) in months(31) {
        on.run(&format!(
            "INSERT INTO events (number, created_at, operation_id, kind, document) \
             SELECT {number} + s.i * {of_each} + e.number - {before}, s.at, e.operation_id, e.kind, e.document \
             FROM events e, {series} WHERE e.number > {before} AND e.number <= {after}",
            series = series(days, ago)
        ));
        number += days * changes_a_day * of_each;
    }
    // The log begins where the year's does.
    on.run(&format!("DELETE FROM events WHERE number <= {last}"));
    on.run(&format!("UPDATE event_counter SET value = {number}"));
    // The keys of two days, the sessions of three.
    on.run(&format!(
        "INSERT INTO idempotency_keys (scope, key, digest, operation_id, created_at) \
         SELECT 'scope', {id}, 'digest', '{of}', s.at FROM {series}",
        id = on.id(3),
        series = series(2, 2)
    ));
    on.run(&format!(
        "INSERT INTO sessions (id, user_id, created_at, expires_at, document) \
         SELECT {id}, t.user_id, s.at, s.at + {DAY_US}, replace(t.document, t.id, {id}) \
         FROM (SELECT * FROM sessions LIMIT 1) AS t, {series}",
        id = on.id(4),
        series = on.series(3 * changes_a_day / 10, now - 3 * DAY_US, 10 * apart)
    ));
    on.run("ANALYZE");
    of_each
}

/// Starts the program on a database; how long until it is healthy.
fn start_time(on: On<'_>) -> Duration {
    let started = Instant::now();
    let options = Server::options().env("DATABASE_URL", on.url()).env("HYPERVISOR_URI", "sim:///?vms=0");
    let server = options.env("JWT_SECRET", "2ede4e2518e913967aa82a79478b1c43b67163b9b818f64e67069c689f5df1cb").start();
    let took = started.elapsed();
    assert_eq!(server.sigterm(), Some(0));
    took
}

async fn a_year(on: On<'_>, empty: On<'_>) {
    let is_full = std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full");
    let changes_a_day: i64 = if is_full { 10_000 } else { 20 };
    let started = Instant::now();
    let of_each = fill(on, changes_a_day).await;
    eprintln!("{changes_a_day} changes a day, filled in {:?}", started.elapsed());

    // What a day adds is removed in far less than a day, and no more than that.
    let store = on.open().await;
    let started = Instant::now();
    let mut removed: std::collections::BTreeMap<String, u64> = Default::default();
    let mut longest = Duration::ZERO;
    loop {
        let part = Instant::now();
        let gone = store.prune(&Retention::default(), time::OffsetDateTime::now_utc()).await.expect("prune");
        longest = longest.max(part.elapsed());
        gone.iter().for_each(|(table, rows)| *removed.entry(table.clone()).or_default() += rows);
        if gone.values().all(|rows| *rows < PRUNED_AT_ONCE) {
            break;
        }
    }
    eprintln!("removed in {:?}, {longest:?} at a time at most: {removed:?}", started.elapsed());
    assert!(longest < Duration::from_secs(10), "{longest:?} is too long for a transaction");
    let about = |table: &str, days: i64, a_change: i64| {
        let rows = on.number(&format!("SELECT COUNT(*) FROM {table}"));
        let expected = days * changes_a_day * a_change;
        let slack = changes_a_day * a_change / 20 + 20;
        eprintln!("{table}: {rows} rows");
        assert!((expected - slack..=expected + slack).contains(&rows), "{table} has {rows} rows of {expected}");
    };
    about("audit", 365, 2);
    about("operations", 90, 1);
    about("events", 30, of_each);
    about("idempotency_keys", 1, 1);
    assert!(removed["sessions"] > 0 && removed["events"] > 0 && removed["operations"] > 0 && removed["audit"] > 0);
    let mib = on.bytes() / (1 << 20);
    eprintln!(
        "{of_each} events a change; {mib} MiB in all, {} bytes a change of the year",
        on.bytes() / (365 * changes_a_day)
    );
    if let On::Postgres(_) = on {
        for table in ["audit", "operations", "events"] {
            let sizes =
                "SELECT pg_relation_size(t) / 1048576 || ' MiB and ' || pg_indexes_size(t) / 1048576 || ' of indexes'";
            eprintln!("{table}: {}", on.run(&format!("{sizes} FROM (SELECT '{table}'::regclass AS t) AS x")));
        }
    }

    // Whatever is asked of the audit, an index answers.
    let year_ago = time::OffsetDateTime::now_utc() - time::Duration::days(300);
    for query in [
        AuditQuery::default(),
        AuditQuery { actor: Some("nobody".to_owned()), ..AuditQuery::default() },
        AuditQuery { action: Some(Action::DeleteUser), ..AuditQuery::default() },
        AuditQuery { resource: Some("image".to_owned()), ..AuditQuery::default() },
        AuditQuery { resource: Some("vm".to_owned()), ..AuditQuery::default() },
        AuditQuery { outcome: Some(AuditOutcome::Refused), ..AuditQuery::default() },
        AuditQuery { request_id: Some("none".to_owned()), ..AuditQuery::default() },
        AuditQuery { to: Some(year_ago), outcome: Some(AuditOutcome::Succeeded), ..AuditQuery::default() },
        AuditQuery { from: Some(year_ago), to: Some(year_ago + time::Duration::DAY), ..AuditQuery::default() },
    ] {
        let asked = Instant::now();
        store.audit(&query, PageRequest::default()).await.expect("a page");
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(5), "{query:?} took {took:?}");
    }
    store.close().await;
    let (fresh, full) = (start_time(empty), start_time(on));
    eprintln!("started in {full:?}, on an empty database in {fresh:?}");
    assert!(full < fresh * 3 + Duration::from_secs(5), "{full:?}, and {fresh:?} on an empty one");
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_a_year_of_changes_on_sqlite() {
    let directory = tempfile::tempdir().expect("a directory");
    let (year, empty) = (directory.path().join("year.db"), directory.path().join("empty.db"));
    a_year(On::Sqlite(&year), On::Sqlite(&empty)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_a_year_of_changes_on_postgres() {
    let server = PrivatePostgres::start();
    let (year, empty) = (server.create_database(), server.create_database());
    a_year(On::Postgres(&year), On::Postgres(&empty)).await;
}
