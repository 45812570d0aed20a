//! What is no whole backup is not taken for one, and what is whole is not lost.

use limen_support::site::Database;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_byte_is_named_whichever_file_it_is_in() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    let marked = marked_vm(&site, &client, "one").await;
    let shelf = shelf();
    let made = backup(&site, shelf.path(), 0);
    let verify = || limen(&site, &["restore", "--from", text(&made), "--verify"]);
    assert_eq!(verify().code, Some(0));
    let told = manifest(&made);
    let disk = told["vms"][0]["volumes"][0]["file"]["path"].as_str().expect("a path").to_owned();
    let image = told["images"][0]["file"]["path"].as_str().expect("a path").to_owned();
    let definition = format!("definitions/{}.xml", marked.vm);
    for file in ["database.sqlite", &disk, &image, &definition] {
        let path = made.join(file);
        let whole = fs::read(&path).expect("a file");
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        for bytes in [&damaged[..], &whole[..whole.len() - 1]] {
            fs::write(&path, bytes).expect("damage it");
            for output in [verify(), limen(&site, &["restore", "--from", text(&made), "--vm", "one", "--as", "x"])] {
                let of_the_vm = file == disk || file == definition;
                if output.code == Some(0) {
                    panic!("{file} is damaged, and nothing says so: {output:?}");
                }
                assert!(output.stderr.contains(file) || !of_the_vm, "{file}: {output:?}");
                if !of_the_vm {
                    break;
                }
            }
        }
        fs::remove_file(&path).expect("remove it");
        assert!(verify().stderr.contains(file));
        fs::write(&path, &whole).expect("put it back");
    }
    assert_eq!(verify().code, Some(0));
    let path = made.join("manifest.json");
    let whole = fs::read_to_string(&path).expect("a manifest");
    for (wrong, said) in [
        (whole[..whole.len() / 2].to_owned(), "manifest is damaged"),
        (whole.replacen("\"format\": 1", "\"format\": 2", 1), "form 2"),
        (whole.replacen("database.sqlite", "../database.sqlite", 1), "manifest is damaged"),
    ] {
        fs::write(&path, wrong).expect("damage it");
        let output = verify();
        assert!(output.code != Some(0) && output.stderr.contains(said), "{said}: {output:?}");
    }
    fs::remove_file(&path).expect("remove it");
    assert!(verify().stderr.contains("no whole backup"));
    site.wait_until_in_order(Duration::from_secs(20), &[]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_backups_go_and_the_newest_and_foreign_ones_never() {
    let site = Site::start(Database::Sqlite);
    let shelf = shelf();
    let age = |backup: &Path, days: i64| {
        let path = backup.join("manifest.json");
        let mut told = manifest(backup);
        let at = time::OffsetDateTime::now_utc() - time::Duration::days(days);
        told["made_at"] = json!(at.format(&time::format_description::well_known::Rfc3339).expect("a time"));
        fs::write(&path, told.to_string()).expect("write it");
    };
    let mut made = Vec::new();
    for days in [40, 35, 20] {
        let one = backup(&site, shelf.path(), 0);
        age(&one, days);
        made.push(one);
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    // Neither another installation's, nor what is none.
    let foreign = shelf.path().join("limen-20000101T000000Z");
    fs::create_dir(&foreign).expect("make a directory");
    let mut told = manifest(&made[0]);
    told["install"] = json!("00000000-0000-4000-8000-000000000000");
    fs::write(foreign.join("manifest.json"), told.to_string()).expect("write it");
    let other = shelf.path().join("limen-notes");
    fs::create_dir(&other).expect("make a directory");
    fs::write(shelf.path().join("limen-readme"), "mine").expect("write it");

    let output = limen(&site, &["backup", "--to", text(shelf.path()), "--keep-days", "30"]);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(!made[0].exists() && !made[1].exists(), "{output:?}");
    assert!(made[2].exists() && foreign.exists() && other.exists() && shelf.path().join("limen-readme").exists());

    // However old, the newest stays.
    let only = super::shelf();
    let one = backup(&site, only.path(), 0);
    age(&one, 400);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let newest = backup(&site, only.path(), 0);
    age(&newest, 300);
    fs::write(site.server.data_dir().join("images-are-none"), "").ok();
    let broken = limen(
        &site,
        &["--database-url", "sqlite:///nowhere/limen.db", "backup", "--to", text(only.path()), "--keep-days", "1"],
    );
    assert_ne!(broken.code, Some(0), "{broken:?}");
    assert!(one.exists() && newest.exists(), "a backup that fails removes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_by_another_user_is_refused_before_it_writes() {
    let site = Site::start(Database::Sqlite);
    let shelf = shelf();
    let made = backup(&site, shelf.path(), 0);
    site.server.kill9();
    let data = site.server.data_dir();
    fs::remove_file(data.join("limen.db")).expect("remove the database");
    run(Command::new("chown").arg("nobody").arg(&data)).expect_success();
    let output = limen(&site, &["restore", "--from", text(&made)]);
    assert!(output.code == Some(1) && output.stderr.contains("belongs to another user"), "{output:?}");
    assert!(!data.join("limen.db").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_backups_at_once_and_a_full_disk_are_said() {
    let site = Site::start(Database::Sqlite);
    let client = site.server.admin().await;
    marked_vm(&site, &client, "one").await;
    let small = super::shelf();
    let _disk = limen_support::disk::SmallDisk::mount(small.path(), "4m");
    let output = limen(&site, &["backup", "--to", text(small.path())]);
    assert!(output.code == Some(1) && output.stderr.contains("no space left"), "{output:?}");
    let left: Vec<_> =
        fs::read_dir(small.path()).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(
        left.iter()
            .all(|name| !name.to_string_lossy().contains("limen-") && !name.to_string_lossy().contains("partial")),
        "{left:?}"
    );

    let shelf = shelf();
    fs::create_dir_all(shelf.path()).expect("make a directory");
    let held = fs::File::create(shelf.path().join(".lock")).expect("make a file");
    held.lock().expect("lock it");
    let output = limen(&site, &["backup", "--to", text(shelf.path())]);
    assert!(output.code == Some(1) && output.stderr.contains("Another backup"), "{output:?}");
}
