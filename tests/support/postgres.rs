//! A PostgreSQL of the test's own, on a free loopback port, without fsync.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{self, Leash, Output};

/// A private PostgreSQL; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct PrivatePostgres {
    base: PathBuf,
    port: u16,
    server: Mutex<Child>,
    leash: Option<Leash>,
}

impl PrivatePostgres {
    /// Starts a server and waits until it answers, half a second; some seconds
    /// the first time on a machine.
    ///
    /// # Panics
    /// When PostgreSQL is not installed or does not come up; with the reason.
    pub fn start() -> Self {
        let base = crate::scratch_dir("postgres");
        let leash = Leash::new(include_str!("postgres-leash.sh"), &[&base]);
        crate::copy_tree(&prepared_data(), &base.join("data"));
        own(&base);
        let port = process::free_port();
        let postgres = Self { server: Mutex::new(spawn(&base, port)), base, port, leash: Some(leash) };
        postgres.wait_until_up();
        postgres
    }

    /// The URL of the maintenance database; the user is a superuser.
    pub fn url(&self) -> String {
        self.database_url("postgres")
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes an empty database and returns its URL.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_database(&self) -> String {
        let name = format!("limen_{}", uuid::Uuid::new_v4().simple());
        self.psql(&format!("CREATE DATABASE {name}")).expect_success();
        self.database_url(&name)
    }

    /// Makes a database with all that the one at `url` has (nobody may be connected to it), and
    /// returns its URL: quicker than filling an empty one.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn copy_database(&self, url: &str) -> String {
        let (_, of) = url.rsplit_once('/').expect("a URL ends with the database");
        let of = of.split('?').next().expect("a name");
        let name = format!("limen_{}", uuid::Uuid::new_v4().simple());
        self.psql(&format!("CREATE DATABASE {name} TEMPLATE {of}")).expect_success();
        self.database_url(&name)
    }

    /// Makes a role of this name that may log in with this password alone, and no superuser; others
    /// go on without any.
    ///
    /// # Panics
    /// When the server refuses.
    pub fn create_role(&self, name: &str, password: &str) {
        self.psql(&format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'")).expect_success();
        let rules = self.base.join("data/pg_hba.conf");
        let others = fs::read_to_string(&rules).expect("read the rules");
        fs::write(&rules, format!("host all {name} all scram-sha-256\n{others}")).expect("write the rules");
        self.psql("SELECT pg_reload_conf()").expect_success();
    }

    /// Runs SQL in the maintenance database, for at most 30 s; the rows come
    /// unaligned, without header.
    pub fn psql(&self, sql: &str) -> Output {
        psql(&self.url(), sql)
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.server().id()
    }

    /// Kills the postmaster at once; its backends end as they notice.
    pub fn kill9(&self) {
        process::kill9(&mut self.server());
    }

    /// Ends the server without a checkpoint, as after a crash, if it runs, then
    /// starts it again and waits until it answers.
    pub fn restart_immediate(&self) {
        {
            let mut server = self.server();
            process::signal(server.id(), Signal::QUIT);
            process::wait_or_kill(&mut server, Duration::from_secs(10));
            *server = spawn(&self.base, self.port);
        }
        self.wait_until_up();
    }

    /// Stops the postmaster and every backend in their tracks: connections stay
    /// open and nothing answers.
    pub fn sigstop(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets a stopped server go on.
    pub fn sigcont(&self) {
        self.signal_all(Signal::CONT);
    }

    /// The postmaster first, so that no backend is born in between.
    fn signal_all(&self, signal: Signal) {
        let postmaster = self.pid();
        process::signal(postmaster, signal);
        let task = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = fs::read_to_string(task).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            process::signal(child, signal);
        }
    }

    fn database_url(&self, name: &str) -> String {
        format!("postgres://limen:limen@127.0.0.1:{}/{name}", self.port)
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait_until_up(&self) {
        process::wait_for("a private PostgreSQL", Duration::from_secs(30), || {
            if let Ok(Some(status)) = self.server().try_wait() {
                let log = process::tail(&self.base.join("log"), 20);
                panic!("postgres ended with {status}:\n{log}");
            }
            TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            self.psql("SELECT 1").success().then_some(())
        });
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        drop(self.leash.take());
        process::kill9(&mut self.server());
    }
}

/// Runs SQL at a database URL, for at most 30 s; the rows come unaligned,
/// without header. Fails at the first error.
pub fn psql(url: &str, sql: &str) -> Output {
    process::run(
        Command::new("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
            .env("PGCONNECT_TIMEOUT", "5"),
        Duration::from_secs(30),
    )
}

/// Dumps a database into a file, as an operator does.
pub fn dump(url: &str, file: &Path) {
    let mut dump = Command::new("pg_dump");
    process::run(dump.args(["-Fc", "-d", url, "-f"]).arg(file), Duration::from_secs(60)).expect_success();
}

/// Puts a database back to what it was when it was dumped, as an operator does.
pub fn restore(url: &str, file: &Path) {
    restore_with(url, file, &[]);
}

/// The same in one transaction: whoever is connected sees the one database or the other.
pub fn restore_at_once(url: &str, file: &Path) {
    restore_with(url, file, &["--single-transaction"]);
}

fn restore_with(url: &str, file: &Path, more: &[&str]) {
    let mut restore = Command::new("pg_restore");
    restore.args(more);
    restore.args(["-c", "--if-exists", "--exit-on-error", "-d", url]).arg(file);
    process::run(&mut restore, Duration::from_secs(60)).expect_success();
}

/// PostgreSQL's own programs, outside PATH on Debian: the newest version.
fn bin_dir() -> PathBuf {
    let installed = fs::read_dir("/usr/lib/postgresql").map_or_else(
        |_| Vec::new(),
        |entries| entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).collect(),
    );
    let newest = installed.into_iter().max();
    let newest = newest.expect("PostgreSQL is not installed; `make setup` installs it");
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

/// PostgreSQL refuses to run as root; its package makes a user for it.
fn as_postgres(program: &Path) -> Command {
    if !crate::is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn own(dir: &Path) {
    if crate::is_root() {
        let mut chown = Command::new("chown");
        chown.args(["-R", "postgres:postgres"]).arg(dir);
        process::run(&mut chown, Duration::from_secs(30)).expect_success();
    }
}

fn spawn(base: &Path, port: u16) -> Child {
    let settings = [
        "fsync=off".to_owned(),
        "synchronous_commit=on".to_owned(),
        "full_page_writes=off".to_owned(),
        "listen_addresses=127.0.0.1".to_owned(),
        format!("unix_socket_directories={}", base.display()),
        "max_connections=200".to_owned(),
        "shared_buffers=32MB".to_owned(),
    ];
    let log = fs::File::options().create(true).append(true).open(base.join("log")).expect("open a log");
    let mut command = as_postgres(&bin_dir().join("postgres"));
    command.arg("-D").arg(base.join("data"));
    command.args(["-p", &port.to_string()]);
    for setting in &settings {
        command.args(["-c", setting]);
    }
    command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("share a file"))
        .stderr(log)
        .spawn()
        .expect("start postgres")
}

/// A data directory made once per machine and version, to be copied.
fn prepared_data() -> PathBuf {
    let bin = bin_dir();
    let version = bin.iter().nth_back(1).unwrap_or_default().to_owned();
    let cache = crate::cache_dir();
    let _guard = process::lock(&cache.join("postgres.lock"));
    let prepared = cache.join("postgres").join(version);
    if prepared.exists() {
        return prepared;
    }
    let base = crate::scratch_dir("postgres");
    own(&base);
    let mut initdb = as_postgres(&bin.join("initdb"));
    initdb
        .args(["--no-sync", "--username=limen", "--auth=trust"])
        .args(["--encoding=UTF8", "--locale=C.UTF-8", "--wal-segsize=1"])
        .arg("-D")
        .arg(base.join("data"))
        .current_dir("/");
    process::run(&mut initdb, Duration::from_secs(60)).expect_success();
    fs::create_dir_all(cache.join("postgres")).expect("make a directory");
    crate::copy_tree(&base.join("data"), &prepared.with_extension("new"));
    fs::rename(prepared.with_extension("new"), &prepared).expect("rename a directory");
    fs::remove_dir_all(&base).expect("remove a directory");
    prepared
}
