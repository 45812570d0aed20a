//! One sample: all figures of one moment.

use std::io;
use std::time::{Duration, Instant};

use sysinfo::System;
use time::OffsetDateTime;

use crate::proc::{self, Devices, Interfaces, Memory, Pressure, Source, Stat};
use crate::room::{Known, Rooms};

/// What does not change while the machine runs.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) host: String,
    pub(crate) kernel: String,
    pub(crate) system: String,
}

impl Facts {
    /// Through sysinfo, once: it knows where each distribution keeps its name.
    fn look() -> Self {
        let known = |fact: Result<String, sysinfo::Error>| fact.unwrap_or_else(|_| "unknown".to_owned());
        Self {
            host: known(System::host_name()),
            kernel: known(System::kernel_version()),
            system: format!("{} {}", known(System::name()), known(System::os_version())),
        }
    }
}

/// Use of the processors over a window of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct CpuUse {
    /// Of all processors, 0 to 100.
    pub(crate) percent: f64,
    pub(crate) window: Duration,
}

/// Waiting for each resource, where the kernel counts it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Pressures {
    pub(crate) cpu: Option<Pressure>,
    pub(crate) io: Option<Pressure>,
    pub(crate) memory: Option<Pressure>,
}

/// The figures of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) at: OffsetDateTime,
    pub(crate) taken: Instant,
    /// None until there are two samples.
    pub(crate) cpu_use: Option<CpuUse>,
    pub(crate) stat: Stat,
    pub(crate) load: [f64; 3],
    pub(crate) memory: Memory,
    pub(crate) devices: Devices,
    pub(crate) interfaces: Interfaces,
    pub(crate) pressures: Pressures,
    pub(crate) rooms: Vec<Known>,
}

/// Takes samples.
#[derive(Debug)]
pub(crate) struct Sampling {
    pub(crate) facts: Facts,
    stat: Source,
    load: Source,
    memory: Source,
    devices: Source,
    interfaces: Source,
    /// CPU, I/O, memory; none where the kernel has none.
    pressures: [Option<Source>; 3],
    rooms: Rooms,
    before: Option<(Stat, Instant)>,
}

impl Sampling {
    pub(crate) fn new() -> Self {
        let pressure = |path| Some(Source::new(path));
        Self {
            facts: Facts::look(),
            stat: Source::new("/proc/stat"),
            load: Source::new("/proc/loadavg"),
            memory: Source::new("/proc/meminfo"),
            devices: Source::new("/proc/diskstats"),
            interfaces: Source::new("/proc/net/dev"),
            pressures: ["/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"].map(pressure),
            rooms: Rooms::new(),
            before: None,
        }
    }

    /// Reads all figures.
    ///
    /// # Errors
    /// A file of `/proc` cannot be read.
    pub(crate) fn sample(&mut self) -> io::Result<Sample> {
        let rooms = self.rooms.look()?;
        let (at, taken) = (OffsetDateTime::now_utc(), Instant::now());
        let mut stat = Stat::read(&mut self.stat)?;
        let cpu_use = self.before.as_ref().and_then(|(before, then)| {
            let percent = proc::use_percent(&before.cpus, &stat.cpus)?;
            Some(CpuUse { percent, window: taken - *then })
        });
        if let Some((before, _)) = &self.before {
            stat.not_below(before);
        }
        self.before = Some((stat.clone(), taken));
        let [cpu, io, memory] = &mut self.pressures;
        Ok(Sample {
            at,
            taken,
            cpu_use,
            stat,
            load: proc::load(&mut self.load)?,
            memory: Memory::read(&mut self.memory)?,
            devices: Devices::read(&mut self.devices)?,
            interfaces: Interfaces::read(&mut self.interfaces)?,
            pressures: Pressures { cpu: pressure(cpu), io: pressure(io), memory: pressure(memory) },
            rooms,
        })
    }
}

/// A kernel that does not count it (`psi=0`) is asked once.
fn pressure(source: &mut Option<Source>) -> Option<Pressure> {
    match Pressure::read(source.as_mut()?) {
        Ok(pressure) => pressure,
        Err(error) => {
            tracing::debug!(%error, "no pressure is told");
            *source = None;
            None
        }
    }
}
