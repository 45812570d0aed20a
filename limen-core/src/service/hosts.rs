//! Hosts, their networks, and the health of all of it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Limen;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::{Error, Result};
use crate::model::{Host, HostSample, HostState, Network};

/// How long a host's first figures are waited for.
const FIRST_FIGURES: Duration = Duration::from_secs(1);

/// Whether LIMEN can do its work. It tells nothing that a stranger may not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the Store answered within a second, and takes this program's changes.
    pub store: bool,
    /// The hosts by name, and whether each can be worked with.
    pub hosts: Vec<HostHealth>,
}

/// One host's part of [`Health`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHealth {
    /// The host's name.
    pub name: String,
    /// Whether it can be worked with.
    pub state: HostState,
}

impl Limen {
    /// All hosts. No call to a host.
    pub async fn list_hosts(&self, ctx: &Context) -> Result<Vec<Host>> {
        self.authorize(ctx, Action::ListHosts, Resource::Shared, "host")?;
        let now = self.shared.clock.monotonic();
        let hosts = self.shared.hosts.iter().map(|host| Host {
            id: host.id,
            name: host.name.clone(),
            labels: self.shared.inventory.host_labels(host.id),
            state: host.state(now, &self.shared.timings),
            observed_at: host.observed_at(),
            owner: host.owner(),
            info: host.info(),
            metrics: host.metrics(),
        });
        Ok(hosts.collect())
    }

    /// The last figures of the host of this name, with their age. No call to a host: they are read
    /// every ten seconds, whoever asks. Only the first ones are waited for, a second at most.
    ///
    /// # Errors
    /// What the policy refuses. [`NotFound`](crate::ErrorKind::NotFound): there is no such host.
    /// [`Unsupported`](crate::ErrorKind::Unsupported): no source of its figures was given.
    /// [`Unavailable`](crate::ErrorKind::Unavailable): its source has told nothing yet.
    pub async fn host_metrics(&self, ctx: &Context, name: &str) -> Result<HostSample> {
        self.authorize(ctx, Action::GetHostMetrics, Resource::Shared, "host")?;
        let host = self.shared.hosts.iter().find(|host| host.name == name).ok_or_else(|| Error::not_found("host"))?;
        let metrics = host.known_metrics(FIRST_FIGURES).await?;
        let age = (self.shared.clock.now() - metrics.sampled_at).as_seconds_f64().max(0.0);
        let stale = age > 3.0 * self.shared.timings.info.as_secs_f64();
        Ok(HostSample { host: host.name.clone(), age_seconds: age, stale, metrics })
    }

    /// The networks of all hosts, as read within the last seconds.
    pub async fn list_networks(&self, ctx: &Context) -> Result<Vec<Network>> {
        self.authorize(ctx, Action::ListNetworks, Resource::Shared, "network")?;
        Ok(self.shared.hosts.iter().flat_map(|host| host.networks()).collect())
    }

    /// Whether the actor may read what the host's agent tells: asked before a door passes it on.
    /// Nothing is read here, and nothing changes.
    ///
    /// # Errors
    /// What the policy refuses.
    pub fn read_agent(&self, ctx: &Context) -> Result<()> {
        self.authorize(ctx, Action::ReadAgent, Resource::Shared, "agent")
    }

    /// Asks the Store for its least answer. Needs no right, for it tells nothing: a process asks
    /// itself with it whether it lives.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable), after some seconds at most.
    pub async fn ping_store(&self) -> Result<()> {
        self.shared.store.ping().await
    }

    /// Whether LIMEN can do its work. Needs no right; answers within about a second whatever hangs.
    pub async fn health(&self) -> Health {
        let store = tokio::time::timeout(Duration::from_secs(1), self.shared.store.ping()).await;
        let now = self.shared.clock.monotonic();
        let hosts = self.shared.hosts.iter();
        let hosts =
            hosts.map(|host| HostHealth { name: host.name.clone(), state: host.state(now, &self.shared.timings) });
        Health { store: matches!(store, Ok(Ok(()))), hosts: hosts.collect() }
    }
}
