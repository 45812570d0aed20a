//! What each database does to the Store: migrations, several processes, failures.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{Change, PoolSettings, Row, Store};
use limen_core::testing::store::{Fixture, refused};
use limen_core::{ErrorKind, Secret};
use limen_support::disk::SmallDisk;
use limen_support::postgres::{PrivatePostgres, psql};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Answer = Result<Arc<dyn Store>, limen_core::Error>;

async fn sqlite_with(path: &Path, settings: &PoolSettings) -> Answer {
    Ok(Arc::new(SqliteStore::open(path, settings).await?))
}

async fn sqlite(path: &Path) -> Answer {
    sqlite_with(path, &PoolSettings::default()).await
}

async fn postgres_with(url: &str, settings: &PoolSettings) -> Answer {
    Ok(Arc::new(PostgresStore::connect(&Secret::new(url), settings).await?))
}

async fn postgres(url: &str) -> Answer {
    postgres_with(url, &PoolSettings::default()).await
}

/// Runs SQL on a SQLite file from outside.
fn sqlite3(path: &Path, sql: &str) -> String {
    let output = Command::new("python3")
        .args([
            "-c",
            "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); print(c.execute(sys.argv[2]).fetchall()); c.commit()",
        ])
        .arg(path)
        .arg(sql)
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test]
async fn a_sqlite_file_is_private_and_keeps_its_installation() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("data").join("limen.db");
    let store = sqlite(&path).await.expect("open");
    let install = store.install().await.expect("install");
    let fixture = Fixture::new(Arc::clone(&store)).await;
    for file in ["limen.db", "limen.db-wal", "limen.db-shm"] {
        let mode = path.with_file_name(file).metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let mode = path.parent().expect("a directory").metadata().expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    store.close().await;
    let again = sqlite(&path).await.expect("open again");
    assert_eq!(again.install().await.expect("install"), install);
    let snapshot = again.snapshot().await.expect("snapshot");
    assert_eq!((snapshot.event, snapshot.hosts[0].id), (3, fixture.host));
    let other = sqlite(&directory.path().join("other.db")).await.expect("another one");
    assert_ne!(other.install().await.expect("install").id, install.id);
}

#[tokio::test]
async fn a_schema_newer_than_the_program_is_refused() {
    let newer = "INSERT INTO schema_migrations (version, name, applied_at) VALUES (9999, 'later', 0)";
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    sqlite(&path).await.expect("open").close().await;
    sqlite3(&path, newer);
    let error = refused(sqlite(&path).await, ErrorKind::Conflict);
    assert!(error.to_string().contains("9999") && error.to_string().contains("newer LIMEN"), "{error}");

    let server = PrivatePostgres::start();
    let url = server.create_database();
    postgres(&url).await.expect("connect").close().await;
    psql(&url, newer).expect_success();
    refused(postgres(&url).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_store_that_is_only_read_is_taken_as_it_is() {
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let look = async || PostgresStore::connect_read_only(&Secret::new(url.clone()), &PoolSettings::default()).await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    let error = refused(look().await, ErrorKind::Unavailable);
    assert!(error.to_string().contains("no LIMEN in this database yet"), "{error}");
    assert_eq!(psql(&url, tables).expect_success().trim(), "0", "nothing was made");
    let fixture = Fixture::new(postgres(&url).await.expect("connect")).await;
    let reader = look().await.expect("connect");
    assert_eq!(reader.snapshot().await.expect("read").event, 3);
    let rows = vec![Row::VmGone(limen_core::model::VmId::generate())];
    refused(reader.commit(Change { rows, ..Default::default() }).await, ErrorKind::Unavailable);
    fixture.insert_vm(&fixture.vm("web")).await.expect("others may");
    for (sql, word) in [
        ("INSERT INTO schema_migrations (version, name, applied_at) VALUES (9999, 'later', 0)", "newer LIMEN"),
        ("DELETE FROM schema_migrations WHERE version <> 1", "up to date"),
    ] {
        psql(&url, sql).expect_success();
        let error = refused(look().await, ErrorKind::Conflict);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_start_at_once_migrate_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let mut starts = Vec::new();
    for _ in 0..6 {
        let (path, url) = (path.clone(), url.clone());
        starts
            .push(tokio::spawn(async move { sqlite(&path).await.expect("sqlite").install().await.expect("install") }));
        starts.push(tokio::spawn(
            async move { postgres(&url).await.expect("postgres").install().await.expect("install") },
        ));
    }
    let mut installs = Vec::new();
    for start in starts {
        installs.push(start.await.expect("no panic"));
    }
    assert!(installs.chunks(2).all(|pair| pair == &installs[..2]), "{installs:?}");
}

/// Two Stores on one database: what one writes wakes who waits at the other.
async fn one_wakes_the_other(first: Arc<dyn Store>, second: Arc<dyn Store>) {
    let fixture = Fixture::new(first).await;
    for round in 0..5 {
        let last = fixture.last().await;
        let waiting = {
            let second = Arc::clone(&second);
            tokio::spawn(async move {
                let started = Instant::now();
                second.changed(last, Duration::from_secs(30)).await;
                assert!(!second.events_after(last, 10).await.expect("events").events.is_empty());
                started.elapsed()
            })
        };
        tokio::time::sleep(Duration::from_millis(30)).await;
        fixture.insert_vm(&fixture.vm(&format!("vm-{round}"))).await.expect("commit");
        let waited = waiting.await.expect("no panic");
        assert!(waited < Duration::from_secs(15), "{waited:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_wakes_the_readers_of_another_store() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    one_wakes_the_other(sqlite(&path).await.expect("first"), sqlite(&path).await.expect("second")).await;
    let server = PrivatePostgres::start();
    let url = server.create_database();
    one_wakes_the_other(postgres(&url).await.expect("first"), postgres(&url).await.expect("second")).await;
}

/// Runs itself twice as a process that writes, and follows the log meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_one_sqlite_file() {
    const EACH: i64 = 60;
    const VARIABLE: &str = "LIMEN_TEST_WRITER";
    if let Some(job) = std::env::var_os(VARIABLE) {
        let job = job.to_string_lossy().into_owned();
        let (name, path) = job.split_once(':').expect("name:path");
        let store = sqlite(Path::new(path)).await.expect("open");
        let host = store.snapshot().await.expect("snapshot");
        for number in 0..EACH {
            let mut vm = Fixture {
                store: Arc::clone(&store),
                host: host.hosts[0].id,
                owner: host.owners[0].id,
                user: host.users[0].clone(),
            }
            .vm(&format!("{name}-{number}"));
            vm.description = name.to_owned();
            let row = Row::Vm { record: Box::new(vm), expect: limen_core::store::Expect::Absent };
            let change = Change { rows: vec![row], ..Default::default() };
            store.commit(change).await.expect("commit");
        }
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    let fixture = Fixture::new(sqlite(&path).await.expect("open")).await;
    let children: Vec<_> = ["a", "b"]
        .map(|name| {
            Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "processes_share_one_sqlite_file"])
                .env(VARIABLE, format!("{name}:{}", path.display()))
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("a second process")
        })
        .into_iter()
        .collect();
    let (mut last, deadline) = (3, Instant::now() + Duration::from_secs(120));
    while last < 3 + 2 * EACH {
        assert!(Instant::now() < deadline, "the log stood still at {last}");
        fixture.store.changed(last, Duration::from_secs(20)).await;
        for event in fixture.store.events_after(last, 1000).await.expect("events").events {
            assert_eq!(event.number, last + 1);
            last = event.number;
        }
    }
    for mut child in children {
        assert!(child.wait().expect("it ends").success());
    }
    assert_eq!(fixture.store.snapshot().await.expect("snapshot").vms.len(), 2 * usize::try_from(EACH).expect("few"));
}

#[tokio::test]
async fn a_held_sqlite_file_is_unavailable_until_it_is_free() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("limen.db");
    let settings = PoolSettings { acquire_timeout: Duration::from_millis(300), ..PoolSettings::default() };
    let fixture = Fixture::new(sqlite_with(&path, &settings).await.expect("open")).await;
    let hold = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],isolation_level=None); c.execute('BEGIN IMMEDIATE'); \
                print('held',flush=True); sys.stdin.readline()";
    let mut holder = Command::new("python3")
        .args(["-c", hold])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut line = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().expect("its output"), &mut line).expect("it holds the file");
    let vm = fixture.vm("web");
    let error = refused(fixture.insert_vm(&vm).await, ErrorKind::Unavailable);
    assert!(error.retry_after().is_some());
    fixture.store.snapshot().await.expect("readers go on");
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    fixture.insert_vm(&vm).await.expect("free again");
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_writes_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let fixture = Fixture::new(postgres(&url).await.expect("connect")).await;
    raise(&url, "vms", "53100", 1_000_000);
    let error = refused(fixture.insert_vm(&fixture.vm("web")).await, ErrorKind::NoSpace);
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(error.causes().contains("secret"), "the log has the cause");
    assert_eq!(fixture.last().await, 3);

    let small = SmallDisk::mount(directory.path(), "1200k");
    let fixture = Fixture::new(sqlite(&directory.path().join("limen.db")).await.expect("open")).await;
    let mut written = 0;
    let refusal = loop {
        let mut vm = fixture.vm(&format!("vm-{written}"));
        vm.description = "x".repeat(4096);
        match fixture.insert_vm(&vm).await {
            Ok(_) => written += 1,
            refusal => break refusal,
        }
        assert!(written < 2000, "the disk does not fill up");
    };
    refused(refusal, ErrorKind::NoSpace);
    assert_eq!(fixture.store.snapshot().await.expect("it can still be read").vms.len(), written);
    fixture.store.close().await;
    drop(small);
}

/// Makes a table refuse inserts with a code, a number of times.
fn raise(url: &str, table: &str, code: &str, times: u32) {
    let sql = format!(
        "CREATE SEQUENCE tries; \
         CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'secret text' USING ERRCODE = '{code}'; END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER boom BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION boom()"
    );
    psql(url, &sql).expect_success();
}

#[tokio::test]
async fn a_transaction_that_others_are_in_the_way_of_is_tried_again() {
    let server = PrivatePostgres::start();
    for code in ["40001", "40P01"] {
        let url = server.create_database();
        let settings = PoolSettings { acquire_timeout: Duration::from_secs(2), ..PoolSettings::default() };
        let fixture = Fixture::new(postgres_with(&url, &settings).await.expect("connect")).await;
        raise(&url, "vms", code, 3);
        fixture.insert_vm(&fixture.vm("web")).await.expect("the fourth try");
        assert_eq!(fixture.last().await, 4, "written once");
        psql(&url, "ALTER SEQUENCE tries RESTART; ALTER SEQUENCE tries INCREMENT -1 MINVALUE -100000").expect_success();
        refused(fixture.insert_vm(&fixture.vm("mail")).await, ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_pool_with_no_connection_left_is_unavailable() {
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let settings = PoolSettings { max_open: 1, acquire_timeout: Duration::from_millis(300), ..PoolSettings::default() };
    let fixture = Fixture::new(postgres_with(&url, &settings).await.expect("connect")).await;
    let held = {
        let url = url.clone();
        tokio::task::spawn_blocking(move || psql(&url, "BEGIN; LOCK TABLE vms; SELECT pg_sleep(3); COMMIT"))
    };
    while psql(&url, "SELECT count(*) FROM pg_locks WHERE relation = 'vms'::regclass AND mode = 'AccessExclusiveLock'")
        .expect_success()
        .trim()
        == "0"
    {}
    let waiting = {
        let fixture = fixture.clone();
        tokio::spawn(async move { fixture.insert_vm(&fixture.vm("web")).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    refused(fixture.store.ping().await, ErrorKind::Unavailable);
    waiting.await.expect("no panic").expect("it had the connection");
    held.await.expect("no panic").expect_success();
    fixture.store.ping().await.expect("free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_above_the_limit_are_closed() {
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let settings = PoolSettings { max_open: 20, max_idle: 3, ..PoolSettings::default() };
    let store = postgres_with(&url, &settings).await.expect("connect");
    let count =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'limen' AND datname = current_database()";
    let held = {
        let url = url.clone();
        tokio::task::spawn_blocking(move || {
            psql(&url, "BEGIN; LOCK TABLE schema_migrations; SELECT pg_sleep(5); COMMIT")
        })
    };
    let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted \
                  AND relation = 'schema_migrations'::regclass";
    while psql(&url, locked).expect_success().trim() == "0" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let calls: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let store = Arc::clone(&store);
                async move { store.ping().await }
            })
        })
        .collect();
    let mut busy: u32 = 0;
    while !calls.iter().all(tokio::task::JoinHandle::is_finished) {
        let open = psql(&url, count).expect_success().trim().parse().expect("a number");
        busy = busy.max(open);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for call in calls {
        call.await.expect("no panic").expect("ping");
    }
    held.await.expect("no panic").expect_success();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // Connections released at the same time do not see each other: the next release does.
        store.ping().await.expect("ping");
        // Two more listen and look for others' commits.
        let open: u32 = psql(&url, count).expect_success().trim().parse().expect("a number");
        if open <= 3 + 2 {
            assert!(busy > open, "{busy} were open");
            break;
        }
        assert!(Instant::now() < deadline, "{open} connections are open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_unavailable_and_comes_back() {
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let settings = PoolSettings { acquire_timeout: Duration::from_secs(2), ..PoolSettings::default() };
    let fixture = Fixture::new(postgres_with(&url, &settings).await.expect("connect")).await;
    // Several connections, all of which a restart kills.
    let pings = (0..8).map(|_| fixture.store.ping());
    futures(pings).await;
    server.restart_immediate();
    fixture.insert_vm(&fixture.vm("web")).await.expect("the first call after a restart");
    futures((0..8).map(|_| fixture.store.ping())).await;
    server.kill9();
    tokio::time::sleep(Duration::from_millis(500)).await;
    refused(fixture.store.snapshot().await, ErrorKind::Unavailable);
    refused(fixture.insert_vm(&fixture.vm("mail")).await, ErrorKind::Unavailable);
    refused(postgres_with(&url, &settings).await, ErrorKind::Unavailable);
    server.restart_immediate();
    let last = fixture.last().await;
    fixture.insert_vm(&fixture.vm("mail")).await.expect("it is back");
    let other = postgres_with(&url, &settings).await.expect("connect");
    let waiting = {
        let store = Arc::clone(&fixture.store);
        tokio::spawn(async move { store.changed(last + 1, Duration::from_secs(30)).await })
    };
    let other = Fixture { store: other, ..fixture.clone() };
    let started = Instant::now();
    other.insert_vm(&other.vm("third")).await.expect("commit");
    waiting.await.expect("no panic");
    assert!(started.elapsed() < Duration::from_secs(20), "the watch is back too");
}

async fn futures(calls: impl Iterator<Item = impl Future<Output = limen_core::Result<()>>>) {
    for call in calls {
        call.await.expect("ping");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_is_unavailable_in_time() {
    let server = PrivatePostgres::start();
    let url = server.create_database();
    let settings = PoolSettings { acquire_timeout: Duration::from_secs(1), ..PoolSettings::default() };
    let fixture = Fixture::new(postgres_with(&url, &settings).await.expect("connect")).await;
    server.sigstop();
    let started = Instant::now();
    let refusal = fixture.insert_vm(&fixture.vm("web")).await;
    let waited = started.elapsed();
    server.sigcont();
    refused(refusal, ErrorKind::Unavailable);
    assert!(waited < Duration::from_secs(60), "{waited:?}");
    fixture.store.ping().await.expect("it goes on");
}

/// What a proxy does with the next COMMIT.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Nothing,
    /// It never arrives.
    Before,
    /// It arrives, its answer does not.
    After,
}

/// A proxy between the Store and PostgreSQL; answers its port.
async fn proxy(port: u16, cut: watch::Sender<Cut>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let own = listener.local_addr().expect("its address").port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(("127.0.0.1", port)).await.expect("PostgreSQL");
            let cut = cut.clone();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let back = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                    let commits = buffer[..length].windows(6).any(|word| word == b"COMMIT");
                    let mut now = Cut::Nothing;
                    if commits {
                        cut.send_modify(|cut| now = std::mem::replace(cut, Cut::Nothing));
                    }
                    if now == Cut::After {
                        back.abort();
                    }
                    if now == Cut::Before || to_server.write_all(&buffer[..length]).await.is_err() {
                        break;
                    }
                    if now == Cut::After {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        break;
                    }
                }
                back.abort();
            });
        }
    });
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_told_right_and_written_once() {
    let server = PrivatePostgres::start();
    let direct = server.create_database();
    let (cut, _) = watch::channel(Cut::Nothing);
    let port = proxy(server.port(), cut.clone()).await;
    let url = direct.replace(&format!(":{}/", server.port()), &format!(":{port}/"));
    let fixture = Fixture::new(postgres(&url).await.expect("connect")).await;
    for (round, how) in [Cut::After, Cut::Before, Cut::After, Cut::Before].into_iter().enumerate() {
        let before = fixture.last().await;
        cut.send_replace(how);
        let committed = fixture.insert_vm(&fixture.vm(&format!("vm-{round}"))).await.expect("it is told right");
        assert_eq!(*cut.borrow(), Cut::Nothing, "the answer was lost");
        assert_eq!(committed.event, before + 1);
        assert_eq!(fixture.last().await, before + 1, "written once");
    }
    let operation = fixture.operation(limen_core::model::OperationKind::CreateVm, limen_core::model::VmId::generate());
    cut.send_replace(Cut::After);
    fixture.begin(&operation, false).await.expect("it is told right");
    fixture.store.operation(operation.operation.id).await.expect("written");
    assert_eq!(fixture.events().await.len(), 3 + 4 + 1);
    cut.send_replace(Cut::After);
    let nothing = fixture.store.commit(Change::default()).await;
    refused(nothing, ErrorKind::Unavailable);
}
