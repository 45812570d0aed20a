//! The last lines of what the code under test logs, for whoever must find out why it did not come to
//! its end.

use std::collections::VecDeque;
use std::io;
use std::sync::{LazyLock, Mutex, Once, PoisonError};

use tracing_subscriber::EnvFilter;

/// Lines that are kept.
const LINES: usize = 2_000;

static LAST: LazyLock<Mutex<VecDeque<String>>> = LazyLock::new(Mutex::default);

struct Line;

impl io::Write for Line {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LINES {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on the log of this process is kept, as long as no other takes it.
pub fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("limen_core=debug"));
        // A test that reads its own log has set one already.
        _ = log.with_ansi(false).with_writer(|| Line).try_init();
    });
}

/// The last lines that were logged, whichever test of the process they belong to.
pub fn last() -> String {
    let last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    last.iter().map(String::as_str).collect()
}
