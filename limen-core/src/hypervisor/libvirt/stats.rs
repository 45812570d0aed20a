//! Counters of running VMs, in bulk calls.
//!
//! Some come from the guests' QEMUs, so a call may hang on one of them. It is made with NOWAIT:
//! a first call that hangs keeps its VM busy in libvirt, and the next one passes that VM by.

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;

use super::error::during;
use super::slots::{COUNTERS, Call, Lane};
use super::{LibvirtHypervisor, ffi};
use crate::error::{ErrorKind, Result};
use crate::hypervisor::VmStats;
use crate::model::{DiskStats, NicStats, Traffic, VmId};

const GROUPS: u32 = virt_sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | virt_sys::VIR_DOMAIN_STATS_BALLOON
    | virt_sys::VIR_DOMAIN_STATS_BLOCK
    | virt_sys::VIR_DOMAIN_STATS_INTERFACE;
const NOWAIT: u32 = virt_sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;

/// More VMs than this are asked in several calls at once.
const FEW: usize = 8;

pub(super) async fn all(host: &LibvirtHypervisor) -> Result<Vec<(VmId, VmStats)>> {
    let ids = asked(host, active).await?;
    if ids.len() <= FEW {
        return asked(host, ask).await;
    }
    // One after another libvirt asks the QEMUs of one call: each of these has a part of them.
    let parts = ids.chunks(ids.len().div_ceil(COUNTERS)).map(<[Uuid]>::to_vec);
    let parts = parts.map(|part| asked(host, move |conn| ask_some(conn, &part)));
    let mut told = Vec::with_capacity(ids.len());
    let mut failure = None;
    for part in futures_util::future::join_all(parts).await {
        match part {
            Ok(part) => told.extend(part),
            Err(error) => failure = Some(error),
        }
    }
    // Those of a part that failed did not answer; where none did, it is the host that does not.
    match failure {
        Some(error) if told.is_empty() => Err(error),
        _ => Ok(told),
    }
}

/// Asks once, and where one VM kept the answer back once more, which passes that VM by.
async fn asked<T: Send + 'static>(
    host: &LibvirtHypervisor,
    ask: impl FnOnce(&Connect) -> Result<T> + Clone + Send + 'static,
) -> Result<T> {
    let call = Call { name: "stats", lane: Lane::Counters, vm: None, deadline: host.link.options.look_deadline / 2 };
    let again = ask.clone();
    match host.run(call, move |_, conn| ask(conn)).await {
        Err(error) if error.kind() == ErrorKind::Timeout => host.run(call, move |_, conn| again(conn)).await,
        other => other,
    }
}

/// The VMs that run.
fn active(conn: &Connect) -> Result<Vec<Uuid>> {
    let active = virt_sys::VIR_CONNECT_LIST_DOMAINS_ACTIVE;
    let domains = conn.list_all_domains(active).map_err(during("virConnectListAllDomains"))?;
    // One that is gone meanwhile has no counters.
    Ok(domains.iter().filter_map(|domain| domain.uuid().ok()).collect())
}

fn ask(conn: &Connect) -> Result<Vec<(VmId, VmStats)>> {
    let flags = virt_sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | NOWAIT;
    let domains = ffi::all_domain_stats(conn, GROUPS, flags).map_err(during("virConnectGetAllDomainStats"))?;
    Ok(read(&domains))
}

fn ask_some(conn: &Connect, ids: &[Uuid]) -> Result<Vec<(VmId, VmStats)>> {
    let domains: Vec<Domain> = ids.iter().filter_map(|id| conn.lookup_domain_by_uuid(*id).ok()).collect();
    let domains = ffi::domain_list_stats(&domains, GROUPS, NOWAIT).map_err(during("virDomainListGetStats"))?;
    Ok(read(&domains))
}

/// Without its balloon's figures a VM did not answer.
fn read(domains: &[ffi::DomainStats]) -> Vec<(VmId, VmStats)> {
    domains.iter().filter_map(|domain| Some((VmId(domain.id), counters(domain)?))).collect()
}

fn counters(domain: &ffi::DomainStats) -> Option<VmStats> {
    Some(VmStats {
        cpu_time_ns: domain.number("cpu.time")?,
        memory_mib: domain.number("balloon.current")? >> 10,
        memory_rss_mib: domain.number("balloon.rss")? >> 10,
        memory_usable_mib: domain.number("balloon.usable").map(|kib| kib >> 10),
        disks: devices(domain, "block").map(|disk| disk_of(&disk)).collect(),
        nics: devices(domain, "net").map(|nic| nic_of(&nic)).collect(),
    })
}

/// One device of a domain: its fields are `<group>.<n>.<field>`.
struct Device<'a>(&'a ffi::DomainStats, String);

impl Device<'_> {
    fn number(&self, field: &str) -> u64 {
        self.0.number(&[&self.1, field].concat()).unwrap_or_default()
    }

    fn name(&self) -> String {
        self.0.text(&[&self.1, "name"].concat()).unwrap_or_default().to_owned()
    }
}

fn devices<'a>(domain: &'a ffi::DomainStats, group: &'a str) -> impl Iterator<Item = Device<'a>> {
    let count = domain.number(&[group, ".count"].concat()).unwrap_or_default();
    (0..count).map(move |n| Device(domain, format!("{group}.{n}.")))
}

fn disk_of(disk: &Device<'_>) -> DiskStats {
    DiskStats {
        device: disk.name(),
        read_bytes: disk.number("rd.bytes"),
        read_requests: disk.number("rd.reqs"),
        written_bytes: disk.number("wr.bytes"),
        write_requests: disk.number("wr.reqs"),
    }
}

fn nic_of(nic: &Device<'_>) -> NicStats {
    let traffic = |way: &str| {
        let number = |field: &str| nic.number(&[way, field].concat());
        Traffic { bytes: number("bytes"), packets: number("pkts"), errors: number("errs"), drops: number("drop") }
    };
    NicStats { device: nic.name(), received: traffic("rx."), sent: traffic("tx.") }
}
