//! Brings a database to this program's schema, in one transaction under a lock: of two processes
//! that start at once, the second finds it done.

use super::driver::{Tx, args};
use super::failure::Outcome;
use super::value;
use crate::error::{Error, ErrorKind};
use crate::model::InstallId;
use crate::store::Install;

/// A step of the schema. A released one is never changed.
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migration {
    ($version:literal, $path:literal) => {
        Migration { version: $version, name: $path, sql: include_str!(concat!("../../../migrations/", $path)) }
    };
}

const COMMON: &[Migration] = &[migration!(1, "common/0001_first.sql")];
const SQLITE: &[Migration] = &[migration!(2, "sqlite/0002_tune.sql")];
const POSTGRES: &[Migration] = &[migration!(2, "postgres/0002_tune.sql")];

/// The newest schema that this program knows.
fn newest() -> i64 {
    COMMON.iter().chain(SQLITE).chain(POSTGRES).map(|migration| migration.version).max().unwrap_or(0)
}

/// Whether there is a schema at all. PostgreSQL asks for the right to create, also where there is
/// nothing to create: so it is looked for.
async fn is_there(tx: &mut Tx) -> Outcome<bool> {
    let known = if tx.is_postgres() {
        "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'schema_migrations'"
    } else {
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'"
    };
    Ok(tx.first(known, args![]).await?.is_some())
}

/// Answers which installation this is, and changes nothing: the schema must be this program's own.
///
/// # Errors
/// [`Unavailable`](ErrorKind::Unavailable): there is none. [`Conflict`](ErrorKind::Conflict): it is
/// an older or a newer one.
pub(super) async fn look(tx: &mut Tx) -> Outcome<Install> {
    let schema =
        if is_there(tx).await? { tx.first("SELECT MAX(version) FROM schema_migrations", args![]).await? } else { None };
    let Some(schema) = schema.map(|line| line.int_or_none(0)).transpose()?.flatten() else {
        let text = "There is no LIMEN in this database yet: start the server once, or name the one that it uses.";
        return Err(Error::new(ErrorKind::Unavailable, text).into());
    };
    if schema > newest() {
        return Err(too_new(schema).into());
    }
    if schema < newest() {
        let text = format!(
            "The database has schema {schema}, and this program reads {} alone: start the server of this version \
             once, which brings it up to date, or use the program that serves now.",
            newest()
        );
        return Err(Error::new(ErrorKind::Conflict, text).into());
    }
    install(tx).await
}

fn too_new(version: i64) -> Error {
    let message = format!(
        "The database has schema {version}, this program knows {} at most: it was written by a newer LIMEN; \
         start that one, or restore a backup of before.",
        newest()
    );
    Error::new(ErrorKind::Conflict, message)
}

async fn install(tx: &mut Tx) -> Outcome<Install> {
    let line = tx.first("SELECT id, epoch FROM install", args![]).await?;
    let line = line.ok_or_else(|| Error::internal("no install row"))?;
    Ok(Install { id: line.id(0)?, epoch: line.int(1)? })
}

/// Migrates and answers which installation this is.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict): the schema is newer than this program.
pub(super) async fn migrate(tx: &mut Tx) -> Outcome<Install> {
    if tx.is_postgres() {
        // Any number will do that no other program at this database uses.
        tx.first("SELECT pg_advisory_xact_lock(5280771894)", args![]).await?;
    }
    if !is_there(tx).await? {
        tx.script(
            "CREATE TABLE schema_migrations (\
             version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)",
        )
        .await?;
    }
    let applied = tx.all("SELECT version FROM schema_migrations", args![]).await?;
    let applied = applied.iter().map(|line| line.int(0)).collect::<Outcome<Vec<_>>>()?;
    if let Some(version) = applied.iter().max().filter(|version| **version > newest()) {
        return Err(too_new(*version).into());
    }
    let own = if tx.is_postgres() { POSTGRES } else { SQLITE };
    let mut wanted: Vec<_> = COMMON.iter().chain(own).filter(|one| !applied.contains(&one.version)).collect();
    wanted.sort_by_key(|migration| migration.version);
    for migration in wanted {
        tx.script(migration.sql).await?;
        tx.execute(
            "INSERT INTO schema_migrations (version, name, applied_at) VALUES ($1, $2, $3)",
            args![migration.version, migration.name, value::now()],
        )
        .await?;
    }
    tx.execute(
        "INSERT INTO install (one, id, epoch) VALUES (1, $1, 1) ON CONFLICT (one) DO NOTHING",
        args![InstallId::generate()],
    )
    .await?;
    install(tx).await
}
