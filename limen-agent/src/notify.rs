//! The service manager: it is told when the agent serves, when it stops, and that it lives.
//!
//! Without systemd around the process nothing is told. The watchdog is fed while samples come and the
//! thread that answers turns.

use sd_notify::NotifyState;

use crate::clock::Clock;

/// The port is bound and the first sample taken.
pub(crate) fn serving(address: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&format!("answers on {address}"))]);
}

/// Nothing more is accepted.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("gives the last answers")]);
}

/// Feeds the watchdog, where there is one, until the future is dropped.
pub(crate) async fn keep_alive(clock: Clock) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    loop {
        if clock.runs() {
            tell(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(period / 3).await;
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
