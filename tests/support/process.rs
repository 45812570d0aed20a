//! Commands with deadlines, waiting for a condition, signals, and the leash
//! that ties a helper process to the life of the test.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// What a finished command left.
#[derive(Clone, PartialEq, Eq)]
pub struct Output {
    /// The command as text, for messages.
    pub command: String,
    /// The exit code; `None` after a signal, also that of the deadline.
    pub code: Option<i32>,
    /// Whether the deadline ended it.
    pub timed_out: bool,
    /// Standard output, lossy.
    pub stdout: String,
    /// Standard error, lossy.
    pub stderr: String,
}

impl Output {
    /// Whether the command ended with code 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// With everything the command said, when it failed.
    #[track_caller]
    pub fn expect_success(self) -> String {
        assert!(self.success(), "{self:?}");
        self.stdout
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match self.code {
            _ if self.timed_out => "reached its deadline".to_owned(),
            Some(code) => format!("ended with {code}"),
            None => "was killed".to_owned(),
        };
        write!(f, "`{}` {end}\n{}{}", self.command, self.stdout, self.stderr)
    }
}

/// Runs `command` to its end, with no input, and kills it at the deadline.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn run(command: &mut Command, deadline: Duration) -> Output {
    let text = format!("{command:?}");
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("start {text}: {e}"));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let mut timed_out = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait for a child") {
            break status;
        }
        if started.elapsed() > deadline {
            timed_out = true;
            child.kill().ok();
            break child.wait().expect("wait for a child");
        }
        thread::sleep(Duration::from_millis(5));
    };
    // A grandchild may hold the pipes open after a timeout; leave it its thread.
    let text_of = |reader: thread::JoinHandle<String>| {
        if timed_out && !reader.is_finished() {
            return String::new();
        }
        reader.join().unwrap_or_default()
    };
    Output { command: text, code: status.code(), timed_out, stdout: text_of(stdout), stderr: text_of(stderr) }
}

fn collect<R: Read + Send + 'static>(stream: Option<R>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            stream.read_to_end(&mut bytes).ok();
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Asks `probe` every 10 ms until it answers.
///
/// # Panics
/// With `what` when it has not answered at the deadline.
#[track_caller]
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < deadline, "{what}: not within {deadline:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sends a signal to a process of this test; a process that is gone is fine.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    rustix::process::kill_process(pid, signal).ok();
}

/// Kills a child and collects it.
pub fn kill9(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

/// Waits for a child to end by itself, and kills it at the deadline. Returns
/// its exit code when it ended by itself.
pub(crate) fn wait_or_kill(child: &mut Child, deadline: Duration) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(5));
    }
    kill9(child);
    None
}

/// A loopback port that nothing listens on now, below the ports that outgoing
/// connections take.
///
/// # Panics
/// When none is found.
pub fn free_port() -> u16 {
    for _ in 0..200 {
        let port = 20_000 + (uuid::Uuid::new_v4().as_u128() % 12_000) as u16;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 32000");
}

/// The last lines of a file, for messages.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A shell script that runs when this value is dropped or this process ends,
/// in whatever way: it waits at the other end of a pipe, in a session of its
/// own that no Ctrl-C reaches.
#[derive(Debug)]
pub(crate) struct Leash {
    script: Child,
    life: Option<ChildStdin>,
}

impl Leash {
    /// Runs `script` with `arguments` at the end of this value. The script
    /// begins by reading its standard input to the end.
    pub(crate) fn new(script: &str, arguments: &[&Path]) -> Self {
        let mut script = Command::new("setsid")
            .args(["sh", "-c", script, "leash"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start setsid sh");
        let life = script.stdin.take();
        Self { script, life }
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        drop(self.life.take());
        // What it does has ends of its own; without it guests would stay.
        wait_or_kill(&mut self.script, Duration::from_secs(120));
    }
}

/// Holds an exclusive lock among processes until the returned file is dropped.
pub(crate) fn lock(path: &Path) -> std::fs::File {
    let file = std::fs::File::create(path).expect("make a lock file");
    file.lock().expect("lock a file");
    file
}

/// CPU time of a process in nanoseconds: of all its threads, those that ended among them. It is its
/// clock of Linux (clock_getcpuclockid), since a tick of /proc is more than some things take.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn cpu_ns(pid: u32) -> f64 {
    let script = "import sys, time; print(time.clock_gettime_ns((~int(sys.argv[1]) << 3) | 2))";
    let output = Command::new("python3").args(["-c", script, &pid.to_string()]).output().expect("python3");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("nanoseconds")
}
