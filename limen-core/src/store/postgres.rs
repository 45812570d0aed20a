//! The Store that several servers share: a PostgreSQL database.

use std::str::FromStr as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use tokio::sync::watch;

pub use super::sql::SqlStore as PostgresStore;
use super::sql::{Failure, Pool, PoolCell, Watch, grown, pool_options};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::model::EventNumber;
use crate::secret::Secret;
use crate::store::PoolSettings;

/// Connections of the database that are left to others: its operators, backups.
const LEFT_FREE: u32 = 10;
/// Connections that look for others' commits: one listens, one looks.
const WATCHING: u32 = 2;
/// A notification may be lost: the log is looked at this often whatever happens.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A transaction whose process stands still for so long is undone by the database: shorter than a
/// lease, so that what it has locked keeps no other process from taking over.
const FORSAKEN: &str = "5s";

impl PostgresStore {
    /// Connects to the database at `url` (`postgres://user:password@host:port/name`) and brings it
    /// to this program's schema. Opens fewer connections than `settings` say where they, with the
    /// two that look for others' commits, would leave less than 10 of what the database allows to
    /// all its clients. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) `database_url`: malformed, or there is no such database, or
    /// it refuses the user, the password or TLS: waiting does not help.
    /// [`Conflict`](ErrorKind::Conflict): the schema is newer than this program.
    /// [`Unavailable`](ErrorKind::Unavailable): the database cannot be reached within
    /// `acquire_timeout`, is just starting, or takes no more connections.
    pub async fn connect(url: &Secret, settings: &PoolSettings) -> Result<Self> {
        let options = options(url)?;
        try_once(&options, settings.acquire_timeout).await?;
        let settings = within_limits(&options, settings).await?;
        Self::start(pool(&options, &settings), Watch::Postgres(options)).await
    }

    /// Connects to the database at `url` to read: it is not brought to this program's schema, and a
    /// change of it is [`Unavailable`](ErrorKind::Unavailable). Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Those of [`connect`](Self::connect); [`Conflict`](ErrorKind::Conflict) also for an older schema,
    /// [`Unavailable`](ErrorKind::Unavailable) also where there is none.
    pub async fn connect_read_only(url: &Secret, settings: &PoolSettings) -> Result<Self> {
        let options = options(url)?.options([("default_transaction_read_only", "on")]);
        try_once(&options, settings.acquire_timeout).await?;
        Self::look(pool(&options, settings), Watch::Postgres(options)).await
    }
}

/// Whether the database at `url` has no table of anybody's.
///
/// # Errors
/// Those of [`PostgresStore::connect`].
pub(crate) async fn is_empty(url: &Secret) -> Result<bool> {
    let options = options(url)?;
    try_once(&options, Duration::from_secs(10)).await?;
    let failed = |error: sqlx::Error| Error::unavailable("The database").with_source(error);
    let mut connection = options.connect().await.map_err(failed)?;
    let count = "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace \
                 WHERE relkind IN ('r', 'p', 'v', 'S') AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";
    let tables: i64 = sqlx::query(count).fetch_one(&mut connection).await.map_err(failed)?.get(0);
    connection.close().await.map_err(failed)?;
    Ok(tables == 0)
}

pub(super) fn options(url: &Secret) -> Result<PgConnectOptions> {
    // The parser's own message may repeat parts of the address.
    let options = PgConnectOptions::from_str(url.expose())
        .map_err(|_| Error::invalid("database_url", "The database's address is malformed."))?;
    Ok(options
        .application_name("limen")
        .options([("statement_timeout", "10s"), ("idle_in_transaction_session_timeout", FORSAKEN)])
        .disable_statement_logging())
}

fn pool(options: &PgConnectOptions, settings: &PoolSettings) -> Arc<Pool> {
    let cell = PoolCell::default();
    let pool = Arc::new(Pool::Postgres(pool_options(settings, &cell).connect_lazy_with(options.clone())));
    // The cell is new: nobody has filled it.
    _ = OnceLock::set(&cell, Arc::downgrade(&pool));
    pool
}

/// Connects once, without the pool, which would try again and again and keep to itself why.
async fn try_once(options: &PgConnectOptions, at_most: Duration) -> Result<()> {
    let refusal = match tokio::time::timeout(at_most, options.connect()).await {
        Ok(Ok(connection)) => {
            // It is fine whether or not the database hears of it.
            _ = tokio::time::timeout(at_most, connection.close()).await;
            return Ok(());
        }
        Ok(Err(error)) => error,
        Err(_) => sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut)),
    };
    let text = match self::refusal(&refusal) {
        Some(Refusal::User) => "The database refuses this user or password.",
        Some(Refusal::NoDatabase) => "The database server has no database of this name; make it first, with createdb.",
        Some(Refusal::Tls) => "The database and LIMEN do not agree on TLS; see sslmode.",
        None => return Err(Failure::from(refusal).into_error()),
    };
    Err(Error::invalid("database_url", text).with_source(refusal))
}

/// What waiting does not mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    User,
    NoDatabase,
    Tls,
}

/// Whether a database refused to be used so, and waiting does not help.
pub(super) fn refusal(error: &sqlx::Error) -> Option<Refusal> {
    match error.as_database_error().and_then(|error| error.code()).as_deref() {
        Some("28P01" | "28000") => Some(Refusal::User),
        Some("3D000") => Some(Refusal::NoDatabase),
        _ => matches!(error, sqlx::Error::Tls(_)).then_some(Refusal::Tls),
    }
}

/// `settings` with no more connections than the database can give.
async fn within_limits(options: &PgConnectOptions, settings: &PoolSettings) -> Result<PoolSettings> {
    let asked = async {
        let mut connection = options.connect().await?;
        let allowed = sqlx::query("SELECT CAST(current_setting('max_connections') AS BIGINT)");
        let allowed: i64 = allowed.fetch_one(&mut connection).await?.try_get(0)?;
        // Closed or not, it goes with this scope.
        _ = connection.close().await;
        sqlx::Result::Ok(allowed)
    };
    let asked = tokio::time::timeout(settings.acquire_timeout, asked).await;
    let allowed = asked.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(|error| Failure::from(error).into_error())?;
    let most = u32::try_from(allowed).unwrap_or(u32::MAX).saturating_sub(LEFT_FREE + WATCHING).max(1);
    if settings.max_open > most {
        let wanted = settings.max_open;
        tracing::info!(wanted, max_open = most, max_connections = allowed, "the database allows fewer connections");
    }
    Ok(PoolSettings { max_open: settings.max_open.min(most), ..*settings })
}

/// Listens for commits of other processes as long as the Store lives.
pub(super) async fn watch(options: PgConnectOptions, last: watch::Sender<EventNumber>) {
    // One connection to listen, one to look.
    let pool = PgPoolOptions::new().max_connections(WATCHING).test_before_acquire(true).connect_lazy_with(options);
    loop {
        if let Err(error) = watch_once(&pool, &last).await {
            tracing::warn!(%error, "the watch for other processes' commits is tried again");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn watch_once(pool: &sqlx::Pool<sqlx::Postgres>, last: &watch::Sender<EventNumber>) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("limen_events").await?;
    loop {
        let look = sqlx::query("SELECT value FROM event_counter").fetch_one(pool).await?;
        grown(last, look.try_get(0)?);
        if let Ok(heard) = tokio::time::timeout(LOOK_EVERY, listener.recv()).await
            && let Ok(number) = heard?.payload().parse()
        {
            grown(last, number);
        }
    }
}
