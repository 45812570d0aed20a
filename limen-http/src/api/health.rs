//! Whether the server works. No token, nothing secret.

use limen_core::model::HostState;
use limen_core::{Error, ErrorKind};
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::dto::{HealthHost, HealthReport};
use crate::error::Result;
use crate::extract::{Anybody, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Health;

#[OpenApi]
impl Health {
    /// How the server, its Store and its hosts are
    #[oai(path = "/api/health", method = "get", operation_id = "health", tag = "Tag::Health")]
    async fn health(&self, anybody: Anybody, _query: Plain) -> Result<Json<HealthReport>> {
        Json::of(&report(&anybody).await)
    }

    /// Whether the process answers at all
    #[oai(path = "/api/health/live", method = "get", operation_id = "health_live", tag = "Tag::Health")]
    async fn live(&self, anybody: Anybody, _query: Plain) -> Result<Json<HealthReport>> {
        Json::of(&report(&anybody).await)
    }

    /// Whether work can be done: 503 while the Store or every host is away
    #[oai(path = "/api/health/ready", method = "get", operation_id = "health_ready", tag = "Tag::Health")]
    async fn ready(&self, anybody: Anybody, _query: Plain) -> Result<Json<HealthReport>> {
        let report = report(&anybody).await;
        let no_host = report.hosts.iter().all(|host| host.state != "up");
        if report.store != "ok" || no_host {
            let what =
                if report.store == "ok" { "No host can be reached now." } else { "The store cannot be reached now." };
            return Err(Error::new(ErrorKind::Unavailable, what)
                .with_retry_after(std::time::Duration::from_secs(2))
                .into());
        }
        Json::of(&report)
    }
}

async fn report(anybody: &Anybody) -> HealthReport {
    let health = anybody.limen().health().await;
    let hosts: Vec<HealthHost> = health
        .hosts
        .into_iter()
        .map(|host| {
            let state = match host.state {
                HostState::Up => "up",
                HostState::Stale => "stale",
                HostState::Unknown => "unknown",
            };
            HealthHost { name: host.name, state: state.to_owned() }
        })
        .collect();
    let well = health.store && hosts.iter().all(|host| host.state == "up");
    HealthReport {
        status: if well { "ok" } else { "degraded" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: if health.store { "ok" } else { "down" }.to_owned(),
        hosts,
    }
}
