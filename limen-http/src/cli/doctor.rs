//! `limen doctor`: what this machine can do for LIMEN, and what is missing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use limen_core::model::{HostInfo, VirtType};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpStream;

use super::{Result, output, port};
use crate::config::{CoreConfig, HttpArgs, HypervisorChoice, StoreChoice};
use crate::start;

pub(super) const HELP: &str = "\
Each line says ok, note (it works, but look at it) or missing (LIMEN does not work without it).
Exit codes: 0 when nothing is missing, 1 when something is.";

/// How long the hypervisor may take to answer: a cold libvirt probes QEMU for a while.
const HOST_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    http: HttpArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Note,
    Missing,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    detail: String,
}

fn finding(what: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding { what, verdict, detail: detail.into() }
}

pub(super) async fn run(core: &CoreConfig, args: &DoctorArgs, as_json: bool) -> Result<u8> {
    let http = args.http.judge()?;
    let host = host(core).await;
    let mut findings = vec![hypervisor(core, &host)];
    if matches!(core.hypervisor, HypervisorChoice::Libvirt(_)) {
        findings.push(kvm_device());
        findings.push(guests(&host));
    }
    findings.push(data_dir(&core.data_dir));
    findings.push(store(core).await);
    findings.push(listening(http.bind.port()).await);

    let missing = findings.iter().any(|finding| finding.verdict == Verdict::Missing);
    if as_json {
        output::json(&json!({"ok": !missing, "findings": findings}));
    } else {
        for Finding { what, verdict, detail } in &findings {
            let word = match verdict {
                Verdict::Ok => "ok",
                Verdict::Note => "note",
                Verdict::Missing => "missing",
            };
            output::line(format!("{word:8} {what:10} {detail}"));
        }
    }
    Ok(u8::from(missing))
}

async fn host(core: &CoreConfig) -> limen_core::Result<HostInfo> {
    let look = async {
        let hypervisor = start::open_hypervisor(core).await?;
        let info = hypervisor.host_info().await;
        hypervisor.close().await;
        info
    };
    match tokio::time::timeout(HOST_PATIENCE, look).await {
        Ok(info) => info,
        Err(_) => Err(limen_core::Error::unavailable("The host")),
    }
}

fn hypervisor(core: &CoreConfig, host: &limen_core::Result<HostInfo>) -> Finding {
    let uri = core.hypervisor.uri();
    match host {
        Ok(info) => {
            let HostInfo { hypervisor, hostname, cpus, memory_mib, .. } = info;
            let detail = format!("{uri}: {hypervisor} on {hostname}, {cpus} CPUs, {memory_mib} MiB");
            finding("hypervisor", Verdict::Ok, detail)
        }
        Err(error) => {
            let causes = error.causes();
            let why = if causes.is_empty() { error.to_string() } else { causes };
            let help = "is libvirtd running, and may this user talk to it (group libvirt)?";
            let why = why.trim_end_matches('.');
            finding("hypervisor", Verdict::Missing, format!("{uri} does not answer: {why}; {help}"))
        }
    }
}

/// libvirt looks at QEMU anew at every call where QEMU's user cannot open the device.
fn kvm_device() -> Finding {
    const WHAT: &str = "/dev/kvm";
    let Ok(found) = fs::metadata("/dev/kvm") else {
        return finding(WHAT, Verdict::Note, "absent: guests are emulated in software, many times slower");
    };
    let mode = found.permissions().mode() & 0o777;
    let (owner, group) = (found.uid(), name_of_group(found.gid()));
    let detail = format!("mode {mode:04o}, owner {owner}, group {group}");
    let for_qemu = (mode & 0o060 == 0o060 && group == "kvm") || mode & 0o006 == 0o006;
    if for_qemu {
        finding(WHAT, Verdict::Ok, detail)
    } else {
        let cure = "QEMU's user cannot open it, and defining a VM may take a minute: \
                    chgrp kvm /dev/kvm && chmod 660 /dev/kvm";
        finding(WHAT, Verdict::Note, format!("{detail}; {cure}"))
    }
}

fn name_of_group(gid: u32) -> String {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.get(2)?.parse::<u32>().ok()? == gid).then(|| fields[0].to_owned())
    });
    name.unwrap_or_else(|| gid.to_string())
}

/// KVM or software emulation, and why.
fn guests(host: &limen_core::Result<HostInfo>) -> Finding {
    const WHAT: &str = "guests";
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    let opens = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let why = match (has_flag, opens) {
        (true, true) => "the CPU has vmx or svm, and /dev/kvm opens",
        (true, false) => "the CPU has vmx or svm, but /dev/kvm does not open for this user",
        (false, true) => "/dev/kvm opens, but the CPU shows neither vmx nor svm: a KVM guest would hang",
        (false, false) => "the CPU shows neither vmx nor svm, and /dev/kvm does not open",
    };
    match host {
        Ok(info) if info.virt_type == VirtType::Kvm => finding(WHAT, Verdict::Ok, format!("KVM: {why}")),
        Ok(info) if info.virt_type == VirtType::Test => finding(WHAT, Verdict::Ok, "none: libvirt's test driver"),
        Ok(_) => finding(WHAT, Verdict::Note, format!("software emulation (TCG): {why}")),
        Err(_) => finding(WHAT, Verdict::Note, format!("not known while the hypervisor is away; {why}")),
    }
}

fn data_dir(path: &Path) -> Finding {
    const WHAT: &str = "data";
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let writable = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok();
    let free_gib = rustix::fs::statvfs(existing).map(|fs| (fs.f_bavail * fs.f_frsize) >> 30).unwrap_or_default();
    let state = if existing == path { "exists" } else { "will be made" };
    let detail = format!("{} {state}, {free_gib} GiB free", path.display());
    match (writable, free_gib) {
        (false, _) => finding(WHAT, Verdict::Missing, format!("{detail}, but this user may not write to it")),
        (true, 0) => finding(WHAT, Verdict::Missing, format!("{detail}: too little")),
        (true, _) => finding(WHAT, Verdict::Ok, detail),
    }
}

async fn store(core: &CoreConfig) -> Finding {
    const WHAT: &str = "store";
    let url = match &core.store {
        StoreChoice::Sqlite(path) => return finding(WHAT, Verdict::Ok, format!("SQLite, {path}")),
        StoreChoice::Postgres(url) => url,
    };
    let rest = url.expose().split_once("://").map_or("", |(_, rest)| rest);
    let address = rest.rsplit_once('@').map_or(rest, |(_, host)| host).split(['/', '?']).next().unwrap_or_default();
    let target = if address.contains(':') { address.to_owned() } else { format!("{address}:5432") };
    if target.starts_with('%') {
        return finding(WHAT, Verdict::Ok, "PostgreSQL by a socket of this machine");
    }
    match tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(&target)).await {
        Ok(Ok(_)) => finding(WHAT, Verdict::Ok, format!("PostgreSQL, {target} answers")),
        _ => finding(WHAT, Verdict::Missing, format!("PostgreSQL, {target} does not answer")),
    }
}

async fn listening(number: u16) -> Finding {
    const WHAT: &str = "port";
    let Some(holder) = port::holder(number) else {
        return finding(WHAT, Verdict::Ok, format!("{number} is free"));
    };
    if is_limen(number).await {
        return finding(WHAT, Verdict::Ok, format!("{number}: a LIMEN server answers, {holder}"));
    }
    finding(WHAT, Verdict::Missing, format!("{number} is taken by {holder}; name another one by PORT"))
}

async fn is_limen(number: u16) -> bool {
    let Ok(client) = reqwest::Client::builder().timeout(Duration::from_secs(3)).no_proxy().build() else {
        return false;
    };
    let answer = client.get(format!("http://127.0.0.1:{number}/api/health/live")).send().await;
    answer.is_ok_and(|answer| answer.headers().contains_key(&crate::request_id::X_REQUEST_ID))
}
