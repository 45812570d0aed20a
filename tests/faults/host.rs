//! Guests are killed, the host is rebooted, its disk is full, a disk of a guest is damaged.

use std::path::Path;
use std::time::{Duration, Instant};

use limen_support::disk::{self, SmallDisk};
use limen_support::http::Client;
use limen_support::process::run;
use limen_support::server::Server;
use limen_support::site::{self, Database, Site, bare, create, is_in, power, text, vm, wait_for_vm};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{full_form, running, second};

/// What happens to a guest is shown within this.
const SEEN: Duration = Duration::from_secs(3);

fn kill_guest(site: &Site, id: &str) {
    let pid = site.libvirt.qemu_pid(id).expect("the guest runs").cast_signed();
    kill_process(Pid::from_raw(pid).expect("a process id"), Signal::KILL).expect("kill a guest");
}

/// Shown as crashed, with the reason; answers how long that took.
async fn is_crashed(client: &Client, id: &str) -> Duration {
    let took = wait_for_vm(client, id, SEEN, |answer| is_in(answer, "crashed")).await;
    let shown = vm(client, id).await;
    let reason = &shown["status"]["reason"];
    assert!(matches!(reason.as_str(), Some("crashed" | "failed")), "{shown}");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_killed_guests_is_shown_at_once() {
    let rounds = if full_form() { 50 } else { 4 };
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let id = create(&client, &running("killed")).await;
    let other = create(&client, &running("other")).await;
    let mut slowest = Duration::ZERO;
    for _ in 0..rounds {
        kill_guest(&site, &id);
        slowest = slowest.max(is_crashed(&client, &id).await);
        power(&client, &id, "start").await.expect(200);
        wait_for_vm(&client, &id, SEEN, |answer| is_in(answer, "running")).await;
    }
    eprintln!("{rounds} guests were killed; the slowest was shown as crashed after {slowest:?}");

    // It dies while nobody looks: the daemon is away, the server, both.
    for (daemon, server) in [(true, false), (false, true), (true, true)] {
        if server {
            site.server.kill9();
        }
        if daemon {
            site.libvirt.kill9();
        }
        kill_guest(&site, &id);
        if daemon {
            site.libvirt.restart();
        }
        if server {
            site.server.restart();
        }
        is_crashed(&client, &id).await;
        assert!(is_in(&client.get(&format!("/api/vms/{other}")).await, "running"));
        power(&client, &id, "start").await.expect(200);
    }

    // Renamed behind LIMEN's back it is still the same one.
    power(&client, &id, "power_off").await.expect(200);
    site.libvirt.virsh(&["domrename", &id, "another-name"]).expect_success();
    power(&client, &id, "start").await.expect(200);
    assert_eq!(vm(&client, &id).await["name"], "killed");
    for id in [&id, &other] {
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(10), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebooted_host_runs_what_starts_by_itself() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let mut wanted = running("by-itself");
    wanted["autostart"] = json!(true);
    wanted["disks"] = json!([{ "size_gib": 1 }]);
    let auto = create(&client, &wanted).await;
    let manual = create(&client, &running("by-hand")).await;
    let off = create(&client, &bare("off")).await;
    for server_too in [false, true] {
        if server_too {
            site.server.kill9();
        }
        site.libvirt.reboot();
        if server_too {
            site.server.restart();
        }
        let up = Instant::now();
        wait_for_vm(&client, &auto, second(10), |answer| is_in(answer, "running")).await;
        for id in [&manual, &off] {
            wait_for_vm(&client, id, second(10), |answer| {
                is_in(answer, "shut_off") && answer.json()["status"]["stale"] == false
            })
            .await;
        }
        eprintln!("{:?} after the host was up again all was shown", up.elapsed());
        assert!(site.libvirt.qemu_pid(&manual).is_none() && site.libvirt.qemu_pid(&auto).is_some());
        power(&client, &manual, "start").await.expect(200);
    }
    // The host is as good as before: a new VM with a disk.
    let mut wanted = running("new");
    wanted["disks"] = json!([{ "size_gib": 1 }]);
    let new = create(&client, &wanted).await;
    for id in [&auto, &manual, &off, &new] {
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(10), &[]);
}

/// A refusal for want of space, at the request or at the end of the operation.
async fn is_full(client: &Client, wanted: &Value) {
    let answer = client.waiting(50).post("/api/vms", wanted).await;
    assert_eq!((answer.status, &answer.json()["code"]), (507, &json!("no_space")), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_pool_is_507_and_nothing_is_left() {
    let site = Site::start_with(Database::Postgres, Server::options().env("FREE_SPACE_GIB", "0"));
    let client = site.server.admin().await;
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(file.path(), vec![0x5a; 6 << 20]).expect("write a file");
    let image = site.add_image("six", "raw", file.path());
    let pool = site.libvirt.hidden_storage_dir().join("limen");
    site.libvirt.mount_small(&pool, "8m");
    let seen = site.libvirt.seen_at(&pool);
    let begun = Instant::now();
    let free = async || client.get("/api/hosts").await.json()["items"][0]["info"]["free_bytes"].as_u64();
    while free().await.is_none_or(|free| free > 8 << 20) {
        assert!(begun.elapsed() < second(30), "the host does not tell of its disk");
        sleep(Duration::from_millis(100)).await;
    }
    client.get(&format!("/api/images/{image}")).await.expect(200);
    let unused = client.get("/api/quota").await.expect(200).json()["used"].clone();
    let mut with_disk = bare("full");

    // Less is free than is promised: refused before anything is done.
    with_disk["disks"] = json!([{ "size_gib": 1 }]);
    is_full(&client, &with_disk).await;
    assert_eq!(site.sql("SELECT COUNT(*) FROM operations WHERE kind = 'create_vm'"), ["0"]);

    // Others take the space that was free: while the disk is filled, the image is copied, the disk is made.
    for (disks, taken) in [
        (json!([{ "image": image }]), 4 << 20),
        (json!([{ "image": image, "mode": "linked" }]), 4 << 20),
        (json!([{ "image": image }]), 8 << 20),
    ] {
        let ballast = seen.join("ballast");
        if taken < 8 << 20 {
            std::fs::write(&ballast, vec![1; taken]).expect("write a file");
        } else {
            disk::fill(&seen);
        }
        with_disk["disks"] = disks.clone();
        is_full(&client, &with_disk).await;
        let left: Vec<_> = std::fs::read_dir(&seen).expect("read a directory").flatten().collect();
        assert_eq!(left.len(), 1, "{disks}: {left:?}");
        std::fs::remove_file(ballast).expect("remove a file");
        assert_eq!(client.get("/api/quota").await.expect(200).json()["used"], unused);
        assert_eq!(client.get("/api/vms").await.expect(200).json()["items"], json!([]));
        assert_eq!(site.check(), Vec::<String>::new(), "{disks}");
    }
    // There is room again, as soon as the host has told so.
    let begun = Instant::now();
    let id = loop {
        let answer = client.waiting(50).post("/api/vms", &with_disk).await;
        if answer.status == 200 {
            break text(&answer.json(), "vm_id");
        }
        assert!(answer.status == 507 && begun.elapsed() < second(30), "{answer:?}");
        sleep(Duration::from_millis(200)).await;
    };
    site::delete(&client, &id).await;

    // The host has no space for a definition, or for the change of one.
    let id = create(&client, &bare("changed")).await;
    let definitions = Path::new("/etc/libvirt/qemu");
    site.libvirt.mount_small(definitions, "64k");
    disk::fill(&site.libvirt.seen_at(definitions));
    is_full(&client, &bare("undefined")).await;
    let change = client.waiting(50).patch(&format!("/api/vms/{id}"), &json!({ "memory_mib": 80 })).await;
    assert_eq!((change.status, &change.json()["code"]), (507, &json!("no_space")), "{change:?}");
    site.libvirt.unmount(definitions);
    assert_eq!(vm(&client, &id).await["spec"]["memory_mib"], 64);
    client.waiting(50).patch(&format!("/api/vms/{id}"), &json!({ "memory_mib": 80 })).await.expect(200);
    site::delete(&client, &id).await;
    assert_eq!(client.get("/api/quota").await.expect(200).json()["used"], unused);
    assert_eq!(site.check(), Vec::<String>::new());
    assert!(!site.server.log().contains("status=500"), "no answer was a 500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_servers_is_507_and_nothing_is_left() {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let small = SmallDisk::mount(directory.path(), "4m");
    let server = Server::options()
        .env("HYPERVISOR_URI", "sim:///")
        .env("DATABASE_URL", format!("sqlite://{}", directory.path().join("limen.db").display()))
        .env("LIMEN_IMAGES_DIR", directory.path().join("images"))
        .start();
    let client = server.admin().await;
    let kept = create(&client, &bare("kept")).await;

    // An image that does not fit.
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(file.path(), vec![0x5a; 6 << 20]).expect("write a file");
    let mut add = server.command();
    add.args(["image", "add", "--name", "large", "--format", "raw"]).arg(file.path());
    let said = run(&mut add, second(60));
    assert!(said.code == Some(1) && said.stderr.contains("space"), "{said:?}");
    let left = std::fs::read_dir(directory.path().join("images/incoming")).expect("read a directory").count();
    assert_eq!(left, 0, "a part of it is left");
    assert_eq!(client.get("/api/check").await.expect(200).json()["findings"], json!([]));

    // The database has no space: changes are refused, what is there is read, and room heals.
    let ballast = small.fill();
    let mut refused = 0;
    for number in 0..40 {
        let answer = client.waiting(50).post("/api/vms", &bare(&format!("vm-{number}"))).await;
        match answer.status {
            507 => {
                assert_eq!(answer.json()["code"], "no_space", "{answer:?}");
                refused += 1;
            }
            // What the file has room for inside.
            status => assert!(matches!(status, 200 | 202 | 503), "{answer:?}"),
        }
        if refused > 5 {
            break;
        }
    }
    assert!(refused > 5, "the database does not fill up");
    assert!(is_in(&client.get(&format!("/api/vms/{kept}")).await, "shut_off"));
    std::fs::remove_file(ballast).expect("remove a file");
    let begun = Instant::now();
    while client.waiting(50).post("/api/vms", &bare("roomy")).await.status != 200 {
        assert!(begun.elapsed() < second(20), "changes do not succeed again");
    }
    let begun = Instant::now();
    loop {
        let operations = client.get("/api/operations?limit=1000").await.expect(200).json();
        let all = operations["items"].as_array().expect("items");
        if all.iter().all(|operation| !operation["finished_at"].is_null()) {
            break;
        }
        assert!(begun.elapsed() < second(20), "something is not finished: {operations}");
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.get("/api/check").await.expect(200).json()["findings"], json!([]));
    assert!(!server.log().contains("status=500"), "no answer was a 500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_or_damaged_disk_harms_its_own_vm_alone() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let mut wanted = bare("");
    wanted["disks"] = json!([{ "size_gib": 1 }, { "size_gib": 1 }]);
    let mut ids = Vec::new();
    for name in ["well", "removed", "cut-short", "overwritten"] {
        wanted["name"] = json!(name);
        ids.push(create(&client, &wanted).await);
    }
    let volume = |id: &str| {
        let rows = site.sql(&format!("SELECT id || '.' || format FROM volumes WHERE vm_id = '{id}' ORDER BY id"));
        site.libvirt.dir().join("lib/images/limen").join(&rows[1])
    };
    std::fs::remove_file(volume(&ids[1])).expect("remove a file");
    let cut = std::fs::File::options().write(true).open(volume(&ids[2])).expect("open a file");
    cut.set_len(50).expect("cut a file");
    std::fs::write(volume(&ids[3]), vec![0xff; 1 << 16]).expect("write a file");
    for (id, word) in [(&ids[1], "Disk 2 of the VM is not on its host"), (&ids[2], "damaged"), (&ids[3], "damaged")] {
        let refused = power(&client, id, "start").await;
        assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("conflict")), "{refused:?}");
        let detail = text(&refused.json(), "detail");
        assert!(detail.contains(word), "{detail}");
        assert!(!is_in(&client.get(&format!("/api/vms/{id}")).await, "running"));
    }
    power(&client, &ids[0], "start").await.expect(200);
    let found = site.check();
    assert!(found.iter().any(|line| line.starts_with("volume_missing")), "{found:#?}");
    eprintln!("a check finds {found:#?}");
    for id in &ids {
        site::delete(&client, id).await;
    }
    site.wait_until_in_order(second(10), &[]);
    assert_eq!(site.files().len(), 0, "{:?}", site.files());
    assert!(!site.server.log().contains("status=500"), "no answer was a 500");
}
