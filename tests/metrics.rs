//! The figures for monitoring on real back ends: as virsh has it, and there whatever hangs.

use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::libvirt::PrivateLibvirt;
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
