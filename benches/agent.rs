//! The host agent beside Debian's prometheus-node-exporter, which is cut down to the collectors that
//! both have: what it costs to leave on.
//!
//! Both take turns, so that a noisy machine is noisy for both; the answers are ratios, agent to
//! exporter, beside the most that each may be. Two minutes of a scrape every 15 s, or ten in a campaign
//! (`LIMEN_CAMPAIGN=full`).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use limen_support::agent::{self, NodeExporter};
use limen_support::process::{cpu_ns, free_port};

/// What Prometheus 2.42 sends; the exporter is not made to compress.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
const EVERY: Duration = Duration::from_secs(15);
const STARTS: usize = 20;
const SCRAPES: usize = 2000;

fn main() {
    let rivals = [agent as fn(u16) -> Command, exporter];
    let mut starts = [Vec::new(), Vec::new()];
    for _ in 0..STARTS {
        for (rival, starts) in rivals.iter().zip(&mut starts) {
            starts.push(Process::start(*rival).1);
        }
    }
    let mut pair = rivals.map(|rival| Process::start(rival).0);

    let long = if std::env::var("LIMEN_CAMPAIGN").is_ok_and(|campaign| campaign == "full") { 600 } else { 120 };
    let (mut cpu, mut paced) = (pair.each_ref().map(|process| cpu_ns(process.child.id())), [Vec::new(), Vec::new()]);
    let begun = Instant::now();
    for scrape in 1..=long / EVERY.as_secs() {
        std::thread::sleep((EVERY * scrape as u32).saturating_sub(begun.elapsed()));
        for (process, paced) in pair.iter_mut().zip(&mut paced) {
            paced.push(process.scrape());
        }
    }
    for (cpu, process) in cpu.iter_mut().zip(&pair) {
        *cpu = cpu_ns(process.child.id()) - *cpu;
    }

    let mut rapid = [Vec::new(), Vec::new()];
    for _ in 0..SCRAPES {
        for (process, rapid) in pair.iter_mut().zip(&mut rapid) {
            rapid.push(process.scrape());
        }
    }
    let resident = pair.each_ref().map(Process::resident_kib);

    println!("limen-agent beside node_exporter ({long} s of a scrape every {} s)", EVERY.as_secs());
    row("start to first answer, p50 ms", starts.each_ref().map(|times| milliseconds(times, 50)), 1.0);
    row("resident memory, MiB", resident.map(|kib| kib / 1024.0), 0.35);
    row("scrape p50, ms", rapid.each_ref().map(|times| milliseconds(times, 50)), 0.5);
    row("scrape p99, ms", rapid.each_ref().map(|times| milliseconds(times, 99)), 0.5);
    row("scrape every 15 s, p50 ms", paced.each_ref().map(|times| milliseconds(times, 50)), 0.5);
    row("CPU per scrape, sampling included, ms", cpu.map(|ns| ns / 1e6 / (long / EVERY.as_secs()) as f64), 0.7);
}

fn agent(port: u16) -> Command {
    let mut command = Command::new("setpriv");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(["--pdeathsig", "KILL"]).arg(agent::binary()).args(["--port", &port.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn exporter(port: u16) -> Command {
    NodeExporter::command(port)
}

fn row(what: &str, [agent, exporter]: [f64; 2], most: f64) {
    let ratio = agent / exporter;
    let verdict = if ratio <= most { "" } else { "  MISSED" };
    println!("  {what:<40} {agent:>8.3} {exporter:>8.3}  ratio {ratio:.2} (at most {most}){verdict}");
}

fn milliseconds(times: &[Duration], percentile: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percentile / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

/// One of the two, and a connection to it that is kept, as Prometheus keeps it.
struct Process {
    child: Child,
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

impl Process {
    /// Starts it; it, and how long its first answer took.
    fn start(rival: fn(u16) -> Command) -> (Self, Duration) {
        let port = free_port();
        let mut command = rival(port);
        let begun = Instant::now();
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let mut process = Self { child, port, connection: None };
        loop {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                process.scrape();
                return (process, begun.elapsed());
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{command:?} does not answer");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Reads all figures once; how long it took.
    fn scrape(&mut self) -> Duration {
        let begun = Instant::now();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: {ACCEPT}\r\n\r\n", self.port);
        // The agent closes a connection after ten minutes: who scrapes it connects again.
        let mut answer = self.connection.as_mut().and_then(|connection| Self::ask(connection, &request));
        if answer.is_none() {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connected");
            stream.set_nodelay(true).expect("no delay");
            let connection = self.connection.insert(BufReader::new(stream));
            answer = Self::ask(connection, &request);
        }
        let (length, head) = answer.expect("an answer");
        let connection = self.connection.as_mut().expect("a connection");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain"), "{head}");
        let mut body = Vec::new();
        match length {
            Some(length) => drop(connection.take(length).read_to_end(&mut body).expect("a body")),
            None => Self::chunks(connection, &mut body),
        }
        let took = begun.elapsed();
        let text = String::from_utf8(body).expect("UTF-8");
        assert!(text.contains("\nnode_load1 "), "no figures: {text}");
        took
    }

    /// The length and head of the answer; none from a connection that was closed.
    fn ask(connection: &mut BufReader<TcpStream>, request: &str) -> Option<(Option<u64>, String)> {
        connection.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut head, mut length) = (String::new(), None);
        loop {
            let mut line = String::new();
            if connection.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                return Some((length, head));
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
            head.push_str(&line);
        }
    }

    fn chunks(connection: &mut BufReader<TcpStream>, body: &mut Vec<u8>) {
        loop {
            let mut line = String::new();
            connection.read_line(&mut line).expect("a chunk");
            let length = u64::from_str_radix(line.trim(), 16).expect("a length");
            connection.take(length).read_to_end(body).expect("a chunk");
            connection.read_line(&mut line).expect("its end");
            if length == 0 {
                return;
            }
        }
    }

    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
