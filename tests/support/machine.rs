//! A machine within the machine: mounts, network and libvirt of its own, on
//! which `make run` can be let loose and watched.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::process::{self, Leash, Output};

/// Namespaces in which no libvirtd runs, `/dev/kvm` is closed as on a machine
/// without udev, and only the loopback interface is there; beside root there
/// is `limen-builder`, who may use sudo. Dropping it ends everything in it.
#[derive(Debug)]
pub struct Machine {
    base: PathBuf,
    init: Child,
    leash: Option<Leash>,
}

impl Machine {
    /// Makes one.
    ///
    /// # Panics
    /// When not run as root.
    pub fn start() -> Self {
        assert!(crate::is_root(), "a machine of its own needs root; `make test` sees to it");
        let base = crate::scratch_dir("machine");
        let leash = Leash::new(include_str!("libvirt-leash.sh"), &[&base]);
        for dir in ["run", "run/lock", "etc", "lib", "lib/images", "cache", "log"] {
            fs::create_dir(base.join(dir)).expect("make a directory");
        }
        let mode = fs::Permissions::from_mode(0o711);
        fs::set_permissions(base.join("lib/images"), mode).expect("set a mode");
        // libvirt's profiles for a security module know only its own directories.
        fs::write(base.join("etc/qemu.conf"), "security_driver = \"none\"\n").expect("write a file");
        if Path::new("/dev/kvm").exists() {
            let mut mknod = Command::new("mknod");
            mknod.args(["-m", "600"]).arg(base.join("kvm")).args(["c", "10", "232"]);
            process::run(&mut mknod, Duration::from_secs(5)).expect_success();
        }
        let init = Command::new("setsid")
            .args(["unshare", "-m", "-n", "--propagation", "private", "sh", "-c"])
            .args([include_str!("machine-enter.sh"), "machine"])
            .arg(&base)
            .arg(crate::project_dir())
            .arg(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .current_dir("/")
            .stdin(Stdio::null())
            .spawn()
            .expect("start setsid unshare");
        process::wait_for("a machine", Duration::from_secs(60), || base.join("up").exists().then_some(()));
        Self { base, init, leash: Some(leash) }
    }

    /// The directory that holds everything of this machine.
    pub fn dir(&self) -> &Path {
        &self.base
    }

    /// The home of `limen-builder`: the project is in `limen`, and `cache` is for its cache.
    pub fn home(&self) -> PathBuf {
        self.base.join("home")
    }

    /// The words to put before a command to run it here.
    pub fn enter(&self) -> Vec<String> {
        let init = self.init.id().to_string();
        ["nsenter", "--mount", "--net", "--wdns=/", "-t", &init].map(str::to_owned).to_vec()
    }

    /// Runs a line of shell here, for at most `deadline`.
    pub fn shell(&self, deadline: Duration, line: &str) -> Output {
        let enter = self.enter();
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(["sh", "-c", line]);
        process::run(&mut command, deadline)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.leash.take());
        process::kill9(&mut self.init);
    }
}
