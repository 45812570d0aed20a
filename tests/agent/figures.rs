//! The figures are those of the machine itself, also while it works.

use std::process::{Child, Command};
use std::time::Duration;

use limen_support::disk::SmallDisk;
use limen_support::http::Client;
use limen_support::process;
use serde_json::Value;

use crate::{agent, figures, series, text};

/// Figures may differ by so much: 2 %.
const TOLERANCE: f64 = 0.02;

/// Work for processors and disks until it is dropped.
struct Load(Vec<Child>);

impl Load {
    fn new(directory: &std::path::Path) -> Self {
        let write = format!(
            "while :; do dd if=/dev/zero of={}/load bs=1M count=4 conv=fsync 2>/dev/null; done",
            directory.display()
        );
        let shell = |script: &str| Command::new("setpriv").args(["--pdeathsig", "KILL", "sh", "-c", script]).spawn();
        Self(["while :; do :; done", write.as_str()].map(|script| shell(script).expect("a shell")).into())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// The machine's counters by their names for Prometheus.
#[derive(Debug)]
struct Machine(Vec<(String, f64)>);

impl Machine {
    fn read() -> Self {
        let file = |path: &str| std::fs::read_to_string(path).expect(path);
        let mut counters = Vec::new();
        let numbers =
            |text: &str| -> Vec<f64> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
        for line in file("/proc/stat").lines() {
            let (name, rest) = line.split_once(' ').expect("a name");
            let numbers = numbers(rest);
            if let Some(cpu) = name.strip_prefix("cpu").filter(|cpu| !cpu.is_empty()) {
                // Idle time and waiting may be taken back; the others never fall.
                for (mode, at) in [("user", 0), ("nice", 1), ("system", 2), ("softirq", 6)] {
                    counters.push((
                        format!("node_cpu_seconds_total{{cpu=\"{cpu}\",mode=\"{mode}\"}}"),
                        numbers[at] / 100.0,
                    ));
                }
            }
            for (key, name) in [
                ("ctxt", "node_context_switches_total"),
                ("processes", "node_forks_total"),
                ("intr", "node_intr_total"),
            ] {
                if name_is(line, key) {
                    counters.push((name.to_owned(), numbers[0]));
                }
            }
        }
        let root = root_device();
        for line in file("/proc/diskstats").lines().filter(|line| line.split_whitespace().nth(2) == Some(root.as_str()))
        {
            let numbers = numbers(line);
            counters.push((format!("node_disk_written_bytes_total{{device=\"{root}\"}}"), numbers[8] * 512.0));
            counters.push((format!("node_disk_writes_completed_total{{device=\"{root}\"}}"), numbers[6]));
        }
        for line in file("/proc/net/dev").lines().skip(2) {
            let (name, rest) = line.split_once(':').expect("a name");
            let numbers = numbers(rest);
            counters.push((format!("node_network_receive_bytes_total{{device=\"{}\"}}", name.trim()), numbers[0]));
            counters.push((format!("node_network_transmit_packets_total{{device=\"{}\"}}", name.trim()), numbers[9]));
        }
        for resource in ["cpu", "io", "memory"] {
            let text = file(&format!("/proc/pressure/{resource}"));
            let total = text.lines().next().and_then(|line| line.split("total=").nth(1)).expect("a total");
            let seconds = total.parse::<f64>().expect("a number") / 1e6;
            counters.push((format!("node_pressure_{resource}_waiting_seconds_total"), seconds));
        }
        Self(counters)
    }
}

fn name_is(line: &str, name: &str) -> bool {
    line.split(' ').next() == Some(name)
}

/// The disk that `/` is on, without its partition.
fn root_device() -> String {
    let mut command = Command::new("findmnt");
    let source = process::run(command.args(["-nvo", "SOURCE", "/"]), Duration::from_secs(10)).expect_success();
    let name = source.trim().trim_start_matches("/dev/").to_owned();
    let parent = std::fs::canonicalize(format!("/sys/class/block/{name}")).expect("a block device");
    let is_part = parent.join("partition").exists();
    let disk = if is_part { parent.parent().expect("a disk") } else { &parent };
    disk.file_name().expect("a name").to_string_lossy().into_owned()
}

/// The machine's own counters, a sample that was taken after them, and theirs after it.
async fn bracketed(client: &Client) -> (Machine, String, Machine) {
    let before = Machine::read();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs_f64();
    loop {
        let sample = text(client).await;
        if series(&sample, "limen_agent_sample_timestamp_seconds") > now {
            return (before, sample, Machine::read());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn counters_are_the_kernels_under_load() {
    let directory = tempfile::tempdir().expect("a directory");
    let _load = Load::new(directory.path());
    let agent = agent();
    let client = agent.client();
    let (first_low, first, first_high) = bracketed(&client).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let (last_low, last, last_high) = bracketed(&client).await;
    for (index, (name, low)) in first_low.0.iter().enumerate() {
        // Each counter lies between what it was before the sample and after it.
        for (low, told, high) in [
            (*low, series(&first, name), first_high.0[index].1),
            (last_low.0[index].1, series(&last, name), last_high.0[index].1),
        ] {
            assert!(low <= told && told <= high, "{name}: {low} <= {told} <= {high}");
        }
        // And so does its rise, which the agent and the machine may see 2 % apart.
        let rise = series(&last, name) - series(&first, name);
        let (least, most) = (last_low.0[index].1 - first_high.0[index].1, last_high.0[index].1 - low);
        assert!(least * (1.0 - TOLERANCE) <= rise && rise <= most * (1.0 + TOLERANCE), "{name}: {least} {rise} {most}");
    }
    let user = |text: &str| {
        (0..)
            .map_while(|cpu| {
                text.lines().find_map(|line| {
                    line.strip_prefix(&format!("node_cpu_seconds_total{{cpu=\"{cpu}\",mode=\"user\"}} "))?
                        .parse::<f64>()
                        .ok()
                })
            })
            .sum::<f64>()
    };
    assert!(user(&last) > user(&first), "there was no load");
}

/// Busy and all seconds of all processors.
fn busy_and_all(text: &str) -> (f64, f64) {
    let (mut busy, mut all) = (0.0, 0.0);
    for line in text.lines().filter(|line| line.starts_with("node_cpu_seconds_total{")) {
        let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a value");
        all += value;
        if !["\"idle\"", "\"iowait\""].iter().any(|mode| line.contains(mode)) {
            busy += value;
        }
    }
    (busy, all)
}

#[tokio::test]
async fn cpu_use_is_of_the_stated_window() {
    let directory = tempfile::tempdir().expect("a directory");
    let _load = Load::new(directory.path());
    let agent = Agent5::start();
    let client = agent.0.client();
    // Two samples in a row, as text and as JSON.
    let mut seen: Vec<(String, Value)> = Vec::new();
    while seen.len() < 3 {
        let before = figures(&client).await;
        let sample = text(&client).await;
        let after = figures(&client).await;
        let is_new = seen.last().is_none_or(|(_, last)| last["sampled_at"] != after["sampled_at"]);
        if before["sampled_at"] == after["sampled_at"] && is_new {
            seen.push((sample, after));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for pair in seen.windows(2) {
        let ((before, _), (after, told)) = (&pair[0], &pair[1]);
        let ((busy_before, all_before), (busy, all)) = (busy_and_all(before), busy_and_all(after));
        let percent = 100.0 * (busy - busy_before) / (all - all_before);
        let cpu_use = told["cpu"]["use_percent"].as_f64().expect("a figure");
        assert!((percent - cpu_use).abs() <= 2.0, "{percent} {told}");
        let stamp = "limen_agent_sample_timestamp_seconds";
        let window = series(after, stamp) - series(before, stamp);
        let stated = told["cpu"]["window_seconds"].as_f64().expect("a window");
        assert!((window - stated).abs() <= TOLERANCE * window, "{window} {stated}");
    }
}

/// An agent with samples two seconds apart: three are seen in a row however busy the machine is.
struct Agent5(limen_support::agent::Agent);

impl Agent5 {
    fn start() -> Self {
        Self(limen_support::agent::Agent::start(&[("SAMPLE_SECONDS", "2")]))
    }
}

#[tokio::test]
async fn memory_and_disks_are_as_the_machine_has_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk = SmallDisk::mount(directory.path(), "8m");
    std::fs::write(directory.path().join("half"), vec![1; 3 << 20]).expect("written");
    let agent = agent();
    let client = agent.client();
    let mount = directory.path().to_str().expect("UTF-8");
    let told = figures(&client).await;
    let small = told["disks"].as_array().expect("disks").iter().find(|disk| disk["mount"] == mount).expect("the disk");
    let mut df = Command::new("df");
    let df = process::run(df.args(["-B1", "--output=size,used,avail,pcent", mount]), Duration::from_secs(10))
        .expect_success();
    let words: Vec<u64> = df
        .lines()
        .nth(1)
        .expect("a line")
        .split_whitespace()
        .filter_map(|word| word.trim_end_matches('%').parse().ok())
        .collect();
    assert_eq!(
        ["total_bytes", "used_bytes", "available_bytes"].map(|name| small[name].as_u64()),
        [0, 1, 2].map(|at| Some(words[at])),
        "{df}"
    );
    // df rounds up.
    assert_eq!(small["use_percent"].as_f64().expect("a figure").ceil() as u64, words[3], "{df} {small}");
    assert_eq!((&small["stale"], &small["read_only"]), (&Value::Bool(false), &Value::Bool(false)));

    let total = |name: &str| -> f64 {
        let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
        let line = text.lines().find(|line| line.starts_with(name)).expect(name);
        line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok()).expect("a number") * 1024.0
    };
    let (low, sample, high) = {
        let before = total("MemAvailable:");
        let (_, sample, _) = bracketed(&client).await;
        (before, sample, total("MemAvailable:"))
    };
    let size = total("MemTotal:");
    assert_eq!(series(&sample, "node_memory_MemTotal_bytes"), size);
    let available = series(&sample, "node_memory_MemAvailable_bytes");
    let (low, high) = (low.min(high), low.max(high));
    assert!(low - TOLERANCE * size <= available && available <= high + TOLERANCE * size, "{low} {available} {high}");
    assert_eq!(figures(&client).await["memory"]["total_bytes"].as_f64(), Some(size));

    // A file system that is gone is told no longer.
    drop(disk);
    let is_there = |told: &Value| told["disks"].as_array().expect("disks").iter().any(|disk| disk["mount"] == mount);
    while is_there(&figures(&client).await) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
