//! The log: one line an event on standard error, as text or JSON.
//!
//! Only LIMEN's own events are written: what libraries log at `debug` and `trace` (queries,
//! headers) may hold secrets.

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
    const fn new(most: u32) -> Self {
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
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(EscapedStderr);
    let installed = match format {
        LogFormat::Text => registry.with(layer.with_target(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(installed);
}

/// Standard error, with every control character inside an event escaped: a newline in a client's
/// input must not look like another event, an escape sequence must not reach a terminal.
#[derive(Debug, Clone, Copy)]
struct EscapedStderr;

impl MakeWriter<'_> for EscapedStderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for EscapedStderr {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(&escape(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
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
