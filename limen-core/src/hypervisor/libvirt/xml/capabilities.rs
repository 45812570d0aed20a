//! What a host offers, from its capabilities: nothing about its hardware is assumed.

use std::path::Path;

use roxmltree::Node;
use virt::connect::Connect;

use super::{at, child, parse};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::libvirt::error::{during, unexpected};
use crate::hypervisor::libvirt::{LibvirtOptions, VirtChoice};
use crate::model::VirtType;

/// Machine types that are better than the host's own default, where the host offers them.
const PREFERRED_MACHINES: [&str; 2] = ["q35", "virt"];

/// What LIMEN needs to know of a host to define VMs on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostFacts {
    pub(crate) virt_type: VirtType,
    /// libvirt's name of the domain type: `kvm`, `qemu`, `test`.
    pub(crate) domain_type: String,
    pub(crate) os_type: String,
    pub(crate) architecture: String,
    pub(crate) machine: Option<String>,
    pub(crate) emulator: Option<String>,
    pub(crate) cpu_mode: Option<&'static str>,
    pub(crate) video: Option<String>,
    pub(crate) drive_bus: String,
    pub(crate) has_usb: bool,
    pub(crate) uefi: bool,
    /// Whether it is another machine, so that no descriptor can be had from it.
    pub(crate) remote: bool,
}

impl HostFacts {
    /// Asks the host (`virConnectGetCapabilities`, `virConnectGetDomainCapabilities`).
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported): the host cannot run guests as the options demand.
    pub(crate) fn ask(conn: &Connect, options: &LibvirtOptions) -> Result<Self> {
        let text = conn.capabilities().map_err(during("virConnectGetCapabilities"))?;
        let document = parse(&text)?;
        let root = document.root_element();
        let architecture = at(root, &["host", "cpu", "arch"])
            .and_then(|node| node.text())
            .ok_or_else(|| unexpected("the host's architecture is missing"))?
            .to_owned();
        if options.uri.starts_with("test:") {
            return Ok(Self::of_test_driver(root, architecture));
        }
        let remote = options.other_machine().is_some();
        let want_kvm = match options.virt_type {
            VirtChoice::Kvm => true,
            VirtChoice::Qemu => false,
            VirtChoice::Auto => offers(root, &architecture, "kvm") && (remote || kvm_is_usable(&architecture)),
        };
        let domain_type = if want_kvm { "kvm" } else { "qemu" };
        if !offers(root, &architecture, domain_type) {
            return Err(Error::new(ErrorKind::Unsupported, "The host cannot run guests in the way that is asked for."));
        }
        if !want_kvm {
            tracing::warn!(uri = %options.uri, "guests run by software emulation (TCG): correct, but many times slower");
        }
        let machine = preferred_machine(root, &architecture);
        let text = conn
            .domain_capabilities(None, Some(&architecture), machine.as_deref(), Some(domain_type), 0)
            .map_err(during("virConnectGetDomainCapabilities"))?;
        Ok(Self { remote, ..Self::read(&text, domain_type, architecture, machine)? })
    }

    fn read(text: &str, domain_type: &str, architecture: String, machine: Option<String>) -> Result<Self> {
        let document = parse(text)?;
        let root = document.root_element();
        let devices = child(root, "devices");
        let kvm = domain_type == "kvm";
        let modes: &[&'static str] = if kvm { &["host-model", "host-passthrough"] } else { &["maximum"] };
        let supported = |mode: &&&str| {
            child(root, "cpu").into_iter().flat_map(|cpu| cpu.children()).any(|node| {
                node.has_tag_name("mode")
                    && node.attribute("name") == Some(**mode)
                    && node.attribute("supported") == Some("yes")
            })
        };
        let buses = devices.map(|node| values(node, "disk", "bus")).unwrap_or_default();
        let videos = devices.map(|node| values(node, "video", "modelType")).unwrap_or_default();
        let text_of = |name| child(root, name).and_then(|node| node.text()).map(str::to_owned);
        Ok(Self {
            virt_type: if kvm { VirtType::Kvm } else { VirtType::Qemu },
            domain_type: domain_type.to_owned(),
            os_type: "hvm".to_owned(),
            architecture,
            machine: machine.or_else(|| text_of("machine")),
            emulator: text_of("path"),
            cpu_mode: modes.iter().find(|mode| supported(mode)).copied(),
            video: ["vga", "virtio"].iter().find(|model| videos.iter().any(|v| v == *model)).map(|v| (*v).to_owned()),
            drive_bus: ["ide", "sata"]
                .iter()
                .find(|bus| buses.iter().any(|b| b == *bus))
                .map_or_else(|| "scsi".to_owned(), |bus| (*bus).to_owned()),
            has_usb: buses.iter().any(|bus| bus == "usb"),
            uefi: values(root, "os", "firmware").iter().any(|firmware| firmware == "efi"),
            remote: false,
        })
    }

    fn of_test_driver(root: Node<'_, '_>, architecture: String) -> Self {
        let guest = child(root, "guest");
        let text_of = |path: &[&str]| guest.and_then(|node| at(node, path)).and_then(|node| node.text());
        let guest_architecture = guest.and_then(|node| child(node, "arch")).and_then(|node| node.attribute("name"));
        Self {
            virt_type: VirtType::Test,
            domain_type: "test".to_owned(),
            os_type: text_of(&["os_type"]).unwrap_or("hvm").to_owned(),
            architecture: guest_architecture.map_or(architecture, str::to_owned),
            machine: None,
            emulator: None,
            cpu_mode: None,
            video: None,
            drive_bus: "ide".to_owned(),
            has_usb: false,
            uefi: false,
            remote: false,
        }
    }

    pub(crate) fn is_x86(&self) -> bool {
        is_x86(&self.architecture)
    }
}

fn is_x86(architecture: &str) -> bool {
    matches!(architecture, "x86_64" | "i686")
}

/// The `<arch>` of the full-system guests of an architecture.
fn guest_arch<'a>(root: Node<'a, 'a>, architecture: &str) -> Option<Node<'a, 'a>> {
    root.children()
        .filter(|node| node.has_tag_name("guest"))
        .filter(|guest| child(*guest, "os_type").and_then(|node| node.text()) == Some("hvm"))
        .filter_map(|guest| child(guest, "arch"))
        .find(|arch| arch.attribute("name") == Some(architecture))
}

fn offers<'a>(root: Node<'a, 'a>, architecture: &str, domain_type: &str) -> bool {
    guest_arch(root, architecture).is_some_and(|arch| {
        arch.children().any(|node| node.has_tag_name("domain") && node.attribute("type") == Some(domain_type))
    })
}

fn preferred_machine<'a>(root: Node<'a, 'a>, architecture: &str) -> Option<String> {
    let arch = guest_arch(root, architecture)?;
    let offered: Vec<&str> =
        arch.children().filter(|node| node.has_tag_name("machine")).filter_map(|node| node.text()).collect();
    PREFERRED_MACHINES.iter().find(|machine| offered.contains(machine)).map(|machine| (*machine).to_owned())
}

/// The values of `<parent><enum name='…'>`.
fn values(node: Node<'_, '_>, parent: &str, name: &str) -> Vec<String> {
    let parent = child(node, parent);
    let list = parent
        .into_iter()
        .flat_map(|parent| parent.children())
        .find(|node| node.has_tag_name("enum") && node.attribute("name") == Some(name));
    list.into_iter()
        .flat_map(|list| list.children())
        .filter(|node| node.has_tag_name("value"))
        .filter_map(|node| node.text())
        .map(str::to_owned)
        .collect()
}

/// Whether KVM works here, not only exists: there are machines with a `/dev/kvm` on which a guest
/// hangs in its BIOS. Of a remote host libvirt's word has to do.
fn kvm_is_usable(architecture: &str) -> bool {
    let opens = std::fs::OpenOptions::new().read(true).write(true).open(Path::new("/dev/kvm")).is_ok();
    opens && (!is_x86(architecture) || cpu_has_virtualization())
}

fn cpu_has_virtualization() -> bool {
    let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") else { return false };
    text.lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}
