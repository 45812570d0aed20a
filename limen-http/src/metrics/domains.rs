//! The counters of VMs, under the names that libvirt's exporters made common.
//!
//! Thousands of VMs are megabytes of text, so it is written and compressed once for each sample of the
//! counters, for each sight that somebody scrapes with, as soon as the sample is there: a scrape
//! copies it. What is compressed is a run of whole blocks of DEFLATE (RFC 1951) that refers to nothing
//! before it, so it can stand behind whatever a scrape writes before it, in one stream of gzip.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use limen_core::model::{DiskStats, NicStats, Vm, VmSample};
use limen_core::service::SamplesVersion;
use limen_core::{Context, Error, Limen, Result};
use tokio::sync::Mutex;

use super::text::{Kind, Text};

/// Sights that are kept at most.
const KEPT: usize = 8;
/// How long one is kept fresh that nobody scrapes with.
const FORGET: Duration = Duration::from_secs(300);
/// A stream of gzip begins so: DEFLATE, no name, no time, system unknown (RFC 1952).
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of a stream of DEFLATE, with nothing in it.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// A text, plain and compressed.
#[derive(Debug, Default)]
pub(crate) struct Written {
    plain: String,
    deflated: Vec<u8>,
    crc: Crc,
}

impl Written {
    fn of(plain: String) -> Self {
        let mut crc = Crc::new();
        crc.update(plain.as_bytes());
        Self { deflated: deflate(plain.as_bytes()), crc, plain }
    }

    /// This text behind another one.
    pub(crate) fn plain_after(&self, before: String) -> Bytes {
        (before + &self.plain).into()
    }

    /// This text behind another one, compressed.
    pub(crate) fn gzip_after(&self, before: &str) -> Bytes {
        let mut crc = Crc::new();
        crc.update(before.as_bytes());
        crc.combine(&self.crc);
        let head = deflate(before.as_bytes());
        let ends = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
        [&GZIP[..], &head, &self.deflated, &LAST_BLOCK, &ends].concat().into()
    }
}

/// Whole blocks of DEFLATE, none of them the last.
fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::fast(), false);
    let mut deflated = Vec::with_capacity(plain.len() / 8 + 64);
    loop {
        let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        // Compressing into memory cannot fail; where it did, the checksum would tell.
        _ = compress.compress_vec(&plain[read.min(plain.len())..], &mut deflated, FlushCompress::Sync);
        if deflated.len() < deflated.capacity() {
            return deflated;
        }
        deflated.reserve(deflated.capacity());
    }
}

#[derive(Debug)]
struct Entry {
    ctx: Context,
    version: SamplesVersion,
    written: Arc<Written>,
    used: Instant,
}

/// The series of VMs as last written, for each sight.
#[derive(Debug, Default)]
pub(crate) struct Domains {
    entries: Mutex<Vec<Entry>>,
    refreshing: std::sync::OnceLock<()>,
}

impl Domains {
    /// The series of the VMs that the actor may see.
    pub(crate) async fn of(self: &Arc<Self>, limen: &Limen, ctx: &Context) -> Result<Arc<Written>> {
        self.refreshing.get_or_init(|| drop(tokio::spawn(refresh(Arc::downgrade(self), limen.clone()))));
        let version = limen.samples_version(ctx).await?;
        if version.shows_nothing() {
            return Ok(Arc::default());
        }
        // Whoever comes meanwhile waits, and finds it written.
        let mut entries = self.entries.lock().await;
        if let Some(entry) = entries.iter_mut().find(|entry| entry.version == version) {
            entry.used = Instant::now();
            return Ok(Arc::clone(&entry.written));
        }
        let written = write(limen, ctx).await?;
        entries.retain(|entry| !entry.version.is_of_the_same_sight(&version));
        if entries.len() >= KEPT
            && let Some(oldest) = (0..entries.len()).min_by_key(|place| entries[*place].used)
        {
            entries.swap_remove(oldest);
        }
        entries.push(Entry { ctx: ctx.clone(), version, written: Arc::clone(&written), used: Instant::now() });
        Ok(written)
    }
}

/// Writes what is scraped anew with each sample.
async fn refresh(domains: Weak<Domains>, limen: Limen) {
    let mut taken = 0;
    loop {
        let now = limen.next_samples(taken).await;
        let Some(domains) = domains.upgrade().filter(|_| now > taken) else { return };
        taken = now;
        let mut sights: Vec<Context> = Vec::new();
        {
            let mut entries = domains.entries.lock().await;
            entries.retain(|entry| entry.used.elapsed() < FORGET);
            sights.extend(entries.iter().map(|entry| entry.ctx.clone()));
        }
        for ctx in sights {
            let Ok(version) = limen.samples_version(&ctx).await else { continue };
            let Ok(written) = write(&limen, &ctx).await else { continue };
            let mut entries = domains.entries.lock().await;
            if let Some(entry) = entries.iter_mut().find(|entry| entry.version.is_of_the_same_sight(&version)) {
                (entry.version, entry.written) = (version, written);
            }
        }
    }
}

async fn write(limen: &Limen, ctx: &Context) -> Result<Arc<Written>> {
    let samples = limen.list_vm_samples(ctx).await?;
    let written = tokio::task::spawn_blocking(move || Arc::new(Written::of(series(&samples))));
    written.await.map_err(Error::internal)
}

fn series(samples: &[(Arc<Vm>, VmSample)]) -> String {
    let mut text = Text::default();
    let vms: Vec<(String, &VmSample)> = samples
        .iter()
        .map(|(vm, sample)| {
            let id = vm.id.to_string();
            (super::text::labels(&[("host", &vm.host), ("domain", &vm.name), ("vm", &id)]), sample)
        })
        .collect();
    let mut each = |name, kind, help, value: &dyn Fn(&VmSample) -> Option<f64>| {
        let mut family = text.family(name, kind, help);
        for (labels, sample) in &vms {
            if let Some(value) = value(sample) {
                family.labelled(labels, "", value);
            }
        }
    };
    let mib = |mib: u64| Some((mib << 20) as f64);
    each(
        "libvirt_domain_timed_out",
        Kind::Gauge,
        "1 while the VM does not answer, and its series are its last.",
        &|s| Some(f64::from(u8::from(s.stale))),
    );
    each(
        "limen_vm_sampled_timestamp_seconds",
        Kind::Gauge,
        "When the VM's counters were read, in seconds since 1970.",
        &|s| Some(s.sampled_at.unix_timestamp_nanos() as f64 / 1e9),
    );
    each("libvirt_domain_info_cpu_time_seconds_total", Kind::Counter, "CPU time of the guest and its QEMU.", &|s| {
        Some(s.cpu_time_seconds)
    });
    each("libvirt_domain_info_memory_usage_bytes", Kind::Gauge, "Memory that the guest has now.", &|s| {
        mib(s.memory_mib)
    });
    each("libvirt_domain_memory_stats_rss_bytes", Kind::Gauge, "Memory of the VM's process on the host.", &|s| {
        mib(s.memory_rss_mib)
    });
    let help = "Memory that programs of the guest could still get, where its balloon driver tells.";
    each("libvirt_domain_memory_stats_usable_bytes", Kind::Gauge, help, &|s| s.memory_usable_mib.and_then(mib));
    for (name, help, value) in DISKS {
        let mut family = text.family(name, Kind::Counter, help);
        for (labels, sample) in &vms {
            for disk in &sample.disks {
                family.labelled(labels, &disk.stats.device, value(&disk.stats));
            }
        }
    }
    for (name, help, value) in NICS {
        let mut family = text.family(name, Kind::Counter, help);
        for (labels, sample) in &vms {
            for nic in &sample.nics {
                family.labelled(labels, &nic.stats.device, value(&nic.stats));
            }
        }
    }
    text.into_string()
}

type Family<T> = (&'static str, &'static str, fn(&T) -> u64);

const DISKS: [Family<DiskStats>; 4] = [
    ("libvirt_domain_block_stats_read_bytes_total", "Bytes read from the disk.", |disk| disk.read_bytes),
    ("libvirt_domain_block_stats_read_requests_total", "Requests to read from the disk.", |disk| disk.read_requests),
    ("libvirt_domain_block_stats_write_bytes_total", "Bytes written to the disk.", |disk| disk.written_bytes),
    ("libvirt_domain_block_stats_write_requests_total", "Requests to write to the disk.", |disk| disk.write_requests),
];

const NICS: [Family<NicStats>; 8] = [
    ("libvirt_domain_interface_stats_receive_bytes_total", "Bytes that the guest received.", |nic| nic.received.bytes),
    ("libvirt_domain_interface_stats_receive_packets_total", "Packets that the guest received.", |nic| {
        nic.received.packets
    }),
    ("libvirt_domain_interface_stats_receive_errors_total", "Packets with errors on their way to the guest.", |nic| {
        nic.received.errors
    }),
    ("libvirt_domain_interface_stats_receive_drops_total", "Packets dropped on their way to the guest.", |nic| {
        nic.received.drops
    }),
    ("libvirt_domain_interface_stats_transmit_bytes_total", "Bytes that the guest sent.", |nic| nic.sent.bytes),
    ("libvirt_domain_interface_stats_transmit_packets_total", "Packets that the guest sent.", |nic| nic.sent.packets),
    (
        "libvirt_domain_interface_stats_transmit_errors_total",
        "Packets with errors on their way from the guest.",
        |nic| nic.sent.errors,
    ),
    ("libvirt_domain_interface_stats_transmit_drops_total", "Packets dropped on their way from the guest.", |nic| {
        nic.sent.drops
    }),
];

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_compressed_in_two_parts_is_one_stream_of_gzip() {
        for (before, behind) in [("", ""), ("a\n", ""), ("", "b\n"), ("same same same\n", "same same same\n")] {
            let behind = behind.repeat(50_000);
            let written = Written::of(behind.clone());
            let mut told = String::new();
            let bytes = written.gzip_after(before);
            let mut decoder = flate2::read::GzDecoder::new(&bytes[..]);
            decoder.read_to_string(&mut told).expect("one whole stream, with its checksum");
            assert!(decoder.into_inner().is_empty(), "nothing is behind it");
            assert_eq!(told, format!("{before}{behind}"));
            assert_eq!(written.plain_after(before.to_owned()), told);
        }
    }
}
