//! Programs out of Debian packages that are not installed: fetched once, unpacked into the cache.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::{cache_dir, process};

/// The program `path` (below `/`) of the package.
///
/// # Panics
/// When the package cannot be fetched, or has no such program.
#[track_caller]
pub fn program(package: &str, path: &str) -> PathBuf {
    let place = cache_dir().join("debian").join(package);
    let program = place.join(path.trim_start_matches('/'));
    std::fs::create_dir_all(&place).expect("make a directory");
    let _alone = process::lock(&place.join("lock"));
    if !program.exists() {
        let fetch = "apt-get download \"$0\" || { apt-get update && apt-get download \"$0\"; } && dpkg-deb -x \"$0\"_*.deb . && rm -- *.deb";
        let mut command = Command::new("sh");
        command.args(["-ec", fetch, package]).current_dir(&place);
        process::run(&mut command, Duration::from_secs(300)).expect_success();
    }
    assert!(program.exists(), "{package} has no {path}");
    program
}
