//! The figures for Prometheus, in its text format 0.0.4, under the names of node_exporter.

use std::fmt::{Display, Write};

use crate::proc::{CPU_MODES, Device, Interface, SECTOR_BYTES};
use crate::room::{Known, Room};
use crate::sample::{Facts, Sample};

/// What this format is, as `Content-Type` says it.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A family of one series an item: its name, what it means, and its value.
type Column<T> = (&'static str, &'static str, fn(&T) -> f64);

const SECTORS: f64 = SECTOR_BYTES as f64;
const MILLISECONDS: f64 = 1e-3;

/// By the name of a device.
const DEVICES: [Column<Device>; 17] = [
    ("node_disk_reads_completed_total", "Reads completed.", |device| of(device, 0, 1.0)),
    ("node_disk_reads_merged_total", "Reads merged.", |device| of(device, 1, 1.0)),
    ("node_disk_read_bytes_total", "Bytes read.", |device| of(device, 2, SECTORS)),
    ("node_disk_read_time_seconds_total", "Seconds of all reads.", |device| of(device, 3, MILLISECONDS)),
    ("node_disk_writes_completed_total", "Writes completed.", |device| of(device, 4, 1.0)),
    ("node_disk_writes_merged_total", "Writes merged.", |device| of(device, 5, 1.0)),
    ("node_disk_written_bytes_total", "Bytes written.", |device| of(device, 6, SECTORS)),
    ("node_disk_write_time_seconds_total", "Seconds of all writes.", |device| of(device, 7, MILLISECONDS)),
    ("node_disk_io_now", "Requests in progress.", |device| of(device, 8, 1.0)),
    ("node_disk_io_time_seconds_total", "Seconds with a request in progress.", |device| of(device, 9, MILLISECONDS)),
    ("node_disk_io_time_weighted_seconds_total", "Seconds of all requests in progress.", |device| {
        of(device, 10, MILLISECONDS)
    }),
    ("node_disk_discards_completed_total", "Discards completed.", |device| of(device, 11, 1.0)),
    ("node_disk_discards_merged_total", "Discards merged.", |device| of(device, 12, 1.0)),
    ("node_disk_discarded_sectors_total", "Sectors of 512 bytes discarded.", |device| of(device, 13, 1.0)),
    ("node_disk_discard_time_seconds_total", "Seconds of all discards.", |device| of(device, 14, MILLISECONDS)),
    ("node_disk_flush_requests_total", "Flushes completed.", |device| of(device, 15, 1.0)),
    ("node_disk_flush_requests_time_seconds_total", "Seconds of all flushes.", |device| of(device, 16, MILLISECONDS)),
];

fn of(device: &Device, counter: usize, unit: f64) -> f64 {
    device.counters[counter] as f64 * unit
}

/// Of `/proc/net/dev`, in its order.
const INTERFACES: [(&str, &str); 16] = [
    ("node_network_receive_bytes_total", "Bytes received."),
    ("node_network_receive_packets_total", "Packets received."),
    ("node_network_receive_errs_total", "Errors of receiving."),
    ("node_network_receive_drop_total", "Packets received and dropped."),
    ("node_network_receive_fifo_total", "Overruns of receiving."),
    ("node_network_receive_frame_total", "Framing errors of receiving."),
    ("node_network_receive_compressed_total", "Compressed packets received."),
    ("node_network_receive_multicast_total", "Multicast packets received."),
    ("node_network_transmit_bytes_total", "Bytes sent."),
    ("node_network_transmit_packets_total", "Packets sent."),
    ("node_network_transmit_errs_total", "Errors of sending."),
    ("node_network_transmit_drop_total", "Packets dropped instead of sent."),
    ("node_network_transmit_fifo_total", "Overruns of sending."),
    ("node_network_transmit_colls_total", "Collisions of sending."),
    ("node_network_transmit_carrier_total", "Losses of the carrier."),
    ("node_network_transmit_compressed_total", "Compressed packets sent."),
];

/// By device, type and place.
const ROOMS: [Column<Room>; 5] = [
    ("node_filesystem_size_bytes", "Size in bytes.", |room| room.total_bytes as f64),
    ("node_filesystem_free_bytes", "Free bytes.", |room| room.free_bytes as f64),
    ("node_filesystem_avail_bytes", "Bytes that users other than root may fill.", |room| room.available_bytes as f64),
    ("node_filesystem_files", "Files that there may be.", |room| room.files as f64),
    ("node_filesystem_files_free", "Files that there may be more.", |room| room.free_files as f64),
];

/// Writes all of a sample.
pub(crate) fn render(facts: &Facts, sample: &Sample) -> String {
    let mut text = Text(String::with_capacity(32 << 10));
    processors(&mut text, sample);
    memory(&mut text, sample);
    load_and_pressure(&mut text, sample);
    file_systems(&mut text, &sample.rooms);
    for (name, help, value) in DEVICES {
        text.family(name, help);
        for device in &sample.devices.0 {
            text.sample(name, &[("device", &device.name)], value(device));
        }
    }
    for (counter, (name, help)) in INTERFACES.into_iter().enumerate() {
        text.family(name, help);
        for Interface { name: device, counters } in &sample.interfaces.0 {
            text.sample(name, &[("device", device)], counters[counter]);
        }
    }
    let at = sample.at.unix_timestamp_nanos() as f64 / 1e9;
    text.one("node_time_seconds", "The machine's clock at the sample, seconds since 1970.", at);
    text.one("limen_agent_sample_timestamp_seconds", "When these figures were read, seconds since 1970.", at);
    let name = "node_uname_info";
    text.family(name, "The machine: its name and kernel.");
    text.sample(name, &[("nodename", &facts.host), ("release", &facts.kernel), ("sysname", "Linux")], 1);
    let name = "limen_agent_build_info";
    text.family(name, "The agent.");
    text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.0
}

fn processors(text: &mut Text, sample: &Sample) {
    let stat = &sample.stat;
    let name = "node_cpu_seconds_total";
    text.family(name, "Seconds that each processor spent in each mode.");
    let numbers: Vec<String> = stat.cpus.iter().map(|cpu| cpu.number.to_string()).collect();
    for (number, cpu) in numbers.iter().zip(&stat.cpus) {
        for (mode, seconds) in CPU_MODES.iter().zip(cpu.seconds()) {
            text.sample(name, &[("cpu", number), ("mode", mode)], seconds);
        }
    }
    let name = "node_cpu_guest_seconds_total";
    text.family(name, "Seconds that each processor spent in guests, which are in user and nice too.");
    for (number, cpu) in numbers.iter().zip(&stat.cpus) {
        for (mode, seconds) in ["user", "nice"].iter().zip(cpu.guest_seconds()) {
            text.sample(name, &[("cpu", number), ("mode", mode)], seconds);
        }
    }
    text.one("node_boot_time_seconds", "When the machine started, seconds since 1970.", stat.boot_time);
    text.one("node_context_switches_total", "Context switches.", stat.context_switches);
    text.one("node_forks_total", "Processes and threads begun.", stat.forks);
    text.one("node_intr_total", "Interrupts served.", stat.interrupts);
    text.one("node_procs_running", "Threads that run or could.", stat.procs_running);
    text.one("node_procs_blocked", "Threads that wait for I/O.", stat.procs_blocked);
}

fn memory(text: &mut Text, sample: &Sample) {
    for figure in &sample.memory.0 {
        let unit = if figure.is_bytes { "_bytes" } else { "" };
        let name = format!("node_memory_{}{unit}", figure.name);
        text.family(&name, "Of the same name in /proc/meminfo.");
        text.sample(&name, &[], figure.value);
    }
}

fn load_and_pressure(text: &mut Text, sample: &Sample) {
    let averages = [("node_load1", "1"), ("node_load5", "5"), ("node_load15", "15")];
    for ((name, minutes), load) in averages.into_iter().zip(sample.load) {
        text.one(name, &format!("Threads that run, could, or wait for a disk; average of {minutes} min."), load);
    }
    let pressures = &sample.pressures;
    let all = [("cpu", pressures.cpu), ("io", pressures.io), ("memory", pressures.memory)];
    for (resource, pressure) in all.into_iter().filter_map(|(resource, pressure)| Some((resource, pressure?))) {
        let name = format!("node_pressure_{resource}_waiting_seconds_total");
        text.one(&name, "Seconds in which some task waited for it.", pressure.waiting);
        // Of processors node_exporter tells no stalling: somebody always runs.
        if let Some(stalled) = pressure.stalled.filter(|_| resource != "cpu") {
            let name = format!("node_pressure_{resource}_stalled_seconds_total");
            text.one(&name, "Seconds in which all tasks waited for it.", stalled);
        }
    }
}

fn file_systems(text: &mut Text, rooms: &[Known]) {
    let points: Vec<_> = rooms.iter().map(|known| known.mount.point.to_string_lossy()).collect();
    let labels = |known: usize| {
        let mount = &rooms[known].mount;
        [("device", mount.device.as_str()), ("fstype", mount.fs_type.as_str()), ("mountpoint", &points[known])]
    };
    for (name, help, value) in ROOMS {
        text.family(name, help);
        for (index, known) in rooms.iter().enumerate() {
            if let Some((room, _)) = &known.room {
                text.sample(name, &labels(index), value(room));
            }
        }
    }
    let name = "node_filesystem_readonly";
    text.family(name, "Whether it cannot be written to.");
    for (index, known) in rooms.iter().enumerate() {
        text.sample(name, &labels(index), u8::from(known.mount.read_only));
    }
    let name = "node_filesystem_device_error";
    text.family(name, "Whether it does not answer now: the figures are the last that it told.");
    for (index, known) in rooms.iter().enumerate() {
        text.sample(name, &labels(index), u8::from(known.is_stale));
    }
    let name = "limen_agent_filesystem_age_seconds";
    text.family(name, "How old its figures were at the sample.");
    for (index, known) in rooms.iter().enumerate() {
        if let Some((_, age)) = known.room {
            text.sample(name, &labels(index), age.as_secs_f64());
        }
    }
}

struct Text(String);

impl Text {
    /// Begins a family: a counter where its name ends in `_total`, else a gauge.
    fn family(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        // Writing into a string cannot fail.
        _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            self.escaped(value);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        _ = writeln!(self.0, " {value}");
    }

    /// A family of one series.
    fn one(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, help);
        self.sample(name, &[], value);
    }

    fn escaped(&mut self, value: &str) {
        if !value.contains(['\\', '"', '\n']) {
            return self.0.push_str(value);
        }
        for character in value.chars() {
            match character {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                other => self.0.push(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_hold_anything() {
        let mut text = Text(String::new());
        text.family("a_total", "So many.");
        text.sample("a_total", &[("b", "\"\\\n"), ("c", "d")], 0.5);
        text.one("e", "Now.", 3);
        let expected = "# HELP a_total So many.\n# TYPE a_total counter\na_total{b=\"\\\"\\\\\\n\",c=\"d\"} 0.5\n\
                        # HELP e Now.\n# TYPE e gauge\ne 3\n";
        assert_eq!(text.0, expected);
    }
}
