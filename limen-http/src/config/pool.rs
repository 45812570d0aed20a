//! Connections to the database.

use std::time::Duration;

use clap::Args;
use limen_core::store::PoolSettings;

use super::Result;
use super::value::{duration, given, number};

/// How many there are, and for how long.
#[derive(Args, Clone, Default)]
pub(super) struct PoolArgs {
    /// Connections to the database at most, 1 to 65535; fewer where it allows fewer [default: 100]
    #[arg(
        long,
        env = "DB_MAX_OPEN_CONNS",
        value_name = "NUMBER",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_max_open_conns: Option<String>,
    /// Idle connections at most: one that is released while there are so many is closed [default: 10]
    #[arg(
        long,
        env = "DB_MAX_IDLE_CONNS",
        value_name = "NUMBER",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_max_idle_conns: Option<String>,
    /// How long a connection is used, 1s to 30d [default: 1h]
    #[arg(
        long,
        env = "DB_CONN_MAX_LIFETIME",
        value_name = "TIME",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_conn_max_lifetime: Option<String>,
    /// How long a connection may be idle before it is closed, 1s to 30d [default: 10m]
    #[arg(
        long,
        env = "DB_CONN_MAX_IDLE_TIME",
        value_name = "TIME",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_conn_max_idle_time: Option<String>,
}

impl PoolArgs {
    /// Judges every value.
    pub(super) fn judge(&self) -> Result<PoolSettings> {
        let default = PoolSettings::default();
        let count = |name, value: Option<&String>, least| -> Result<Option<u32>> {
            given(name, value)?.map(|text| number(name, text, least).map(u32::from)).transpose()
        };
        let span = |name, value| duration(name, value, Duration::from_secs(1)..=Duration::from_secs(30 * 86_400));
        let (lifetime, idle) = (self.db_conn_max_lifetime.as_ref(), self.db_conn_max_idle_time.as_ref());
        Ok(PoolSettings {
            max_open: count("DB_MAX_OPEN_CONNS", self.db_max_open_conns.as_ref(), 1)?.unwrap_or(default.max_open),
            max_idle: count("DB_MAX_IDLE_CONNS", self.db_max_idle_conns.as_ref(), 0)?.unwrap_or(default.max_idle),
            max_lifetime: span("DB_CONN_MAX_LIFETIME", lifetime)?.unwrap_or(default.max_lifetime),
            max_idle_time: span("DB_CONN_MAX_IDLE_TIME", idle)?.unwrap_or(default.max_idle_time),
            ..default
        })
    }
}
