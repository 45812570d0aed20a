//! The database: whether it answers, lets LIMEN in, and has a schema that this program knows.

use std::path::Path;

use limen_core::Secret;
use limen_core::store::examine::{DatabaseState, PostgresAddress, examine_postgres, examine_sqlite};
use time::OffsetDateTime;

use super::finding::{Kind, Report};
use super::place::{Place, quoted};
use super::{PATIENCE, process, systemctl};
use crate::cli::port;
use crate::config::StoreChoice;

const RESTART: &str = "systemctl restart postgresql";

/// How much two clocks may differ, in seconds.
const CLOCKS: i64 = 5;

/// Where LIMEN has the database's password from, for a command to take it from there.
#[derive(Debug)]
pub(super) enum Password {
    /// `DB_PASSWORD`.
    Variable,
    /// The file that `DB_PASSWORD_FILE` names.
    File(String),
    /// `DATABASE_URL`, between a colon and an @, percent-encoded.
    Url,
}

impl Password {
    /// bash that writes it to standard output.
    fn shown(&self) -> String {
        match self {
            Password::Variable => "printf %s \"$DB_PASSWORD\"".to_owned(),
            Password::File(file) => format!("cat {}", quoted(file)),
            Password::Url => r#"{ u=${DATABASE_URL#*://*:}; u=${u%%@*}; printf %b "${u//%/\\x}"; }"#.to_owned(),
        }
    }
}

/// Looks at it.
pub(super) async fn look(place: &Place, store: &StoreChoice, password: Password) -> Report {
    match store {
        StoreChoice::Sqlite(path) => sqlite(Path::new(path)).await,
        StoreChoice::Postgres(url) => postgres(place, url, password).await,
    }
}

async fn sqlite(path: &Path) -> Report {
    let mut report = Report::default();
    let shown = quoted(&path.to_string_lossy());
    match examine_sqlite(path, PATIENCE).await {
        DatabaseState::Newer(version) => newer(&mut report, version),
        // The data directory's own look says so, and better.
        DatabaseState::Unusable(_) if std::fs::File::open(path).is_err() => {}
        DatabaseState::Unusable(why) => {
            let message =
                format!("{} cannot be read ({why}); set it aside, and bring the last backup back.", path.display());
            report.find(
                Kind::DatabaseUnusable,
                message,
                format!("mv {shown} {shown}.damaged && rm -f {shown}-wal {shown}-shm"),
            );
        }
        DatabaseState::Hung => {
            let message = format!("{} is locked, and does not come free.", path.display());
            report.find(Kind::DatabaseHung, message, systemctl("restart", "limen"));
        }
        DatabaseState::Empty => report.good("database", format!("SQLite, {}: made at the first start", path.display())),
        _ => report.good("database", format!("SQLite, {}", path.display())),
    }
    report
}

async fn postgres(place: &Place, url: &Secret, password: Password) -> Report {
    let mut report = Report::default();
    let (Ok(address), Ok(examined)) = (PostgresAddress::of(url), examine_postgres(url, PATIENCE).await) else {
        let message = "DATABASE_URL is malformed; it is like postgres://USER:PASSWORD@HOST:PORT/NAME.";
        report.find(Kind::SettingRefused, message, place.unset("DATABASE_URL"));
        return report;
    };
    let PostgresAddress { host, port, user, database, .. } = &address;
    let at = format!("PostgreSQL at {host}, port {port}");
    match examined.state {
        DatabaseState::Away(why) => {
            let message = format!("{at}: nobody answers ({why}).");
            // Debian's unit stays active while the servers behind it are not: to start it does nothing.
            report.find(Kind::DatabaseAway, message, on_its_machine(&address, RESTART));
        }
        DatabaseState::Hung => {
            let stopped =
                address.is_local().then(|| port::listener(*port)).flatten().filter(|pid| process::is_stopped(*pid));
            let (why, command) = match stopped {
                Some(pid) => (format!(": process {pid} is stopped (SIGSTOP)"), format!("kill -CONT {pid}")),
                None => (String::new(), on_its_machine(&address, RESTART)),
            };
            report.find(Kind::DatabaseHung, format!("{at} takes connections and does not answer{why}."), command);
        }
        DatabaseState::RefusesUser => {
            let message = format!("{at} refuses user {user} or its password (DB_USER, DB_PASSWORD, DATABASE_URL).");
            let make = as_admin(&address, "createuser", &quoted(user));
            let change = as_admin(&address, "psql", "-q");
            // By standard input: what a command line holds, everybody sees.
            let command = format!(
                "{make} 2>/dev/null; (p=$({} | sed \"s/'/''/g\"); {change} <<<\"ALTER ROLE \\\"{user}\\\" LOGIN PASSWORD '$p'\")",
                password.shown()
            );
            report.find(Kind::DatabaseUser, message, command);
        }
        DatabaseState::Missing => {
            let message = format!("{at} has no database {database} (DB_NAME, DATABASE_URL).");
            let make = format!("-O {} {}", quoted(user), quoted(database));
            report.find(Kind::DatabaseMissing, message, as_admin(&address, "createdb", &make));
        }
        DatabaseState::RefusesTls => {
            let message = format!("{at} does not speak TLS, and sslmode in DATABASE_URL wants it.");
            let command = "export DATABASE_URL=\"$(sed -E 's/sslmode=[a-z-]+/sslmode=prefer/' <<<\"$DATABASE_URL\")\"";
            report.find(Kind::DatabaseTls, message, command);
        }
        DatabaseState::Full => {
            let message = format!("{at} takes no more connections: max_connections is too low for all its clients.");
            let raise = as_admin(&address, "psql", "-c 'ALTER SYSTEM SET max_connections = 300'");
            let restart = on_its_machine(&address, RESTART);
            report.find(Kind::DatabaseFull, message, format!("{raise}; {restart}"));
        }
        DatabaseState::Denied => {
            let message = format!("{at}: user {user} may not read LIMEN's tables in {database}.");
            let grant = format!("-d {} -c 'GRANT ALL ON ALL TABLES IN SCHEMA public TO \"{user}\"'", quoted(database));
            report.find(Kind::DatabaseDenied, message, as_admin(&address, "psql", &grant));
        }
        DatabaseState::Newer(version) => newer(&mut report, version),
        DatabaseState::Unusable(why) => {
            let message = format!("{at}: database {database} cannot be used ({why}).");
            report.find(Kind::DatabaseUnusable, message, on_its_machine(&address, RESTART));
        }
        DatabaseState::Empty => report.good("database", format!("{at}: {database}, filled at the first start")),
        _ => report.good("database", format!("{at}: {database}")),
    }
    if let Some(clock) = examined.clock {
        report.add(clock_differs(&at, clock));
    }
    report
}

fn newer(report: &mut Report, version: i64) {
    let message = format!("A newer LIMEN has written schema {version} to the database; this program does not know it.");
    report.find(Kind::SchemaNewer, message, "apt-get install -y --only-upgrade limen");
}

/// A command of PostgreSQL's own user, on the machine of the database.
fn as_admin(address: &PostgresAddress, program: &str, rest: &str) -> String {
    let socket = match &address.host {
        directory if directory.starts_with('/') => format!(" -h {}", quoted(directory)),
        _ => String::new(),
    };
    let command = format!("{program}{socket} -p {} {rest}", address.port);
    on_its_machine(address, &format!("runuser -u postgres -- {command}"))
}

fn on_its_machine(address: &PostgresAddress, command: &str) -> String {
    if address.is_local() { command.to_owned() } else { format!("ssh root@{} {}", address.host, quoted(command)) }
}

/// Whether this machine's clock and another's differ; `whose` begins a sentence.
pub(super) fn clock_differs(whose: &str, other: OffsetDateTime) -> Report {
    let off = (OffsetDateTime::now_utc() - other).whole_seconds();
    if off.abs() <= CLOCKS {
        return Report::default();
    }
    let word = if off > 0 { "ahead of" } else { "behind" };
    let message = format!("The clock of this machine is {} s {word} that of {whose}.", off.abs());
    Report::found(Kind::ClockDiffers, message, "timedatectl set-ntp true")
}
