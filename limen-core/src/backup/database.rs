//! The Store's database as a file: SQLite by its own `VACUUM INTO`, PostgreSQL by `pg_dump`.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::secret::Secret;

/// Which database the Store is in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Database {
    /// A SQLite file.
    #[cfg(feature = "sqlite")]
    Sqlite(PathBuf),
    /// A PostgreSQL database, by its URL. Needs `pg_dump` and `pg_restore` of its version or newer,
    /// in `/usr/lib/postgresql`, `/usr/local/bin` or `/usr/bin`.
    #[cfg(feature = "postgres")]
    Postgres(Secret),
}

impl Database {
    /// `sqlite` or `postgres`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "postgres",
        }
    }

    /// The dump's file in a backup.
    pub(super) fn file(&self) -> &'static str {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => "database.sqlite",
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => "database.dump",
        }
    }

    /// Writes a consistent copy to a new file, beside a running server.
    pub(super) async fn dump(&self, to: &Path) -> Result<()> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) => crate::store::sqlite::copy_to(path, to).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                let file = format!("--file={}", to.display());
                postgres::run("pg_dump", url, &["--format=custom", "--no-owner", "--no-privileges", &file]).await
            }
        }
    }

    /// Refuses a database in which there is something.
    pub(super) async fn must_be_empty(&self) -> Result<()> {
        let taken = |what: String| Err(Error::new(ErrorKind::AlreadyExists, what));
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) if path.exists() => taken(format!(
                "There is a database already: {}. Move it away first; with it its -wal and -shm.",
                path.display()
            )),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) if !crate::store::postgres::is_empty(url).await? => taken(
                "The database is not empty. Restore into a new one: createdb, and its name in DB_NAME.".to_owned(),
            ),
            _ => Ok(()),
        }
    }

    /// Loads a dump into what is empty; all of it, or nothing.
    pub(super) async fn load(&self, from: &Path) -> Result<()> {
        match self {
            #[cfg(feature = "sqlite")]
            Self::Sqlite(path) => sqlite::load(from, path).await,
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                let flags = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"];
                let file = from.display().to_string();
                postgres::run("pg_restore", url, &[&flags[..], &[&file]].concat()).await
            }
        }
    }
}

#[cfg(feature = "sqlite")]
mod sqlite {
    use super::{Path, Result};
    use crate::backup::files::{at, make_directory, sync_directory, write};

    pub(super) async fn load(from: &Path, to: &Path) -> Result<()> {
        let directory = to.parent().unwrap_or(Path::new("."));
        make_directory(directory).await?;
        let source = tokio::fs::File::open(from).await.map_err(at(from))?;
        let draft = format!(".restored-{}", std::process::id());
        let written = write(directory, &draft, source).await;
        let draft = directory.join(draft);
        let placed = match written {
            // A link refuses a name that is taken.
            Ok(_) => tokio::fs::hard_link(&draft, to).await.map_err(at(to)),
            Err(error) => Err(error),
        };
        tokio::fs::remove_file(&draft).await.ok();
        placed?;
        sync_directory(directory).await
    }
}

#[cfg(feature = "postgres")]
mod postgres {
    use std::path::PathBuf;
    use std::process::Stdio;

    use super::{Error, ErrorKind, Result, Secret};

    /// Runs one of PostgreSQL's programs. The password goes by the environment, which no other user
    /// can read, and never into the arguments.
    pub(super) async fn run(program: &str, url: &Secret, arguments: &[&str]) -> Result<()> {
        let path = find(program).ok_or_else(|| {
            let text = format!(
                "There is no {program}. It is in Debian's package postgresql-client: apt-get install postgresql-client"
            );
            Error::new(ErrorKind::Unsupported, text)
        })?;
        let (address, password) = apart(url)?;
        let mut command = tokio::process::Command::new(path);
        command.args(arguments).arg(format!("--dbname={address}")).stdin(Stdio::null()).kill_on_drop(true);
        if let Some(password) = password {
            command.env("PGPASSWORD", password.expose());
        }
        let output = command.output().await.map_err(Error::internal)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
        Err(Error::new(ErrorKind::Unavailable, format!("{program} failed: {last}.")))
    }

    /// The newest there is: it can dump older databases, and not the other way round.
    fn find(program: &str) -> Option<PathBuf> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = versions
            .filter_map(|entry| {
                Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(program)))
            })
            .filter(|(_, path)| path.exists())
            .collect();
        versions.sort();
        let debian = versions.pop().map(|(_, path)| path);
        debian.or_else(|| {
            let places = ["/usr/local/bin", "/usr/bin", "/bin"];
            places.iter().map(|place| PathBuf::from(place).join(program)).find(|path| path.exists())
        })
    }

    /// The address without its password, and that.
    fn apart(url: &Secret) -> Result<(String, Option<Secret>)> {
        let malformed = || Error::invalid("database_url", "The database's address is malformed.");
        let mut address = url::Url::parse(url.expose()).map_err(|_| malformed())?;
        let password = address.password().map(|encoded| {
            let bytes = percent_encoding::percent_decode_str(encoded);
            Secret::new(bytes.decode_utf8_lossy().into_owned())
        });
        // It has no password then, or cannot have one: a host is missing, and none was there.
        address.set_password(None).ok();
        Ok((address.into(), password))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_password_is_taken_out_of_the_address() {
            let (address, password) =
                apart(&Secret::new("postgres://me:p%40ss%2Fword@db:5432/limen?sslmode=require")).expect("a URL");
            assert_eq!(address, "postgres://me@db:5432/limen?sslmode=require");
            assert_eq!(password.expect("a password").expose(), "p@ss/word");
            let (address, password) = apart(&Secret::new("postgres:///limen?host=/run/postgresql")).expect("a URL");
            assert_eq!((address.as_str(), password.is_none()), ("postgres:///limen?host=/run/postgresql", true));
        }
    }
}
