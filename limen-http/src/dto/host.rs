//! Hosts, networks and the server's health.

use std::collections::HashMap;

use limen_core::model::{self, HostState, VirtType};
use poem_openapi::Object;
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Described, Wire};

/// What a host has.
#[derive(Debug, Object)]
#[oai(rename = "HostInfo")]
pub(crate) struct HostInfoSchema {
    /// The machine's name as its hypervisor tells it.
    hostname: String,
    /// The hypervisor's name and version.
    hypervisor: String,
    /// The CPU architecture.
    architecture: String,
    /// Logical CPUs.
    cpus: u32,
    /// Memory in MiB.
    memory_mib: u64,
    /// How guests run: with hardware virtualization, by software emulation, or not at all.
    virt_type: Wire<VirtType>,
    /// Free bytes where LIMEN's volumes live.
    free_bytes: u64,
}

/// A host's figures at one moment.
#[derive(Debug, Object)]
#[oai(rename = "HostMetrics")]
pub(crate) struct HostMetricsSchema {
    /// When they were taken.
    sampled_at: OffsetDateTime,
    /// CPU use since the sample before, 0 to 100.
    cpu_percent: f64,
    /// Logical CPUs.
    cpus: u32,
    /// Memory in bytes.
    memory_total_bytes: u64,
    /// Memory that programs could still get, in bytes.
    memory_available_bytes: u64,
    /// Seconds since the machine booted.
    uptime_seconds: u64,
}

/// A host's last figures, and how old they are.
#[derive(Debug, Object)]
#[oai(rename = "HostSample")]
pub(crate) struct HostSampleSchema {
    /// The host's name.
    host: String,
    /// How old the figures are, in seconds.
    age_seconds: f64,
    /// They are older than half a minute: where they come from does not answer, and they are the last
    /// that were had.
    stale: bool,
    /// When they were taken, by the server's clock.
    sampled_at: OffsetDateTime,
    /// CPU use of all CPUs since the sample before, 0 to 100.
    cpu_percent: f64,
    /// Logical CPUs.
    cpus: u32,
    /// Memory in bytes.
    memory_total_bytes: u64,
    /// Memory that programs could still get, in bytes.
    memory_available_bytes: u64,
    /// Seconds since the machine booted.
    uptime_seconds: u64,
}

impl Described for model::HostSample {
    type Schema = HostSampleSchema;
}

/// A machine with a hypervisor.
#[derive(Debug, Object)]
#[oai(rename = "Host")]
pub(crate) struct HostSchema {
    /// The host.
    id: Uuid,
    /// Its name.
    name: String,
    /// Labels.
    labels: HashMap<String, String>,
    /// Whether it can be worked with.
    state: Wire<HostState>,
    /// When it was last observed in full.
    observed_at: Option<OffsetDateTime>,
    /// The server that works on it, by the name that `limen serve` logs when it starts; null where
    /// none does.
    owner: Option<String>,
    /// What it has; null until it was reached once.
    info: Option<HostInfoSchema>,
    /// Its figures as last sampled.
    #[oai(skip_serializing_if_is_none)]
    metrics: Option<HostMetricsSchema>,
}

impl Described for model::Host {
    type Schema = HostSchema;
}

/// A network of a host that NICs can be on.
#[derive(Debug, Object)]
#[oai(rename = "Network")]
pub(crate) struct NetworkSchema {
    /// The host's name.
    host: String,
    /// The network's name, unique on its host.
    name: String,
    /// Whether it is started.
    active: bool,
    /// The bridge behind it, where there is one.
    bridge: Option<String>,
}

impl Described for model::Network {
    type Schema = NetworkSchema;
}

/// A host, to anybody.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "HealthHost")]
pub(crate) struct HealthHost {
    /// Its name.
    pub(crate) name: String,
    /// `up`, `stale` or `unknown`.
    pub(crate) state: String,
}

/// How the server is.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Health")]
pub(crate) struct HealthReport {
    /// `ok`, or `degraded` while the Store or a host is away.
    pub(crate) status: String,
    /// The server's version.
    pub(crate) version: String,
    /// `ok` or `down`.
    pub(crate) store: String,
    /// The hosts.
    pub(crate) hosts: Vec<HealthHost>,
}

impl Described for HealthReport {
    type Schema = Self;
}
