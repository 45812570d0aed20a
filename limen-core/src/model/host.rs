//! Hosts: machines with a hypervisor.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::HostId;

/// A host as the Store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// The host.
    pub id: HostId,
    /// Its name, unique.
    pub name: String,
    /// How its hypervisor is reached, without secrets: `qemu:///system`, `sim:///?vms=10`.
    pub uri: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Rises by one with each change.
    pub version: i64,
}

/// Whether a host can be worked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// Observed within the last 5 seconds.
    Up,
    /// Not observed for more than 5 seconds: its VMs are shown as last seen.
    Stale,
    /// Never observed since this process started.
    Unknown,
}

/// A host as callers see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The host.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it can be worked with.
    pub state: HostState,
    /// When it was last observed in full.
    #[serde(with = "time::serde::rfc3339::option")]
    pub observed_at: Option<OffsetDateTime>,
    /// The server that works on it, by the name that it bears in leases; none where no server has
    /// it, or none has been heard of yet. One that was killed is told for as long as its lease lasts.
    #[serde(default)]
    pub owner: Option<String>,
    /// What it has; none until it was reached once.
    pub info: Option<HostInfo>,
    /// Its figures, at most some seconds old; none where no source of them was given.
    pub metrics: Option<HostMetrics>,
}

/// How guests run on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtType {
    /// With hardware virtualization.
    Kvm,
    /// By software emulation (TCG): correct, and many times slower.
    Qemu,
    /// Not at all: a simulator or libvirt's test driver.
    Test,
}

/// What a host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// The machine's name as its hypervisor tells it.
    pub hostname: String,
    /// The hypervisor's name and version: `QEMU 7.2.22`.
    pub hypervisor: String,
    /// The CPU architecture: `x86_64`.
    pub architecture: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How guests run.
    pub virt_type: VirtType,
    /// Free bytes where LIMEN's volumes live.
    pub free_bytes: u64,
}

/// A network of a host that NICs can be on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The host's name.
    pub host: String,
    /// The network's name, unique on its host.
    pub name: String,
    /// Whether it is started.
    pub active: bool,
    /// The bridge behind it, where there is one.
    pub bridge: Option<String>,
}

/// An address of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The NIC that has it.
    pub mac: String,
    /// The address.
    pub address: IpAddr,
    /// Who told: `lease`, `arp` or `guest_agent`.
    pub source: String,
}

/// A host's figures at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostMetrics {
    /// When they were taken, by the clock of the machine that LIMEN runs on.
    #[serde(with = "time::serde::rfc3339")]
    pub sampled_at: OffsetDateTime,
    /// CPU use of all CPUs since the sample before, 0 to 100.
    pub cpu_percent: f64,
    /// Logical CPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_total_bytes: u64,
    /// Memory that programs could still get, in bytes.
    pub memory_available_bytes: u64,
    /// Seconds since the machine booted.
    pub uptime_seconds: u64,
}

/// A host's last figures, and how old they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostSample {
    /// The host's name.
    pub host: String,
    /// How old the figures are, in seconds.
    pub age_seconds: f64,
    /// They are older than half a minute: where they come from does not answer, and they are the last
    /// that were had.
    pub stale: bool,
    /// The figures.
    #[serde(flatten)]
    pub metrics: HostMetrics,
}
