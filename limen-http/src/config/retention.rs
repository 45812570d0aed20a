//! How long things are kept.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use limen_core::store::Retention;

use super::value::given;
use super::{Result, refuse};

/// What is removed when.
#[derive(Args, Clone, Default)]
pub(super) struct RetentionArgs {
    /// How many days the event log goes back, 1 to 3650 [default: 30]
    #[arg(long, env = "EVENTS_DAYS", value_name = "DAYS", hide_env_values = true)]
    events_days: Option<String>,
    /// How many days finished operations are kept, 30 to 3650 [default: 90]
    #[arg(long, env = "OPERATIONS_DAYS", value_name = "DAYS", hide_env_values = true)]
    operations_days: Option<String>,
    /// How many hours an idempotency key is remembered, 24 to 8760 [default: 24]
    #[arg(long, env = "IDEMPOTENCY_KEYS_HOURS", value_name = "HOURS", hide_env_values = true)]
    idempotency_keys_hours: Option<String>,
    /// How many days the audit goes back, 30 to 36500 [default: 400]
    #[arg(long, env = "AUDIT_DAYS", value_name = "DAYS", hide_env_values = true)]
    audit_days: Option<String>,
    /// How many hours sessions and API tokens are kept after their end, 0 to 8760 [default: 24]
    #[arg(long, env = "ENDED_SESSIONS_HOURS", value_name = "HOURS", hide_env_values = true)]
    ended_sessions_hours: Option<String>,
}

impl RetentionArgs {
    /// Judges every value.
    pub(super) fn judge(&self) -> Result<Retention> {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        let default = Retention::default();
        Ok(Retention {
            events: span("EVENTS_DAYS", self.events_days.as_ref(), DAY, 1..=3650)?.unwrap_or(default.events),
            operations: span("OPERATIONS_DAYS", self.operations_days.as_ref(), DAY, 30..=3650)?
                .unwrap_or(default.operations),
            keys: span("IDEMPOTENCY_KEYS_HOURS", self.idempotency_keys_hours.as_ref(), HOUR, 24..=8760)?
                .unwrap_or(default.keys),
            audit: span("AUDIT_DAYS", self.audit_days.as_ref(), DAY, 30..=36_500)?.unwrap_or(default.audit),
            ended: span("ENDED_SESSIONS_HOURS", self.ended_sessions_hours.as_ref(), HOUR, 0..=8760)?
                .unwrap_or(default.ended),
        })
    }
}

/// So many of `unit` seconds.
fn span(name: &str, value: Option<&String>, unit: u64, range: RangeInclusive<u64>) -> Result<Option<Duration>> {
    let Some(text) = given(name, value)? else { return Ok(None) };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(Some(Duration::from_secs(number * unit))),
        _ => refuse(format!("{name} must be a number from {} to {}, not {text:?}.", range.start(), range.end())),
    }
}
