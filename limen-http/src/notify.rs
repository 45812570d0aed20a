//! The service manager: it is told when the server serves, when it stops, and that it lives.
//!
//! Without systemd around the process nothing is told. The watchdog is fed by a task that has, since
//! it last did so, waited on the runtime and had an answer from the Store: one that it is away will
//! do, since a new process would not reach it either. A runtime whose threads are all blocked, or a
//! Store that never answers, starves it.

use std::future::Future;
use std::time::Duration;

use limen_core::Limen;
use sd_notify::NotifyState;

/// The port is bound, the Store is open: clients may come.
pub(crate) fn serving(address: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("answers on {address}"))]);
}

/// Nothing more is accepted.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("answers the last requests")]);
}

/// Feeds the watchdog, where there is one, until the future is dropped.
pub(crate) async fn keep_alive(limen: Limen) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    feed(period, || limen.ping_store(), || tell(&[NotifyState::Watchdog])).await;
}

/// Calls `fed` after each `touch` that came back, about three times a period.
async fn feed<T, F>(period: Duration, touch: impl Fn() -> F + Send + Sync, fed: impl Fn() + Send + Sync)
where
    T: Send,
    F: Future<Output = T> + Send,
{
    loop {
        // Whatever it answers: that it does is what counts.
        drop(touch().await);
        fed();
        tokio::time::sleep(period / 3).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(target: "limen", %error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn what_does_not_answer_starves_the_watchdog() {
        const PERIOD: Duration = Duration::from_millis(30);
        let (touched, fed) = (AtomicU32::new(0), AtomicU32::new(0));
        let touch = async || {
            if touched.fetch_add(1, Ordering::Relaxed) == 4 {
                std::future::pending::<()>().await;
            }
        };
        let feeding = feed(PERIOD, touch, || _ = fed.fetch_add(1, Ordering::Relaxed));
        assert!(tokio::time::timeout(50 * PERIOD, feeding).await.is_err());
        assert_eq!((touched.into_inner(), fed.into_inner()), (5, 4));
    }
}
