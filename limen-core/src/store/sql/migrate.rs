//! Brings a database to this program's schema, in one transaction under a lock: of two processes
//! that start at once, the second finds it done, and one that is killed leaves nothing of it.
//!
//! Every transaction that writes looks at the table of migrations first and is refused where a newer
//! program has been there ([`refuse_newer`]). One that migrates locks that table away from them, so
//! that a transaction of an older program is over before it begins, or sees what it did.

use super::driver::{Arg, Pool, Tx, args};
use super::failure::Outcome;
use super::{Begin, value};
use crate::error::{Error, ErrorKind, Result};
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
pub(super) fn newest() -> i64 {
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

/// Changes nothing: the schema must be this program's own.
///
/// # Errors
/// [`Unavailable`](ErrorKind::Unavailable): there is none. [`Conflict`](ErrorKind::Conflict): it is
/// an older or a newer one.
pub(super) async fn look(tx: &mut Tx) -> Outcome<()> {
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
    Ok(())
}

fn too_new(version: i64) -> Error {
    let message = format!(
        "The database has schema {version}, this program knows {} at most: it was written by a newer LIMEN; \
         start that one, or restore a backup of before.",
        newest()
    );
    Error::new(ErrorKind::Conflict, message)
}

/// The statements of a file: each ends with the first line that ends with a semicolon and is not
/// indented.
fn statements(sql: &'static str) -> impl Iterator<Item = &'static str> {
    let mut rest = sql;
    std::iter::from_fn(move || {
        let mut end = 0;
        for line in rest.split_inclusive('\n') {
            end += line.len();
            if !line.starts_with(' ') && line.trim_end().ends_with(';') {
                break;
            }
        }
        let (statement, after) = rest.split_at(end);
        rest = after;
        (!statement.trim().is_empty()).then_some(statement)
    })
}

/// Migrates.
///
/// # Errors
/// [`Conflict`](ErrorKind::Conflict): the schema is newer than this program.
pub(super) async fn run(pool: &Pool) -> Result<()> {
    super::write_begun(pool, Begin::Anyhow, &(), |tx, ()| Box::pin(migrate(tx)), None).await
}

/// What a transaction changes of the schema. Each statement is told in the log before it is run, so
/// that whoever listens can end the process there.
struct Changes<'t> {
    tx: &'t mut Tx,
    count: u64,
}

impl Changes<'_> {
    fn tell(&mut self, of: &str) {
        self.count += 1;
        tracing::debug!(statement = self.count, of, "a statement of the schema");
    }

    async fn script(&mut self, of: &str, sql: &'static str) -> Outcome<()> {
        self.tell(of);
        self.tx.script(sql).await
    }

    async fn execute(&mut self, of: &str, sql: &'static str, args: Vec<Arg>) -> Outcome<()> {
        self.tell(of);
        self.tx.execute(sql, args).await.map(drop)
    }
}

async fn migrate(tx: &mut Tx) -> Outcome<()> {
    let postgres = tx.is_postgres();
    if postgres {
        // Any number will do that no other program at this database uses.
        tx.first("SELECT pg_advisory_xact_lock(5280771894)", args![]).await?;
    }
    let fresh = !is_there(tx).await?;
    let mut changes = Changes { tx, count: 0 };
    if fresh {
        let table = "CREATE TABLE schema_migrations (\
                     version BIGINT PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)";
        changes.script("schema_migrations", table).await?;
    }
    let applied = changes.tx.all("SELECT version FROM schema_migrations", args![]).await?;
    let applied = applied.iter().map(|line| line.int(0)).collect::<Outcome<Vec<_>>>()?;
    if let Some(version) = applied.iter().max().filter(|version| **version > newest()) {
        return Err(too_new(*version).into());
    }
    let own = if postgres { POSTGRES } else { SQLITE };
    let mut wanted: Vec<_> = COMMON.iter().chain(own).filter(|one| !applied.contains(&one.version)).collect();
    wanted.sort_by_key(|migration| migration.version);
    if !wanted.is_empty() && postgres {
        changes.script("schema_migrations", "LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE").await?;
    }
    for migration in wanted {
        for statement in statements(migration.sql) {
            changes.script(migration.name, statement).await?;
        }
        let sql = "INSERT INTO schema_migrations (version, name, applied_at) VALUES ($1, $2, $3)";
        changes.execute(migration.name, sql, args![migration.version, migration.name, value::now()]).await?;
    }
    if changes.tx.first("SELECT 1 FROM install", args![]).await?.is_none() {
        let sql = "INSERT INTO install (one, id, epoch) VALUES (1, $1, 1)";
        changes.execute("install", sql, args![InstallId::generate()]).await?;
    }
    if changes.count > 0 {
        changes.tell("the end");
    }
    Ok(())
}

/// Refuses to write into the schema of a newer program.
pub(super) async fn refuse_newer(tx: &mut Tx) -> Outcome<()> {
    let sql = "SELECT 1 FROM schema_migrations WHERE version > $1 LIMIT 1";
    match tx.first(sql, args![newest()]).await? {
        Some(_) => Err(Error::outdated().into()),
        None => Ok(()),
    }
}

/// Which installation this is.
pub(super) async fn install(tx: &mut Tx) -> Outcome<Install> {
    let line = tx.first("SELECT id, epoch FROM install", args![]).await?;
    let line = line.ok_or_else(|| Error::internal("no install row"))?;
    Ok(Install { id: line.id(0)?, epoch: line.int(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_its_statements() {
        let sql = "-- First.\nCREATE TABLE a (\n    -- One;\n    b TEXT\n);\n\nINSERT INTO a VALUES (1);\n\
                   CREATE TRIGGER c\nBEGIN\n    SELECT 1;\nEND;\n-- The end.\n";
        let cut: Vec<_> = statements(sql).collect();
        assert_eq!(cut.concat(), sql);
        assert_eq!(cut.len(), 4, "{cut:?}");
        assert!(cut[0].ends_with(");\n") && cut[1].starts_with("\nINSERT") && cut[2].ends_with("END;\n"), "{cut:?}");
        for migration in COMMON.iter().chain(SQLITE).chain(POSTGRES) {
            let begun = |statement: &str| {
                let begins = |line: &&str| ["CREATE ", "ALTER ", "INSERT "].iter().any(|word| line.starts_with(word));
                statement.lines().filter(begins).count()
            };
            assert!(statements(migration.sql).all(|statement| begun(statement) == 1), "{}", migration.name);
        }
    }
}
