//! What it costs to scrape the counters of VMs: from a server with a thousand of them that run, and
//! beside the one bulk call of libvirt that asks for them, and beside Debian's prometheus-libvirt-exporter.
//!
//! Answers are ratios beside the most that each may be, but for the one limit in milliseconds.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use limen_core::Hypervisor;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_support::debian;
use limen_support::http::Client;
use limen_support::libvirt::PrivateLibvirt;
use limen_support::process::{cpu_ns, free_port, kill9, wait_for};
use limen_support::server::Server;

const SCRAPES: usize = 1000;
/// One follows another after this, so that all of them see samples being taken.
const EVERY: Duration = Duration::from_millis(10);
/// Guests of real libvirt, paused: their QEMUs are there, and need no CPU.
const GUESTS: usize = 100;
/// virsh's one bulk call for what LIMEN samples.
const STATS: &[&str] =
    &["domstats", "--nowait", "--cpu-total", "--balloon", "--block", "--interface", "--list-active", "--raw"];

fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3
}

async fn timed(client: &Client, path: &str, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        client.get(path).await.expect(200);
        times.push(begun.elapsed());
        tokio::time::sleep(EVERY).await;
    }
    times
}

/// Waits until so many VMs are told of; what a scrape tells.
async fn told(client: &Client, at_least: usize) -> String {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let text = String::from_utf8(client.get("/api/metrics").await.expect(200).body.to_vec()).expect("text");
        if text.lines().filter(|line| line.starts_with("libvirt_domain_timed_out{")).count() >= at_least {
            return text;
        }
        assert!(Instant::now() < deadline, "fewer than {at_least} VMs are told of");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn row(what: &str, value: f64, beside: f64, most: f64) {
    let ratio = value / beside;
    let verdict = if ratio <= most { "" } else { "  MISSED" };
    println!("  {what:<46} {value:>9.3} {beside:>9.3}  ratio {ratio:.3} (at most {most}){verdict}");
}

#[tokio::main]
async fn main() {
    let server = Server::options().env("HYPERVISOR_URI", "sim:///?vms=2200").env("METRICS_INTERVAL", "5s").start();
    let client = server.admin().await;
    let plain = told(&client, 1000).await;
    let running = plain.lines().filter(|line| line.starts_with("libvirt_domain_timed_out{")).count();
    let packed = client.with_header("accept-encoding", "gzip");
    let size = packed.get("/api/metrics").await.expect(200).body.len();
    let times = timed(&packed, "/api/metrics", SCRAPES).await;
    println!("{running} running VMs of the simulator: {} KiB, {} KiB compressed", plain.len() >> 10, size >> 10);
    row("scrape p99, ms, beside 20 ms", percentile(&times, 99), 20.0, 1.0);
    println!("  scrape p50, ms {:>39.3}", percentile(&times, 50));
    drop(server);

    let libvirt = PrivateLibvirt::start();
    for number in 0..GUESTS {
        let name = format!("guest-{number}");
        libvirt.define(&format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>"
        ));
        libvirt.virsh_within(Duration::from_secs(60), &["start", "--paused", &name]).expect_success();
    }
    let host =
        LibvirtHypervisor::connect(LibvirtOptions::new(libvirt.uri(), libvirt.hidden_storage_dir().join("limen")));
    let host = host.await.expect("libvirt");
    // virsh makes one bulk call; what it takes beside is taken off.
    let (mut samples, mut calls, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let mut sampled = [0.0; 2];
    for _ in 0..20 {
        let before = [std::process::id(), libvirt.pid()].map(cpu_ns);
        let begun = Instant::now();
        assert_eq!(host.stats().await.expect("counters").len(), GUESTS);
        samples.push(begun.elapsed());
        let after = [std::process::id(), libvirt.pid()].map(cpu_ns);
        for (sampled, (before, after)) in sampled.iter_mut().zip(before.iter().zip(after)) {
            *sampled += (after - before) / 1e6 / 20.0;
        }
        for (arguments, times) in [(STATS, &mut calls), (&["uri"], &mut idle)] {
            let begun = Instant::now();
            libvirt.virsh(arguments).expect_success();
            times.push(begun.elapsed());
        }
    }
    let call = percentile(&calls, 50) - percentile(&idle, 50);
    let server = Server::options()
        .env("HYPERVISOR_URI", libvirt.uri())
        .env("LIMEN_VMS_DIR", libvirt.hidden_storage_dir().join("limen"))
        .env("METRICS_INTERVAL", "5s")
        .start();
    let client = server.admin().await;
    told(&client, GUESTS).await;
    println!("{GUESTS} guests of libvirt, beside one call of virConnectGetAllDomainStats");
    let well = timed(&client, "/api/metrics", SCRAPES).await;
    row("full sample, p50 ms", percentile(&samples, 50), call, 0.6);
    row("scrape p99, ms", percentile(&well, 99), call, 0.02);
    println!("  CPU of a full sample, ms: {:.1} of LIMEN, {:.1} of libvirtd", sampled[0], sampled[1]);
    let exporter = Exporter::start(&libvirt.uri());
    let rival = timed(&Client::new(exporter.port), "/metrics", 20).await;
    row("scrape p99 beside prometheus-libvirt-exporter's", percentile(&well, 99), percentile(&rival, 99), 0.1);
    drop(exporter);

    let list = timed(&client, "/api/vms", SCRAPES).await;
    let name = libvirt.virsh(&["domuuid", "guest-0"]).expect_success();
    let one = format!("/api/vms/{}", name.trim());
    let get = timed(&client, &one, SCRAPES).await;
    let pid = libvirt.qemu_pid(name.trim()).expect("a QEMU").cast_signed();
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !told(&client, GUESTS).await.contains("domain=\"guest-0\",vm=") || !is_silent(&client, name.trim()).await {
        assert!(Instant::now() < deadline, "nobody notices");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("one of them hangs (SIGSTOP), beside all well");
    for (what, path, well) in
        [("scrape", "/api/metrics", &well), ("list", "/api/vms", &list), ("read of it", &one, &get)]
    {
        let times = timed(&client, path, SCRAPES).await;
        row(&format!("{what} p99, ms"), percentile(&times, 99), percentile(well, 99), 1.5);
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
}

/// Debian's prometheus-libvirt-exporter: it asks libvirt of every VM, at each scrape.
struct Exporter {
    child: Child,
    port: u16,
}

impl Exporter {
    fn start(uri: &str) -> Self {
        let port = free_port();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.arg(debian::program("prometheus-libvirt-exporter", "/usr/bin/prometheus-libvirt-exporter"));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg(format!("--libvirt.uri={uri}"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the exporter");
        wait_for("an exporter that answers", Duration::from_secs(60), || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { child, port }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        kill9(&mut self.child);
    }
}

async fn is_silent(client: &Client, id: &str) -> bool {
    client.get(&format!("/api/vms/{id}/stats")).await.expect(200).json()["stale"] == true
}
