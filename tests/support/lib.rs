//! The rig that LIMEN's tests, benches and examples run on: real back ends,
//! private to one test, several at once, gone when the test is.
//!
//! | module | gives |
//! |---|---|
//! | [`agent`] | the `limen-agent` program, on a free port |
//! | [`debian`] | programs out of packages that are not installed |
//! | [`disk`] | a file system of a few megabytes |
//! | [`libvirt`] | a libvirtd of the test's own, with QEMU |
//! | [`machine`] | mounts, network and libvirt apart, for `make run` |
//! | [`postgres`] | a PostgreSQL of the test's own |
//! | [`nginx`] | an nginx of the test's own, with the blocks of a document |
//! | [`guest`] | a small real guest that greets on its serial console |
//! | [`serial`] | reads a console until something is said |
//! | [`server`] | the `limen` program, served on a free port |
//! | [`http`] | a client for it |
//! | [`journal`] | what the code under test logged last |
//! | [`site`] | a server with a libvirtd and a database, and the judge of what is left |
//! | [`websocket`] | a client of its consoles, and of RFB on them |
//! | [`world`] | a host and a Store under a `Limen`, scripted crashes, and the judge of what is left |
//! | [`process`] | commands with deadlines, waiting, signals |
//!
//! Nothing here is quietly absent: what cannot be started panics with the
//! reason. Everything is tied to the test by a pipe: when the test process
//! ends in whatever way, also by SIGKILL, a small shell on the other end takes
//! down what the test had started and removes its files.

pub mod agent;
pub mod debian;
pub mod disk;
pub mod guest;
pub mod http;
pub mod journal;
pub mod libvirt;
pub mod machine;
pub mod nginx;
pub mod postgres;
pub mod process;
pub mod serial;
pub mod server;
pub mod site;
pub mod sse;
pub mod websocket;
pub mod world;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The root of the project's tree.
pub fn project_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where things that are costly to make are kept between runs:
/// `LIMEN_CACHE_DIR`, or `.cache` in the project.
pub fn cache_dir() -> PathBuf {
    let dir = std::env::var_os("LIMEN_CACHE_DIR").map_or_else(|| project_dir().join(".cache"), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    dir
}

/// A fresh directory `/tmp/limen-KIND-XXXXXX`, open to other users (QEMU and
/// PostgreSQL have their own), short enough for socket paths.
fn scratch_dir(kind: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new()
        .prefix(&format!("limen-{kind}-"))
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("make a directory in /tmp");
    dir.keep()
}

/// True when this process is root.
fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Copies a directory tree with owners and modes.
pub fn copy_tree(from: &Path, to: &Path) {
    process::run(Command::new("cp").arg("-aT").arg(from).arg(to), Duration::from_secs(60)).expect_success();
}
