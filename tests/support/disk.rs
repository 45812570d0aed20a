//! A file system of a few megabytes, in memory: one that fills up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;

/// A small file system; gone with this value.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of `size` (as `mount -o size=` takes it) at `path`.
    ///
    /// # Panics
    /// When not run as root.
    pub fn mount(path: &Path, size: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size},mode=0777"), "tmpfs"]).arg(path);
        process::run(&mut mount, Duration::from_secs(10)).expect_success();
        Self(path.to_owned())
    }

    /// Fills it to the last byte with a file, which is answered: removing it makes room again.
    ///
    /// # Panics
    /// When it cannot be written to.
    pub fn fill(&self) -> PathBuf {
        fill(&self.0)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut unmount = Command::new("umount");
        process::run(unmount.arg("--lazy").arg(&self.0), Duration::from_secs(10));
    }
}

/// Fills the file system that `directory` is on with a file in it, which is answered.
///
/// # Panics
/// When it cannot be written to, or holds more than 64 MiB.
pub fn fill(directory: &Path) -> PathBuf {
    use std::io::Write;
    let path = directory.join("ballast");
    let mut file = fs::File::create(&path).expect("make a file");
    for size in [1 << 16, 1 << 12, 1] {
        let part = vec![0x5a; size];
        let mut written = 0;
        while file.write_all(&part).is_ok() {
            written += size;
            assert!(written <= 64 << 20, "{} does not fill up", directory.display());
        }
    }
    path
}
