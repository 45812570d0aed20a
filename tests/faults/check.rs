//! `limen check` on real back ends.

use std::collections::BTreeSet;

use limen_support::site::{self, Database, Site, bare, create, text};
use serde_json::json;
use uuid::Uuid;

use super::second;

/// What a host and its pool hold: definitions and files, to the byte.
fn everything(site: &Site) -> Vec<String> {
    let mut all: Vec<String> = site.files().into_iter().collect();
    for id in site.domains() {
        all.push(site.libvirt.virsh(&["dumpxml", "--inactive", &id]).expect_success());
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_was_done_behind_limens_back() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("make a file");
    std::fs::write(file.path(), vec![0x5a; (1 << 20) + 512]).expect("write a file");
    let image = site.add_image("odd-size", "raw", file.path());
    let mut full = bare("full");
    full["disks"] = json!([{ "image": image }, { "image": image, "mode": "linked" }, { "size_gib": 1 }]);
    let full = create(&client, &full).await;
    let undefined = create(&client, &bare("undefined")).await;
    site.wait_until_in_order(second(10), &[]);

    // A file that looks like LIMEN's, a VM that is gone, and a definition made from another's.
    let orphan = Uuid::new_v4();
    let path = site.libvirt.dir().join(format!("lib/images/limen/{orphan}.raw"));
    std::fs::write(&path, vec![0; 4096]).expect("write a file");
    site.libvirt.virsh(&["undefine", &undefined]).expect_success();
    let made = Uuid::new_v4().to_string();
    let xml = site.libvirt.virsh(&["dumpxml", "--inactive", &full]).expect_success();
    let name = xml.split("<name>").nth(1).and_then(|rest| rest.split('<').next()).expect("a name");
    site.libvirt.define(&xml.replace(&full, &made).replace(name, "made-by-hand"));

    let expected = BTreeSet::from([
        ("vm_missing".to_owned(), format!("vm:{undefined}")),
        ("vm_unrecorded".to_owned(), format!("vm:{made}")),
        ("volume_unrecorded".to_owned(), format!("volume:{orphan}")),
    ]);
    let before = everything(&site);
    let found = |answer: &serde_json::Value| -> BTreeSet<(String, String)> {
        let findings = answer["findings"].as_array().expect("findings");
        findings.iter().map(|finding| (text(finding, "kind"), text(finding, "subject"))).collect()
    };
    // The owner of the host has heard of all of it once it has looked.
    site::wait_for_vm(&client, &undefined, second(10), |answer| site::is_in(answer, "missing")).await;
    site::wait_for_vm(&client, &made, second(10), |answer| answer.status == 200).await;
    let report = client.get("/api/check").await.expect(200).json();
    assert_eq!(found(&report), expected, "{report}");
    for server in ["beside it", "without it"] {
        let said = site.check();
        assert_eq!(said.len(), expected.len(), "{server}: {said:#?}");
        for (kind, subject) in &expected {
            assert!(said.iter().any(|line| line.starts_with(&format!("{kind} {subject}:"))), "{server}: {said:#?}");
        }
        site.server.kill9();
    }
    assert_eq!(everything(&site), before, "a check changes nothing");

    site.libvirt.kill9();
    let said = site.check();
    assert!(said.len() == 1 && said[0].starts_with("host_unreachable"), "{said:#?}");
    site.libvirt.restart();
    site.libvirt.virsh(&["undefine", &made]).expect_success();
    std::fs::remove_file(path).expect("remove a file");
    site.server.restart();
    site::delete(&client, &undefined).await;
    site::delete(&client, &full).await;
    site.wait_until_in_order(second(10), &[]);
}
