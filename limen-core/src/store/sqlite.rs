//! The embedded Store: a SQLite file, shared by any number of processes of one machine, or memory.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Row as _};
use tokio::sync::{Semaphore, watch};

pub use super::sql::SqlStore as SqliteStore;
use super::sql::{Pool, PoolCell, Watch, grown, pool_options};
use crate::error::{Error, ErrorKind, Result};
use crate::model::EventNumber;
use crate::store::PoolSettings;

/// More connections than this do not make one file faster.
const MOST_CONNECTIONS: u32 = 16;
/// How often commits of other processes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long to wait before a watch that failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Writes a consistent copy of the database at `path` to a file that is not there yet, beside a
/// running server (`VACUUM INTO`).
pub(crate) async fn copy_to(path: &Path, to: &Path) -> Result<()> {
    use sqlx::Connection as _;

    let failed =
        |error: sqlx::Error| Error::new(ErrorKind::Unavailable, "The database cannot be copied.").with_source(error);
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(10))
        .disable_statement_logging();
    let mut connection = options.connect().await.map_err(failed)?;
    let to = to.to_str().ok_or_else(|| Error::invalid("to", "It must be a path in UTF-8."))?;
    sqlx::query("VACUUM INTO ?").bind(to).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)
}

impl SqliteStore {
    /// Opens the database file at `path`, makes it (mode 0600, its directory 0700) where there is
    /// none, and brings it to this program's schema. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): the schema is newer than this program.
    /// [`Unavailable`](ErrorKind::Unavailable): the file cannot be made or opened.
    pub async fn open(path: impl AsRef<Path>, settings: &PoolSettings) -> Result<Self> {
        let path = path.as_ref();
        create(path).await.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "The store's file cannot be made or opened.").with_source(error)
        })?;
        let options = options().filename(path).busy_timeout(settings.acquire_timeout);
        let settings = PoolSettings { max_open: settings.max_open.min(MOST_CONNECTIONS), ..*settings };
        let cell = PoolCell::default();
        let pool = pool_options(&settings, &cell).connect_lazy_with(options.clone());
        Self::start(shared(pool, &cell), Watch::Sqlite(options)).await
    }

    /// Opens the database file at `path` to be read: it is neither made nor brought to this
    /// program's schema, and a change of it is [`Unavailable`](ErrorKind::Unavailable). Must be
    /// called on a tokio runtime.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable): there is no file, or it cannot be opened.
    /// [`Conflict`](ErrorKind::Conflict): the schema is older or newer than this program.
    pub async fn open_read_only(path: impl AsRef<Path>, settings: &PoolSettings) -> Result<Self> {
        let path = path.as_ref();
        tokio::fs::metadata(path).await.map_err(|error| {
            let text = "There is no store here yet: start the server once, or name the one that it uses.";
            Error::new(ErrorKind::Unavailable, text).with_source(error)
        })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(settings.acquire_timeout)
            .disable_statement_logging();
        let settings = PoolSettings { max_open: settings.max_open.min(MOST_CONNECTIONS), ..*settings };
        let cell = PoolCell::default();
        let pool = pool_options(&settings, &cell).connect_lazy_with(options.clone());
        Self::look(shared(pool, &cell), Watch::Sqlite(options)).await
    }

    /// A Store in this process' memory, gone with it: for trying out and for tests. Must be called
    /// on a tokio runtime.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable): there is no memory for it.
    pub async fn in_memory() -> Result<Self> {
        // The database is its connection: one, that is never closed.
        let settings = PoolSettings { max_open: 1, max_idle: u32::MAX, ..PoolSettings::default() };
        let cell = PoolCell::default();
        let pool = pool_options(&settings, &cell)
            .min_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options().in_memory(true));
        Self::start(shared(pool, &cell), Watch::Nothing).await
    }
}

fn options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .disable_statement_logging()
}

fn shared(pool: sqlx::Pool<sqlx::Sqlite>, cell: &PoolCell) -> Arc<Pool> {
    let writer = Arc::new(Semaphore::new(1));
    let pool = Arc::new(Pool::Sqlite { pool, writer });
    // The cell is new: nobody has filled it.
    _ = OnceLock::set(cell, Arc::downgrade(&pool));
    pool
}

async fn create(path: &Path) -> std::io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).await?;
    }
    // SQLite gives its journals the mode of the file. A file that is there keeps its own.
    tokio::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path).await?;
    Ok(())
}

/// Looks for commits of other connections as long as the Store lives.
pub(super) async fn watch(options: SqliteConnectOptions, last: watch::Sender<EventNumber>) {
    loop {
        if let Err(error) = watch_once(&options, &last).await {
            tracing::warn!(%error, "the watch for other processes' commits is tried again");
        }
        tokio::time::sleep(RETRY_EVERY).await;
    }
}

async fn watch_once(options: &SqliteConnectOptions, last: &watch::Sender<EventNumber>) -> sqlx::Result<()> {
    let mut connection = options.connect().await?;
    let mut seen = None;
    loop {
        let version: i64 = sqlx::query("PRAGMA data_version").fetch_one(&mut connection).await?.try_get(0)?;
        if seen.replace(version) != Some(version) {
            let number = sqlx::query("SELECT value FROM event_counter").fetch_one(&mut connection).await?.try_get(0)?;
            grown(last, number);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
