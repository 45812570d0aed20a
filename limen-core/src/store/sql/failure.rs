//! What a database's refusal means to a caller.

use sqlx::error::ErrorKind as SqlKind;

use crate::error::{Error, ErrorKind};

/// The result of a call inside a transaction.
pub(super) type Outcome<T> = std::result::Result<T, Failure>;

/// Why a call inside a transaction failed.
#[derive(Debug)]
pub(in crate::store) enum Failure {
    /// The database said so.
    Sql(sqlx::Error),
    /// A rule of the Store says so.
    Refused(Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Failure::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Refused(error)
    }
}

impl Failure {
    fn code(&self) -> Option<String> {
        match self {
            Failure::Sql(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
            _ => None,
        }
    }

    fn sql_kind(&self) -> Option<SqlKind> {
        match self {
            Failure::Sql(sqlx::Error::Database(error)) => Some(error.kind()),
            _ => None,
        }
    }

    /// SQLite's primary result code; PostgreSQL's codes have five characters.
    fn sqlite_code(&self) -> Option<u32> {
        self.code().filter(|code| code.len() < 5)?.parse::<u32>().ok().map(|code| code & 0xff)
    }

    /// Whether the same transaction may go through when it is tried again at once.
    pub(super) fn is_transient(&self) -> bool {
        const SQLITE_BUSY: u32 = 5;
        const SQLITE_LOCKED: u32 = 6;
        match self.sqlite_code() {
            Some(code) => matches!(code, SQLITE_BUSY | SQLITE_LOCKED),
            // Serialization failure, deadlock.
            None => matches!(self.code().as_deref(), Some("40001" | "40P01")),
        }
    }

    /// Whether the connection is gone, or of no use as it is; another one may do.
    pub(super) fn is_dead(&self) -> bool {
        match self {
            Failure::Sql(sqlx::Error::Io(error)) => error.kind() != std::io::ErrorKind::TimedOut,
            Failure::Sql(
                sqlx::Error::Protocol(_) | sqlx::Error::BeginFailed | sqlx::Error::InvalidSavePointStatement,
            ) => true,
            // The server shuts down or ended the connection.
            _ => matches!(self.code().as_deref(), Some("57P01" | "57P02" | "57P03" | "25P03" | "57P05")),
        }
    }

    /// Whether the answer of a COMMIT that failed so tells nothing about its outcome.
    pub(super) fn is_unanswered(&self) -> bool {
        self.is_dead() || matches!(self, Failure::Sql(sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed))
    }

    /// This failure with `taken` for a unique violation and `dangling` for a broken reference.
    pub(super) fn named(self, taken: &str, dangling: &str) -> Self {
        let refusal = match self.sql_kind() {
            Some(SqlKind::UniqueViolation) => Error::new(ErrorKind::AlreadyExists, taken),
            Some(SqlKind::ForeignKeyViolation) => Error::new(ErrorKind::Conflict, dangling),
            _ => return self,
        };
        Failure::Refused(refusal.with_source(self.into_source()))
    }

    fn into_source(self) -> Box<dyn std::error::Error + Send + Sync> {
        match self {
            Failure::Sql(error) => Box::new(error),
            Failure::Refused(error) => Box::new(error),
        }
    }

    /// What the caller is told.
    pub(in crate::store) fn into_error(self) -> Error {
        let failure = self.named("The name or id is taken.", "Something that this refers to is not there.");
        let sql = match failure {
            Failure::Refused(error) => return error,
            Failure::Sql(ref error) => error,
        };
        let error = match sql {
            sqlx::Error::Database(_) => failure.of_database(),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::BeginFailed => Error::unavailable("The store"),
            sqlx::Error::Configuration(_) => Error::invalid("database_url", "The database's address is malformed."),
            _ => return Error::internal(failure.into_source()),
        };
        error.with_source(failure.into_source())
    }

    fn of_database(&self) -> Error {
        if let Some(code) = self.sqlite_code() {
            return match code {
                // BUSY, LOCKED, READONLY, IOERR, CANTOPEN, PROTOCOL
                5 | 6 | 8 | 10 | 14 | 15 => Error::unavailable("The store"),
                // FULL
                13 => no_space(),
                _ => Error::new(ErrorKind::Internal, "The store gave an answer that was not expected."),
            };
        }
        let code = self.code().unwrap_or_default();
        match code.as_str() {
            "53100" => no_space(),
            "53300" => Error::overloaded("The database takes no more connections: others hold all that it allows"),
            // A character that the database cannot keep.
            "22021" | "22P05" => super::value::nul(),
            // Serialization failure and deadlock after all retries, statement or lock timeout, read-only.
            "40001" | "40P01" | "57014" | "55P03" | "25006" => Error::unavailable("The store"),
            // Connection, authorization, no such database, resources, operator, system.
            code if ["08", "28", "3D", "53", "57", "58", "25"].iter().any(|class| code.starts_with(class)) => {
                Error::unavailable("The store")
            }
            _ => Error::new(ErrorKind::Internal, "The store gave an answer that was not expected."),
        }
    }
}

fn no_space() -> Error {
    Error::new(ErrorKind::NoSpace, "The store has no space left.")
}
