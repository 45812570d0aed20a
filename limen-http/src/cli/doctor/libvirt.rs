//! libvirt: whether its daemon is there, lets the user of LIMEN in, and answers.
//!
//! The socket is looked at first: it tells who may, and who listens. Then a process of its own asks
//! over libvirt's library, which has no deadline for opening a connection: that one is killed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use limen_core::hypervisor::libvirt::LibvirtHypervisor;
use limen_core::model::{HostInfo, VirtType};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::process::Command;

use super::finding::{Finding, Kind, Report};
use super::place::{Place, group_name, program, quoted};
use super::{process, systemctl};
use crate::config::CoreConfig;
use crate::start;

/// A cold libvirt probes QEMU for a while; the whole has ten seconds.
const ANSWER_PATIENCE: Duration = Duration::from_secs(7);
const SOCKET_PATIENCE: Duration = Duration::from_secs(2);

/// What the look brought, and how guests would run where that is known.
pub(super) async fn look(place: &Place, core: &CoreConfig) -> (Report, Option<VirtType>) {
    let uri = core.hypervisor.uri();
    let mut daemon = None;
    if let Some(socket) = socket_of(uri) {
        match connect(place, &socket).await {
            Ok(pid) => daemon = pid,
            Err(report) => return (report, None),
        }
    }
    let stopped = daemon.filter(|pid| process::is_stopped(*pid));
    if let Some(pid) = stopped {
        let message = format!("libvirt's daemon (process {pid}) is stopped (SIGSTOP), and answers nobody.");
        return (Report::found(Kind::LibvirtHung, message, format!("kill -CONT {pid}")), None);
    }
    let mut report = Report::default();
    match ask().await {
        Answer::Info(info) => {
            let HostInfo { hypervisor, hostname, cpus, memory_mib, .. } = &info;
            report.good("hypervisor", format!("{uri}: {hypervisor} on {hostname}, {cpus} CPUs, {memory_mib} MiB"));
            return (report, Some(info.virt_type));
        }
        Answer::None => {
            let message = format!("{uri} does not answer within {} s.", ANSWER_PATIENCE.as_secs());
            report.find(Kind::LibvirtHung, message, remedy(uri, "restart"));
        }
        Answer::Error(why) if socket_of(uri).is_none() && uri.contains('+') => {
            let message = format!("{uri} does not answer: {why}");
            report.find(Kind::LibvirtAway, message, remedy(uri, "start"));
        }
        Answer::Error(why) => {
            report.find(Kind::LibvirtFailed, format!("{uri} answers with an error: {why}"), remedy(uri, "restart"));
        }
    }
    (report, None)
}

/// Whether libvirt was found to take connections and to be late: it may only be slow.
pub(super) fn is_slow(finding: &Finding) -> bool {
    finding.kind == Kind::LibvirtHung && !finding.command.starts_with("kill ")
}

/// What to do to the daemon behind `uri`, on its machine.
fn remedy(uri: &str, verb: &str) -> String {
    let command = systemctl(verb, "libvirtd");
    let host = uri.split_once("://").and_then(|(_, rest)| rest.split(['/', ':', '?']).next()).unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    if host.is_empty() { command } else { format!("ssh root@{host} {}", quoted(&command)) }
}

/// The socket of this machine behind a URI; none for another machine's, and for drivers without.
fn socket_of(uri: &str) -> Option<PathBuf> {
    let (scheme, rest) = uri.split_once("://")?;
    if !matches!(scheme, "qemu" | "qemu+unix") || !rest.starts_with('/') {
        return None;
    }
    if let Some((_, query)) = rest.split_once('?') {
        let named = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "socket");
        if let Some((_, path)) = named {
            return Some(path.into_owned().into());
        }
    }
    let sockets = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"].map(PathBuf::from);
    sockets.iter().find(|path| path.exists()).or(sockets.first()).cloned()
}

/// The process that listens on the socket.
async fn connect(place: &Place, socket: &Path) -> Result<Option<u32>, Report> {
    let user = quoted(&place.user);
    if let Ok(found) = fs::metadata(socket)
        && !place.may(&found, 0o6)
    {
        let group = group_name(found.gid());
        let message =
            format!("User {} may not talk to libvirt: it is not in group {group} of {}.", place.user, socket.display());
        return Err(Report::found(Kind::LibvirtRefused, message, format!("usermod -aG {} {user}", quoted(&group))));
    }
    let error = match tokio::time::timeout(SOCKET_PATIENCE, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => {
            let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
            return Ok(peer.and_then(|pid| u32::try_from(pid).ok()));
        }
        Ok(Err(error)) => error,
        // The queue of those who wait is full.
        Err(_) => io::Error::from(io::ErrorKind::TimedOut),
    };
    Err(match error.kind() {
        io::ErrorKind::TimedOut => {
            let message = format!("libvirt's daemon takes no connection on {} any more.", socket.display());
            Report::found(Kind::LibvirtHung, message, systemctl("restart", "libvirtd"))
        }
        // This process lacks a right that the user of LIMEN has in /etc/group: it is older.
        io::ErrorKind::PermissionDenied => {
            let message = format!(
                "{} does not open for this process; log in anew, so that its groups are those of now.",
                socket.display()
            );
            Report::found(Kind::LibvirtRefused, message, format!("exec su - {user}"))
        }
        _ if program("libvirtd").is_none() && program("virtqemud").is_none() => {
            let message = "libvirt is not installed: neither libvirtd nor virtqemud is there.";
            Report::found(Kind::LibvirtAbsent, message, "apt-get install -y libvirt-daemon-system qemu-system-x86")
        }
        _ => {
            let message = format!("libvirt's daemon does not run: nobody listens on {}.", socket.display());
            Report::found(Kind::LibvirtAway, message, systemctl("start", "libvirtd"))
        }
    })
}

enum Answer {
    Info(HostInfo),
    Error(String),
    None,
}

/// Asks for the host's figures in a process of its own.
async fn ask() -> Answer {
    let Ok(program) = std::env::current_exe() else { return Answer::Error("this program is not found".to_owned()) };
    let mut probe = Command::new(program);
    probe.args(std::env::args_os().skip(1)).arg("--probe").stdin(Stdio::null()).stderr(Stdio::null());
    let output = tokio::time::timeout(ANSWER_PATIENCE, probe.kill_on_drop(true).output()).await;
    let output = match output {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Answer::Error(error.to_string()),
        Err(_) => return Answer::None,
    };
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    match serde_json::from_value(said["info"].clone()) {
        Ok(info) => Answer::Info(info),
        Err(_) => Answer::Error(said["error"].as_str().unwrap_or("it told nothing").to_owned()),
    }
}

/// The other end of [`ask`].
pub(super) async fn probe(core: &CoreConfig) -> Value {
    match LibvirtHypervisor::examine(start::libvirt(core, core.hypervisor.uri())).await {
        Ok(info) => json!({"info": info}),
        Err(error) => {
            let causes = error.causes();
            json!({"error": if causes.is_empty() { error.to_string() } else { causes }})
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_the_one_that_libvirt_would_use() {
        let socket = |uri| socket_of(uri).map(|path| path.display().to_string());
        assert_eq!(socket("qemu+unix:///system?socket=/a/b%20c").as_deref(), Some("/a/b c"));
        assert!(socket("qemu:///system").is_some_and(|path| path.starts_with("/run/libvirt/")));
        for other in ["qemu+tcp://host/system", "qemu+ssh://root@host/system", "test:///default"] {
            assert_eq!(socket(other), None);
        }
    }
}
