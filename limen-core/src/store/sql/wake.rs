//! Tells waiting readers that the log has grown: by a commit of this process at once, by another
//! process' as soon as the database tells.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::model::EventNumber;

/// How commits of other processes are noticed.
pub(in crate::store) enum Watch {
    /// Not at all: the database is this process' own.
    #[cfg(feature = "sqlite")]
    Nothing,
    /// By `PRAGMA data_version`, on a connection of its own.
    #[cfg(feature = "sqlite")]
    Sqlite(sqlx::sqlite::SqliteConnectOptions),
    /// By NOTIFY, and by a look every second.
    #[cfg(feature = "postgres")]
    Postgres(sqlx::postgres::PgConnectOptions),
}

/// The number of the log's last event as far as this process knows, and who keeps it up to date.
pub(super) struct Wake {
    last: watch::Sender<EventNumber>,
    task: Option<JoinHandle<()>>,
}

impl Wake {
    pub(super) fn start(watch: Watch, last: EventNumber) -> Self {
        let (last, _) = watch::channel(last);
        let task = match watch {
            #[cfg(feature = "sqlite")]
            Watch::Nothing => None,
            #[cfg(feature = "sqlite")]
            Watch::Sqlite(options) => Some(tokio::spawn(super::super::sqlite::watch(options, last.clone()))),
            #[cfg(feature = "postgres")]
            Watch::Postgres(options) => Some(tokio::spawn(super::super::postgres::watch(options, last.clone()))),
        };
        Self { last, task }
    }

    /// The log has grown to `number`.
    pub(super) fn grown(&self, number: EventNumber) {
        grown(&self.last, number);
    }

    /// Returns when the log has grown past `after`, at the latest after `at_most`.
    pub(super) async fn changed(&self, after: EventNumber, at_most: Duration) {
        let mut last = self.last.subscribe();
        // An error would mean that the sender, which is here, is gone.
        _ = tokio::time::timeout(at_most, last.wait_for(|last| *last > after)).await;
    }

    pub(super) fn stop(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Numbers only rise, in whatever order they are heard of.
pub(in crate::store) fn grown(last: &watch::Sender<EventNumber>, number: EventNumber) {
    last.send_if_modified(|last| {
        let rises = number > *last;
        if rises {
            *last = number;
        }
        rises
    });
}
