//! Figures of running VMs, as last sampled.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::VmId;

/// Counters of one disk of a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DiskStats {
    /// The disk's name in the VM's definition: `vda`.
    pub device: String,
    /// Bytes read.
    pub read_bytes: u64,
    /// Requests to read.
    pub read_requests: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Requests to write.
    pub write_requests: u64,
}

/// Counters of one NIC of a running VM.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NicStats {
    /// The NIC's name on the host: `vnet0`.
    pub device: String,
    /// What the guest received.
    pub received: Traffic,
    /// What the guest sent.
    pub sent: Traffic,
}

/// Counters of one direction of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets with errors.
    pub errors: u64,
    /// Packets dropped.
    pub drops: u64,
}

/// The last figures of a running VM, their rates, and how old they are. Counters rise from the VM's
/// start; rates are over the time between the last two samples, and absent before the second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmSample {
    /// The VM.
    pub vm_id: VmId,
    /// When the counters were read, by the server's clock.
    #[serde(with = "time::serde::rfc3339")]
    pub sampled_at: OffsetDateTime,
    /// How old the figures are, in seconds.
    pub age_seconds: f64,
    /// The VM did not answer the last two times, or nobody asked: these are the last figures that
    /// were had.
    pub stale: bool,
    /// CPU time of the guest and its QEMU, in seconds.
    pub cpu_time_seconds: f64,
    /// CPU use, in percent of one CPU: 200 is two CPUs at work.
    pub cpu_percent: Option<f64>,
    /// Memory that the guest has now, in MiB (balloon).
    pub memory_mib: u64,
    /// Memory of its process on the host, in MiB.
    pub memory_rss_mib: u64,
    /// Memory that programs of the guest could still get, in MiB, where its balloon driver tells.
    pub memory_usable_mib: Option<u64>,
    /// Its disks.
    pub disks: Vec<DiskSample>,
    /// Its NICs.
    pub nics: Vec<NicSample>,
}

/// Figures of one disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskSample {
    /// The counters.
    #[serde(flatten)]
    pub stats: DiskStats,
    /// Bytes read in a second.
    pub read_bytes_per_second: Option<f64>,
    /// Bytes written in a second.
    pub written_bytes_per_second: Option<f64>,
}

/// Figures of one NIC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NicSample {
    /// The counters.
    #[serde(flatten)]
    pub stats: NicStats,
    /// Bytes received in a second.
    pub received_bytes_per_second: Option<f64>,
    /// Bytes sent in a second.
    pub sent_bytes_per_second: Option<f64>,
}
