//! What the kernel counts, from `/proc`.
//!
//! Not through sysinfo: it knows neither the modes of CPU time, nor pressure, nor counters of devices
//! under the names that dashboards use; and its refresh opens some 78 files where these nine stay open.

mod source;
mod words;

use std::io;

pub(crate) use self::source::Source;
use self::words::{Words, numbers};

/// Ticks of `/proc/stat` a second: `USER_HZ`, which is part of Linux' interface.
const TICKS: f64 = 100.0;
/// The unit of `/proc/diskstats`, whatever the device has.
pub(crate) const SECTOR_BYTES: u64 = 512;

/// The modes of CPU time, in the order of `/proc/stat`; guests' time is in `user` and `nice` too.
pub(crate) const CPU_MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// One processor's time since the start of the machine.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) number: u32,
    /// By [`CPU_MODES`].
    ticks: [u64; 8],
    /// Guests of `user` and of `nice`.
    guest_ticks: [u64; 2],
}

impl Cpu {
    pub(crate) fn seconds(&self) -> [f64; 8] {
        self.ticks.map(|ticks| ticks as f64 / TICKS)
    }

    pub(crate) fn guest_seconds(&self) -> [f64; 2] {
        self.guest_ticks.map(|ticks| ticks as f64 / TICKS)
    }

    fn busy_and_all(&self) -> (u64, u64) {
        let all = self.ticks.iter().sum::<u64>();
        (all - self.ticks[IDLE] - self.ticks[IOWAIT], all)
    }
}

/// Which share of all processors' time was busy between two readings, in percent: all but idle and
/// waiting for I/O. None where no tick has passed.
pub(crate) fn use_percent(before: &[Cpu], after: &[Cpu]) -> Option<f64> {
    let (mut busy, mut all) = (0, 0);
    for (before, after) in
        after.iter().filter_map(|after| Some((before.iter().find(|cpu| cpu.number == after.number)?, after)))
    {
        let ((busy_before, all_before), (busy_after, all_after)) = (before.busy_and_all(), after.busy_and_all());
        busy += busy_after.saturating_sub(busy_before);
        all += all_after.saturating_sub(all_before);
    }
    (all > 0).then(|| 100.0 * busy as f64 / all as f64)
}

/// `/proc/stat`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Stat {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) interrupts: u64,
    pub(crate) context_switches: u64,
    pub(crate) forks: u64,
    pub(crate) procs_running: u64,
    pub(crate) procs_blocked: u64,
    /// Seconds since 1970.
    pub(crate) boot_time: u64,
}

impl Stat {
    pub(crate) fn read(source: &mut Source) -> io::Result<Self> {
        source.text().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let mut stat = Self::default();
        for line in text.lines() {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            let first = || rest.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match name {
                "intr" => stat.interrupts = first(),
                "ctxt" => stat.context_switches = first(),
                "processes" => stat.forks = first(),
                "procs_running" => stat.procs_running = first(),
                "procs_blocked" => stat.procs_blocked = first(),
                "btime" => stat.boot_time = first(),
                _ => {
                    if let Some(number) = name.strip_prefix("cpu").and_then(|number| number.parse().ok()) {
                        let [user, nice, system, idle, iowait, irq, softirq, steal, of_user, of_nice] = numbers(rest);
                        let ticks = [user, nice, system, idle, iowait, irq, softirq, steal];
                        stat.cpus.push(Cpu { number, ticks, guest_ticks: [of_user, of_nice] });
                    }
                }
            }
        }
        stat
    }

    /// The kernel may take back a little idle time; a counter that falls would look like a restart.
    pub(crate) fn not_below(&mut self, before: &Self) {
        for cpu in &mut self.cpus {
            if let Some(before) = before.cpus.iter().find(|before| before.number == cpu.number) {
                cpu.ticks = std::array::from_fn(|mode| cpu.ticks[mode].max(before.ticks[mode]));
            }
        }
    }
}

/// A line of `/proc/meminfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MemoryFigure {
    pub(crate) name: String,
    /// Bytes, or pieces where there is no unit.
    pub(crate) value: u64,
    pub(crate) is_bytes: bool,
}

/// `/proc/meminfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memory(pub(crate) Vec<MemoryFigure>);

impl Memory {
    pub(crate) fn read(source: &mut Source) -> io::Result<Self> {
        source.text().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let figure = |line: &str| {
            let (name, rest) = line.split_once(':')?;
            let mut rest = Words(rest);
            let value: u64 = rest.next()?.parse().ok()?;
            let is_bytes = rest.next() == Some("kB");
            // `Active(anon)` is node_memory_Active_anon_bytes.
            let name = name.replace('(', "_").replace(')', "");
            Some(MemoryFigure { name, value: if is_bytes { value << 10 } else { value }, is_bytes })
        };
        Self(text.lines().filter_map(figure).collect())
    }

    /// A figure by the kernel's name for it, 0 where the kernel has none.
    pub(crate) fn get(&self, name: &str) -> u64 {
        self.0.iter().find(|figure| figure.name == name).map_or(0, |figure| figure.value)
    }
}

/// A line of `/proc/diskstats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    /// In the order of the kernel's `Documentation/admin-guide/iostats.rst`: sectors and milliseconds.
    pub(crate) counters: [u64; 17],
}

/// Block devices: no partitions, RAM disks or loops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Devices(pub(crate) Vec<Device>);

impl Devices {
    pub(crate) fn read(source: &mut Source) -> io::Result<Self> {
        source.text().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let device = |line| {
            let mut words = Words(line);
            let name = words.nth(2)?;
            (!is_part(name)).then(|| Device { name: name.to_owned(), counters: numbers(words.0) })
        };
        Self(text.lines().filter_map(device).collect())
    }
}

/// The names that node_exporter leaves out: `^(ram|loop|fd|(h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$`.
fn is_part(name: &str) -> bool {
    let stem = name.trim_end_matches(|character: char| character.is_ascii_digit());
    let is_numbered = stem.len() < name.len();
    let of_disk = ["hd", "sd", "vd", "xvd"].iter().any(|kind| {
        stem.strip_prefix(kind).is_some_and(|rest| matches!(rest.as_bytes(), [letter] if letter.is_ascii_lowercase()))
    });
    let of_nvme = stem.starts_with("nvme") && stem.ends_with('p');
    is_numbered && (["ram", "loop", "fd"].contains(&stem) || of_disk || of_nvme)
}

/// A line of `/proc/net/dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// Received: bytes, packets, errors, drops, fifo, frame, compressed, multicast; sent: bytes,
    /// packets, errors, drops, fifo, collisions, carrier, compressed.
    pub(crate) counters: [u64; 16],
}

/// Network interfaces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Interfaces(pub(crate) Vec<Interface>);

impl Interfaces {
    pub(crate) fn read(source: &mut Source) -> io::Result<Self> {
        source.text().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let interface = |line: &str| {
            let (name, rest) = line.rsplit_once(": ").or_else(|| line.rsplit_once(':'))?;
            Some(Interface { name: name.trim().to_owned(), counters: numbers(rest) })
        };
        Self(text.lines().skip(2).filter_map(interface).collect())
    }
}

/// The three averages of `/proc/loadavg`: over 1, 5 and 15 minutes.
pub(crate) fn load(source: &mut Source) -> io::Result<[f64; 3]> {
    source.text().map(|text| {
        let mut words = Words(&text);
        std::array::from_fn(|_| words.next().and_then(|word| word.parse().ok()).unwrap_or(0.0))
    })
}

/// How long tasks have waited for a resource (`/proc/pressure/*`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pressure {
    /// Seconds in which some task waited.
    pub(crate) waiting: f64,
    /// Seconds in which all tasks waited; none where the kernel does not count it.
    pub(crate) stalled: Option<f64>,
}

impl Pressure {
    pub(crate) fn read(source: &mut Source) -> io::Result<Option<Self>> {
        source.text().map(|text| Self::parse(&text))
    }

    fn parse(text: &str) -> Option<Self> {
        let total = |kind: &str| {
            let line = text.lines().find(|line| line.starts_with(kind))?;
            let micros: u64 = line.rsplit_once("total=")?.1.trim().parse().ok()?;
            Some(micros as f64 / 1e6)
        };
        Some(Self { waiting: total("some ")?, stalled: total("full ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        let stat = Stat::parse(
            "cpu  9 9 9 9\ncpu0 100 2 30 400 50 6 7 8 90 1\ncpu12 0 0 0 100 0 0 0 0 0 0\nintr 77 1 2 3\nctxt 5\n\
             btime 1700000000\nprocesses 6\nprocs_running 2\nprocs_blocked 1\nsoftirq 8 9\n",
        );
        assert_eq!(stat.cpus.len(), 2);
        assert_eq!((stat.cpus[1].number, stat.interrupts, stat.boot_time), (12, 77, 1_700_000_000));
        assert_eq!(stat.cpus[0].seconds(), [1.0, 0.02, 0.3, 4.0, 0.5, 0.06, 0.07, 0.08]);
        assert_eq!(stat.cpus[0].guest_seconds(), [0.9, 0.01]);

        let memory = Memory::parse("MemTotal:       2048 kB\nActive(anon):   1 kB\nHugePages_Total:       3\n");
        assert_eq!((memory.get("MemTotal"), memory.get("Active_anon"), memory.get("SwapTotal")), (2 << 20, 1024, 0));
        assert!(!memory.0[2].is_bytes);

        let devices = Devices::parse(
            " 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n 254  1 vda1 1 2 3\n   7  0 loop0 0 0\n\
             259 0 nvme0n1 8 0\n 259 1 nvme0n1p2 8 0\n 253 0 dm-0 1 2\n",
        );
        let names: Vec<&str> = devices.0.iter().map(|device| device.name.as_str()).collect();
        assert_eq!(names, ["vda", "nvme0n1", "dm-0"]);
        assert_eq!(devices.0[0].counters[16], 17);
        assert_eq!(devices.0[2].counters[..3], [1, 2, 0]);

        let interfaces = Interfaces::parse(
            "Inter-|   Receive\n face |bytes\n    lo: 5 6 0 0 0 0 0 0 7 8 0 0 0 0 0 9\neth0:1:12 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n",
        );
        assert_eq!((interfaces.0[0].name.as_str(), interfaces.0[0].counters[8]), ("lo", 7));
        assert_eq!((interfaces.0[1].name.as_str(), interfaces.0[1].counters[0]), ("eth0:1", 12));

        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 total=500000\n";
        assert_eq!(Pressure::parse(text), Some(Pressure { waiting: 1.5, stalled: Some(0.5) }));
        assert_eq!(Pressure::parse(""), None);
    }

    #[test]
    fn use_is_what_is_neither_idle_nor_waiting() {
        let cpu = |ticks| Cpu { number: 0, ticks, guest_ticks: [0; 2] };
        let before = [cpu([10, 0, 0, 100, 20, 0, 0, 0])];
        let after = [cpu([30, 0, 5, 150, 45, 0, 0, 0])];
        assert_eq!(use_percent(&before, &after), Some(25.0));
        assert_eq!(use_percent(&before, &before), None);
        assert_eq!(use_percent(&[], &after), None);
    }

    #[test]
    fn counters_do_not_fall() {
        let mut now = Stat::parse("cpu0 1 1 1 90 1 1 1 1 0 0\n");
        now.not_below(&Stat::parse("cpu0 1 1 1 95 0 1 1 1 0 0\n"));
        assert_eq!(now.cpus[0].seconds()[3..5], [0.95, 0.01]);
    }
}
