//! Backups of real installations: made, cut off, damaged, restored after everything was destroyed.

mod changed;
mod cut_off;
mod refusals;
mod restored;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use limen_support::guest::{self, Medium};
use limen_support::http::Client;
use limen_support::process::{self, Output};
use limen_support::site::{Site, create};
use serde_json::{Value, json};

/// A backup of a small installation takes no longer, beside other tests.
const PATIENCE: Duration = Duration::from_secs(180);

/// Bytes that nobody else writes, in the disk of a VM.
struct Marked {
    vm: String,
    bytes: Vec<u8>,
}

fn run(command: &mut Command) -> Output {
    process::run(command, PATIENCE)
}

fn limen(site: &Site, arguments: &[&str]) -> Output {
    run(site.server.command().args(arguments))
}

/// A directory for backups.
fn shelf() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").expect("make a directory")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Makes a backup that must succeed with `code`; its directory.
fn backup(site: &Site, to: &Path, code: i32) -> PathBuf {
    let output = limen(site, &["backup", "--to", text(to), "--json"]);
    assert_eq!(output.code, Some(code), "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    report["directory"].as_str().expect("a directory").into()
}

fn manifest(backup: &Path) -> Value {
    serde_json::from_slice(&fs::read(backup.join("manifest.json")).expect("a manifest")).expect("JSON")
}

/// Adds an image and a VM with a copy of it; its disk has random bytes that a restore must bring back.
async fn marked_vm(site: &Site, client: &Client, name: &str) -> Marked {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("set a mode");
    let file = directory.path().join("guest");
    let nonce = guest::nonce();
    guest::write(Medium::Disk, &nonce, &file);
    let image = site.add_image(&format!("image-of-{name}"), "raw", &file);
    let bytes = fs::read(&file).expect("read the guest");
    let body = json!({
        "name": name, "vcpus": 1, "memory_mib": guest::MEMORY_MIB, "disks": [{ "image": image }, { "size_gib": 1 }],
    });
    Marked { vm: create(client, &body).await, bytes }
}

/// The files of the installation's volumes.
fn volumes(site: &Site) -> Vec<PathBuf> {
    let names = site.files().into_iter().filter(|name| name.ends_with(".raw") || name.ends_with(".qcow2"));
    names.map(|name| site.file(&name)).collect()
}

/// Whether one of the installation's volumes has exactly these bytes.
fn has_disk(site: &Site, bytes: &[u8]) -> bool {
    volumes(site).iter().any(|path| fs::read(path).is_ok_and(|there| there == bytes))
}
