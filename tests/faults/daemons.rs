//! The database and the host's daemon die again and again, under load.

use std::time::{Duration, Instant};

use limen_support::site::{self, Database, Site, wait_for_vm};
use tokio::time::sleep;

use super::{BACK, Load, full_form, second};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_deaths_of_the_database_and_the_daemon() {
    let deaths = if full_form() { 50 } else { 5 };
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let (vms, load) = Load::of_four(&client).await;
    let earlier = if full_form() { load.rate(30).await } else { 0.0 };
    for what in ["database", "daemon"] {
        let mut slowest = (Duration::ZERO, Duration::ZERO);
        for death in 0..deaths {
            // Another moment of the load each time.
            sleep(Duration::from_millis(137 * death % 500)).await;
            if what == "database" {
                site.restart_database();
            } else {
                site.libvirt.kill9();
                site.libvirt.restart();
            }
            let back = Instant::now();
            let (reads, power) = (load.good_again(back).await, load.power_again(back).await);
            slowest = (slowest.0.max(reads), slowest.1.max(power));
            assert!(
                reads < BACK && power < BACK,
                "{what}, death {death}: reads after {reads:?}, power after {power:?}"
            );
            if full_form() && death % 10 == 9 {
                let rate = load.rate(30).await;
                eprintln!("after death {death} of the {what} {rate:.1} good reads/s, {earlier:.1} before");
                assert!(rate >= earlier * 0.95, "{what}: {rate:.1} reads/s, {earlier:.1} before");
            }
        }
        eprintln!("{deaths} deaths of the {what}: reads good after {:?}, power after {:?}", slowest.0, slowest.1);
    }
    let (reads, powers) = load.end().await;
    assert!(reads.iter().all(|read| read.status == 200), "a read was refused");
    assert!(powers.iter().all(|status| matches!(status, 200 | 202 | 409 | 503 | 504)), "{powers:?}");
    for id in &vms {
        // The last action outlives its caller.
        wait_for_vm(&client, id, second(10), |answer| answer.json()["operation"].is_null()).await;
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(10), &[]);
}
