//! The figures as JSON.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::proc::{Pressure, SECTOR_BYTES};
use crate::room::Known;
use crate::sample::{Facts, Sample};

/// The document of one sample, without its age.
#[derive(Debug, Serialize)]
struct Document<'a> {
    sampled_at: String,
    sample_seconds: f64,
    host: Host<'a>,
    cpu: Cpu,
    memory: Memory,
    disks: Vec<Disk<'a>>,
    devices: Vec<Device<'a>>,
    networks: Vec<Network<'a>>,
    pressure: Pressures,
}

#[derive(Debug, Serialize)]
struct Host<'a> {
    name: &'a str,
    system: &'a str,
    kernel: &'a str,
    started_at: String,
    uptime_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Cpu {
    count: usize,
    use_percent: Option<f64>,
    window_seconds: Option<f64>,
    load_1m: f64,
    load_5m: f64,
    load_15m: f64,
}

#[derive(Debug, Serialize)]
struct Memory {
    total_bytes: u64,
    used_bytes: u64,
    available_bytes: u64,
    use_percent: f64,
    swap_total_bytes: u64,
    swap_used_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Disk<'a> {
    mount: std::borrow::Cow<'a, str>,
    device: &'a str,
    fs_type: &'a str,
    read_only: bool,
    total_bytes: Option<u64>,
    used_bytes: Option<u64>,
    available_bytes: Option<u64>,
    use_percent: Option<f64>,
    stale: bool,
    age_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Device<'a> {
    name: &'a str,
    read_bytes: u64,
    reads: u64,
    written_bytes: u64,
    writes: u64,
    busy_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Network<'a> {
    name: &'a str,
    received_bytes: u64,
    received_packets: u64,
    receive_errors: u64,
    receive_drops: u64,
    sent_bytes: u64,
    sent_packets: u64,
    send_errors: u64,
    send_drops: u64,
}

#[derive(Debug, Serialize)]
struct Pressures {
    cpu: Option<Waiting>,
    io: Option<Waiting>,
    memory: Option<Waiting>,
}

#[derive(Debug, Serialize)]
struct Waiting {
    waiting_seconds: f64,
    stalled_seconds: Option<f64>,
}

impl From<Pressure> for Waiting {
    fn from(pressure: Pressure) -> Self {
        Self { waiting_seconds: pressure.waiting, stalled_seconds: pressure.stalled }
    }
}

/// Writes all of a sample, one of which is taken each `period`.
///
/// # Errors
/// None that can be: each value is a number or a text.
pub(crate) fn render(facts: &Facts, sample: &Sample, period: Duration) -> serde_json::Result<String> {
    let memory = &sample.memory;
    let (total, available) = (memory.get("MemTotal"), memory.get("MemAvailable"));
    let started = OffsetDateTime::from_unix_timestamp(sample.stat.boot_time.cast_signed()).unwrap_or(sample.at);
    let document = Document {
        sampled_at: moment(sample.at),
        sample_seconds: period.as_secs_f64(),
        host: Host {
            name: &facts.host,
            system: &facts.system,
            kernel: &facts.kernel,
            started_at: moment(started),
            uptime_seconds: rounded((sample.at - started).as_seconds_f64(), 1.0),
        },
        cpu: Cpu {
            count: sample.stat.cpus.len(),
            use_percent: sample.cpu_use.map(|cpu_use| rounded(cpu_use.percent, 100.0)),
            window_seconds: sample.cpu_use.map(|cpu_use| rounded(cpu_use.window.as_secs_f64(), 1e3)),
            load_1m: sample.load[0],
            load_5m: sample.load[1],
            load_15m: sample.load[2],
        },
        memory: Memory {
            total_bytes: total,
            used_bytes: total.saturating_sub(available),
            available_bytes: available,
            use_percent: percent(total.saturating_sub(available), total),
            swap_total_bytes: memory.get("SwapTotal"),
            swap_used_bytes: memory.get("SwapTotal").saturating_sub(memory.get("SwapFree")),
        },
        disks: sample.rooms.iter().map(disk).collect(),
        devices: sample.devices.0.iter().map(device).collect(),
        networks: sample.interfaces.0.iter().map(network).collect(),
        pressure: Pressures {
            cpu: sample.pressures.cpu.map(Waiting::from),
            io: sample.pressures.io.map(Waiting::from),
            memory: sample.pressures.memory.map(Waiting::from),
        },
    };
    serde_json::to_string(&document)
}

fn disk(known: &Known) -> Disk<'_> {
    let room = known.room.map(|(room, _)| room);
    let used = |room: crate::room::Room| room.total_bytes.saturating_sub(room.free_bytes);
    Disk {
        mount: known.mount.point.to_string_lossy(),
        device: &known.mount.device,
        fs_type: &known.mount.fs_type,
        read_only: known.mount.read_only,
        total_bytes: room.map(|room| room.total_bytes),
        used_bytes: room.map(used),
        available_bytes: room.map(|room| room.available_bytes),
        // What df shows: of what users other than root may fill.
        use_percent: room.map(|room| percent(used(room), used(room) + room.available_bytes)),
        stale: known.is_stale,
        age_seconds: known.room.map(|(_, age)| rounded(age.as_secs_f64(), 1e3)),
    }
}

fn device(device: &crate::proc::Device) -> Device<'_> {
    let counters = &device.counters;
    Device {
        name: &device.name,
        read_bytes: counters[2] * SECTOR_BYTES,
        reads: counters[0],
        written_bytes: counters[6] * SECTOR_BYTES,
        writes: counters[4],
        busy_seconds: counters[9] as f64 / 1e3,
    }
}

fn network(interface: &crate::proc::Interface) -> Network<'_> {
    let counters = &interface.counters;
    Network {
        name: &interface.name,
        received_bytes: counters[0],
        received_packets: counters[1],
        receive_errors: counters[2],
        receive_drops: counters[3],
        sent_bytes: counters[8],
        sent_packets: counters[9],
        send_errors: counters[10],
        send_drops: counters[11],
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { rounded(100.0 * part as f64 / whole as f64, 100.0) }
}

/// To a multiple of `1 / parts`.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// RFC 3339 in UTC, to the millisecond.
fn moment(at: OffsetDateTime) -> String {
    let at = at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).unwrap_or(at);
    at.format(&Rfc3339).unwrap_or_default()
}
