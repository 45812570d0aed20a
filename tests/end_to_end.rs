//! The whole house: the `limen` program over HTTP, on a real libvirtd with QEMU and a real database.

use std::time::Duration;

use limen_support::guest::{self, Hello, Medium};
use limen_support::http::Client;
use limen_support::server::Server;
use limen_support::site::{self, Database, Site, bare, create, is_in, power, text, vm, wait_for_vm};
use serde_json::{Value, json};

/// What is done behind LIMEN's back must show within this.
const SEEN: Duration = Duration::from_secs(3);

/// Adds the guest as an image; its id.
fn guest_image(site: &Site, medium: Medium, nonce: &str) -> String {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    // The server's user reads it too.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).expect("set a mode");
    let file = directory.path().join("guest");
    guest::write(medium, nonce, &file);
    let (name, format) = if medium == Medium::Iso { ("media", "iso") } else { ("disk", "raw") };
    site.add_image(name, format, &file)
}

async fn expect_state(client: &Client, id: &str, action: &str, state: &str) {
    power(client, id, action).await.expect(200);
    assert_eq!(vm(client, id).await["status"]["state"], state, "after {action}");
}

/// What the guest says when it has booted; it obeys the power button from then on.
fn greeting(site: &Site, id: &str, nonce: &str) -> Hello {
    let said = site.console_until(id, guest::PROMPT);
    let hello = Hello::find(&said).unwrap_or_else(|| panic!("no greeting: {said}"));
    assert_eq!((hello.nonce.as_str(), hello.uuid.as_str()), (nonce, id));
    hello
}

/// A guest from an image: every power action, and nothing left when it is deleted.
async fn lives(site: &Site, client: &Client, image: &str, nonce: &str) {
    let id = create(
        client,
        &json!({ "name": "full", "vcpus": 1, "memory_mib": guest::MEMORY_MIB, "disks": [{ "image": image }] }),
    )
    .await;
    assert_eq!(vm(client, &id).await["status"]["state"], "shut_off");
    expect_state(client, &id, "start", "running").await;
    assert_eq!(greeting(site, &id, nonce).firmware, "bios");
    expect_state(client, &id, "pause", "paused").await;
    expect_state(client, &id, "resume", "running").await;
    expect_state(client, &id, "reboot", "running").await;
    greeting(site, &id, nonce);
    expect_state(client, &id, "save", "saved").await;
    expect_state(client, &id, "start", "running").await;
    expect_state(client, &id, "reset", "running").await;
    greeting(site, &id, nonce);
    expect_state(client, &id, "shutdown", "shut_off").await;
    expect_state(client, &id, "start", "running").await;
    expect_state(client, &id, "power_off", "shut_off").await;
    site::delete(client, &id).await;
    site.wait_until_in_order(Duration::from_secs(5), &[]);
}

async fn leave_no_trace(site: &Site, client: &Client, images: &[&str]) {
    for image in images {
        client.waiting(50).delete(&format!("/api/images/{image}")).await.expect(200);
    }
    site.wait_until_in_order(Duration::from_secs(5), &[]);
    assert_eq!(site.domains().len(), 0);
    assert_eq!(site.files().len(), 0, "{:?}", site.files());
    for place in ["lib/qemu/save", "lib/qemu/nvram"] {
        let left = std::fs::read_dir(site.libvirt.dir().join(place)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{place} is not empty");
    }
    for table in ["vms", "volumes", "statuses", "images", "macs", "vm_images", "operation_locks"] {
        assert_eq!(site.sql(&format!("SELECT COUNT(*) FROM {table}")), ["0"], "{table}");
    }
    assert_ne!(site.sql("SELECT COUNT(*) FROM operations WHERE kind = 'create_vm'"), ["0"], "the history is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_live_from_create_to_delete_under_an_unprivileged_server_that_sees_no_volume() {
    let site = Site::start_with(Database::Sqlite, Server::options().unprivileged());
    let client = site.server.admin().await;
    let (nonce, media_nonce) = (guest::nonce(), guest::nonce());
    let image = guest_image(&site, Medium::Disk, &nonce);
    let media = guest_image(&site, Medium::Iso, &media_nonce);
    lives(&site, &client, &image, &nonce).await;

    // Copy-on-write with a blank disk beside it, started as it is created.
    let disks = json!([{ "image": image, "mode": "linked" }, { "size_gib": 1 }]);
    let id = create(
        &client,
        &json!({
            "name": "linked", "vcpus": 2, "memory_mib": guest::MEMORY_MIB, "disks": disks, "start": true,
        }),
    )
    .await;
    let hello = greeting(&site, &id, &nonce);
    assert_eq!((hello.cpus, hello.disks.len(), hello.disks["vdb"]), (2, 2, 1 << 30));
    let refused = client.waiting(50).delete(&format!("/api/images/{image}")).await;
    assert_eq!(refused.status, 409, "a linked disk needs it: {refused:?}");
    site::delete(&client, &id).await;

    // Installation media under UEFI; deleted while its memory is saved.
    let id = create(
        &client,
        &json!({
            "name": "media", "vcpus": 1, "memory_mib": guest::UEFI_MEMORY_MIB, "iso": media, "firmware": "uefi",
            "disks": [{ "size_gib": 1, "format": "raw" }], "start": true,
        }),
    )
    .await;
    assert_eq!(greeting(&site, &id, &media_nonce).firmware, "efi");
    expect_state(&client, &id, "save", "saved").await;
    site::delete(&client, &id).await;
    leave_no_trace(&site, &client, &[&image, &media]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_live_from_create_to_delete_on_postgresql_with_the_volumes_in_the_data_directory() {
    let site = Site::start_in_data_dir(Database::Postgres, Server::options());
    let client = site.server.admin().await;
    let nonce = guest::nonce();
    let image = guest_image(&site, Medium::Disk, &nonce);
    lives(&site, &client, &image, &nonce).await;
    leave_no_trace(&site, &client, &[&image]).await;
}

fn foreign_xml(uuid: &str) -> String {
    format!(
        "<domain type='qemu'><name>foreign-{}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
         <vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <devices><memballoon model='none'/></devices></domain>",
        &uuid[..8]
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_virsh_does_shows_and_survives() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let libvirt = &site.libvirt;
    let id = create(&client, &bare("watched")).await;

    for (arguments, state) in [(&["start", &id][..], "running"), (&["suspend", &id], "paused")] {
        libvirt.virsh(arguments).expect_success();
        wait_for_vm(&client, &id, SEEN, |answer| is_in(answer, state)).await;
    }
    libvirt.virsh(&["destroy", &id]).expect_success();
    wait_for_vm(&client, &id, SEEN, |answer| is_in(answer, "shut_off")).await;

    // An edit of what LIMEN models is shown; one of what it does not know outlives a PATCH.
    let xml = libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success();
    let edited = xml
        .replace("<vcpu placement='static'>1</vcpu>", "<vcpu placement='static'>3</vcpu>")
        .replace("<on_crash>destroy</on_crash>", "<on_crash>restart</on_crash>")
        .replace("</devices>", "<panic model='isa'/></devices>");
    assert_ne!(xml, edited);
    libvirt.define(&edited);
    wait_for_vm(&client, &id, SEEN, |answer| answer.json()["observed_spec"]["vcpus"] == 3).await;
    let before = libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success();
    assert!(before.contains("<on_crash>restart</on_crash>") && before.contains("<panic model='isa'"), "{before}");
    let change = json!({ "memory_mib": 80, "name": "renamed", "description": "설명", "labels": { "환경": "운영" } });
    client.waiting(50).patch(&format!("/api/vms/{id}"), &change).await.expect(200);
    let after = libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success();
    assert_eq!(without(&before), without(&after), "a PATCH changes only what it names");
    assert!(after.contains("<memory unit='KiB'>81920</memory>"), "{after}");
    assert!(after.contains(&as_written("환경")) && after.contains(&as_written("운영")), "{after}");

    // What LIMEN did not make is shown to admins, kept as it is, and refused.
    let foreign = uuid::Uuid::new_v4().to_string();
    libvirt.define(&foreign_xml(&foreign));
    let before = libvirt.virsh(&["dumpxml", "--inactive", &foreign]).expect_success();
    wait_for_vm(&client, &foreign, SEEN, |answer| answer.status == 200).await;
    assert_eq!(vm(&client, &foreign).await["managed"], false);
    let path = format!("/api/vms/{foreign}");
    for refused in [
        power(&client, &foreign, "start").await,
        client.patch(&path, &json!({ "name": "mine" })).await,
        client.delete(&path).await,
    ] {
        assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("conflict")));
    }
    assert_eq!(libvirt.virsh(&["dumpxml", "--inactive", &foreign]).expect_success(), before);
    libvirt.virsh(&["undefine", &foreign]).expect_success();
    wait_for_vm(&client, &foreign, SEEN, |answer| answer.status == 404).await;

    // A definition that vanishes is missing, not gone; only a delete ends it.
    libvirt.virsh(&["undefine", &id]).expect_success();
    wait_for_vm(&client, &id, SEEN, |answer| is_in(answer, "missing")).await;
    assert_eq!(power(&client, &id, "start").await.status, 409);
    site::delete(&client, &id).await;
    site.wait_until_in_order(Duration::from_secs(5), &[]);
}

/// Text as libvirt writes it in attributes.
fn as_written(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("&#x{:X};", u32::from(c)) }).collect()
}

/// A definition without the lines that the PATCH of the test changes.
fn without(xml: &str) -> String {
    let mut metadata = false;
    let kept = xml.lines().filter(|line| {
        let line = line.trim();
        metadata |= line.starts_with("<metadata");
        let skip = metadata || ["<memory ", "<currentMemory ", "<title>"].iter().any(|start| line.starts_with(start));
        metadata &= !line.starts_with("</metadata");
        !skip
    });
    kept.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_values_get_a_clear_answer_and_change_nothing() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;
    let uuid = uuid::Uuid::new_v4();
    let long = "x".repeat(300);
    for name in [
        &uuid.to_string(),
        &uuid.simple().to_string(),
        "..",
        ".",
        "",
        "--help",
        &long,
        "a\0b",
        "a\nb",
        "a<b",
        "a&b",
        "]]>",
        "a/b",
        "../../etc/passwd",
        "이름",
        "a b",
    ] {
        let refused = client.post("/api/vms", &bare(name)).await;
        assert_eq!(refused.status, 400, "{name:?}: {refused:?}");
        let problem = refused.json();
        assert_eq!((&problem["code"], &problem["field"]), (&json!("invalid"), &json!("name")), "{problem}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    }
    for (field, value) in [
        ("vcpus", json!(0)),
        ("vcpus", json!(10_000)),
        ("vcpus", json!(-1)),
        ("vcpus", json!("2")),
        ("memory_mib", json!(0)),
        ("memory_mib", json!(u64::MAX)),
        ("surprise", json!(true)),
        ("description", json!("a\0b")),
        ("description", json!("x".repeat(4097))),
        ("labels", json!({ "k": "\u{1}" })),
        ("disks", json!([{}])),
        ("disks", json!([{ "size_gib": 0 }])),
        ("disks", json!([{ "path": "/etc/shadow" }])),
        ("networks", json!(["]]><x/>"])),
        ("iso", json!(uuid)),
    ] {
        let mut create = bare("good");
        create[field] = value.clone();
        let refused = client.post("/api/vms", &create).await;
        assert_eq!(refused.status, 400, "{field} {value}: {refused:?}");
        assert_eq!(refused.json()["code"], "invalid");
    }
    let mut huge = bare("huge");
    huge["disks"] = json!([{ "size_gib": 65_536 }]);
    let refused = client.post("/api/vms", &huge).await;
    assert_eq!((refused.status, &refused.json()["code"]), (507, &json!("no_space")));
    assert_eq!(site.sql("SELECT COUNT(*) FROM operations"), ["0"], "a refusal leaves no operation");

    // Texts in any script are kept exactly, in the record and in the definition.
    let description = "웹 서버 <&\"'> ]]> 한글\n둘째 줄 🦭";
    let labels = json!({ "환경": "운영 <&> ]]> \"'", "팀": "가나다" });
    let mut wanted = bare("texts");
    wanted["description"] = json!(description);
    wanted["labels"] = labels.clone();
    let id = create(&client, &wanted).await;
    let shown = vm(&client, &id).await;
    assert_eq!((&shown["description"], &shown["labels"]), (&json!(description), &labels));
    let xml = site.libvirt.virsh(&["dumpxml", &id]).expect_success();
    for kept in ["환경", "운영 &lt;&amp;&gt; ]]&gt;", "팀", "가나다"] {
        assert!(xml.contains(&as_written(kept)), "{kept} in {xml}");
    }

    // Names belong to an owner: refused twice for one, free for another, on libvirt too.
    let refused = client.post("/api/vms", &bare("texts")).await;
    assert_eq!((refused.status, &refused.json()["code"]), (409, &json!("already_exists")));
    let user = json!({ "username": "kim", "password": "another long password", "role": "user" });
    client.post("/api/users", &user).await.expect(201);
    let kim = site.server.client().login("kim", "another long password").await;
    let other = create(&kim, &bare("texts")).await;
    assert_eq!(site.domains().len(), 2);
    for answer in [kim.get(&format!("/api/vms/{id}")).await, kim.delete(&format!("/api/vms/{id}")).await] {
        assert_eq!(answer.status, 404, "another's VM is concealed: {answer:?}");
    }
    site::delete(&kim, &other).await;
    site::delete(&client, &id).await;
    site.wait_until_in_order(Duration::from_secs(5), &[]);
    assert!(!site.server.log().contains("status=500"), "no answer was a 500");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_on_one_vm_have_one_outcome_each() {
    let site = Site::start(Database::Postgres);
    let client = site.server.admin().await;

    let keyed = client.with_header("Idempotency-Key", "once");
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let keyed = keyed.clone();
            tokio::spawn(async move { keyed.post("/api/vms", &bare("once")).await })
        })
        .collect();
    let mut ids = std::collections::BTreeSet::new();
    for answer in asked {
        let answer = answer.await.expect("no panic");
        assert!(matches!(answer.status, 200 | 202), "{answer:?}");
        ids.insert(text(&answer.json(), "vm_id"));
    }
    assert_eq!(ids.len(), 1, "one operation for one key");
    let id = ids.pop_first().expect("one");
    wait_for_vm(&client, &id, Duration::from_secs(20), |answer| is_in(answer, "shut_off")).await;
    assert_eq!(site.domains().len(), 1);
    let other = keyed.post("/api/vms", &bare("twice")).await;
    assert_eq!(other.status, 409, "another body under the key: {other:?}");

    // Two actions at once: each is done or refused as busy with the name of the first.
    let both = tokio::join!(power(&client, &id, "start"), power(&client, &id, "start"));
    for answer in [&both.0, &both.1] {
        assert!(matches!(answer.status, 200 | 409), "{answer:?}");
        if answer.status == 409 {
            let problem = answer.json();
            assert_eq!(problem["code"], "busy", "{problem}");
            assert!(problem["operation_id"].is_string() && answer.header("retry-after").is_some(), "{answer:?}");
        }
    }
    assert!(both.0.status == 200 || both.1.status == 200);

    // A guest that ignores the power button: power_off does not wait behind the shutdown.
    let path = format!("/api/vms/{id}/power");
    let waiting: Value =
        client.post(&path, &json!({ "action": "shutdown", "timeout_s": 120 })).await.expect(202).json();
    let busy = client.post(&path, &json!({ "action": "pause" })).await;
    assert_eq!((busy.status, &busy.json()["operation_id"]), (409, &waiting["id"]));
    expect_state(&client, &id, "power_off", "shut_off").await;
    let ended = client.get(&format!("/api/operations/{}", text(&waiting, "id"))).await.expect(200).json();
    assert!(matches!(ended["state"].as_str(), Some("cancelled" | "succeeded")), "{ended}");
    site::delete(&client, &id).await;
    site.wait_until_in_order(Duration::from_secs(5), &[]);
}
