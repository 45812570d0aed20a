//! Two databases behind one set of calls: texts with `$1` placeholders, integers and texts.

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

#[cfg(feature = "postgres")]
use sqlx::Postgres;
#[cfg(feature = "sqlite")]
use sqlx::Sqlite;
use sqlx::pool::PoolOptions;
use sqlx::{Row as _, SqlSafeStr};

use super::failure::{Failure, Outcome};
use crate::error::Error;
use crate::model::{HostId, ImageId, InstallId, OperationId, OwnerId, SessionId, TokenId, UserId, VmId, VolumeId};
use crate::store::PoolSettings;

/// No statement takes longer: a database that hangs is one that cannot be reached.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(15);
/// How long BEGIN may take, beyond the wait for a connection.
#[cfg(feature = "postgres")]
const BEGIN_DEADLINE: Duration = Duration::from_secs(1);
/// How long the look for dead connections may take.
const REFRESH_DEADLINE: Duration = Duration::from_secs(2);

/// A value of a statement.
#[derive(Debug, Clone)]
pub(super) enum Arg {
    Int(Option<i64>),
    Text(Option<String>),
}

macro_rules! arg_from {
    ($($type:ty => $value:ident: $arg:expr;)+) => {$(
        impl From<$type> for Arg {
            fn from($value: $type) -> Self {
                $arg
            }
        }
    )+};
}

arg_from! {
    i64 => value: Arg::Int(Some(value));
    bool => value: Arg::Int(Some(i64::from(value)));
    Option<i64> => value: Arg::Int(value);
    String => value: Arg::Text(Some(value));
    &str => value: Arg::Text(Some(value.to_owned()));
    &String => value: Arg::Text(Some(value.clone()));
    Option<String> => value: Arg::Text(value);
    uuid::Uuid => value: Arg::Text(Some(value.to_string()));
    InstallId => value: Arg::from(value.0);
    VmId => value: Arg::from(value.0);
    HostId => value: Arg::from(value.0);
    ImageId => value: Arg::from(value.0);
    UserId => value: Arg::from(value.0);
    OwnerId => value: Arg::from(value.0);
    VolumeId => value: Arg::from(value.0);
    SessionId => value: Arg::from(value.0);
    TokenId => value: Arg::from(value.0);
    OperationId => value: Arg::from(value.0);
    Option<VmId> => value: Arg::Text(value.map(|id| id.to_string()));
    Option<ImageId> => value: Arg::Text(value.map(|id| id.to_string()));
    Option<OwnerId> => value: Arg::Text(value.map(|id| id.to_string()));
    Option<UserId> => value: Arg::Text(value.map(|id| id.to_string()));
    Option<OperationId> => value: Arg::Text(value.map(|id| id.to_string()));
}

/// The values of a statement, in the order of its placeholders.
macro_rules! args {
    ($($value:expr),* $(,)?) => { vec![$($crate::store::sql::driver::Arg::from($value)),*] };
}
pub(super) use args;

/// A row that a statement answered with; columns by position.
#[derive(Debug)]
pub(super) enum Line {
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteRow),
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgRow),
}

macro_rules! get {
    ($line:expr, $column:expr, $type:ty) => {
        match $line {
            #[cfg(feature = "sqlite")]
            Line::Sqlite(row) => row.try_get::<$type, _>($column),
            #[cfg(feature = "postgres")]
            Line::Postgres(row) => row.try_get::<$type, _>($column),
        }
    };
}

impl Line {
    pub(super) fn int(&self, column: usize) -> Outcome<i64> {
        Ok(get!(self, column, i64)?)
    }

    pub(super) fn int_or_none(&self, column: usize) -> Outcome<Option<i64>> {
        Ok(get!(self, column, Option<i64>)?)
    }

    pub(super) fn text(&self, column: usize) -> Outcome<&str> {
        Ok(get!(self, column, &str)?)
    }

    pub(super) fn text_or_none(&self, column: usize) -> Outcome<Option<&str>> {
        Ok(get!(self, column, Option<&str>)?)
    }

    /// An id out of a text column.
    pub(super) fn id<T: std::str::FromStr<Err = uuid::Error>>(&self, column: usize) -> Outcome<T> {
        self.text(column)?.parse().map_err(|error: uuid::Error| Failure::Refused(Error::internal(error)))
    }

    /// An id out of a text column that may hold none.
    pub(super) fn id_or_none<T: std::str::FromStr<Err = uuid::Error>>(&self, column: usize) -> Outcome<Option<T>> {
        match self.text_or_none(column)? {
            Some(_) => self.id(column).map(Some),
            None => Ok(None),
        }
    }
}

/// The connections to one database.
#[derive(Debug)]
pub(in crate::store) enum Pool {
    #[cfg(feature = "sqlite")]
    Sqlite {
        pool: sqlx::Pool<Sqlite>,
        /// Own writers queue here in order instead of asking SQLite again and again.
        writer: Arc<tokio::sync::Semaphore>,
    },
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Pool<Postgres>),
}

/// A transaction; rolled back when it is dropped.
pub(super) enum Tx {
    #[cfg(feature = "sqlite")]
    Sqlite { tx: sqlx::Transaction<'static, Sqlite>, _turn: Option<tokio::sync::OwnedSemaphorePermit> },
    #[cfg(feature = "postgres")]
    Postgres(sqlx::Transaction<'static, Postgres>),
}

async fn within<T>(call: impl Future<Output = Result<T, sqlx::Error>> + Send) -> Outcome<T> {
    match tokio::time::timeout(STATEMENT_DEADLINE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Sql(sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut)))),
    }
}

fn check(args: &[Arg]) -> Outcome<()> {
    let nul = args.iter().any(|arg| matches!(arg, Arg::Text(Some(text)) if text.contains('\0')));
    if nul { Err(super::value::nul().into()) } else { Ok(()) }
}

macro_rules! run {
    ($tx:expr, $sql:expr, $args:expr, $call:ident) => {{
        check(&$args)?;
        match $tx {
            #[cfg(feature = "sqlite")]
            Tx::Sqlite { tx, .. } => run!(@query Sqlite, tx, $sql, $args, $call, Sqlite),
            #[cfg(feature = "postgres")]
            Tx::Postgres(tx) => run!(@query Postgres, tx, $sql, $args, $call, Postgres),
        }
    }};
    (@query $database:ident, $tx:ident, $sql:expr, $args:expr, $call:ident, $variant:ident) => {{
        let mut query = sqlx::query::<$database>($sql);
        for arg in $args {
            query = match arg {
                Arg::Int(value) => query.bind(value),
                Arg::Text(value) => query.bind(value),
            };
        }
        let answer = within(query.$call(&mut **$tx)).await?;
        run!(@answer $call, $variant, answer)
    }};
    (@answer execute, $variant:ident, $answer:ident) => { $answer.rows_affected() };
    (@answer fetch_optional, $variant:ident, $answer:ident) => { $answer.map(Line::$variant) };
    (@answer fetch_all, $variant:ident, $answer:ident) => {
        $answer.into_iter().map(Line::$variant).collect()
    };
}

impl Tx {
    /// Runs a statement; answers how many rows it wrote.
    pub(super) async fn execute(&mut self, sql: impl SqlSafeStr + Send, args: Vec<Arg>) -> Outcome<u64> {
        Ok(run!(self, sql, args, execute))
    }

    /// The first row of a statement's answer.
    pub(super) async fn first(&mut self, sql: impl SqlSafeStr + Send, args: Vec<Arg>) -> Outcome<Option<Line>> {
        Ok(run!(self, sql, args, fetch_optional))
    }

    /// All rows of a statement's answer.
    pub(super) async fn all(&mut self, sql: impl SqlSafeStr + Send, args: Vec<Arg>) -> Outcome<Vec<Line>> {
        Ok(run!(self, sql, args, fetch_all))
    }

    /// Runs a file of statements.
    pub(super) async fn script(&mut self, sql: &'static str) -> Outcome<()> {
        match self {
            #[cfg(feature = "sqlite")]
            Tx::Sqlite { tx, .. } => within(sqlx::raw_sql(sql).execute(&mut **tx)).await.map(drop),
            #[cfg(feature = "postgres")]
            Tx::Postgres(tx) => within(sqlx::raw_sql(sql).execute(&mut **tx)).await.map(drop),
        }
    }

    pub(super) async fn commit(self) -> Outcome<()> {
        match self {
            #[cfg(feature = "sqlite")]
            Tx::Sqlite { tx, _turn } => within(tx.commit()).await,
            #[cfg(feature = "postgres")]
            Tx::Postgres(tx) => within(tx.commit()).await,
        }
    }

    pub(super) async fn rollback(self) {
        // A rollback that fails happens when the connection is closed or used next.
        _ = match self {
            #[cfg(feature = "sqlite")]
            Tx::Sqlite { tx, _turn } => within(tx.rollback()).await,
            #[cfg(feature = "postgres")]
            Tx::Postgres(tx) => within(tx.rollback()).await,
        };
    }

    /// Whether this is PostgreSQL, for what has no common word.
    pub(super) fn is_postgres(&self) -> bool {
        match self {
            #[cfg(feature = "sqlite")]
            Tx::Sqlite { .. } => false,
            #[cfg(feature = "postgres")]
            Tx::Postgres(_) => true,
        }
    }
}

/// Begins in a task of its own: a BEGIN whose caller goes away before it is answered, or gives up,
/// would leave the connection in a transaction that nobody ends, and the pool would hand it on.
/// BEGIN waits for nobody: a database that does not answer it in time hangs.
#[cfg(feature = "postgres")]
async fn begin_postgres(pool: &sqlx::Pool<sqlx::Postgres>, begin: &'static str) -> Outcome<Tx> {
    let its = pool.clone();
    let begun = tokio::spawn(async move { its.begin_with(begin).await });
    let at_most = pool.options().get_acquire_timeout() + BEGIN_DEADLINE;
    let begun = match tokio::time::timeout(at_most, begun).await {
        Ok(begun) => begun.map_err(|_| sqlx::Error::WorkerCrashed)?,
        Err(_) => Err(sqlx::Error::Io(io::Error::from(io::ErrorKind::TimedOut))),
    };
    match begun {
        Ok(tx) => Ok(Tx::Postgres(tx)),
        Err(sqlx::Error::PoolTimedOut) => Err(no_connection(pool).await),
        Err(error) => Err(error.into()),
    }
}

/// Why the pool had no connection in time. It tried to open one and keeps to itself what it was told:
/// so one caller at a time asks again.
#[cfg(feature = "postgres")]
async fn no_connection(pool: &sqlx::Pool<sqlx::Postgres>) -> Failure {
    use sqlx::{ConnectOptions as _, Connection as _};
    static ASKING: tokio::sync::Semaphore = tokio::sync::Semaphore::const_new(1);
    let Ok(_turn) = ASKING.try_acquire() else { return sqlx::Error::PoolTimedOut.into() };
    match tokio::time::timeout(BEGIN_DEADLINE, pool.connect_options().connect()).await {
        // Whatever it was, it is no reason to begin anew at once.
        Ok(Err(error)) => Failure::Refused(Failure::from(error).into_error()),
        Ok(Ok(connection)) => {
            _ = tokio::time::timeout(BEGIN_DEADLINE, connection.close()).await;
            sqlx::Error::PoolTimedOut.into()
        }
        Err(_) => sqlx::Error::PoolTimedOut.into(),
    }
}

impl Pool {
    /// A transaction that may write.
    pub(super) async fn begin_write(&self) -> Outcome<Tx> {
        match self {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite { pool, writer } => {
                let turn = tokio::time::timeout(self.patience(), Arc::clone(writer).acquire_owned());
                let turn = turn.await.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
                let tx = within(pool.begin_with("BEGIN IMMEDIATE")).await?;
                Ok(Tx::Sqlite { tx, _turn: Some(turn) })
            }
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => begin_postgres(pool, "BEGIN").await,
        }
    }

    /// A transaction that sees one state of the database and writes nothing.
    pub(super) async fn begin_read(&self) -> Outcome<Tx> {
        match self {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite { pool, .. } => Ok(Tx::Sqlite { tx: within(pool.begin()).await?, _turn: None }),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => begin_postgres(pool, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await,
        }
    }

    /// Closes the idle connections that are dead: after a restart of the database all of them are.
    pub(super) async fn refresh(&self) {
        _ = tokio::time::timeout(REFRESH_DEADLINE, async {
            match self {
                #[cfg(feature = "sqlite")]
                Pool::Sqlite { pool, .. } => mend(pool).await,
                #[cfg(feature = "postgres")]
                Pool::Postgres(pool) => {
                    use sqlx::Connection as _;
                    let mut alive = Vec::new();
                    while let Some(mut connection) = pool.try_acquire() {
                        if connection.ping().await.is_ok() {
                            alive.push(connection);
                        } else {
                            connection.close_on_drop();
                        }
                    }
                }
            }
        })
        .await;
    }

    /// How long a call waits for what others hold.
    pub(super) fn patience(&self) -> Duration {
        match self {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite { pool, .. } => pool.options().get_acquire_timeout(),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => pool.options().get_acquire_timeout(),
        }
    }

    /// How many connections are open and not in use.
    pub(super) fn idle(&self) -> usize {
        match self {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite { pool, .. } => pool.num_idle(),
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => pool.num_idle(),
        }
    }

    pub(super) async fn close(&self) {
        match self {
            #[cfg(feature = "sqlite")]
            Pool::Sqlite { pool, .. } => pool.close().await,
            #[cfg(feature = "postgres")]
            Pool::Postgres(pool) => pool.close().await,
        }
    }
}

/// Closes the idle connections whose transaction SQLite ended by itself, as it does when the disk is
/// full: sqlx still counts it, and begins no other one.
#[cfg(feature = "sqlite")]
async fn mend(pool: &sqlx::Pool<Sqlite>) {
    use sqlx::Connection as _;
    // The one connection to a database in memory is the database.
    if pool.options().get_min_connections() > 0 {
        return;
    }
    let mut sound = Vec::new();
    while let Some(connection) = pool.try_acquire() {
        if connection.is_in_transaction() {
            _ = connection.close().await;
        } else {
            sound.push(connection);
        }
    }
}

/// Where a pool's options find the pool, once there is one.
pub(in crate::store) type PoolCell = Arc<OnceLock<Weak<Pool>>>;

/// The options of a pool for either database.
pub(in crate::store) fn pool_options<D: sqlx::Database>(settings: &PoolSettings, cell: &PoolCell) -> PoolOptions<D> {
    let cell = Arc::clone(cell);
    // sqlx counts a release late: its number of idle connections may fall below zero and wrap.
    let too_many = settings.max_idle as usize..=settings.max_open as usize;
    PoolOptions::new()
        .max_connections(settings.max_open.max(1))
        .max_lifetime(settings.max_lifetime)
        .idle_timeout(settings.max_idle_time)
        .acquire_timeout(settings.acquire_timeout)
        .test_before_acquire(false)
        .after_release(move |_, _| {
            let idle = cell.get().and_then(Weak::upgrade).map_or(0, |pool| pool.idle());
            let keep = !too_many.contains(&idle);
            Box::pin(async move { Ok(keep) })
        })
}
