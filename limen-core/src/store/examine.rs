//! In which state a database is, found out without a change of it and in bounded time.

use std::path::Path;
use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection, Executor, Row as _};
use time::OffsetDateTime;

/// In which state a database is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DatabaseState {
    /// Nobody answers at its address: what the system said.
    Away(String),
    /// Somebody takes the connection and says nothing.
    Hung,
    /// It refuses the user or the password.
    RefusesUser,
    /// The database server has no database of this name.
    Missing,
    /// It and this program do not agree on TLS.
    RefusesTls,
    /// It takes no more connections.
    Full,
    /// It lets the user in, and not to LIMEN's tables.
    Denied,
    /// It cannot be used: what it said.
    Unusable(String),
    /// There is no LIMEN in it yet: a server that starts makes its schema.
    Empty,
    /// A server that starts brings its schema up to date.
    Older,
    /// It has this program's schema.
    Current,
    /// It was written by a newer LIMEN, with this schema.
    Newer(i64),
}

/// A database, looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Examined {
    /// Its state.
    pub state: DatabaseState,
    /// What its own clock shows, of a PostgreSQL that lets the user in.
    pub clock: Option<OffsetDateTime>,
}

impl From<DatabaseState> for Examined {
    fn from(state: DatabaseState) -> Self {
        Self { state, clock: None }
    }
}

/// Where a PostgreSQL is, from its URL.
#[cfg(feature = "postgres")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresAddress {
    /// A name, an address, or the directory of a socket.
    pub host: String,
    /// The port, also of a socket.
    pub port: u16,
    /// The user.
    pub user: String,
    /// The database.
    pub database: String,
}

#[cfg(feature = "postgres")]
impl PostgresAddress {
    /// Reads a URL as [`PostgresStore::connect`](super::postgres::PostgresStore::connect) does.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) `database_url`: malformed.
    pub fn of(url: &crate::Secret) -> crate::Result<Self> {
        let options = super::postgres::options(url)?;
        let user = options.get_username().to_owned();
        Ok(Self {
            host: match options.get_socket() {
                Some(socket) => socket.display().to_string(),
                None => options.get_host().to_owned(),
            },
            port: options.get_port(),
            database: options.get_database().unwrap_or(&user).to_owned(),
            user,
        })
    }

    /// Whether it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with('/')
            || self.host == "localhost"
            || self.host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

/// Looks at the PostgreSQL database at `url`, for some `at_most`: connects, and reads its schema.
/// Must be called on a tokio runtime.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid) `database_url`: malformed.
#[cfg(feature = "postgres")]
pub async fn examine_postgres(url: &crate::Secret, at_most: Duration) -> crate::Result<Examined> {
    use super::postgres::{Refusal, options, refusal};
    const THERE: &str =
        "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migrations'";

    let options = options(url)?;
    let address = PostgresAddress::of(url)?;
    if let Some(why) = unreachable(&address, at_most).await {
        return Ok(DatabaseState::Away(why).into());
    }
    let look = async {
        let mut connection = options.connect().await?;
        let clock = sqlx::query("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)");
        let clock: i64 = clock.fetch_one(&mut connection).await?.try_get(0)?;
        let state = schema(&mut connection, THERE).await?;
        // Closed or not, it goes with this scope.
        _ = connection.close().await;
        let clock = OffsetDateTime::from_unix_timestamp_nanos(i128::from(clock) * 1_000_000).ok();
        sqlx::Result::Ok(Examined { state, clock })
    };
    Ok(match tokio::time::timeout(at_most, look).await {
        Ok(Ok(examined)) => examined,
        Err(_) => DatabaseState::Hung.into(),
        Ok(Err(error)) => match refusal(&error) {
            Some(Refusal::User) => DatabaseState::RefusesUser,
            Some(Refusal::NoDatabase) => DatabaseState::Missing,
            Some(Refusal::Tls) => DatabaseState::RefusesTls,
            None => match error.as_database_error().and_then(|error| error.code()).as_deref() {
                Some("53300") => DatabaseState::Full,
                Some("42501") => DatabaseState::Denied,
                _ => DatabaseState::Unusable(error.to_string()),
            },
        }
        .into(),
    })
}

/// Why nobody takes a connection; none where somebody does.
#[cfg(feature = "postgres")]
async fn unreachable(address: &PostgresAddress, at_most: Duration) -> Option<String> {
    let PostgresAddress { host, port, .. } = address;
    let connect = async {
        if host.starts_with('/') {
            tokio::net::UnixStream::connect(format!("{host}/.s.PGSQL.{port}")).await.map(drop)
        } else {
            tokio::net::TcpStream::connect((host.trim_matches(['[', ']']), *port)).await.map(drop)
        }
    };
    match tokio::time::timeout(at_most, connect).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("no answer".to_owned()),
    }
}

/// Looks at the SQLite database at `path`, for some `at_most`: opens it to be read, and reads its
/// schema. Must be called on a tokio runtime.
#[cfg(feature = "sqlite")]
pub async fn examine_sqlite(path: &Path, at_most: Duration) -> DatabaseState {
    const THERE: &str = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'";
    let look = async {
        match tokio::fs::metadata(path).await {
            Ok(found) if found.len() > 0 => {}
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(sqlx::Error::Io(error)),
            _ => return Ok(DatabaseState::Empty),
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(at_most)
            .disable_statement_logging();
        let mut connection = options.connect().await?;
        let state = schema(&mut connection, THERE).await?;
        _ = connection.close().await;
        sqlx::Result::Ok(state)
    };
    match tokio::time::timeout(at_most, look).await {
        Ok(Ok(state)) => state,
        Ok(Err(error)) => DatabaseState::Unusable(error.to_string()),
        Err(_) => DatabaseState::Hung,
    }
}

async fn schema<C, D>(connection: &mut C, there: &'static str) -> sqlx::Result<DatabaseState>
where
    D: sqlx::Database,
    C: Connection<Database = D>,
    for<'c> &'c mut C: Executor<'c, Database = D>,
    for<'q> D::Arguments: sqlx::IntoArguments<D>,
    for<'r> Option<i64>: sqlx::Decode<'r, D>,
    Option<i64>: sqlx::Type<D>,
    usize: sqlx::ColumnIndex<D::Row>,
{
    if sqlx::query::<D>(there).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(DatabaseState::Empty);
    }
    let version = sqlx::query::<D>("SELECT MAX(version) FROM schema_migrations").fetch_one(&mut *connection).await?;
    let newest = super::sql::newest_schema();
    Ok(match version.try_get::<Option<i64>, usize>(0)? {
        None => DatabaseState::Empty,
        Some(version) if version < newest => DatabaseState::Older,
        Some(version) if version > newest => DatabaseState::Newer(version),
        Some(_) => DatabaseState::Current,
    })
}
