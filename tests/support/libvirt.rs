//! A libvirtd of the test's own, with real QEMU.
//!
//! It runs in a mount namespace in which its directories stand where the
//! system's would, so it neither sees nor disturbs a libvirtd of the machine.
//! QEMU runs under libvirt's own unprivileged user, with dynamic ownership, as
//! on any host. The cgroup tree and the network are the machine's: give
//! domains random names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::process::{self, Leash, Output};

/// A private libvirtd; dropping it destroys its guests and networks, ends it
/// and removes its files.
#[derive(Debug)]
pub struct PrivateLibvirt {
    base: PathBuf,
    /// Where it listens for other machines.
    port: Option<u16>,
    daemon: Mutex<Child>,
    leash: Option<Leash>,
}

const LIBVIRTD_CONF: &str = r#"unix_sock_group = "libvirt"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
"#;

/// Without virtlogd, and without the profiles of a security module, which know
/// only libvirt's usual directories.
const QEMU_CONF: &str = r#"stdio_handler = "file"
security_driver = "none"
"#;

impl PrivateLibvirt {
    /// Starts a daemon and waits until it answers: a fraction of a second, some
    /// seconds the first time on a machine (libvirt examines QEMU).
    ///
    /// # Panics
    /// When not run as root, when libvirt or QEMU is not installed, or when the
    /// daemon does not come up; with the reason.
    pub fn start() -> Self {
        assert!(crate::is_root(), "a private libvirtd needs root; `make test` sees to it");
        let cached = prepared_capabilities();
        Self::start_with(Some(&cached))
    }

    fn start_with(capabilities: Option<&Path>) -> Self {
        Self::start_as(capabilities, None)
    }

    fn start_as(capabilities: Option<&Path>, port: Option<u16>) -> Self {
        let base = crate::scratch_dir("libvirt");
        let leash = Leash::new(include_str!("libvirt-leash.sh"), &[&base]);
        for dir in ["run", "run/lock", "etc", "lib", "lib/images", "cache", "log", "storage"] {
            fs::create_dir(base.join(dir)).expect("make a directory");
        }
        if let Some(capabilities) = capabilities {
            crate::copy_tree(capabilities, &base.join("cache"));
        }
        for dir in ["lib/images", "storage"] {
            let mode = fs::Permissions::from_mode(0o711);
            fs::set_permissions(base.join(dir), mode).expect("set a mode");
        }
        let log = format!("log_outputs = \"2:file:{}/libvirtd.log\"\n", base.display());
        let remote = port.map(|port| {
            format!("listen_tls = 0\nlisten_tcp = 1\nlisten_addr = \"127.0.0.1\"\ntcp_port = \"{port}\"\nauth_tcp = \"none\"\n")
        });
        fs::write(base.join("etc/libvirtd.conf"), [LIBVIRTD_CONF, &log, &remote.unwrap_or_default()].concat())
            .expect("write libvirtd.conf");
        fs::write(base.join("etc/qemu.conf"), QEMU_CONF).expect("write qemu.conf");
        if Path::new("/dev/kvm").exists() {
            let mut mknod = Command::new("mknod");
            mknod.args(["-m", "666"]).arg(base.join("kvm")).args(["c", "10", "232"]);
            process::run(&mut mknod, Duration::from_secs(5)).expect_success();
        }

        let daemon = Mutex::new(spawn(&base, port));
        let libvirt = Self { base, port, daemon, leash: Some(leash) };
        libvirt.wait_until_up();
        libvirt
    }

    /// A daemon that can be reached as one of another machine too, at [`Self::remote_uri`].
    ///
    /// # Panics
    /// As [`Self::start`].
    pub fn start_remote() -> Self {
        assert!(crate::is_root(), "a private libvirtd needs root; `make test` sees to it");
        let cached = prepared_capabilities();
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        Self::start_as(Some(&cached), Some(port.expect("a free port").port()))
    }

    /// The URI of this daemon as if it were another machine's: no descriptor can be had over it.
    ///
    /// # Panics
    /// When it was not started by [`Self::start_remote`].
    pub fn remote_uri(&self) -> String {
        format!("qemu+tcp://127.0.0.1:{}/system", self.port.expect("a daemon with a port"))
    }

    /// The URI to connect to, as root or as a member of group `libvirt`.
    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}", self.socket().display())
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.base.join("run/libvirt/libvirt-sock")
    }

    /// The directory that holds everything of this daemon.
    pub fn dir(&self) -> &Path {
        &self.base
    }

    /// A directory for volumes that daemon and test see under the same path.
    pub fn storage_dir(&self) -> PathBuf {
        self.base.join("storage")
    }

    /// A directory for volumes that only the daemon sees under this path.
    pub fn hidden_storage_dir(&self) -> PathBuf {
        PathBuf::from("/var/lib/libvirt/images")
    }

    /// The daemon's log.
    pub fn log(&self) -> PathBuf {
        self.base.join("libvirtd.log")
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.daemon().id()
    }

    /// Kills the daemon at once; its guests go on.
    pub fn kill9(&self) {
        process::kill9(&mut self.daemon());
    }

    /// Starts the daemon again, killing it first if it runs, and waits until it
    /// answers.
    pub fn restart(&self) {
        {
            let mut daemon = self.daemon();
            process::kill9(&mut daemon);
            *daemon = spawn(&self.base, self.port);
        }
        self.wait_until_up();
    }

    /// Starts the daemon again where it has ended by itself, as systemd does; says whether it had.
    pub fn revive(&self) -> bool {
        let ended = matches!(self.daemon().try_wait(), Ok(Some(_)));
        if ended {
            self.restart();
        }
        ended
    }

    /// Stops the daemon in its tracks: it accepts connections and never answers.
    pub fn sigstop(&self) {
        process::signal(self.pid(), Signal::STOP);
    }

    /// Lets a stopped daemon go on.
    pub fn sigcont(&self) {
        process::signal(self.pid(), Signal::CONT);
    }

    /// What a power cut of the host leaves: daemon and guests are gone, and so is all that is kept
    /// in memory (/run). Then the host is up again, and with it the daemon, which answers.
    pub fn reboot(&self) {
        {
            let mut daemon = self.daemon();
            process::kill9(&mut daemon);
            for pid in self.qemu_pids() {
                process::signal(pid, Signal::KILL);
            }
            process::wait_for("the guests' end", Duration::from_secs(10), || self.qemu_pids().is_empty().then_some(()));
            let run = self.base.join("run");
            fs::remove_dir_all(&run).expect("remove a directory");
            for dir in [run.clone(), run.join("lock")] {
                fs::create_dir(dir).expect("make a directory");
            }
            *daemon = spawn(&self.base, self.port);
        }
        self.wait_until_up();
    }

    /// Where the test finds what the daemon sees at `path`.
    pub fn seen_at(&self, path: &Path) -> PathBuf {
        let path = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.pid())).join(path)
    }

    /// Mounts a file system of `size` at `path` for the daemon, and the guests to come, alone.
    ///
    /// # Panics
    /// When it cannot be mounted.
    pub fn mount_small(&self, path: &Path, size: &str) {
        let mut mount = Command::new("nsenter");
        mount.args(["-t", &self.pid().to_string(), "-m", "mount", "-t", "tmpfs"]);
        mount.args(["-o", &format!("size={size}"), "tmpfs"]).arg(path);
        process::run(&mut mount, Duration::from_secs(10)).expect_success();
    }

    /// Takes what [`mount_small`](Self::mount_small) mounted away again.
    ///
    /// # Panics
    /// When there is no such mount.
    pub fn unmount(&self, path: &Path) {
        let mut unmount = Command::new("nsenter");
        unmount.args(["-t", &self.pid().to_string(), "-m", "umount", "--lazy"]).arg(path);
        process::run(&mut unmount, Duration::from_secs(10)).expect_success();
    }

    /// The process id of the guest with this UUID, where it runs.
    pub fn qemu_pid(&self, id: &str) -> Option<u32> {
        let is_its = |pid: &u32| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(id)
        };
        self.qemu_pids().into_iter().find(is_its)
    }

    /// Runs `virsh` against this daemon, for at most 30 s.
    pub fn virsh(&self, arguments: &[&str]) -> Output {
        self.virsh_within(Duration::from_secs(30), arguments)
    }

    /// Runs `virsh` against this daemon, with a deadline.
    pub fn virsh_within(&self, deadline: Duration, arguments: &[&str]) -> Output {
        process::run(Command::new("virsh").args(["-q", "-c", &self.uri()]).args(arguments), deadline)
    }

    /// Defines a domain from XML text.
    ///
    /// # Panics
    /// When libvirt refuses it.
    pub fn define(&self, xml: &str) {
        let file = self.base.join(format!("{}.xml", uuid::Uuid::new_v4()));
        fs::write(&file, xml).expect("write a file");
        self.virsh(&["define", &file.to_string_lossy()]).expect_success();
        fs::remove_file(file).expect("remove a file");
    }

    /// The process ids of this daemon's QEMUs.
    pub fn qemu_pids(&self) -> Vec<u32> {
        let mark = format!("/{}/", self.base.file_name().unwrap_or_default().display());
        let processes = fs::read_dir("/proc").expect("read /proc");
        processes
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let pid = entry.file_name().to_str()?.parse().ok()?;
                let command = fs::read(entry.path().join("cmdline")).ok()?;
                let program = command.split(|byte| *byte == 0).next()?;
                let mounts = fs::read_to_string(entry.path().join("mountinfo")).ok()?;
                let ours = String::from_utf8_lossy(program).contains("qemu-system") && mounts.contains(&mark);
                ours.then_some(pid)
            })
            .collect()
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Child> {
        self.daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn wait_until_up(&self) {
        let socket = self.socket();
        process::wait_for("a private libvirtd", Duration::from_secs(20), || {
            if let Ok(Some(status)) = self.daemon().try_wait() {
                let output = process::tail(&self.base.join("output"), 20);
                panic!("libvirtd ended with {status}:\n{output}");
            }
            UnixStream::connect(&socket).ok()
        });
        self.virsh(&["uri"]).expect_success();
    }
}

impl Drop for PrivateLibvirt {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("libvirtd's log ends:\n{}", process::tail(&self.log(), 15));
        }
        drop(self.leash.take());
        process::kill9(&mut self.daemon());
    }
}

fn spawn(base: &Path, port: Option<u16>) -> Child {
    let output = fs::File::create(base.join("output")).expect("make a file");
    Command::new("setsid")
        .args(["unshare", "-m", "--propagation", "private", "sh", "-c"])
        .args([include_str!("libvirt-enter.sh"), "libvirtd"])
        .arg(base)
        .args(port.map(|_| "--listen"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("share a file"))
        .stderr(output)
        .spawn()
        .expect("start setsid unshare")
}

/// libvirt's examination of the installed QEMU takes seconds; its result is
/// kept in the cache for as long as libvirt, QEMU and the kernel stay the same.
pub fn prepared_capabilities() -> PathBuf {
    let _guard = process::lock(&crate::cache_dir().join("libvirt.lock"));
    let key = process::run(
        Command::new("sh")
            .args(["-c", "for f in libvirtd qemu-system-x86_64; do stat -Lc %n:%Z $(command -v $f); done; uname -rv"]),
        Duration::from_secs(5),
    )
    .expect_success();
    let dir = crate::cache_dir().join("libvirt");
    if fs::read_to_string(dir.join("key")).ok().as_deref() == Some(&*key) {
        return dir.join("cache");
    }
    let libvirt = PrivateLibvirt::start_with(None);
    let deadline = Duration::from_secs(120);
    for question in ["capabilities", "domcapabilities"] {
        libvirt.virsh_within(deadline, &[question]).expect_success();
    }
    fs::remove_dir_all(&dir).ok();
    fs::create_dir(&dir).expect("make a directory");
    crate::copy_tree(&libvirt.base.join("cache"), &dir.join("cache"));
    fs::write(dir.join("key"), key).expect("write a file");
    dir.join("cache")
}
