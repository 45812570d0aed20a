//! Counters of running VMs, in one bulk call.
//!
//! Some come from the guests' QEMUs, so the call may hang on one of them. It is made with NOWAIT:
//! a first call that hangs keeps its VM busy in libvirt, and the next one passes that VM by.

use std::time::Duration;

use virt::connect::Connect;

use super::error::during;
use super::slots::{Call, Lane};
use super::{LibvirtHypervisor, ffi};
use crate::error::{ErrorKind, Result};
use crate::hypervisor::VmStats;
use crate::model::{DiskStats, NicStats, Traffic, VmId};

const GROUPS: u32 = virt_sys::VIR_DOMAIN_STATS_CPU_TOTAL
    | virt_sys::VIR_DOMAIN_STATS_BALLOON
    | virt_sys::VIR_DOMAIN_STATS_BLOCK
    | virt_sys::VIR_DOMAIN_STATS_INTERFACE;
const FLAGS: u32 =
    virt_sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | virt_sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT;

pub(super) async fn all(host: &LibvirtHypervisor) -> Result<Vec<(VmId, VmStats)>> {
    let whole = host.link.options.look_deadline;
    let attempt = async |deadline: Duration| {
        let call = Call { name: "stats", lane: Lane::Change, vm: None, deadline };
        host.run(call, |_, conn| ask(conn)).await
    };
    match attempt(whole / 2).await {
        Err(error) if error.kind() == ErrorKind::Timeout => attempt(whole / 2).await,
        other => other,
    }
}

fn ask(conn: &Connect) -> Result<Vec<(VmId, VmStats)>> {
    let domains = ffi::all_domain_stats(conn, GROUPS, FLAGS).map_err(during("virConnectGetAllDomainStats"))?;
    // Without its balloon's figures a VM did not answer.
    Ok(domains.iter().filter_map(|domain| Some((VmId(domain.id), counters(domain)?))).collect())
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
