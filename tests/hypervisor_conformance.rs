//! Every shipped back end holds what the committed table says: one test for each row of
//! `limen_core::testing::behaviours::SHIPPED`. A back end that is not there fails its test.

use std::sync::Arc;

use limen_core::Hypervisor;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::testing::behaviours::{SHIPPED, Shipped};
use limen_core::testing::hypervisor::{Fixture, run_all};

/// The back ends that have a test below.
const TESTED: &[&str] = &["sim"];

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
