//! Processes, from what the kernel shows in /proc.

use std::fs;

/// The state of a process as `ps` shows it: `T` is stopped.
pub(super) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may hold anything, a bracket too.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process was stopped (SIGSTOP), and goes on with SIGCONT.
pub(super) fn is_stopped(pid: u32) -> bool {
    state(pid) == Some('T')
}
