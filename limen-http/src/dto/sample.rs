//! Figures of running VMs.

use limen_core::model;
use poem_openapi::Object;
use time::OffsetDateTime;
use uuid::Uuid;

use super::Described;

/// The last figures of a running VM, their rates, and how old they are. Counters rise from the VM's
/// start; rates are over the time between the last two samples, and null before the second.
#[derive(Debug, Object)]
#[oai(rename = "VmSample")]
pub(crate) struct VmSampleSchema {
    /// The VM.
    vm_id: Uuid,
    /// When the counters were read, by the server's clock.
    sampled_at: OffsetDateTime,
    /// How old the figures are, in seconds.
    age_seconds: f64,
    /// The VM did not answer the last two times, or nobody asked: these are the last figures that
    /// were had.
    stale: bool,
    /// CPU time of the guest and its QEMU, in seconds.
    cpu_time_seconds: f64,
    /// CPU use, in percent of one CPU: 200 is two CPUs at work.
    cpu_percent: Option<f64>,
    /// Memory that the guest has now, in MiB (balloon).
    memory_mib: u64,
    /// Memory of its process on the host, in MiB.
    memory_rss_mib: u64,
    /// Memory that programs of the guest could still get, in MiB, where its balloon driver tells.
    memory_usable_mib: Option<u64>,
    /// Its disks.
    disks: Vec<DiskSampleSchema>,
    /// Its NICs.
    nics: Vec<NicSampleSchema>,
}

impl Described for model::VmSample {
    type Schema = VmSampleSchema;
}

/// Figures of one disk.
#[derive(Debug, Object)]
#[oai(rename = "DiskSample")]
pub(crate) struct DiskSampleSchema {
    /// The disk's name in the VM's definition: `vda`.
    device: String,
    /// Bytes read.
    read_bytes: u64,
    /// Requests to read.
    read_requests: u64,
    /// Bytes written.
    written_bytes: u64,
    /// Requests to write.
    write_requests: u64,
    /// Bytes read in a second.
    read_bytes_per_second: Option<f64>,
    /// Bytes written in a second.
    written_bytes_per_second: Option<f64>,
}

/// Figures of one NIC.
#[derive(Debug, Object)]
#[oai(rename = "NicSample")]
pub(crate) struct NicSampleSchema {
    /// The NIC's name on the host: `vnet0`.
    device: String,
    /// What the guest received.
    received: TrafficSchema,
    /// What the guest sent.
    sent: TrafficSchema,
    /// Bytes received in a second.
    received_bytes_per_second: Option<f64>,
    /// Bytes sent in a second.
    sent_bytes_per_second: Option<f64>,
}

/// Counters of one direction of a NIC.
#[derive(Debug, Object)]
#[oai(rename = "Traffic")]
pub(crate) struct TrafficSchema {
    /// Bytes.
    bytes: u64,
    /// Packets.
    packets: u64,
    /// Packets with errors.
    errors: u64,
    /// Packets dropped.
    drops: u64,
}
