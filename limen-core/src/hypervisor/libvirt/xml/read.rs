//! What LIMEN models of a definition, read from its inactive XML.

use std::collections::BTreeMap;

use roxmltree::Node;
use sha2::{Digest, Sha256};

use super::{NAMESPACE, at, child, parse};
use crate::error::Result;
use crate::hex::hex;
use crate::hypervisor::Mark;
use crate::hypervisor::libvirt::error::unexpected;

/// The modelled part of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefinitionFacts {
    pub(crate) mark: Option<Mark>,
    pub(crate) title: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) vcpus: u32,
    pub(crate) memory_mib: u64,
    pub(crate) hash: String,
    pub(crate) nics: Vec<NicFacts>,
}

/// A network card and the libvirt network that it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NicFacts {
    pub(crate) mac: String,
    pub(crate) network: Option<String>,
}

/// Reads inactive domain XML.
pub(crate) fn definition(text: &str) -> Result<DefinitionFacts> {
    let document = parse(text)?;
    let root = document.root_element();
    let own = mark_element(root);
    let vcpu = child(root, "vcpu").ok_or_else(|| unexpected("a definition without vcpu"))?;
    let vcpus = vcpu.attribute("current").or(vcpu.text()).unwrap_or_default().trim();
    let memory = child(root, "memory").ok_or_else(|| unexpected("a definition without memory"))?;
    Ok(DefinitionFacts {
        mark: own.and_then(mark),
        title: child(root, "title").and_then(|node| node.text()).map(str::to_owned),
        labels: own.map(labels).unwrap_or_default(),
        vcpus: vcpus.parse().map_err(|_| unexpected("a number of vCPUs that is none"))?,
        memory_mib: mebibytes(memory).ok_or_else(|| unexpected("an amount of memory that is none"))?,
        hash: hash(text, root),
        nics: child(root, "devices").map(nics).unwrap_or_default(),
    })
}

/// The domain's UUID.
pub(crate) fn id(text: &str) -> Result<Option<uuid::Uuid>> {
    let document = parse(text)?;
    Ok(child(document.root_element(), "uuid").and_then(|node| node.text()?.trim().parse().ok()))
}

/// The domain's name.
pub(crate) fn name(text: &str) -> Result<Option<String>> {
    let document = parse(text)?;
    Ok(child(document.root_element(), "name").and_then(|node| node.text()).map(str::to_owned))
}

/// Changes whenever the definition does. The order of controllers is left out, because libvirt
/// itself changes it when it reads a definition back, at a start or after its own restart.
fn hash<'a>(text: &'a str, root: Node<'a, 'a>) -> String {
    let mut digest = Sha256::new();
    let attributes = root.attributes().map(|attribute| attribute.value());
    let namespaces = root.namespaces().map(roxmltree::Namespace::uri);
    attributes.chain(namespaces).for_each(|value| digest.update(value.as_bytes()));
    for (_, outside) in elements(text, root).filter(|(_, element)| !element.starts_with("<devices")) {
        digest.update(outside.as_bytes());
    }
    if let Some(devices) = child(root, "devices") {
        let (mut controllers, others): (Vec<_>, Vec<_>) =
            elements(text, devices).partition(|(controller, _)| *controller);
        controllers.sort_unstable();
        for (_, device) in others.into_iter().chain(controllers) {
            digest.update(device.as_bytes());
        }
    }
    hex(&digest.finalize())
}

/// The child elements as text, and which of them are controllers.
fn elements<'a>(text: &'a str, node: Node<'a, 'a>) -> impl Iterator<Item = (bool, &'a str)> {
    node.children().filter(Node::is_element).map(move |child| (child.has_tag_name("controller"), &text[child.range()]))
}

/// LIMEN's element among the metadata.
pub(super) fn mark_element<'a, 'input>(root: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    child(root, "metadata")?.children().find(|node| node.has_tag_name((NAMESPACE, "vm")))
}

fn mark(own: Node<'_, '_>) -> Option<Mark> {
    Some(Mark {
        install: own.attribute("install")?.parse().ok()?,
        operation: own.attribute("operation")?.parse().ok()?,
    })
}

fn labels(own: Node<'_, '_>) -> BTreeMap<String, String> {
    own.children()
        .filter(|node| node.has_tag_name((NAMESPACE, "label")))
        .filter_map(|node| Some((node.attribute("key")?.to_owned(), node.attribute("value")?.to_owned())))
        .collect()
}

fn nics(devices: Node<'_, '_>) -> Vec<NicFacts> {
    devices
        .children()
        .filter(|node| node.has_tag_name("interface"))
        .filter_map(|node| {
            let mac = child(node, "mac")?.attribute("address")?.to_ascii_lowercase();
            let network = child(node, "source").and_then(|source| source.attribute("network")).map(str::to_owned);
            Some(NicFacts { mac, network })
        })
        .collect()
}

/// An amount with libvirt's `unit`, KiB when there is none.
fn mebibytes(node: Node<'_, '_>) -> Option<u64> {
    let amount: u64 = node.text()?.trim().parse().ok()?;
    let bytes: u64 = match node.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    Some(amount.checked_mul(bytes)? >> 20)
}

/// The first VNC screen of a domain.
pub(super) fn vnc<'a, 'input>(root: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    child(root, "devices")?
        .children()
        .find(|node| node.has_tag_name("graphics") && node.attribute("type") == Some("vnc"))
}

/// Where a running domain's screen listens, as its live XML tells: address and port.
pub(crate) fn screen(text: &str) -> Result<Option<(String, u16)>> {
    let document = parse(text)?;
    let Some(screen) = vnc(document.root_element()) else { return Ok(None) };
    let address = child(screen, "listen").and_then(|listen| listen.attribute("address"));
    let port = screen.attribute("port").and_then(|port| port.parse().ok());
    Ok(address.map(str::to_owned).zip(port))
}

/// The file behind a volume, as its XML tells, and the file that it is copy-on-write over.
pub(crate) fn volume_paths(text: &str) -> Result<(String, Option<String>)> {
    let document = parse(text)?;
    let root = document.root_element();
    let path_in = |path: &[&str]| at(root, path).and_then(|node| node.text()).map(str::to_owned);
    let own = path_in(&["target", "path"]).ok_or_else(|| unexpected("a volume without a path"))?;
    Ok((own, path_in(&["backingStore", "path"]).filter(|path| !path.is_empty())))
}

/// The directory of a pool.
pub(crate) fn pool_directory(text: &str) -> Result<Option<String>> {
    let document = parse(text)?;
    let path = at(document.root_element(), &["target", "path"]).and_then(|node| node.text());
    Ok(path.map(str::to_owned))
}

/// The bridge of a network.
pub(crate) fn bridge(text: &str) -> Result<Option<String>> {
    let document = parse(text)?;
    let bridge = child(document.root_element(), "bridge").and_then(|node| node.attribute("name"));
    Ok(bridge.map(str::to_owned))
}
