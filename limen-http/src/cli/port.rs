//! Who has a TCP port, from what the kernel shows in /proc.

use std::fs;

/// The process that listens on `port`, as `name (pid N)`; none when nobody does.
pub(super) fn holder(port: u16) -> Option<String> {
    if sockets(port).is_empty() {
        return None;
    }
    // The kernel shows the files of other users' processes to root alone.
    let Some(pid) = listener(port) else { return Some("another user's process".to_owned()) };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The process that listens on `port`; none when nobody does, or one that this user may not see.
pub(super) fn listener(port: u16) -> Option<u32> {
    let sockets = sockets(port);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut pids: Vec<u32> = processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect();
    // A parent shares its sockets with its children, and is the elder.
    pids.sort_unstable();
    pids.into_iter().find(|pid| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
        targets.any(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    })
}

fn sockets(port: u16) -> Vec<String> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().flat_map(|table| listening(table, port)).collect()
}

/// The sockets that listen on `port`, as links in `/proc/PID/fd` name them.
fn listening(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let wanted = format!("{port:04X}");
    let sockets = text.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = local_port == wanted && *fields.get(3)? == LISTEN;
        listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("address").port();
        let holder = super::holder(port).expect("a holder");
        assert!(holder.contains(&format!("(pid {})", std::process::id())), "{holder}");
        drop(listener);
        assert_eq!(super::holder(port), None);
    }
}
