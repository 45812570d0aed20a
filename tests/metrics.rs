//! The figures for monitoring on real back ends: as virsh has it, and there whatever hangs.

use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::libvirt::PrivateLibvirt;
use limen_support::server::Server;
use limen_support::site::{Database, Site, bare, create, power};

/// What is done behind LIMEN's back must show within this.
const SEEN: Duration = Duration::from_secs(10);

/// What a stranger is told of one series; none where it is not there.
async fn figure(client: &Client, series: &str) -> Option<f64> {
    let answer = client.get("/api/metrics").await.expect(200);
    let text = String::from_utf8(answer.body.to_vec()).expect("text");
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// How many domains there are, and how many of them run.
fn domains(libvirt: &PrivateLibvirt) -> (f64, f64) {
    let count = |arguments: &[&str]| libvirt.virsh(arguments).expect_success().split_whitespace().count() as f64;
    (count(&["list", "--all", "--uuid"]), count(&["list", "--state-running", "--uuid"]))
}

/// Waits until the figures are those of virsh; they.
async fn until_as_virsh_has_it(client: &Client, libvirt: &PrivateLibvirt) -> (f64, f64) {
    let deadline = Instant::now() + SEEN;
    let there = domains(libvirt);
    loop {
        let told = (figure(client, "vm_total").await, figure(client, "vm_running").await);
        if told == (Some(there.0), Some(there.1)) {
            return there;
        }
        assert!(Instant::now() < deadline, "virsh has {there:?}, a scrape {told:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vms_are_counted_as_virsh_has_them_also_after_a_restart() {
    let site = Site::start(Database::Sqlite);
    let (client, stranger, libvirt) = (site.server.admin().await, site.server.client(), &site.libvirt);
    let mut ids = Vec::new();
    for name in ["one", "two", "three"] {
        ids.push(create(&client, &bare(name)).await);
    }
    for id in &ids[..2] {
        power(&client, id, "start").await.expect(200);
    }
    libvirt.define(
        "<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices><memballoon model='none'/></devices></domain>",
    );
    libvirt.virsh(&["start", "foreign"]).expect_success();
    assert_eq!(until_as_virsh_has_it(&stranger, libvirt).await, (4.0, 3.0));
    libvirt.virsh(&["destroy", &ids[0]]).expect_success();
    assert_eq!(until_as_virsh_has_it(&stranger, libvirt).await, (4.0, 2.0));

    site.server.kill9();
    libvirt.virsh(&["destroy", &ids[1]]).expect_success();
    site.server.restart();
    assert_eq!(figure(&stranger, "vm_total").await, Some(4.0), "the first scrape");
    assert_eq!(until_as_virsh_has_it(&stranger, libvirt).await, (4.0, 1.0));
    assert_eq!(figure(&stranger, "limen_operation_started_total{kind=\"create_vm\"}").await, Some(0.0), "begun anew");

    // A host that hangs holds up no scrape, and shows as what it is.
    libvirt.sigstop();
    let deadline = Instant::now() + Duration::from_secs(60);
    while figure(&stranger, "limen_host_up{host=\"local\"}").await != Some(0.0) {
        assert!(Instant::now() < deadline, "the host still counts as up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(figure(&stranger, "limen_observation_age_seconds{host=\"local\"}").await > Some(5.0));
    let begun = Instant::now();
    for _ in 0..50 {
        assert_eq!(figure(&stranger, "vm_total").await, Some(4.0));
    }
    println!("a scrape with libvirtd stopped: {:?}", begun.elapsed() / 50);
    assert!(begun.elapsed() < Duration::from_secs(30), "50 scrapes took {:?}", begun.elapsed());
    libvirt.sigcont();
    until_as_virsh_has_it(&stranger, libvirt).await;
}

/// What an admin is told of a VM.
async fn stats(client: &Client, id: &str) -> serde_json::Value {
    client.get(&format!("/api/vms/{id}/stats")).await.expect(200).json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_a_vm_are_virshs_and_one_that_hangs_delays_nobody() {
    let site = Site::start_with(Database::Sqlite, Server::options().env("METRICS_INTERVAL", "1s"));
    let (client, libvirt) = (site.server.admin().await, &site.libvirt);
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let id = create(&client, &bare(name)).await;
        power(&client, &id, "start").await.expect(200);
        ids.push(id);
    }
    let domstats = |id: &str, field: &str| -> f64 {
        let told = libvirt.virsh(&["domstats", id]).expect_success();
        let value = told.lines().find_map(|line| line.trim().strip_prefix(field)?.strip_prefix('=')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {field} in {told}"))
    };
    // What rises is between what virsh has before and after; what stays is the same.
    let (before, told, after) = loop {
        let before = domstats(&ids[0], "cpu.time") / 1e9;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let told = stats(&client, &ids[0]).await;
        let after = domstats(&ids[0], "cpu.time") / 1e9;
        if told["cpu_percent"].is_number() {
            break (before, told, after);
        }
    };
    let cpu = told["cpu_time_seconds"].as_f64().expect("CPU time");
    assert!(before <= cpu && cpu <= after, "{before} <= {cpu} <= {after}");
    assert_eq!(told["memory_mib"].as_f64(), Some(domstats(&ids[0], "balloon.current") / 1024.0), "{told}");
    let text = String::from_utf8(client.get("/api/metrics").await.expect(200).body.to_vec()).expect("text");
    let series = |text: &str, name: &str, id: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")) && line.contains(id))?;
        line.rsplit_once(' ')?.1.parse().ok()
    };
    for id in &ids {
        assert_eq!(series(&text, "libvirt_domain_timed_out", id), Some(0.0), "{text}");
        assert!(series(&text, "libvirt_domain_info_cpu_time_seconds_total", id) > Some(0.0));
    }

    // A QEMU that is stopped: its series are its last, marked; the other's go on.
    let hung = libvirt.qemu_pid(&ids[0]).expect("a QEMU");
    let pid = rustix::process::Pid::from_raw(hung.cast_signed()).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("stopped");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (one, two) = (stats(&client, &ids[0]).await, stats(&client, &ids[1]).await);
        if one["stale"] == true && two["stale"] == false && two["age_seconds"].as_f64() < Some(5.0) {
            break;
        }
        assert!(Instant::now() < deadline, "{one} {two}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let begun = Instant::now();
    for _ in 0..50 {
        let text = String::from_utf8(client.get("/api/metrics").await.expect(200).body.to_vec()).expect("text");
        assert!(series(&text, "libvirt_domain_timed_out", &ids[1]).is_some());
        client.get(&format!("/api/vms/{}", ids[0])).await.expect(200);
    }
    println!("a scrape and a read beside a VM that hangs: {:?}", begun.elapsed() / 50);
    let text = String::from_utf8(client.get("/api/metrics").await.expect(200).body.to_vec()).expect("text");
    assert_eq!(series(&text, "libvirt_domain_timed_out", &ids[0]), Some(1.0));
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).expect("goes on");
    let deadline = Instant::now() + Duration::from_secs(60);
    while stats(&client, &ids[0]).await["stale"] == true {
        assert!(Instant::now() < deadline, "it answers, and is told to hang");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
