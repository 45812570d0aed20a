//! Hosts, their networks, and the health of all of it.

use std::time::Duration;

use serde::Serialize;

use super::Limen;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::Result;
use crate::model::{Host, HostState, Network};

/// Whether LIMEN can do its work. It tells nothing that a stranger may not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether the Store answered within a second, and takes this program's changes.
    pub store: bool,
    /// The hosts by name, and whether each can be worked with.
    pub hosts: Vec<HostHealth>,
}

/// One host's part of [`Health`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

    /// The networks of all hosts, as read within the last seconds.
    pub async fn list_networks(&self, ctx: &Context) -> Result<Vec<Network>> {
        self.authorize(ctx, Action::ListNetworks, Resource::Shared, "network")?;
        Ok(self.shared.hosts.iter().flat_map(|host| host.networks()).collect())
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
