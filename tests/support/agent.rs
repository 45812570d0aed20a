//! The `limen-agent` program, on a free port of loopback.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::http::Client;
use crate::{debian, process};

/// An agent must answer or end within this, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running agent; killed with this value, and with the thread that started it.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    port: u16,
    log: tempfile::NamedTempFile,
}

/// The program: `LIMEN_AGENT_BIN`, or what cargo built beside the tests.
///
/// # Panics
/// When it has not been built.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("LIMEN_AGENT_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of this program");
    let near = test.ancestors().skip(1).take(2).map(|dir| dir.join("limen-agent"));
    near.into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no `limen-agent` near {}; run `cargo build -p limen-agent` first", test.display()))
}

impl Agent {
    /// Starts one that samples each second and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary());
        Self::start_with(command, settings)
    }

    /// The same where `fuse` (`/dev/fuse`, opened) is mounted at `place`, for this agent alone.
    ///
    /// # Panics
    /// When it does not answer, or not run as root.
    #[track_caller]
    pub fn start_beside(fuse: &File, place: &Path) -> Self {
        // No kill-child: unshare becomes the shell, and the shell the agent.
        let script =
            "mount -i -t fuse -o fd=0,rootmode=40000,user_id=0,group_id=0 limen-hung \"$1\" && exec \"$0\" </dev/null";
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", script]).arg(binary()).arg(place);
        command.stdin(fuse.try_clone().expect("a second handle"));
        Self::start_with(command, &[])
    }

    #[track_caller]
    fn start_with(mut command: Command, settings: &[(&str, &str)]) -> Self {
        let port = process::free_port();
        let log = tempfile::NamedTempFile::new().expect("a file for the log");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("PORT", port.to_string()).env("SAMPLE_SECONDS", "1").envs(settings.iter().copied());
        let child = command
            .stdout(Stdio::null())
            .stderr(log.reopen().expect("the log"))
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let mut agent = Self { child, port, log };
        process::wait_for("an agent that answers", DEADLINE, || {
            let ended = agent.child.try_wait().expect("a child");
            assert!(ended.is_none(), "the agent ended with {ended:?}: {}", agent.log());
            agent.log().contains("answers on").then_some(())
        });
        agent
    }

    /// A client without a token.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Asks it to stop.
    pub fn sigterm(&self) {
        process::signal(self.child.id(), Signal::TERM);
    }

    /// Waits until it has ended; its exit code.
    ///
    /// # Panics
    /// When it has not after a minute.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
        process::wait_for("the end of the agent", DEADLINE, || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        process::kill9(&mut self.child);
    }
}

/// Debian's prometheus-node-exporter, cut down to the collectors that the agent has too; killed with
/// this value, and with the thread that started it.
#[derive(Debug)]
pub struct NodeExporter {
    child: Child,
    port: u16,
}

/// The collectors that both have.
const COLLECTORS: [&str; 9] =
    ["cpu", "diskstats", "filesystem", "loadavg", "meminfo", "netdev", "pressure", "stat", "time"];

impl NodeExporter {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When its package cannot be fetched, or it does not answer.
    #[track_caller]
    pub fn start() -> Self {
        let port = process::free_port();
        let child = Self::command(port).spawn().expect("node_exporter");
        process::wait_for("a node_exporter that answers", DEADLINE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port }
    }

    /// What starts one on `port`.
    ///
    /// # Panics
    /// When its package cannot be fetched.
    #[track_caller]
    pub fn command(port: u16) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        command.arg(debian::program("prometheus-node-exporter", "/usr/bin/prometheus-node-exporter"));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}")).arg("--collector.disable-defaults");
        command.args(COLLECTORS.map(|name| format!("--collector.{name}")));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        process::kill9(&mut self.child);
    }
}
