//! A VM's definition as domain XML.

use std::io::{self, Cursor, Write};

use quick_xml::Writer;
use quick_xml::events::BytesText;
use rand::RngExt as _;
use rand::distr::Alphanumeric;

use super::capabilities::HostFacts;
use super::{NAMESPACE, check_text};
use crate::error::Result;
use crate::hypervisor::libvirt::rfb;
use crate::hypervisor::{VmDefinition, VolumeRef};
use crate::model::{Firmware, VirtType};
use crate::secret::Secret;

/// The file of a disk's volume, and those of the volumes that it is copy-on-write over.
#[derive(Debug, Clone)]
pub(crate) struct DiskFile {
    pub(crate) volume: VolumeRef,
    pub(crate) path: String,
    pub(crate) backing: Vec<(String, VolumeRef)>,
}

/// Where the things are that a definition names by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    pub(crate) disks: Vec<DiskFile>,
    pub(crate) iso: Option<String>,
    pub(crate) nvram: String,
}

/// The time of a screen's password that is good no more.
pub(crate) const LONG_AGO: &str = "1970-01-02T00:00:00";

type Xml = Writer<Cursor<Vec<u8>>>;

/// The domain XML of `vm` for a host of `facts`.
///
/// # Errors
/// [`Invalid`](crate::ErrorKind::Invalid): a text that XML cannot carry.
pub(crate) fn definition(vm: &VmDefinition, facts: &HostFacts, files: &Files) -> Result<String> {
    check_text("name", &vm.name)?;
    for (key, value) in &vm.labels {
        check_text("labels", key)?;
        check_text("labels", value)?;
    }
    for nic in &vm.spec.nics {
        check_text("nics", &nic.network)?;
        check_text("nics", &nic.mac)?;
    }
    let mut xml = Writer::new_with_indent(Cursor::new(Vec::new()), b' ', 2);
    domain(&mut xml, vm, facts, files).map_err(crate::Error::internal)?;
    String::from_utf8(xml.into_inner().into_inner()).map_err(crate::Error::internal)
}

fn domain(xml: &mut Xml, vm: &VmDefinition, facts: &HostFacts, files: &Files) -> io::Result<()> {
    xml.create_element("domain").with_attribute(("type", facts.domain_type.as_str())).write_inner_content(|xml| {
        text(xml, "name", &vm.domain_name())?;
        text(xml, "uuid", &vm.id.to_string())?;
        text(xml, "title", &vm.name)?;
        xml.create_element("metadata").write_inner_content(|xml| mark(xml, vm))?;
        let memory = vm.spec.memory_mib.to_string();
        for name in ["memory", "currentMemory"] {
            xml.create_element(name).with_attribute(("unit", "MiB")).write_text_content(BytesText::new(&memory))?;
        }
        xml.create_element("vcpu")
            .with_attribute(("placement", "static"))
            .write_text_content(BytesText::new(&vm.spec.vcpus.to_string()))?;
        boot(xml, vm, facts, files)?;
        processor(xml, facts)?;
        for (name, action) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
            text(xml, name, action)?;
        }
        xml.create_element("devices").write_inner_content(|xml| devices(xml, vm, facts, files))?;
        Ok(())
    })?;
    Ok(())
}

/// LIMEN's mark, in the very XML that makes the domain.
fn mark(xml: &mut Xml, vm: &VmDefinition) -> io::Result<()> {
    xml.create_element("limen:vm")
        .with_attribute(("xmlns:limen", NAMESPACE))
        .with_attribute(("schema", "1"))
        .with_attribute(("install", vm.mark.install.to_string().as_str()))
        .with_attribute(("operation", vm.mark.operation.to_string().as_str()))
        .with_attribute(("owner", vm.owner.to_string().as_str()))
        .write_inner_content(|xml| {
            for disk in &vm.spec.disks {
                xml.create_element("limen:volume")
                    .with_attribute(("id", disk.volume.to_string().as_str()))
                    .with_attribute(("format", disk.format.as_str()))
                    .write_empty()?;
            }
            for (key, value) in &vm.labels {
                label(xml, key, value)?;
            }
            Ok(())
        })?;
    Ok(())
}

/// One label; attributes, because libvirt reformats text.
pub(super) fn label<W: Write>(xml: &mut Writer<W>, key: &str, value: &str) -> io::Result<()> {
    xml.create_element("limen:label")
        .with_attribute(("key", key))
        .with_attribute(("value", value))
        .write_empty()
        .map(drop)
}

fn boot(xml: &mut Xml, vm: &VmDefinition, facts: &HostFacts, files: &Files) -> io::Result<()> {
    let uefi = vm.spec.firmware == Firmware::Uefi;
    let os = xml.create_element("os");
    let os = if uefi { os.with_attribute(("firmware", "efi")) } else { os };
    os.write_inner_content(|xml| {
        let kind = xml.create_element("type").with_attribute(("arch", facts.architecture.as_str()));
        let kind = match &facts.machine {
            Some(machine) => kind.with_attribute(("machine", machine.as_str())),
            None => kind,
        };
        kind.write_text_content(BytesText::new(&facts.os_type))?;
        if uefi {
            // Firmware that boots anything, not only what is signed.
            xml.create_element("firmware").write_inner_content(|xml| {
                empty(xml, "feature", &[("enabled", "no"), ("name", "enrolled-keys")])?;
                empty(xml, "feature", &[("enabled", "no"), ("name", "secure-boot")])
            })?;
            text(xml, "nvram", &files.nvram)?;
        }
        Ok(())
    })?;
    Ok(())
}

fn processor(xml: &mut Xml, facts: &HostFacts) -> io::Result<()> {
    let pc = facts.is_x86();
    xml.create_element("features").write_inner_content(|xml| {
        xml.create_element("acpi").write_empty()?;
        if pc {
            xml.create_element("apic").write_empty()?;
        }
        Ok(())
    })?;
    if let Some(mode) = facts.cpu_mode {
        xml.create_element("cpu").with_attribute(("mode", mode)).write_empty()?;
    }
    xml.create_element("clock").with_attribute(("offset", "utc")).write_inner_content(|xml| {
        if pc && facts.virt_type != VirtType::Test {
            for (name, key, value) in
                [("rtc", "tickpolicy", "catchup"), ("pit", "tickpolicy", "delay"), ("hpet", "present", "no")]
            {
                xml.create_element("timer")
                    .with_attribute(("name", name))
                    .with_attribute((key, value))
                    .write_empty()?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn devices(xml: &mut Xml, vm: &VmDefinition, facts: &HostFacts, files: &Files) -> io::Result<()> {
    if let Some(emulator) = &facts.emulator {
        text(xml, "emulator", emulator)?;
    }
    let mut order = 0_usize;
    let mut next = || {
        order += 1;
        order.to_string()
    };
    for (place, disk) in files.disks.iter().enumerate() {
        hard_disk(xml, place, disk, &next())?;
    }
    if let Some(iso) = &files.iso {
        drive(xml, facts, iso, &next())?;
    }
    for nic in &vm.spec.nics {
        let boot = next();
        xml.create_element("interface").with_attribute(("type", "network")).write_inner_content(|xml| {
            empty(xml, "mac", &[("address", &nic.mac)])?;
            empty(xml, "source", &[("network", &nic.network)])?;
            empty(xml, "model", &[("type", "virtio")])?;
            empty(xml, "boot", &[("order", &boot)])
        })?;
    }
    consoles(xml, facts)?;
    if facts.virt_type == VirtType::Test {
        return Ok(());
    }
    if let Some(video) = &facts.video {
        xml.create_element("video").write_inner_content(|xml| empty(xml, "model", &[("type", video)]))?;
    }
    if facts.has_usb {
        empty(xml, "controller", &[("type", "usb"), ("model", "qemu-xhci")])?;
        empty(xml, "input", &[("type", "tablet"), ("bus", "usb")])?;
    }
    xml.create_element("channel")
        .with_attribute(("type", "unix"))
        .write_inner_content(|xml| empty(xml, "target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")]))?;
    xml.create_element("rng").with_attribute(("model", "virtio")).write_inner_content(|xml| {
        xml.create_element("backend")
            .with_attribute(("model", "random"))
            .write_text_content(BytesText::new("/dev/urandom"))?;
        Ok(())
    })?;
    xml.create_element("memballoon")
        .with_attribute(("model", "virtio"))
        .write_inner_content(|xml| empty(xml, "stats", &[("period", "10")]))?;
    Ok(())
}

fn hard_disk(xml: &mut Xml, place: usize, disk: &DiskFile, boot: &str) -> io::Result<()> {
    xml.create_element("disk")
        .with_attribute(("type", "file"))
        .with_attribute(("device", "disk"))
        .write_inner_content(|xml| {
            let format = disk.volume.format.as_str();
            empty(
                xml,
                "driver",
                &[("name", "qemu"), ("type", format), ("discard", "unmap"), ("detect_zeroes", "unmap")],
            )?;
            empty(xml, "source", &[("file", &disk.path)])?;
            backing(xml, &disk.backing)?;
            empty(xml, "target", &[("dev", &device("vd", place)), ("bus", "virtio")])?;
            empty(xml, "boot", &[("order", boot)])
        })?;
    Ok(())
}

/// The chain of backing volumes with their formats, closed by an empty element: nothing is probed.
fn backing(xml: &mut Xml, chain: &[(String, VolumeRef)]) -> io::Result<()> {
    let Some(((path, volume), rest)) = chain.split_first() else {
        return xml.create_element("backingStore").write_empty().map(drop);
    };
    xml.create_element("backingStore").with_attribute(("type", "file")).write_inner_content(|xml| {
        empty(xml, "format", &[("type", volume.format.as_str())])?;
        empty(xml, "source", &[("file", path)])?;
        backing(xml, rest)
    })?;
    Ok(())
}

fn drive(xml: &mut Xml, facts: &HostFacts, iso: &str, boot: &str) -> io::Result<()> {
    let prefix = if facts.drive_bus == "ide" { "hd" } else { "sd" };
    if facts.drive_bus == "scsi" {
        empty(xml, "controller", &[("type", "scsi"), ("model", "virtio-scsi")])?;
    }
    xml.create_element("disk")
        .with_attribute(("type", "file"))
        .with_attribute(("device", "cdrom"))
        .write_inner_content(|xml| {
            empty(xml, "driver", &[("name", "qemu"), ("type", "raw")])?;
            empty(xml, "source", &[("file", iso)])?;
            backing(xml, &[])?;
            empty(xml, "target", &[("dev", &device(prefix, 0)), ("bus", &facts.drive_bus)])?;
            xml.create_element("readonly").write_empty()?;
            empty(xml, "boot", &[("order", boot)])
        })?;
    Ok(())
}

fn consoles(xml: &mut Xml, facts: &HostFacts) -> io::Result<()> {
    xml.create_element("serial")
        .with_attribute(("type", "pty"))
        .write_inner_content(|xml| empty(xml, "target", &[("port", "0")]))?;
    xml.create_element("console")
        .with_attribute(("type", "pty"))
        .write_inner_content(|xml| empty(xml, "target", &[("type", "serial"), ("port", "0")]))?;
    if facts.remote {
        // Where it listens is for the host's qemu.conf to say (vnc_listen). Nobody knows the
        // password, and it has run out: a console that is opened gets one of its own.
        let password = screen_password();
        return empty(
            xml,
            "graphics",
            &[
                ("type", "vnc"),
                ("port", "-1"),
                ("autoport", "yes"),
                ("passwd", password.expose()),
                ("passwdValidTo", LONG_AGO),
            ],
        );
    }
    xml.create_element("graphics")
        .with_attribute(("type", "vnc"))
        .write_inner_content(|xml| empty(xml, "listen", &[("type", "none")]))?;
    Ok(())
}

/// A password for one opening of a screen; as long as VNC takes them.
pub(crate) fn screen_password() -> Secret {
    let letters = rand::rng().sample_iter(Alphanumeric).take(rfb::PASSWORD).map(char::from);
    Secret::new(letters.collect::<String>())
}

/// `vda` … `vdz`, `vdaa` …
fn device(prefix: &str, place: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = place + 1;
    while rest > 0 {
        rest -= 1;
        letters.push(char::from(b'a' + u8::try_from(rest % 26).unwrap_or(0)));
        rest /= 26;
    }
    prefix.chars().chain(letters.into_iter().rev()).collect()
}

pub(super) fn text<W: Write>(xml: &mut Writer<W>, name: &str, value: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(value)).map(drop)
}

pub(super) fn empty<W: Write>(xml: &mut Writer<W>, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_empty().map(drop)
}
