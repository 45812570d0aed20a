//! Feeds the inventory from the log: the one path by which any change is seen, also this process's own.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::store::PRUNED_AT_ONCE;

/// Events read at once.
const BATCH: u32 = 1000;

/// Follows the log until the future is dropped. `anew` begins with a snapshot: where it stopped in
/// the middle of an event, memory may hold a part of it.
pub(super) async fn follow(shared: Arc<Shared>, mut anew: bool) {
    loop {
        let after = shared.inventory.event();
        match shared.store.events_after(after, BATCH).await {
            Ok(batch) if anew || batch.oldest > after + 1 => match shared.store.snapshot().await {
                Ok(snapshot) => {
                    shared.inventory.load(snapshot);
                    anew = false;
                }
                Err(error) => pause(&error).await,
            },
            Ok(batch) if batch.events.is_empty() => shared.store.changed(after, Duration::from_secs(1)).await,
            Ok(batch) => shared.inventory.apply(batch.events),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &crate::Error) {
    tracing::debug!(%error, "the log cannot be read");
    tokio::time::sleep(Duration::from_millis(200)).await;
}

/// Between two parts of what is old: others want the Store too.
const BETWEEN_PARTS: Duration = Duration::from_millis(200);
/// A process that begins has more urgent things to do.
const FIRST_PRUNE: Duration = Duration::from_secs(10);

/// Removes what is older than the retention: a bounded part at a time until there is no more, now
/// and then. So more may grow old than one part in that time.
pub(super) async fn prune(shared: Arc<Shared>) {
    tokio::time::sleep(shared.timings.prune.min(FIRST_PRUNE)).await;
    loop {
        match shared.store.prune(&shared.retention, shared.clock.now()).await {
            Ok(removed) => {
                if removed.values().any(|rows| *rows > 0) {
                    tracing::info!(?removed, "old rows were removed");
                }
                if removed.values().any(|rows| *rows >= PRUNED_AT_ONCE) {
                    tokio::time::sleep(BETWEEN_PARTS).await;
                    continue;
                }
            }
            Err(error) => tracing::warn!(%error, cause = error.causes(), "old rows could not be removed"),
        }
        tokio::time::sleep(shared.timings.prune).await;
    }
}
