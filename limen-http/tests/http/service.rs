//! The program as a service: what it tells the service manager, and secrets that are files.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::process::Running;

/// A service manager's socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        Self(socket)
    }

    /// The next that is told.
    fn told(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("something is told within 30 s");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The next that is told but for the watchdog's food.
    fn told_besides(&self) -> String {
        loop {
            let told = self.told();
            if told != "WATCHDOG=1\n" {
                return told;
            }
        }
    }
}

#[test]
fn the_service_manager_hears_of_the_start_of_life_and_of_the_end() {
    let home = TempDir::new().expect("a directory");
    let socket = home.path().join("notify");
    let manager = Manager::at(&socket);
    let settings = [
        ("NOTIFY_SOCKET", socket.to_str().expect("text")),
        ("WATCHDOG_USEC", "300000"),
        ("ADMIN_PASSWORD", "correct horse 1"),
    ];
    let (running, lines) = Running::start(home.path(), &settings);
    let ready = manager.told();
    let mut said = ready.lines();
    assert_eq!(said.next(), Some("READY=1"), "the first that is told");
    assert_eq!(said.next(), Some(format!("STATUS=answers on {}", running.url).as_str()), "{lines:?}");
    let address = running.url.trim_start_matches("http://").to_owned();
    drop(std::net::TcpStream::connect(&address).expect("it listens when it says so"));
    for _ in 0..5 {
        assert_eq!(manager.told(), "WATCHDOG=1\n");
    }
    let (code, _) = running.stop();
    assert_eq!(code, 0);
    assert!(manager.told_besides().starts_with("STOPPING=1\n"));
}

#[test]
fn a_process_that_hangs_feeds_no_watchdog() {
    let home = TempDir::new().expect("a directory");
    let socket = home.path().join("notify");
    let manager = Manager::at(&socket);
    let settings = [
        ("NOTIFY_SOCKET", socket.to_str().expect("text")),
        ("WATCHDOG_USEC", "300000"),
        ("ADMIN_PASSWORD", "correct horse 1"),
    ];
    let (running, _) = Running::start(home.path(), &settings);
    manager.told();
    assert_eq!(manager.told(), "WATCHDOG=1\n");
    let pid = rustix::process::Pid::from_raw(i32::try_from(running.pid()).expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).expect("signalled");
    // What was on its way is read, then nothing comes for many periods.
    manager.0.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");
    let mut bytes = [0; 64];
    let late = (0..20).take_while(|_| manager.0.recv(&mut bytes).is_ok()).count();
    assert!(late < 20, "it is fed while the process stands still");
}

#[test]
fn secrets_in_files_are_used_and_stay_out_of_sight() {
    let home = TempDir::new().expect("a directory");
    let password = home.path().join("password");
    let secret = home.path().join("secret");
    for (path, text) in [(&password, "correct horse 7\n"), (&secret, "9f86d081884c7d659a2feaa0c55ad015\n")] {
        std::fs::write(path, text).expect("written");
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).expect("a mode");
    }
    std::fs::write(home.path().join("known"), "").expect("written");
    let settings = [
        ("ADMIN_PASSWORD_FILE", password.to_str().expect("text")),
        ("JWT_SECRET_FILE", secret.to_str().expect("text")),
    ];
    let (running, _) = Running::start(home.path(), &settings);
    let login = |password: &str| {
        let body = format!("{{\"username\": \"admin\", \"password\": \"{password}\"}}");
        let mut command = std::process::Command::new("curl");
        command.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "content-type: application/json"]);
        let output = command.args(["-d", &body]).arg(format!("{}/api/auth/login", running.url)).output().expect("curl");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(login("correct horse 7"), "200");
    assert_eq!(login("correct horse 8"), "401");
    assert!(!home.path().join("data/jwt-secret").exists(), "none was made");
    assert!(!home.path().join("data/initial-admin-password").exists(), "none was made");
    let pid = running.pid();
    for file in ["environ", "cmdline"] {
        let shown = std::fs::read(format!("/proc/{pid}/{file}")).expect("one's own process");
        let shown = String::from_utf8_lossy(&shown);
        assert!(!shown.contains("correct horse 7") && !shown.contains("9f86d081"), "{file}");
    }
    let (_, log) = running.stop();
    assert!(!log.contains("correct horse 7") && !log.contains("9f86d081"), "{log}");
}
