//! Hardware virtualization: whether guests run on it, and why not.

use std::fs;
use std::os::unix::fs::MetadataExt;

use limen_core::hypervisor::libvirt::VirtChoice;
use limen_core::model::VirtType;

use super::finding::{Kind, Report};
use super::place::{Place, group_name};
use crate::config::CoreConfig;

/// Looks at this machine's KVM, where the guests of `core` are on this machine.
pub(super) fn look(place: &Place, core: &CoreConfig) -> Report {
    let mut report = Report::default();
    let uri = core.hypervisor.uri();
    if !(uri.starts_with("qemu:///") || uri.starts_with("qemu+unix:///")) {
        return report;
    }
    let device = fs::metadata("/dev/kvm");
    // libvirt looks at QEMU anew at every call where QEMU's user, in group kvm, cannot open it:
    // also where guests are emulated.
    if let Ok(found) = &device {
        let (mode, group) = (found.mode() & 0o777, group_name(found.gid()));
        if !((mode & 0o060 == 0o060 && group == "kvm") || mode & 0o006 == 0o006) {
            let message = format!(
                "/dev/kvm has mode {mode:04o} and group {group}: QEMU's user cannot open it, and libvirt may take a minute for what takes a second."
            );
            report.find(Kind::KvmClosed, message, "chgrp kvm /dev/kvm && chmod 660 /dev/kvm");
            return report;
        }
    }
    if core.virt_type == VirtChoice::Qemu {
        return report;
    }
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |wanted| cpu.split_whitespace().any(|flag| flag == wanted);
    let module = match (has("vmx"), has("svm")) {
        (true, _) => "kvm_intel",
        (_, true) => "kvm_amd",
        _ => {
            let message = "The CPU shows neither vmx nor svm: guests are emulated in software, many times slower. \
                           Switch virtualization on in the firmware (or nested virtualization on the host of this \
                           machine), or say that emulation is meant.";
            report.find(Kind::KvmNoCpu, message, place.set("VIRT_TYPE", "qemu"));
            return report;
        }
    };
    if device.is_err() {
        let message = format!("/dev/kvm is not there, though the CPU can: kernel module {module} is not loaded.");
        report.find(Kind::KvmAbsent, message, format!("modprobe {module}"));
    } else {
        report.good("kvm", format!("/dev/kvm opens for QEMU, {module}"));
    }
    report
}

/// How guests run, as libvirt says it.
pub(super) fn guests(report: &mut Report, virt_type: VirtType) {
    report.good(
        "guests",
        match virt_type {
            VirtType::Kvm => "on KVM",
            VirtType::Qemu => "emulated in software (TCG)",
            VirtType::Test => "none: a simulator, or libvirt's test driver",
        },
    );
}
