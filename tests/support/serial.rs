//! Reads a guest's console until it has said something, with a deadline.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::process;

/// Reads `stream` until `find` finds what it looks for in all that was read.
///
/// # Errors
/// With what was read, when the stream ends, fails or the deadline passes
/// before.
pub async fn read_until<T>(
    stream: &mut (impl AsyncRead + Unpin + Send),
    deadline: Duration,
    mut find: impl FnMut(&str) -> Option<T> + Send,
) -> Result<T, String> {
    let mut read = Vec::new();
    let outcome = tokio::time::timeout(deadline, async {
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => return Err("the console ended".to_owned()),
                Ok(count) => read.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(format!("the console failed: {error}")),
            }
            if let Some(found) = find(&String::from_utf8_lossy(&read)) {
                return Ok(found);
            }
        }
    })
    .await
    .unwrap_or_else(|_| Err(format!("not said within {deadline:?}")));
    outcome.map_err(|why| format!("{why}; said so far: {:?}", String::from_utf8_lossy(&read)))
}

/// A program that shows a console, run on a terminal of its own, as `virsh
/// console` wants; dropping it kills the program.
#[derive(Debug)]
pub struct Console {
    program: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    said: Vec<u8>,
}

impl Console {
    /// Runs a program by way of the shell.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn new(command_line: &str) -> Self {
        let mut program = Command::new("script")
            .args(["-qefc", &format!("exec {command_line}"), "/dev/null"])
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("start script");
        let (sender, output) = channel();
        let mut stdout = program.stdout.take().expect("stdout was asked for");
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self { input: program.stdin.take(), program, output, said: Vec::new() }
    }

    /// Types `text`.
    ///
    /// # Panics
    /// When the program is gone.
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("input is open until drop");
        input.write_all(text.as_bytes()).expect("type to a console");
        input.flush().expect("type to a console");
    }

    /// Waits until `find` finds what it looks for in all that was said since
    /// the last success.
    ///
    /// # Panics
    /// With what was said, when the program ends or the deadline passes before.
    #[track_caller]
    pub fn wait_for<T>(&mut self, deadline: Duration, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let end = Instant::now() + deadline;
        let why = loop {
            if let Some(found) = find(&String::from_utf8_lossy(&self.said)) {
                self.said.clear();
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.said.extend(bytes),
                Err(RecvTimeoutError::Timeout) => break format!("not said within {deadline:?}"),
                Err(RecvTimeoutError::Disconnected) => break "the console ended".to_owned(),
            }
        };
        panic!("{why}; said: {:?}", String::from_utf8_lossy(&self.said));
    }

    /// Waits until `text` has been said; see [`wait_for`](Self::wait_for).
    #[track_caller]
    pub fn wait_for_text(&mut self, deadline: Duration, text: &str) {
        self.wait_for(deadline, |said| said.contains(text).then_some(()));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        drop(self.input.take());
        process::kill9(&mut self.program);
    }
}
