//! The real binary: settings, first start, stop, and the command line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "correct horse 1";

pub(crate) fn server(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_limen"));
    set(&mut command, home);
    command
}

pub(crate) fn limen(home: &Path) -> Command {
    // No test waits for a process for ever.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "120", env!("CARGO_BIN_EXE_limen")]);
    set(&mut command, home);
    command
}

fn set(command: &mut Command, home: &Path) {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home).env("LIMEN_DATA_DIR", home.join("data"));
    command.env("HYPERVISOR_URI", "sim:///?vms=3&seed=1").env("RATE_LIMIT_ENABLED", "false");
}

/// A running `limen serve`; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) url: String,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(home: &Path, settings: &[(&str, &str)]) -> (Self, Vec<String>) {
        let mut command = server(home);
        command.args(["serve", "--bind-address", "127.0.0.1", "--port", "0"]).envs(settings.iter().copied());
        // Not a pipe: one that nobody reads is full after a few hundred lines.
        let log = home.join("log");
        let stderr = std::fs::File::create(&log).expect("a file");
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("starts");
        let mut out = BufReader::new(child.stdout.take().expect("stdout"));
        let mut lines = Vec::new();
        let mut first = String::new();
        out.read_line(&mut first).expect("a line");
        let url = first.split_whitespace().find(|word| word.starts_with("http://"));
        let url = url.unwrap_or_else(|| panic!("no address in {first:?}")).trim_end_matches(';').to_owned();
        lines.push(first);
        let has_file = settings.iter().all(|(name, _)| *name != "ADMIN_PASSWORD") && !home.join("known").exists();
        if has_file {
            let mut second = String::new();
            out.read_line(&mut second).expect("a line");
            lines.push(second);
        }
        (Self { child, url, log }, lines)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; the exit code and the log.
    pub(crate) fn stop(mut self) -> (i32, String) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
        let code = self.child.wait().expect("ends").code().expect("an exit code");
        (code, std::fs::read_to_string(&self.log).expect("a log"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().expect("runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

pub(crate) fn with_stdin(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    child.wait_with_output().expect("ends")
}

#[test]
fn a_value_that_cannot_be_used_stops_the_start_and_names_its_variable() {
    let home = TempDir::new().expect("a directory");
    for (name, value) in [
        ("HYPERVISOR_URI", "nonsense"),
        ("HYPERVISOR_URI", "sim:///?colour=red"),
        ("LIBVIRT_URI", "qemu:///session"),
        ("DATABASE_URL", "mysql://x"),
        ("DB_PORT", "x"),
        ("LIMEN_DATA_DIR", "relative"),
        ("LIMEN_VMS_DIR", "relative"),
        ("LIMEN_IMAGES_DIR", ""),
        ("BIND_ADDRESS", "everywhere"),
        ("PORT", "http"),
        ("DB_MAX_OPEN_CONNS", "0"),
        ("DB_MAX_IDLE_CONNS", "many"),
        ("DB_CONN_MAX_LIFETIME", "0s"),
        ("DB_CONN_MAX_IDLE_TIME", "10"),
        ("ALLOWED_ORIGINS", "*"),
        ("TRUSTED_PROXIES", "localhost"),
        ("RATE_LIMIT_ENABLED", "yes"),
        ("RATE_LIMIT_RPS", "0"),
        ("RATE_LIMIT_BURST", "0"),
        ("READ_TIMEOUT", "15"),
        ("WRITE_TIMEOUT", "0s"),
        ("IDLE_TIMEOUT", "1.5m"),
        ("JWT_SECRET", "short"),
        ("JWT_SECRET", "change-me-to-a-long-random-string-please"),
        ("JWT_SECRET_PREVIOUS", "short"),
        ("TOKEN_EXPIRY_HOURS", "0"),
        ("EVENTS_DAYS", "0"),
        ("OPERATIONS_DAYS", "29"),
        ("IDEMPOTENCY_KEYS_HOURS", "23"),
        ("AUDIT_DAYS", "29"),
        ("ENDED_SESSIONS_HOURS", "-1"),
        ("ADMIN_USER", ""),
        ("ADMIN_USER", "no name"),
        ("ADMIN_PASSWORD", "short"),
        ("VIRT_TYPE", "fast"),
        ("MEMORY_OVERCOMMIT", "much"),
        ("FREE_SPACE_GIB", "-1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "yaml"),
    ] {
        let started = Instant::now();
        let mut serve = limen(home.path());
        serve.arg("serve").env("PORT", "0").env("BIND_ADDRESS", "127.0.0.1").env(name, value);
        let output = serve.output().expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(name), "{name}={value}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "one sentence: {said}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
    let home = TempDir::new().expect("a directory");
    let postgres = limen(home.path())
        .args(["serve", "--port", "0"])
        .env("DATABASE_URL", "postgres://u:hunter22@127.0.0.1:1/x")
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&postgres.stderr).into_owned();
    assert!(said.contains("JWT_SECRET is needed with PostgreSQL, the same for all servers"), "{said}");
    assert!(!said.contains("hunter22") && !home.path().join("data/jwt-secret").exists(), "{said}");
}

#[test]
fn a_first_start_makes_a_password_that_goes_when_it_is_changed() {
    let home = TempDir::new().expect("a directory");
    let (server, lines) = Running::start(home.path(), &[]);
    let file = home.path().join("data/initial-admin-password");
    let made = std::fs::read_to_string(&file).expect("the file").trim_end().to_owned();
    assert!(!lines.concat().contains(&made) && lines[1].contains("initial-admin-password"), "{lines:?}");
    for name in ["initial-admin-password", "jwt-secret", "limen.db"] {
        let mode = std::fs::metadata(home.path().join("data").join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    let login = limen(home.path()).args(["--url", &server.url, "login", "--password-stdin"]).output();
    assert_eq!(login.expect("runs").status.code(), Some(1), "an empty password is none");
    let mut command = limen(home.path());
    let login = with_stdin(command.args(["--url", &server.url, "login", "--password-stdin"]), &format!("{made}\n"));
    assert!(login.status.success(), "{login:?}");
    let kept = home.path().join(".config/limen/login.json");
    assert_eq!(std::fs::metadata(&kept).expect("kept").permissions().mode() & 0o777, 0o600);

    // The kept login names the server: no --url any more.
    let vms: Value = serde_json::from_str(&succeed(limen(home.path()).args(["vm", "list", "--json"]))).expect("JSON");
    assert_eq!(vms.as_array().map(Vec::len), Some(3));

    let (stopped, log) = server.stop();
    assert_eq!(stopped, 0);
    assert!(!log.contains(&made), "{log}");

    // The secret is kept too: the token is good after a restart, on the port that is free then.
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[]);
    let token = serde_json::from_slice::<Value>(&std::fs::read(&kept).expect("kept")).expect("JSON")["token"].clone();
    let token = token.as_str().expect("a token");
    succeed(limen(home.path()).args(["--url", &server.url, "--token", token, "vm", "list"]));

    let mut command = limen(home.path());
    command.args(["--url", &server.url, "--token", token, "user", "passwd", "--password-stdin"]);
    let changed = with_stdin(&mut command, &format!("{made}\n{PASSWORD}\n"));
    assert!(changed.status.success(), "{changed:?}");
    assert!(!file.exists(), "the made password is no longer good, so its file is gone");
    assert_eq!(server.stop().0, 0);
}

#[test]
fn the_command_line_does_its_work_through_a_server() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD), ("LOG_FORMAT", "json")]);
    let mut login = limen(home.path());
    assert!(with_stdin(login.args(["--url", &server.url, "login", "--password-stdin"]), PASSWORD).status.success());
    let run = |args: &[&str]| limen(home.path()).args(args).output().expect("runs");
    let text = |args: &[&str]| succeed(limen(home.path()).args(args));

    let listed: Value = serde_json::from_str(&text(&["--json", "vm", "list"])).expect("JSON");
    let off = listed.as_array().expect("a list").iter().find(|vm| vm["status"]["state"] == "shut_off");
    let name = off.map_or("", |vm| vm["name"].as_str().expect("a name"));
    if !name.is_empty() {
        assert!(text(&["vm", "start", name]).contains("is running."));
        assert!(text(&["vm", "power-off", name]).contains("is shut_off."));
        assert!(text(&["vm", "show", name]).contains("shut_off"));
    }
    let any = listed[0]["name"].as_str().expect("a name");
    assert_eq!(run(&["vm", "delete", any]).status.code(), Some(2), "no terminal to ask at");
    assert!(text(&["vm", "delete", "--yes", any]).contains("Deleted"));
    assert_eq!(run(&["vm", "show", any]).status.code(), Some(4));

    let mut add = limen(home.path());
    assert!(
        with_stdin(add.args(["user", "add", "alice", "--role", "viewer", "--password-stdin"]), PASSWORD)
            .status
            .success()
    );
    assert!(text(&["user", "list"]).contains("alice"));
    let mut again = limen(home.path());
    let again = with_stdin(again.args(["user", "add", "alice", "--password-stdin"]), PASSWORD);
    assert_eq!(again.status.code(), Some(1));

    let token = text(&["token", "add", "watcher", "--role", "viewer", "--days", "7"]);
    let watch = |command: &[&str]| run(&[command, &["--token", token.trim_end()]].concat());
    assert!(token.starts_with("limen_") && watch(&["vm", "list"]).status.success());
    assert_eq!(watch(&["token", "list"]).status.code(), Some(1), "a token makes no tokens");
    assert!(text(&["token", "list"]).contains("watcher") && !text(&["token", "list", "--json"]).contains("limen_"));
    assert!(text(&["token", "delete", "watcher"]).contains("Deleted"));
    assert_eq!(watch(&["vm", "list"]).status.code(), Some(1));
    assert_eq!(run(&["token", "delete", "watcher"]).status.code(), Some(4));
    assert_eq!(run(&["--local", "token", "add", "x"]).status.code(), Some(2));

    let operations: Value = serde_json::from_str(&text(&["op", "list", "--json"])).expect("JSON");
    let id = operations[0]["id"].as_str().expect("an operation");
    assert!(text(&["op", "wait", id]).contains("succeeded"));
    assert_eq!(run(&["op", "cancel", id]).status.code(), Some(1), "it is finished");
    assert!(text(&["op", "show", id]).contains("\"kind\""));

    // An image is added beside the running server, which then shows it.
    let image = home.path().join("disk.raw");
    std::fs::write(&image, vec![0_u8; 1 << 20]).expect("written");
    let added = text(&["image", "add", image.to_str().expect("a path"), "--name", "blank", "--format", "raw"]);
    assert!(added.contains("Added blank (raw)"), "{added}");
    assert!(text(&["image", "list"]).contains("blank"));
    let host: Value = serde_json::from_str(&text(&["host", "list", "--json"])).expect("JSON");
    let owner = host[0]["owner"].as_str().expect("a server works on the host");
    let log = std::fs::read_to_string(home.path().join("log")).expect("a log");
    assert!(text(&["host", "list"]).contains(owner) && log.contains(owner), "{host}");

    let refused = text(&["audit", "list", "--outcome", "refused"]);
    assert!(refused.contains("list_tokens") && refused.contains("token:admin/watcher"), "{refused}");
    let logins = text(&["--json", "audit", "list", "--actor", "user:admin", "--action", "login", "--limit", "1"]);
    assert_eq!(serde_json::from_str::<Value>(&logins).expect("JSON")[0]["outcome"], "succeeded");
    assert_eq!(run(&["audit", "list", "--from", "yesterday"]).status.code(), Some(1));

    assert!(text(&["logout"]).contains("Logged out"));
    assert_eq!(run(&["vm", "list"]).status.code(), Some(2), "no token any more");
    let (code, log) = server.stop();
    assert_eq!(code, 0);
    assert!(!log.contains(PASSWORD) && !log.contains(token.trim_end()), "{log}");
    for line in log.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(event["level"].is_string(), "{line}");
    }
    assert_eq!(run(&["--url", "http://127.0.0.1:1", "--token", "x", "vm", "list"]).status.code(), Some(3));
}

#[test]
fn the_command_line_works_without_a_server_too() {
    let home = TempDir::new().expect("a directory");
    let text = |args: &[&str]| succeed(limen(home.path()).args(args));
    let mut add = limen(home.path());
    let added = with_stdin(add.args(["--local", "user", "add", "bob", "--password-stdin"]), PASSWORD);
    assert!(added.status.success(), "{added:?}");
    assert!(text(&["--local", "user", "list"]).contains("bob"));
    let quota = ["--local", "user", "quota", "bob"];
    let changed = text(&[&quota[..], &["--quota-vms", "3", "--quota-vcpus", "none", "--json"]].concat());
    let changed: Value = serde_json::from_str(&changed).expect("JSON");
    assert_eq!((&changed["vms"], &changed["vcpus"]), (&json!(3), &json!(null)));
    let shown = text(&quota);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert!(shown.lines().any(|line| words(line) == ["vms", "3"]), "{shown}");
    assert!(shown.lines().any(|line| words(line) == ["vcpus", "none"]), "{shown}");
    let own = text(&["--local", "user", "quota"]);
    assert!(own.lines().any(|line| words(line)[..2] == ["memory_mib", "none"]), "{own}");
    let image = home.path().join("disk.raw");
    std::fs::write(&image, vec![0_u8; 1 << 20]).expect("written");
    let added = text(&["image", "add", image.to_str().expect("a path"), "--name", "blank", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&added).expect("JSON")["name"], "blank");
    assert!(text(&["--local", "image", "list"]).contains("blank"));
    let nobody = limen(home.path()).args(["--local", "user", "passwd", "nobody", "--password-stdin"]).output();
    assert_eq!(nobody.expect("runs").status.code(), Some(4));
}

#[test]
fn a_check_tells_by_its_exit_code_beside_a_server_and_without() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let check = |args: &[&str]| {
        let output = limen(home.path()).args(args).output().expect("runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    let mut login = limen(home.path());
    assert!(with_stdin(login.args(["--url", &server.url, "login", "--password-stdin"]), PASSWORD).status.success());
    let (code, said) = check(&["check"]);
    assert_eq!((code, said.as_str()), (Some(0), "All agrees; compared with the Store: local.\n"));
    assert_eq!(check(&["--local", "check"]).0, Some(0));

    let stray = home.path().join("data/images/stray.iso");
    std::fs::write(&stray, "stray").expect("written");
    let finding = json!([{
        "kind": "image_unrecorded", "severity": "warning", "subject": "file:stray.iso", "host": null,
        "detail": "A file in the directory of images belongs to no image.",
    }]);
    for args in [["check", "--json", "--log-level=error"], ["--local", "check", "--json"]] {
        let (code, said) = check(&args);
        let report: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!((code, &report["findings"]), (Some(1), &finding), "{args:?}");
        assert_eq!(report["hosts"], json!(["local"]));
    }
    let (code, said) = check(&["check"]);
    assert!(code == Some(1) && said.contains("image_unrecorded") && said.contains("file:stray.iso"), "{said}");
    server.stop();
    assert_eq!(check(&["--local", "check"]).0, Some(1), "without a server too");
    assert_eq!(check(&["check"]).0, Some(3), "the server is away");
    std::fs::remove_file(stray).expect("removed");
    assert_eq!(check(&["--local", "check"]).0, Some(0));
    let mut away = limen(home.path());
    away.args(["--local", "check"]).env("HYPERVISOR_URI", "qemu+unix:///system?socket=/nonexistent/socket");
    assert_eq!(away.output().expect("runs").status.code(), Some(3), "the host is away");
}

#[test]
fn events_are_followed_through_a_server_and_without() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    let mut login = limen(home.path());
    assert!(with_stdin(login.args(["--url", &server.url, "login", "--password-stdin"]), PASSWORD).status.success());
    let make_token = |name: &str| succeed(limen(home.path()).args(["token", "add", name]));
    let mut made = 0;
    for way in [&["events", "--after", "0", "--json"][..], &["--local", "events", "--after", "0", "--json"]] {
        let mut follower = limen(home.path()).args(way).stdout(Stdio::piped()).spawn().expect("starts");
        let mut lines = BufReader::new(follower.stdout.take().expect("stdout")).lines();
        let mut event = |number: i64| {
            let line = lines.next().expect("it goes on").expect("text");
            let event: Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(event["number"], number, "{way:?}");
            event
        };
        let first = event(1);
        assert_eq!(first["kind"], "host", "{first}");
        made += 1;
        make_token(&format!("token-{made}"));
        let tokens = (2..).map(event).filter(|event| event["kind"] == "token");
        assert_eq!(tokens.take(made).count(), made);
        // Who listens no more is told no more.
        drop(lines);
        made += 1;
        make_token(&format!("token-{made}"));
        assert!(follower.wait().expect("ends").success(), "{way:?}");
    }
    let refused = limen(home.path()).args(["events", "--after", "1000000"]).output().expect("runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    server.stop();
    let away = limen(home.path()).args(["events"]).output().expect("runs");
    assert_eq!(away.status.code(), Some(3), "{away:?}");
}

#[test]
fn a_taken_port_is_named_with_who_has_it() {
    let home = TempDir::new().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = taken.local_addr().expect("an address").port().to_string();
    let serve = ["serve", "--bind-address", "127.0.0.1", "--port", &port];
    let output = limen(home.path()).args(serve).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&port) && said.contains(&format!("(pid {})", std::process::id())), "{said}");

    let doctor = limen(home.path()).args(["doctor", "--json", "--port", &port]).output().expect("runs");
    assert_eq!(doctor.status.code(), Some(1), "{doctor:?}");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let found = report["findings"].as_array().expect("findings").iter().find(|finding| finding["id"] == "port_taken");
    assert!(found.expect("the port")["message"].as_str().is_some_and(|message| message.contains(&port)), "{report}");
    drop(taken);
    let doctor = limen(home.path()).args(["doctor", "--port", &port]).output().expect("runs");
    assert_eq!(doctor.status.code(), Some(0), "{doctor:?}");
}

#[test]
fn help_and_version_teach() {
    let home = TempDir::new().expect("a directory");
    let text = |args: &[&str]| succeed(limen(home.path()).args(args));
    assert_eq!(text(&["version"]).trim_end(), concat!("limen ", env!("CARGO_PKG_VERSION")));
    let help = text(&["--help"]);
    assert!(help.starts_with("Manage KVM/libvirt virtual machines"), "{help}");
    for word in ["Examples:", "limen serve", "Exit codes:", "not finished in time", "--local"] {
        assert!(help.contains(word), "{word}");
    }
    let serve = text(&["serve", "--help"]);
    for name in [
        "HYPERVISOR_URI",
        "LIBVIRT_URI",
        "DATABASE_URL",
        "DB_HOST",
        "DB_PORT",
        "DB_USER",
        "DB_PASSWORD",
        "DB_NAME",
        "LIMEN_DATA_DIR",
        "LIMEN_VMS_DIR",
        "LIMEN_IMAGES_DIR",
        "BIND_ADDRESS",
        "PORT",
        "DB_MAX_OPEN_CONNS",
        "DB_MAX_IDLE_CONNS",
        "DB_CONN_MAX_LIFETIME",
        "DB_CONN_MAX_IDLE_TIME",
        "ALLOWED_ORIGINS",
        "TRUSTED_PROXIES",
        "RATE_LIMIT_ENABLED",
        "RATE_LIMIT_RPS",
        "RATE_LIMIT_BURST",
        "READ_TIMEOUT",
        "WRITE_TIMEOUT",
        "IDLE_TIMEOUT",
        "JWT_SECRET",
        "JWT_SECRET_PREVIOUS",
        "TOKEN_EXPIRY_HOURS",
        "ADMIN_USER",
        "ADMIN_PASSWORD",
        "EVENTS_DAYS",
        "OPERATIONS_DAYS",
        "IDEMPOTENCY_KEYS_HOURS",
        "AUDIT_DAYS",
        "ENDED_SESSIONS_HOURS",
        "VIRT_TYPE",
        "LOG_LEVEL",
        "LOG_FORMAT",
    ] {
        assert!(serve.contains(&format!("[env: {name}")), "{name}");
    }
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../.env.example")).expect("a file");
    for line in serve.lines().filter_map(|line| line.split("[env: ").nth(1)) {
        let name = line.trim_end_matches([']', '=']);
        assert!(name.starts_with("LIMEN_URL") || name.starts_with("LIMEN_TOKEN") || example.contains(name), "{name}");
    }
    let unknown = limen(home.path()).arg("frobnicate").output().expect("runs");
    assert_eq!(unknown.status.code(), Some(2));
}

#[test]
fn requests_at_work_are_answered_when_the_server_stops() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    let address = server.url.trim_start_matches("http://").to_owned();
    // A request whose body is still on its way when the signal comes.
    let mut stream = std::net::TcpStream::connect(&address).expect("connects");
    let body = json!({"username": "admin", "password": PASSWORD}).to_string();
    let head = format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("written");
    std::thread::sleep(Duration::from_millis(300));
    let stopping = std::thread::spawn(move || server.stop());
    std::thread::sleep(Duration::from_millis(500));
    stream.write_all(body.as_bytes()).expect("written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stopping.join().expect("joined").0, 0);
    assert!(std::net::TcpStream::connect(&address).is_err(), "nobody listens any more");
}

/// Sends bytes and answers the heads and bodies that come back until the connection is closed.
pub(crate) fn exchange(address: &str, sent: &[u8]) -> String {
    let mut stream = std::net::TcpStream::connect(address).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
    // The server may close before it has read all.
    let _ = stream.write_all(sent);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
