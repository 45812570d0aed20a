//! Every shipped back end holds what the committed table says: one test for each row of
//! `limen_core::testing::behaviours::SHIPPED`. A back end that is not there fails its test.

use std::sync::Arc;
use std::time::Duration;

use limen_core::Hypervisor;
use limen_core::hypervisor::libvirt::{LibvirtHypervisor, LibvirtOptions};
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::testing::behaviours::{SHIPPED, Shipped};
use limen_core::testing::hypervisor::{Fixture, run_all};
use limen_support::guest::{self, Hello, Medium};
use limen_support::libvirt::PrivateLibvirt;

/// The back ends that have a test below.
const TESTED: &[&str] = &["sim", "libvirt-test", "libvirt-qemu"];

/// Runs all behaviours and holds them against the back end's row.
async fn conforms(backend: &str, fixture: &Fixture, connect: impl Fn() -> Arc<dyn Hypervisor>) {
    let shipped = Shipped::find(backend).unwrap_or_else(|| panic!("{backend} has no row in the table"));
    let capability = connect().capability();
    let report = run_all(fixture, connect).await;
    println!("{backend}: {} behaviours held", report.held.len());
    shipped.check(capability, &report);
}

#[tokio::test]
async fn the_simulator_conforms() {
    let sim = SimHypervisor::from_uri("sim:///?vms=25&seed=1").expect("a good URI");
    let before = sim.list().await.expect("list");
    conforms("sim", &Fixture::default(), || Arc::new(sim.clone())).await;
    assert_eq!(sim.list().await.expect("list"), before, "the behaviours clean up after themselves");
    assert!(sim.list_volumes().await.expect("list_volumes").is_empty());
}

/// Connects where a back end is asked for without waiting.
fn libvirt(options: LibvirtOptions) -> Arc<dyn Hypervisor> {
    let connected = async { LibvirtHypervisor::connect(options).await.expect("good options") };
    Arc::new(tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(connected)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libvirts_test_driver_conforms() {
    let patience = Duration::from_secs(5);
    let fixture = Fixture { greeting: None, obeys: false, patience, ..Fixture::default() };
    let options = LibvirtOptions::new("test:///default", "/nowhere");
    conforms("libvirt-test", &fixture, || libvirt(options.clone())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn libvirt_with_qemu_conforms() {
    let daemon = PrivateLibvirt::start();
    // A bridge without an address: no DHCP server, nothing that listens.
    let id = guest::nonce();
    let network = format!("limen-{}", &id[..8]);
    let file = daemon.dir().join("network.xml");
    let xml = format!("<network><name>{network}</name><bridge name='lim{}'/></network>", &id[..8]);
    std::fs::write(&file, xml).expect("write a file");
    daemon.virsh(&["net-define", &file.to_string_lossy()]).expect_success();
    daemon.virsh(&["net-start", &network]).expect_success();

    let image = daemon.dir().join("guest.img");
    let nonce = guest::nonce();
    guest::write(Medium::Disk, &nonce, &image);
    let fixture = Fixture {
        prefix: format!("limen-{}", &id[..8]),
        network: network.clone(),
        image: std::fs::read(&image).expect("read the guest"),
        greeting: Some(Hello::pattern(&nonce)),
        obeys: true,
        memory_mib: guest::MEMORY_MIB,
        patience: Duration::from_secs(120),
    };
    let options = LibvirtOptions::new(daemon.uri(), daemon.hidden_storage_dir().join("limen"));
    conforms("libvirt-qemu", &fixture, || libvirt(options.clone())).await;

    assert_eq!(daemon.virsh(&["list", "--all", "--name"]).expect_success().trim(), "", "a VM is left");
    let left = std::fs::read_dir(daemon.dir().join("lib/images/limen")).expect("read the pool");
    let left = left.map(|entry| entry.expect("read the pool").file_name().to_string_lossy().into_owned());
    // A witness stays: one file for each installation that the behaviours have played.
    let (witnesses, left): (Vec<_>, Vec<_>) = left.partition(|name| name.ends_with(".witness"));
    assert!(left.is_empty(), "files are left: {left:?}");
    let installs: std::collections::BTreeSet<_> = witnesses.iter().filter_map(|name| name.split('.').next()).collect();
    assert!(installs.len() == 5 && witnesses.len() == 5, "{witnesses:?}");
    daemon.virsh(&["net-destroy", &network]).expect_success();
}

#[test]
fn every_row_and_every_required_back_end_has_its_test() {
    let rows: Vec<_> = SHIPPED.iter().map(|shipped| shipped.backend).collect();
    assert_eq!(rows, TESTED);
    let required = std::env::var("LIMEN_REQUIRE_BACKENDS").unwrap_or_default();
    let hypervisors = required.split([',', ' ']).filter(|name| *name == "sim" || name.starts_with("libvirt"));
    for name in hypervisors {
        assert!(TESTED.contains(&name), "{name} is required and has no test here");
    }
}
