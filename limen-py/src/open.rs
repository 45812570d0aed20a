//! From options to an open `Limen`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::Hypervisor;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::metrics::LocalMetrics;
use limen_core::model::GIB;
use limen_core::remote::Remote;
use limen_core::service::{AdminSeed, HostConfig, HostReserve};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Error, Limen, Result, Secret};
use serde::Deserialize;

use crate::streams::Streams;

/// Where LIMEN is: in this process, or a server's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Options {
    Embed(Box<Embed>),
    Connect(Connect),
}

/// The keyword arguments of `limen.Client`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Embed {
    /// Each host's URI by its name; the first is where VMs go that name none.
    hosts: Vec<(String, String)>,
    store: Secret,
    data_dir: Option<PathBuf>,
    admin: Option<(String, Secret)>,
    passive: bool,
    memory_overcommit: Option<f64>,
    free_space_gib: u64,
    max_connections: u32,
}

/// The keyword arguments of `limen.connect`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Connect {
    url: String,
    ca_file: Option<PathBuf>,
}

/// What calls are answered from.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) way: Way,
    pub(crate) streams: Streams,
}

#[derive(Debug)]
pub(crate) enum Way {
    Embedded(Embedded),
    Server(Remote),
}

/// A `Limen` of this process's own.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) limen: Limen,
    pub(crate) sims: BTreeMap<String, SimHypervisor>,
}

impl Options {
    pub(crate) fn parse(options: &[u8]) -> Result<Self> {
        crate::calls::parse(options)
    }

    pub(crate) async fn open(self) -> Result<Opened> {
        let way = match self {
            Options::Embed(embed) => Way::Embedded(embed.open().await?),
            Options::Connect(connect) => Way::Server(connect.open()?),
        };
        Ok(Opened { way, streams: Streams::default() })
    }
}

impl Connect {
    fn open(&self) -> Result<Remote> {
        match &self.ca_file {
            Some(file) => Remote::connect_trusting(&self.url, file),
            None => Remote::connect(&self.url),
        }
    }
}

impl Embed {
    async fn open(self) -> Result<Embedded> {
        if self.hosts.is_empty() {
            return Err(Error::invalid("hypervisor", "hypervisor must name at least one host."));
        }
        let mut sims = BTreeMap::new();
        let mut builder = Limen::builder();
        for (index, (name, uri)) in self.hosts.iter().enumerate() {
            let hypervisor: Arc<dyn Hypervisor> = if uri.starts_with("sim:") {
                let sim =
                    SimHypervisor::from_uri(uri).map_err(|error| Error::invalid("hypervisor", error.to_string()))?;
                sims.insert(name.clone(), sim.clone());
                Arc::new(sim)
            } else {
                self.libvirt(uri).await?
            };
            let mut host = HostConfig::new(name, without_secrets(uri), hypervisor);
            // Those of this machine: where the hosts are others, they are not theirs.
            if index == 0 && is_here(uri) {
                host = host.with_metrics(Arc::new(LocalMetrics::new()?));
            }
            builder = builder.host(host);
        }
        builder = builder.store(self.store().await?).authz(Arc::new(RoleAuthz)).reserve(HostReserve {
            memory_overcommit: self.memory_overcommit,
            free_bytes: self.free_space_gib.saturating_mul(GIB),
        });
        if let Some(directory) = &self.data_dir {
            builder = builder.images(directory.join("images"));
        }
        if let Some((name, password)) = self.admin {
            builder = builder.admin(AdminSeed { name, password });
        }
        if self.passive {
            builder = builder.passive();
        }
        Ok(Embedded { limen: builder.build().await?, sims })
    }

    async fn store(&self) -> Result<Arc<dyn Store>> {
        let pool = PoolSettings {
            max_open: self.max_connections,
            max_idle: self.max_connections.min(PoolSettings::default().max_idle),
            ..PoolSettings::default()
        };
        let store: Arc<dyn Store> = match self.store.expose().split_once(':') {
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                Arc::new(PostgresStore::connect(&self.store, &pool).await?)
            }
            Some(("sqlite", "//:memory:" | ":memory:") | ("", "memory:")) => Arc::new(SqliteStore::in_memory().await?),
            Some(("sqlite", path)) if path.len() > 2 && path.starts_with("//") && !path.contains('?') => {
                Arc::new(SqliteStore::open(&path[2..], &pool).await?)
            }
            _ => {
                let text = "store must be sqlite://PATH, postgres://USER:PASSWORD@HOST:PORT/NAME or :memory:.";
                return Err(Error::invalid("store", text));
            }
        };
        Ok(store)
    }

    #[cfg(feature = "libvirt")]
    async fn libvirt(&self, uri: &str) -> Result<Arc<dyn Hypervisor>> {
        use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};

        let directory = match &self.data_dir {
            Some(directory) => std::path::absolute(directory.join("vms")).map_err(Error::internal)?,
            // The test driver has no files, so no directory is ever made.
            None if uri.starts_with("test:") => PathBuf::from("/nonexistent/limen"),
            None => {
                let text = "data_dir is needed with libvirt: it is where images and the volumes of VMs are.";
                return Err(Error::invalid("data_dir", text));
            }
        };
        let options = LibvirtOptions::new(uri, directory);
        let named = |error: Error| match error.kind() {
            limen_core::ErrorKind::Invalid => Error::invalid("hypervisor", error.to_string()),
            _ => error,
        };
        Ok(Arc::new(LibvirtHypervisor::connect(options).await.map_err(named)?))
    }

    #[cfg(not(feature = "libvirt"))]
    #[allow(clippy::unused_async)]
    async fn libvirt(&self, uri: &str) -> Result<Arc<dyn Hypervisor>> {
        let text =
            format!("This build of limen has no libvirt, so it knows sim:/// alone, not {}.", without_secrets(uri));
        Err(Error::new(limen_core::ErrorKind::Unsupported, text))
    }
}

impl Opened {
    pub(crate) async fn close(&self) {
        self.streams.close_all();
        if let Way::Embedded(embedded) = &self.way {
            embedded.limen.shutdown().await;
        }
    }
}

fn is_here(uri: &str) -> bool {
    uri.split_once("://").is_some_and(|(_, rest)| rest.starts_with('/'))
}

/// A URI for the records: what a client must not see stands before the `@`, or in the query.
fn without_secrets(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("", uri));
    let rest = if scheme == "sim" { rest } else { rest.split('?').next().unwrap_or(rest) };
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    format!("{scheme}://{rest}")
}
