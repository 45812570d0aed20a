//! The `limen` program, served on a free loopback port from a data directory
//! of its own.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::Signal;

use crate::http::Client;
use crate::process::{self, Leash};

/// Name of the first administrator.
pub const ADMIN: &str = "admin";

/// Password of the first administrator.
pub const ADMIN_PASSWORD: &str = "correct horse battery staple";

/// How a server is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(OsString, OsString)>,
    unprivileged: bool,
}

impl Options {
    /// Sets an environment variable of the server. It sees no variable of the
    /// test but PATH.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs the server as user `nobody` in groups `libvirt` and `kvm`.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        self.unprivileged = true;
        self
    }

    /// Starts the server and waits until it is healthy.
    ///
    /// # Panics
    /// When the program is missing, ends, or is not healthy within 30 s; with
    /// the end of its log.
    pub fn start(self) -> Server {
        Server::start(self)
    }
}

/// A running server; dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Server {
    base: PathBuf,
    port: u16,
    program: PathBuf,
    options: Options,
    child: Mutex<Child>,
    leash: Option<Leash>,
}

impl Server {
    /// Options to begin with: administrator [`ADMIN`] with [`ADMIN_PASSWORD`], no rate limit.
    pub fn options() -> Options {
        Options::default()
    }

    fn start(options: Options) -> Self {
        let base = crate::scratch_dir("server");
        let leash = Leash::new(include_str!("server-leash.sh"), &[&base]);
        fs::create_dir(base.join("data")).expect("make a directory");
        let mut program = binary();
        if options.unprivileged {
            // The build directory may be closed to others.
            fs::copy(&program, base.join("limen")).expect("copy the program");
            program = base.join("limen");
            let mut chown = Command::new("chown");
            chown.arg("nobody:nogroup").arg(base.join("data"));
            process::run(&mut chown, Duration::from_secs(5)).expect_success();
        }
        let port = process::free_port();
        let server = Self {
            child: Mutex::new(spawn(&base, &program, port, &options)),
            base,
            port,
            program,
            options,
            leash: Some(leash),
        };
        server.wait_until_up();
        server
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    /// What it has logged so far, over all its restarts.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.base.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A client without a token.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// A client logged in as the first administrator.
    pub async fn admin(&self) -> Client {
        self.client().login(ADMIN, ADMIN_PASSWORD).await
    }

    /// A command of the `limen` program in this server's environment.
    pub fn command(&self) -> Command {
        command(&self.base, &self.program, self.port, &self.options)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Kills it at once.
    pub fn kill9(&self) {
        process::kill9(&mut self.child());
    }

    /// Stops it in its tracks: connections stay open and nothing answers.
    pub fn sigstop(&self) {
        process::signal(self.pid(), Signal::STOP);
    }

    /// Lets a stopped server go on.
    pub fn sigcont(&self) {
        process::signal(self.pid(), Signal::CONT);
    }

    /// Asks it to end, as Ctrl-C does; its exit code, `None` when it had to be
    /// killed after 30 s.
    pub fn sigterm(&self) -> Option<i32> {
        process::signal(self.pid(), Signal::TERM);
        process::wait_or_kill(&mut self.child(), Duration::from_secs(30))
    }

    /// Starts it again on the same data and port, killing it first if it runs,
    /// and waits until it is healthy.
    pub fn restart(&self) {
        self.spawn_again();
        self.wait_until_up();
    }

    /// Starts it again on the same data and port, killing it first if it runs,
    /// and waits for nothing.
    pub fn spawn_again(&self) {
        let mut child = self.child();
        process::kill9(&mut child);
        *child = spawn(&self.base, &self.program, self.port, &self.options);
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until it is healthy.
    ///
    /// # Panics
    /// When it ends, or is not healthy within 30 s; with the end of its log.
    pub fn wait_until_up(&self) {
        let deadline = Duration::from_secs(30);
        process::wait_for("a healthy limen server", deadline, || {
            if let Ok(Some(status)) = self.child().try_wait() {
                let log = process::tail(&self.base.join("log"), 30);
                panic!("limen ended with {status}:\n{log}");
            }
            is_up(self.port).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = process::tail(&self.base.join("log"), 60);
            eprintln!("limen's log ends:\n{log}");
        }
        drop(self.leash.take());
        process::kill9(&mut self.child());
    }
}

/// Whether `/api/health` answers 200.
fn is_up(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else {
        return false;
    };
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout above zero");
    let request = "GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    let mut start = [0; 12];
    stream.write_all(request.as_bytes()).is_ok() && stream.read_exact(&mut start).is_ok() && start == *b"HTTP/1.1 200"
}

/// The program: `LIMEN_BIN`, or what cargo built beside the tests.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LIMEN_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this program");
    test.ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("limen"))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no `limen` near {}; run `cargo build -p limen-http` first", test.display()))
}

fn command(base: &Path, program: &Path, port: u16, options: &Options) -> Command {
    let mut command = if options.unprivileged {
        let groups = ["libvirt", "kvm"].map(group_id).join(",");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--groups", &groups]).arg(program);
        command
    } else {
        Command::new(program)
    };
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("LIMEN_DATA_DIR", base.join("data"))
        .env("BIND_ADDRESS", "127.0.0.1")
        .env("PORT", port.to_string())
        .env("ADMIN_USER", ADMIN)
        .env("ADMIN_PASSWORD", ADMIN_PASSWORD)
        .env("RATE_LIMIT_ENABLED", "false")
        .envs(options.settings.iter().map(|(name, value)| (name, value)))
        .current_dir(base);
    command
}

fn spawn(base: &Path, program: &Path, port: u16, options: &Options) -> Child {
    let log = fs::File::options().create(true).append(true).open(base.join("log")).expect("open a log");
    command(base, program, port, options)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("share a file"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| panic!("start {}: {e}", program.display()))
}

fn group_id(name: &str) -> String {
    let groups = fs::read_to_string("/etc/group").expect("read /etc/group");
    groups
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then(|| fields.nth(1).unwrap_or_default().to_owned())
        })
        .unwrap_or_else(|| panic!("no group {name}; `make setup` installs libvirt"))
}
