//! A backup that is killed is never taken for a good one.

use std::time::Instant;

use limen_support::site::Database;

use super::*;

fn full_form() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

/// The directories of a shelf that bear a backup's name.
fn named(shelf: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(shelf).expect("a shelf").map(|entry| entry.expect("an entry"));
    let names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("limen-"));
    names.map(|entry| entry.path()).collect()
}

async fn killed(database: Database) {
    let kills = if full_form() { 20 } else { 5 };
    let site = Site::start(database);
    let client = site.server.admin().await;
    marked_vm(&site, &client, "one").await;
    let shelf = shelf();
    let began = Instant::now();
    let whole = backup(&site, shelf.path(), 0);
    let takes = began.elapsed();
    let mut left = 0;
    for kill in 0..kills {
        let mut backup = site.server.command();
        backup.args(["backup", "--to", text(shelf.path())]);
        let mut child = backup.spawn().expect("start a backup");
        tokio::time::sleep(takes.mul_f64(f64::from(kill) / f64::from(kills))).await;
        child.kill().expect("kill it");
        child.wait().expect("its end");
        let partial = fs::read_dir(shelf.path()).expect("a shelf");
        left += partial
            .filter(|entry| entry.as_ref().is_ok_and(|e| e.file_name().to_string_lossy().starts_with(".partial")))
            .count();
        for backup in named(shelf.path()) {
            let output = limen(&site, &["restore", "--from", text(&backup), "--verify"]);
            assert_eq!(output.code, Some(0), "{output:?}");
        }
        for partial in fs::read_dir(shelf.path()).expect("a shelf").map(|entry| entry.expect("an entry").path()) {
            if partial.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".partial")) {
                let output = limen(&site, &["restore", "--from", text(&partial)]);
                assert_ne!(output.code, Some(0), "{output:?}");
            }
        }
    }
    assert!(left > 0, "no kill fell into a backup");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    super::backup(&site, shelf.path(), 0);
    assert!(whole.exists());
    let rest = fs::read_dir(shelf.path()).expect("a shelf").map(|entry| entry.expect("an entry").file_name());
    let rest: Vec<_> = rest.filter(|name| name.to_string_lossy().starts_with(".partial")).collect();
    assert!(rest.is_empty(), "{rest:?}");
    println!("{kills} kills, {left} remains");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_backups_cut_off_with_sqlite() {
    killed(Database::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_backups_cut_off_with_postgres() {
    killed(Database::Postgres).await;
}
