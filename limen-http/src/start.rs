//! Putting a [`Limen`] together from a configuration, and what a first start leaves behind.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::Hypervisor;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::metrics::{LocalMetrics, MetricsSource};
use limen_core::service::{AdminSeed, HostConfig, Timings};
use limen_core::store::Store;
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Error, ErrorKind, Limen, LimenBuilder, Result, Secret};
use rustix::fs::FlockOperation;
use sha2::{Digest as _, Sha256};

use crate::app::InitialPassword;
use crate::config::{CoreConfig, FiguresChoice, HttpConfig, HypervisorChoice, StoreChoice, judge_jwt_secret};

/// The one host's name.
pub(crate) const HOST: &str = "local";
const INITIAL_PASSWORD: &str = "initial-admin-password";
const JWT_SECRET: &str = "jwt-secret";
const LOCK: &str = "lock";

/// How long a server that starts waits for its Store.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
/// How often it says so.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long it rests before it tries again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Makes the data directory: others may pass through it (QEMU does, to the volumes), not look.
pub(crate) fn make_data_dir(config: &CoreConfig) -> Result<()> {
    make_dir(&config.data_dir, 0o711).map_err(|error| {
        let sentence = format!(
            "LIMEN_DATA_DIR: {} cannot be made or written to: {}; run as its owner, or name another directory.",
            config.data_dir.display(),
            error.kind()
        );
        Error::new(ErrorKind::Unavailable, sentence).with_source(error)
    })
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(path)?;
    // The umask of the process took bits away.
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The data directory as this process's own, until it ends.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: File,
    /// The process that holds this lock, among all that share a Store: the machine's name, for
    /// people, and digits that are the same for this boot and this file alone. So a successor of
    /// the same name knows that its predecessor is dead.
    pub(crate) holder: String,
}

/// Locks the data directory; none where another process has it, or where files cannot be locked.
pub(crate) fn lock_data_dir(config: &CoreConfig) -> Option<DataDirLock> {
    let path = config.data_dir.join(LOCK);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).ok()?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    let kernel = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok();
    let boot = kernel("random/boot_id")?;
    let inode = file.metadata().ok()?;
    let digest = Sha256::digest(format!("{}/{:x}-{:x}", boot.trim_end(), inode.dev(), inode.ino()));
    let digits: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let holder = format!("{}/{digits}", kernel("hostname")?.trim_end());
    Some(DataDirLock { _file: file, holder })
}

/// Opens the Store.
pub(crate) async fn open_store(config: &CoreConfig) -> Result<Arc<dyn Store>> {
    let named = |error| name("DATABASE_URL", error);
    Ok(match &config.store {
        StoreChoice::Sqlite(path) if path == ":memory:" => Arc::new(SqliteStore::in_memory().await.map_err(named)?),
        StoreChoice::Sqlite(path) => Arc::new(SqliteStore::open(path, &config.pool).await.map_err(named)?),
        StoreChoice::Postgres(url) => Arc::new(PostgresStore::connect(url, &config.pool).await.map_err(named)?),
    })
}

/// Opens the Store to be read: nothing is made, and no schema is changed.
pub(crate) async fn open_store_read_only(config: &CoreConfig) -> Result<Arc<dyn Store>> {
    let settings = &config.pool;
    let named = |error| name("DATABASE_URL", error);
    Ok(match &config.store {
        StoreChoice::Sqlite(path) if path == ":memory:" => Arc::new(SqliteStore::in_memory().await.map_err(named)?),
        StoreChoice::Sqlite(path) => Arc::new(SqliteStore::open_read_only(path, settings).await.map_err(named)?),
        StoreChoice::Postgres(url) => Arc::new(PostgresStore::connect_read_only(url, settings).await.map_err(named)?),
    })
}

/// Opens the Store of a server: a PostgreSQL that is away, as when both start with the machine, is
/// waited for, for a minute at most. What waiting cannot mend is told at once.
pub(crate) async fn await_store(config: &CoreConfig) -> Result<Arc<dyn Store>> {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        let error = match open_store(config).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => error,
            done => return done,
        };
        let waited = begun.elapsed();
        if waited >= STORE_PATIENCE || !matches!(config.store, StoreChoice::Postgres(_)) {
            return Err(error);
        }
        if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            told = Some(Instant::now());
            let left = (STORE_PATIENCE - waited).as_secs();
            let cause = error.causes();
            tracing::warn!(target: "limen", %error, cause, "the store is waited for, for {left} s at most");
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Puts the variable before what is said about its value.
fn name(variable: &str, error: Error) -> Error {
    let named = Error::new(error.kind(), format!("{variable}: {error}"));
    match error.causes() {
        causes if causes.is_empty() => named,
        causes => named.with_source(causes),
    }
}

/// Names the variable where a service refuses the first admin that it is given.
pub(crate) fn name_admin(error: Error) -> Error {
    match error.field() {
        Some("password") => name("ADMIN_PASSWORD", error),
        Some("name" | "username") => name("ADMIN_USER", error),
        _ => error,
    }
}

/// When the last backup succeeded: the time of this file in the data directory.
const LAST_BACKUP: &str = "last-backup";

/// Notes that a backup has succeeded, for the server's metrics. Where that cannot be noted the
/// backup is as good as ever.
pub(crate) async fn note_backup(config: &CoreConfig) {
    let path = config.data_dir.join(LAST_BACKUP);
    if let Err(error) = tokio::fs::write(&path, "").await {
        tracing::warn!(target: "limen", %error, "the backup is not noted for limen_backup_last_success_timestamp_seconds");
    }
}

/// When that was, in seconds since 1970; none where there was none.
pub(crate) async fn last_backup(data_dir: &Path) -> Option<f64> {
    let modified = tokio::fs::metadata(data_dir.join(LAST_BACKUP)).await.ok()?.modified().ok()?;
    modified.duration_since(std::time::UNIX_EPOCH).ok().map(|age| age.as_secs_f64())
}

/// Opens the hypervisor.
pub(crate) async fn open_hypervisor(config: &CoreConfig) -> Result<Arc<dyn Hypervisor>> {
    let named = |error| name("HYPERVISOR_URI", error);
    Ok(match &config.hypervisor {
        HypervisorChoice::Sim(uri) => Arc::new(SimHypervisor::from_uri(uri).map_err(named)?),
        HypervisorChoice::Libvirt(uri) => {
            Arc::new(LibvirtHypervisor::connect(libvirt(config, uri)).await.map_err(named)?)
        }
    })
}

/// How libvirt is spoken to.
pub(crate) fn libvirt(config: &CoreConfig, uri: &str) -> LibvirtOptions {
    let mut options = LibvirtOptions::new(uri, &config.vms_dir);
    options.virt_type = config.virt_type;
    options
}

/// A builder with everything but an admin.
pub(crate) async fn builder(config: &CoreConfig, store: Arc<dyn Store>) -> Result<LimenBuilder> {
    let hypervisor = open_hypervisor(config).await?;
    let host = HostConfig::new(HOST, without_secrets(config.hypervisor.uri()), hypervisor);
    let figures: Arc<dyn MetricsSource> = match &config.figures {
        FiguresChoice::Local => Arc::new(LocalMetrics::new()?),
        FiguresChoice::Agent(agent) => Arc::new(agent.clone()),
    };
    Ok(Limen::builder()
        .store(store)
        .authz(Arc::new(RoleAuthz))
        .host(host.with_metrics(figures))
        .timings(Timings { sample: config.sample, ..Timings::default() })
        .images(&config.images_dir)
        .reserve(config.reserve))
}

/// A URI for the records: what a client must not see stands before the `@`, or in the query.
fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let rest = if scheme == "sim" { rest } else { rest.split('?').next().unwrap_or(rest) };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{rest}")
}

/// The key that tokens are signed with: the configured one, or one of the installation's own.
pub(crate) fn jwt_secret(core: &CoreConfig, http: &HttpConfig) -> Result<Secret> {
    if let Some(secret) = &http.jwt_secret {
        return Ok(secret.clone());
    }
    if matches!(core.store, StoreChoice::Postgres(_)) {
        return Err(Error::new(
            ErrorKind::Invalid,
            "JWT_SECRET is needed with PostgreSQL, the same for all servers; `openssl rand -hex 32` makes one.",
        ));
    }
    let file = core.data_dir.join(JWT_SECRET);
    let unusable = |error: io::Error| {
        let sentence = format!("LIMEN_DATA_DIR: {JWT_SECRET} in it cannot be read or written: {}.", error.kind());
        Error::new(ErrorKind::Unavailable, sentence).with_source(error)
    };
    match write_secret(&file, &random_text(43)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let kept = fs::read_to_string(&file).map_err(unusable)?;
    judge_jwt_secret("JWT_SECRET", kept.trim_end()).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("LIMEN_DATA_DIR: {JWT_SECRET} in it is not good: {error}"))
    })
}

/// What the first admin is, and whether LIMEN made the password.
#[derive(Debug)]
pub(crate) struct FirstAdmin {
    pub(crate) seed: AdminSeed,
    pub(crate) initial: InitialPassword,
    /// The password was made now, and is in the file.
    pub(crate) made: bool,
}

/// The admin that a Store without users starts with; none where there are users.
pub(crate) async fn first_admin(core: &CoreConfig, http: &HttpConfig, store: &dyn Store) -> Result<Option<FirstAdmin>> {
    if !store.snapshot().await?.users.is_empty() {
        return Ok(None);
    }
    let initial = initial_password(core, &http.admin_user);
    let name = http.admin_user.clone();
    if let Some(password) = http.admin_password.clone() {
        return Ok(Some(FirstAdmin { seed: AdminSeed { name, password }, initial, made: false }));
    }
    let unusable = |error: io::Error| {
        let sentence = format!("LIMEN_DATA_DIR: {INITIAL_PASSWORD} in it cannot be written: {}.", error.kind());
        Error::new(ErrorKind::Unavailable, sentence).with_source(error)
    };
    match write_secret(&initial.file, &random_text(24)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    // A start that ended between the file and the user left the file: its password is the one.
    let password = fs::read_to_string(&initial.file).map_err(unusable)?;
    Ok(Some(FirstAdmin { seed: AdminSeed { name, password: Secret::new(password.trim_end()) }, initial, made: true }))
}

/// Where the password that LIMEN made for the first admin is.
pub(crate) fn initial_password(core: &CoreConfig, user: &str) -> InitialPassword {
    InitialPassword { user: user.to_owned(), file: core.data_dir.join(INITIAL_PASSWORD) }
}

/// Writes a new file that its owner alone can read; whole, or not at all.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension(format!("new-{}", std::process::id()));
    let written = write_draft(&draft, text).and_then(|()| fs::hard_link(&draft, path));
    fs::remove_file(&draft).ok();
    written
}

fn write_draft(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Letters and digits from the system's random source, none that look alike: 5.7 bits each.
fn random_text(length: usize) -> String {
    use rand::seq::IndexedRandom;
    const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let mut rng = rand::rng();
    (0..length).filter_map(|_| ALPHABET.choose(&mut rng).copied()).map(char::from).collect()
}
