//! How much and how slowly clients may ask.

use std::time::Duration;

use clap::Args;

use super::value::{duration, given, one_of};
use super::{Result, refuse};
use crate::pace::Timeouts;

/// What a client may do.
#[derive(Args, Clone, Default)]
pub(super) struct LimitArgs {
    /// Whether clients that send too many requests are refused: true or false [default: true]
    #[arg(long, env = "RATE_LIMIT_ENABLED", value_name = "BOOL", hide_env_values = true)]
    pub(super) rate_limit_enabled: Option<String>,
    /// Requests that a client may send in a second, 0.1 to 100000 [default: 10]
    #[arg(long, env = "RATE_LIMIT_RPS", value_name = "NUMBER", hide_env_values = true)]
    pub(super) rate_limit_rps: Option<String>,
    /// Requests that a client may send at once after a pause, 1 to 100000 [default: 20]
    #[arg(long, env = "RATE_LIMIT_BURST", value_name = "NUMBER", hide_env_values = true)]
    pub(super) rate_limit_burst: Option<String>,
    /// How long a request may take to arrive, 1s to 1h [default: 15s]
    #[arg(long, env = "READ_TIMEOUT", value_name = "TIME", hide_env_values = true)]
    pub(super) read_timeout: Option<String>,
    /// How long a client may take nothing of its answer, 1s to 1h [default: 15s]
    #[arg(long, env = "WRITE_TIMEOUT", value_name = "TIME", hide_env_values = true)]
    pub(super) write_timeout: Option<String>,
    /// How long a connection may be idle, 1s to 24h [default: 120s]
    #[arg(long, env = "IDLE_TIMEOUT", value_name = "TIME", hide_env_values = true)]
    pub(super) idle_timeout: Option<String>,
}

/// Requests of one client: so many a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) per_second: f64,
    pub(crate) burst: u32,
}

impl LimitArgs {
    /// The rate limit; none when it is off.
    pub(super) fn rate(&self) -> Result<Option<Rate>> {
        let choices = [("true", true), ("false", false)];
        let enabled = one_of("RATE_LIMIT_ENABLED", self.rate_limit_enabled.as_ref(), &choices)?.unwrap_or(true);
        let per_second = match given("RATE_LIMIT_RPS", self.rate_limit_rps.as_ref())? {
            None => 10.0,
            Some(text) => match text.parse() {
                Ok(number) if (0.1..=100_000.0).contains(&number) => number,
                _ => return refuse(format!("RATE_LIMIT_RPS must be a number from 0.1 to 100000, not {text:?}.")),
            },
        };
        let burst = match given("RATE_LIMIT_BURST", self.rate_limit_burst.as_ref())? {
            None => 20,
            Some(text) => match text.parse() {
                Ok(number @ 1..=100_000) => number,
                _ => return refuse(format!("RATE_LIMIT_BURST must be a number from 1 to 100000, not {text:?}.")),
            },
        };
        Ok(enabled.then_some(Rate { per_second, burst }))
    }

    /// How slow a client may be.
    pub(super) fn timeouts(&self) -> Result<Timeouts> {
        const HOUR: Duration = Duration::from_secs(3600);
        let default = Timeouts::default();
        let least = Duration::from_secs(1);
        Ok(Timeouts {
            read: duration("READ_TIMEOUT", self.read_timeout.as_ref(), least..=HOUR)?.unwrap_or(default.read),
            write: duration("WRITE_TIMEOUT", self.write_timeout.as_ref(), least..=HOUR)?.unwrap_or(default.write),
            idle: duration("IDLE_TIMEOUT", self.idle_timeout.as_ref(), least..=24 * HOUR)?.unwrap_or(default.idle),
        })
    }
}
