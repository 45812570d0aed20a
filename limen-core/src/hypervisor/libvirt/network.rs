//! Networks and the host itself.

use std::collections::{HashMap, HashSet};

use virt::connect::Connect;
use virt::network::Network as Handle;

use super::connection::Link;
use super::error::during;

use super::xml::capabilities::HostFacts;
use super::xml::read;
use super::{VirtType, ffi, storage};
use crate::error::Result;
use crate::model::{Address, HostInfo, Network};

pub(super) fn list(conn: &Connect) -> Result<Vec<Network>> {
    let networks = conn.list_all_networks(0).map_err(during("virConnectListAllNetworks"))?;
    networks.iter().map(describe).collect()
}

fn describe(network: &Handle) -> Result<Network> {
    let text = network.xml_desc(0).map_err(during("virNetworkGetXMLDesc"))?;
    Ok(Network {
        host: String::new(),
        name: network.name().map_err(during("virNetworkGetName"))?,
        active: network.is_active().map_err(during("virNetworkIsActive"))?,
        bridge: read::bridge(&text)?,
    })
}

/// The addresses that the DHCP servers of these networks gave away, by MAC. A network that cannot
/// tell, or is gone, has none.
pub(super) fn leases(conn: &Connect, networks: &HashSet<String>) -> HashMap<String, Vec<Address>> {
    let mut found: HashMap<String, Vec<Address>> = HashMap::new();
    for name in networks {
        let Ok(network) = conn.lookup_network_by_name(name) else { continue };
        for lease in ffi::leases(&network).unwrap_or_default() {
            let Ok(address) = lease.address.parse() else { continue };
            let mac = lease.mac.to_ascii_lowercase();
            let address = Address { mac: mac.clone(), address, source: "lease".to_owned() };
            let known = found.entry(mac).or_default();
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }
    found
}

pub(super) fn host_info(link: &Link, conn: &Connect) -> Result<HostInfo> {
    let facts = link.explore(conn)?;
    let free_bytes = match facts.virt_type {
        VirtType::Test => 0,
        VirtType::Kvm | VirtType::Qemu => storage::free_bytes(link, conn)?,
    };
    describe_host(conn, &facts, free_bytes)
}

pub(super) fn describe_host(conn: &Connect, facts: &HostFacts, free_bytes: u64) -> Result<HostInfo> {
    let node = conn.node_info().map_err(during("virNodeGetInfo"))?;
    let version = conn.hyp_version().map_err(during("virConnectGetVersion"))?;
    let kind = conn.driver_type().map_err(during("virConnectGetType"))?;
    Ok(HostInfo {
        hostname: conn.hostname().map_err(during("virConnectGetHostname"))?,
        hypervisor: format!("{kind} {}.{}.{}", version / 1_000_000, version / 1_000 % 1_000, version % 1_000),
        architecture: facts.architecture.clone(),
        cpus: node.cpus,
        memory_mib: node.memory / 1024,
        virt_type: facts.virt_type,
        free_bytes,
    })
}
