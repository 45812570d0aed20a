//! Everything destroyed, and brought back.

use std::collections::BTreeSet;

use limen_support::site::{Database, is_in, power, vm, wait_for_vm};

use super::*;

/// Ends the server and takes away all that it had: domains, volumes, images, the database, and what
/// the host remembers of it.
fn destroy_everything(site: &Site) {
    site.server.kill9();
    for domain in site.domains() {
        site.libvirt.virsh(&["destroy", &domain]);
        site.libvirt.virsh(&["undefine", "--nvram", &domain]).expect_success();
    }
    for entry in fs::read_dir(site.file("")).expect("the volumes") {
        fs::remove_file(entry.expect("an entry").path()).expect("remove a volume");
    }
    if site.database_url().is_some() {
        site.sql("DROP SCHEMA public CASCADE");
        site.sql("CREATE SCHEMA public");
    }
    let data = site.server.data_dir();
    for entry in fs::read_dir(&data).expect("the data").map(|entry| entry.expect("an entry").path()) {
        // What PostgreSQL's server keeps beside the database stays: no secret of tokens is in a backup.
        if entry.is_dir() { fs::remove_dir_all(&entry) } else { fs::remove_file(&entry) }.expect("remove data");
    }
    assert!(site.domains().is_empty() && site.files().is_empty());
}

async fn comes_back(database: Database) {
    let site = Site::start(database);
    let client = site.server.admin().await;
    let off = marked_vm(&site, &client, "off").await;
    let running = marked_vm(&site, &client, "running").await;
    client
        .patch(&format!("/api/vms/{}", off.vm), &json!({ "autostart": true, "labels": { "tier": "db" } }))
        .await
        .expect(202);
    wait_for_vm(&client, &off.vm, Duration::from_secs(20), |answer| answer.json()["labels"]["tier"] == "db").await;
    power(&client, &running.vm, "start").await.expect(200);
    let before = vm(&client, &off.vm).await;

    let shelf = shelf();
    let made = backup(&site, shelf.path(), 6);
    let told = manifest(&made);
    assert_eq!(told["left_out"][0]["name"], "running", "{told}");
    assert!(told["left_out"][0]["why"].as_str().expect("a reason").contains("not shut off"));
    let names: Vec<_> = told["vms"].as_array().expect("VMs").iter().map(|vm| vm["record"]["name"].clone()).collect();
    assert_eq!(names, ["off"]);
    let scrape = client.get("/api/metrics").await.expect(200);
    let scrape = String::from_utf8_lossy(&scrape.body).into_owned();
    let at = scrape.lines().find_map(|line| line.strip_prefix("limen_backup_last_success_timestamp_seconds "));
    assert!(at.expect("a time").parse::<f64>().expect("a number") > 1e9);

    // Shut off, it is in the next one; an older one is removed, the newest never.
    power(&client, &running.vm, "power_off").await.expect(200);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let made = backup(&site, shelf.path(), 0);
    for directory in [made.clone(), made.join("volumes"), made.join("images"), made.join("definitions")] {
        assert_eq!(fs::metadata(&directory).expect("a directory").permissions().mode() & 0o777, 0o700, "{directory:?}");
        for entry in fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry").path()) {
            let mode = fs::metadata(&entry).expect("a file").permissions().mode() & 0o777;
            assert_eq!(mode, if entry.is_dir() { 0o700 } else { 0o600 }, "{entry:?}");
        }
    }

    destroy_everything(&site);
    let output = limen(&site, &["restore", "--from", text(&made)]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(site.domains(), BTreeSet::from([off.vm.clone(), running.vm.clone()]));
    assert!(has_disk(&site, &off.bytes) && has_disk(&site, &running.bytes), "a disk is not as it was");

    site.server.restart();
    let client = site.server.admin().await;
    let after = vm(&client, &off.vm).await;
    for field in ["name", "labels", "autostart", "spec", "owner", "description"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    site.wait_until_in_order(Duration::from_secs(20), &[]);
    power(&client, &off.vm, "start").await.expect(200);
    wait_for_vm(&client, &off.vm, Duration::from_secs(60), |answer| is_in(answer, "running")).await;
    site.console_until(&off.vm, guest::PROMPT);

    // Once it is back, nothing is overwritten.
    site.server.kill9();
    let again = limen(&site, &["restore", "--from", text(&made)]);
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(again.stderr.contains("already") || again.stderr.contains("not empty"), "{again:?}");
    assert!(has_disk(&site, &running.bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_with_sqlite() {
    comes_back(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_back_with_postgres() {
    comes_back(Database::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_vm_comes_back_under_a_new_name_beside_the_running_server() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let old = marked_vm(&site, &client, "old").await;
    let shelf = shelf();
    let made = backup(&site, shelf.path(), 0);
    let from = ["restore", "--from", text(&made)];
    let output = limen(&site, &[&from[..], &["--vm", "old", "--as", "old-again", "--json"]].concat());
    assert_eq!(output.code, Some(0), "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let id = report["id"].as_str().expect("an id");
    assert_ne!(id, old.vm);
    let new = vm(&client, id).await;
    assert_eq!((new["name"].as_str(), new["status"]["state"].as_str()), (Some("old-again"), Some("shut_off")));
    assert_eq!(new["spec"]["disks"].as_array().expect("disks").len(), 2);
    let twice = volumes(&site).iter().filter(|path| fs::read(path).is_ok_and(|there| there == old.bytes)).count();
    assert_eq!(twice, 2, "its disk, and the old one's");
    site.wait_until_in_order(Duration::from_secs(20), &[]);

    for (arguments, said) in
        [(&["--vm", "old", "--as", "old-again"][..], "name"), (&["--vm", "nobody", "--as", "x"], "no such VM")]
    {
        let refused = limen(&site, &[&from[..], arguments].concat());
        assert!(refused.code != Some(0) && refused.stderr.contains(said), "{refused:?}");
    }
    site.wait_until_in_order(Duration::from_secs(20), &[]);
    // The whole is refused while the server runs.
    let whole = limen(&site, &from);
    assert!(whole.code == Some(1) && whole.stderr.contains("stop it first"), "{whole:?}");
}
