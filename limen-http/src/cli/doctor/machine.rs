//! The port, the data directory, space, programs, and the agent.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::StatVfsMountFlags;

use super::finding::{Kind, Report};
use super::place::{Place, program, quoted};
use super::{PATIENCE, process, systemctl};
use crate::cli::port;
use crate::config::{CoreConfig, HttpConfig, HypervisorChoice, StoreChoice};

/// Whether the server can listen where it should.
pub(super) async fn listening(place: &Place, http: &HttpConfig) -> Report {
    let bind = http.bind;
    if let Err(error) = tokio::net::TcpListener::bind(SocketAddr::new(bind.ip(), 0)).await
        && error.kind() == io::ErrorKind::AddrNotAvailable
    {
        let message = format!("BIND_ADDRESS is {}, and this machine has no such address.", bind.ip());
        return Report::found(Kind::AddressAbsent, message, place.unset("BIND_ADDRESS"));
    }
    let mut report = Report::default();
    let number = bind.port();
    let Some(holder) = port::holder(number) else {
        report.good("port", format!("{number} is free"));
        return report;
    };
    if is_limen(bind).await {
        report.good("port", format!("{number}: LIMEN answers, {holder}"));
        return report;
    }
    let free = (number..=u16::MAX).chain(1024..number).skip(1).find(|port| port::holder(*port).is_none());
    let free = free.unwrap_or(0);
    let (pid, state) = port::listener(number).map_or((0, None), |pid| (pid, process::state(pid)));
    if state == Some('T') {
        let message = format!("Port {number} is taken by {holder}, which is stopped (SIGSTOP) and answers nobody.");
        report.find(Kind::PortTaken, message, format!("kill -CONT {pid}"));
        return report;
    }
    let message =
        format!("Port {number} is taken by {holder}, which is no LIMEN; end it, or let LIMEN have another port.");
    report.find(Kind::PortTaken, message, place.set("PORT", &free.to_string()));
    report
}

async fn is_limen(bind: SocketAddr) -> bool {
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build() else {
        return false;
    };
    let host = match bind.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let answer = client.get(format!("http://{host}:{}/api/health/live", bind.port())).send().await;
    answer.is_ok_and(|answer| answer.headers().contains_key(&crate::request_id::X_REQUEST_ID))
}

/// The data directory and what is in it. A file system that hangs takes a thread with it, which
/// ends with the process.
pub(super) async fn data(place: &Place, core: &CoreConfig) -> Report {
    let (place, core) = (place.clone(), core.clone());
    let directory = core.data_dir.clone();
    let look = tokio::task::spawn_blocking(move || look_at_data(&place, &core));
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(report) => report.unwrap_or_default(),
        Err(_) => {
            let mount = mount_of(&directory);
            let message = format!("LIMEN_DATA_DIR: {} does not answer: its file system hangs.", directory.display());
            Report::found(Kind::DataDirHung, message, format!("umount --force --lazy {}", quoted(&mount)))
        }
    }
}

/// The mount that a path is on, from its text alone.
fn mount_of(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| Some(line.split(' ').nth(1)?.replace("\\040", " ")));
    points.filter(|point| path.starts_with(point)).max_by_key(String::len).unwrap_or_else(|| "/".to_owned())
}

fn look_at_data(place: &Place, core: &CoreConfig) -> Report {
    let mut report = Report::default();
    let directory = &core.data_dir;
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let shown = quoted(&directory.to_string_lossy());
    let Ok(found) = fs::metadata(existing) else { return report };
    let disk = rustix::fs::statvfs(existing).ok();
    if disk.is_some_and(|disk| disk.f_flag.contains(StatVfsMountFlags::RDONLY)) {
        let mount = mount_of(existing);
        let message = format!("LIMEN_DATA_DIR: the file system of {} is read-only.", directory.display());
        report.find(Kind::DataDirReadOnly, message, format!("mount -o remount,rw {}", quoted(&mount)));
        return report;
    }
    let refused = refused_files(place, directory);
    if existing != directory && !place.may(&found, 0o3) {
        let message = format!("LIMEN_DATA_DIR: user {} may not make {}.", place.user, directory.display());
        let command = format!("install -d -m 711 -o {} {shown}", quoted(&place.user));
        report.find(Kind::DataDirRefused, message, command);
    } else if let Some(first) = refused.first() {
        let message = format!("LIMEN_DATA_DIR: user {} may not write to {}.", place.user, first.display());
        // Not all that is below: the disks of guests are QEMU's.
        let paths: Vec<String> = refused.iter().map(|path| quoted(&path.to_string_lossy())).collect();
        report.find(Kind::DataDirRefused, message, format!("chown {}: {}", quoted(&place.user), paths.join(" ")));
    }
    for (path, allowed) in open_files(core) {
        let message = format!("Others may look into {}, where LIMEN keeps what is secret.", path.display());
        report.find(Kind::DataOpen, message, format!("chmod {allowed:o} {}", quoted(&path.to_string_lossy())));
    }
    report.add(space(place, core));
    if report.findings.is_empty() {
        let state = if existing == directory { "is good" } else { "will be made" };
        report.looked.insert(0, ("data", format!("{} {state}", directory.display())));
    }
    report
}

/// Those of LIMEN's own things in the data directory that the user may not write to.
fn refused_files(place: &Place, directory: &Path) -> Vec<PathBuf> {
    let own = ["lock", "limen.db", "limen.db-wal", "limen.db-shm", "jwt-secret", "initial-admin-password", "images"];
    let files = std::iter::once(directory.to_owned()).chain(own.map(|name| directory.join(name)));
    let refused = files.filter(|path| {
        let wanted = if path.is_dir() { 0o3 } else { 0o6 };
        fs::metadata(path).is_ok_and(|found| !place.may(&found, wanted))
    });
    refused.collect()
}

/// Secrets that others may read or change, and the mode that each may have.
fn open_files(core: &CoreConfig) -> Vec<(PathBuf, u32)> {
    let directory = &core.data_dir;
    let mut files = vec![(directory.clone(), 0o711)];
    files.extend(["jwt-secret", "initial-admin-password", "limen.db"].map(|name| (directory.join(name), 0o600)));
    if let StoreChoice::Sqlite(path) = &core.store
        && Path::new(path) != directory.join("limen.db")
    {
        files.push((path.into(), 0o600));
    }
    files.retain(|(path, allowed)| fs::metadata(path).is_ok_and(|found| found.mode() & 0o777 & !allowed & 0o077 != 0));
    files
}

fn space(place: &Place, core: &CoreConfig) -> Report {
    let mut report = Report::default();
    let existing = core.vms_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let Ok(disk) = rustix::fs::statvfs(existing) else { return report };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let gib = |bytes: u64| format!("{}.{} GiB", bytes >> 30, ((bytes % (1 << 30)) * 10) >> 30);
    let kept = core.reserve.free_bytes;
    if free >= kept {
        report.good("space", format!("{} free in {}", gib(free), core.vms_dir.display()));
        return report;
    }
    let mount = mount_of(existing);
    let message = format!(
        "{} are free in {}, and a new VM must leave {} (FREE_SPACE_GIB): none can be made.",
        gib(free),
        core.vms_dir.display(),
        gib(kept)
    );
    let size = disk.f_blocks.saturating_mul(disk.f_frsize);
    let more = (kept - free + size).div_ceil(1 << 30) + 1;
    let command = match device_of(&mount) {
        (_, kind) if kind == "tmpfs" => format!("mount -o remount,size={more}G {}", quoted(&mount)),
        (device, _) if device.starts_with("/dev/mapper/") => {
            format!("lvextend --resizefs --size +{}G {}", (kept - free).div_ceil(1 << 30) + 1, quoted(&device))
        }
        _ => place.set("FREE_SPACE_GIB", &(free >> 30).to_string()),
    };
    report.find(Kind::SpaceLow, message, command);
    report
}

/// The device and the kind of what is mounted at `mount`.
fn device_of(mount: &str) -> (String, String) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().rev().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.get(1)?.replace("\\040", " ") == mount).then(|| (fields[0].to_owned(), fields[2].to_owned()))
    });
    found.unwrap_or_default()
}

/// Programs that a command of LIMEN's runs.
pub(super) fn programs(core: &CoreConfig) -> Report {
    let mut report = Report::default();
    let mut wanted = Vec::new();
    if matches!(core.store, StoreChoice::Postgres(_)) {
        wanted.push(("pg_dump", "postgresql-client", Kind::ProgramAbsent, "`limen backup` needs it"));
    }
    if matches!(&core.hypervisor, HypervisorChoice::Libvirt(uri) if uri.starts_with("qemu:///")) {
        wanted.push(("qemu-system-x86_64", "qemu-system-x86", Kind::QemuAbsent, "every guest runs in it"));
    }
    for (name, package, kind, why) in wanted {
        match program(name) {
            Some(path) => report.good("program", path.display().to_string()),
            None => {
                report.find(kind, format!("{name} is not installed: {why}."), format!("apt-get install -y {package}"));
            }
        }
    }
    report
}

/// Whether the host's agent answers.
pub(super) async fn agent(http: &HttpConfig) -> Report {
    let mut report = Report::default();
    let url = http.agent.url();
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build();
    let Ok(client) = client else { return report };
    let answer = client.get(format!("{url}/metrics")).send().await;
    match answer {
        // One that wants a token is one.
        Ok(answer) if answer.status().is_success() || answer.status() == 401 => {
            report.good("agent", format!("{url} answers"));
        }
        answer => {
            let why = match answer {
                Ok(answer) => format!("what answers there says {}", answer.status()),
                Err(error) if error.is_timeout() => "there was no answer in time".to_owned(),
                Err(_) => "nobody answers there".to_owned(),
            };
            let stopped = http.agent.local_port().and_then(port::listener).filter(|pid| process::is_stopped(*pid));
            let command = match stopped {
                Some(pid) => format!("kill -CONT {pid}"),
                None => systemctl("start", "limen-agent"),
            };
            let message = format!("AGENT_URL is {url}, and {why}: /agent/metrics has nothing to tell.");
            report.find(Kind::AgentAway, message, command);
        }
    }
    report
}
