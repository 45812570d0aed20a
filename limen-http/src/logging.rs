//! The log: one line an event on standard error, as text or JSON.
//!
//! Only LIMEN's own events are written: what libraries log at `debug` and `trace` (queries,
//! headers) may hold secrets.
//!
//! Under systemd each line begins with its priority (`<3>` for an error), which the journal takes off
//! and files it under: `journalctl -p err` shows the errors.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Lines about refusals of callers who are not known: 10 a second, whoever floods.
pub(crate) static STRANGERS: Measure = Measure::new(10);

/// Lets so many lines a second pass, and counts the others.
#[derive(Debug)]
pub(crate) struct Measure {
    most: u32,
    state: Mutex<Passed>,
}

#[derive(Debug)]
struct Passed {
    since: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Measure {
    pub(crate) const fn new(most: u32) -> Self {
        Self { most, state: Mutex::new(Passed { since: None, lines: 0, suppressed: 0 }) }
    }

    /// Whether a line may be written: then how many were not since the last one.
    pub(crate) fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            state.since = Some(now);
            state.lines = 0;
        }
        if state.lines >= self.most {
            state.suppressed += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

/// Installs the log for the rest of the process; a second call changes nothing.
pub(crate) fn install(level: LevelFilter, format: LogFormat) {
    let ours =
        Targets::new().with_target("limen", level).with_target("limen_core", level).with_target("limen_http", level);
    let registry = tracing_subscriber::registry().with(ours);
    let writer = EscapedStderr { priority: is_journal().then_some(INFO) };
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let installed = match format {
        LogFormat::Text => registry.with(layer.with_target(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(installed);
}

/// Standard error, with every control character inside an event escaped: a newline in a client's
/// input must not look like another event, an escape sequence must not reach a terminal.
#[derive(Debug, Clone, Copy)]
struct EscapedStderr {
    /// Syslog's number of the event's level, where somebody reads it.
    priority: Option<u8>,
}

const INFO: u8 = 6;

fn priority(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 3,
        tracing::Level::WARN => 4,
        tracing::Level::INFO => INFO,
        _ => 7,
    }
}

/// Whether standard error goes to the journal itself: systemd names the device and inode of the
/// stream that it gave, which may have been redirected since.
fn is_journal() -> bool {
    let Ok(stderr) = rustix::fs::fstat(io::stderr()) else { return false };
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

impl MakeWriter<'_> for EscapedStderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }

    fn make_writer_for(&self, event: &tracing::Metadata<'_>) -> Self {
        Self { priority: self.priority.map(|_| priority(*event.level())) }
    }
}

impl Write for EscapedStderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = escape(event);
        match self.priority {
            None => io::stderr().lock().write_all(&line)?,
            Some(priority) => {
                let prefix = format!("<{priority}>");
                io::stderr().lock().write_all(&[prefix.as_bytes(), &*line].concat())?;
            }
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

/// Tells of panics as one event, like all else: what they lead to is logged where it is met.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::warn!(target: "limen", at, text, "a task panicked");
    }));
}

/// The subscriber hands over one whole event per call, ended by a newline.
fn escape(event: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let (line, end) = match event.strip_suffix(b"\n") {
        Some(line) => (line, &b"\n"[..]),
        None => (event, &b""[..]),
    };
    let is_plain = |text: &str| !text.chars().any(char::is_control);
    match std::str::from_utf8(line) {
        Ok(text) if is_plain(text) => event.into(),
        _ => {
            let mut escaped = String::with_capacity(event.len() + 16);
            for character in String::from_utf8_lossy(line).chars() {
                if character.is_control() {
                    escaped.extend(character.escape_default());
                } else {
                    escaped.push(character);
                }
            }
            let mut bytes = escaped.into_bytes();
            bytes.extend_from_slice(end);
            bytes.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_pass_and_the_others_are_counted() {
        let (measure, start) = (Measure::new(3), Instant::now());
        let passed = |after: u64, calls: usize| -> Vec<u64> {
            let now = start + Duration::from_millis(after);
            (0..calls).filter_map(|_| measure.admit_at(now)).collect()
        };
        assert_eq!(passed(0, 2), [0, 0]);
        assert_eq!(passed(999, 10), [0]);
        assert_eq!(passed(1000, 100), [9, 0, 0]);
        assert_eq!(passed(5000, 1), [97]);
    }

    #[test]
    fn an_event_stays_one_line_whatever_is_in_it() {
        assert_eq!(&*escape(b"a\x1b[31m\nb\x7f\tc\n"), b"a\\u{1b}[31m\\nb\\u{7f}\\tc\n");
        assert_eq!(&*escape("이름 plain\n".as_bytes()), "이름 plain\n".as_bytes());
    }
}
