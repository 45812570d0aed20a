//! The rig itself: each of its parts really does what the tests rely on.

use std::time::{Duration, Instant};

use limen_support::guest::{self, Hello, Medium};
use limen_support::libvirt::PrivateLibvirt;
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::process::wait_for;
use limen_support::serial::Console;

/// Booting takes about 5 s on an idle machine; tests share theirs.
const BOOT: Duration = Duration::from_secs(120);

struct Machine {
    name: String,
    uuid: String,
}

/// Defines a machine with one medium, by BIOS or UEFI.
fn define(libvirt: &PrivateLibvirt, medium: Medium, uefi: bool, nonce: &str) -> Machine {
    let uuid = uuid::Uuid::new_v4().to_string();
    let name = format!("limen-rig-{}", &uuid[..8]);
    let file = libvirt.storage_dir().join(&name);
    guest::write(medium, nonce, &file);
    let file = file.display();
    let disk = match medium {
        Medium::Disk => format!(
            "<disk type='file'><driver name='qemu' type='raw'/><source file='{file}'/>\
             <target dev='vda' bus='virtio'/></disk>"
        ),
        Medium::Iso => format!(
            "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
             <source file='{file}'/><target dev='sda' bus='sata'/><readonly/></disk>"
        ),
    };
    let (os, memory) = if uefi {
        // libvirt prefers firmware that boots only what is signed.
        let os = "<os firmware='efi'><firmware><feature enabled='no' name='enrolled-keys'/>\
                  <feature enabled='no' name='secure-boot'/></firmware>";
        (os, guest::UEFI_MEMORY_MIB)
    } else {
        ("<os>", guest::MEMORY_MIB)
    };
    libvirt.define(&format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid>\
         <memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>\
         {os}<type arch='x86_64' machine='q35'>hvm</type></os>\
         <features><acpi/></features>\
         <devices>{disk}<serial type='pty'/><console type='pty'/>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
         <memballoon model='virtio'/></devices></domain>"
    ));
    Machine { name, uuid }
}

fn start(libvirt: &PrivateLibvirt, machine: &Machine) -> Console {
    Console::new(&format!("virsh -c '{}' start --console {}", libvirt.uri(), machine.name))
}

fn boots(medium: Medium, uefi: bool) {
    let libvirt = PrivateLibvirt::start();
    let nonce = guest::nonce();
    let machine = define(&libvirt, medium, uefi, &nonce);
    let mut console = start(&libvirt, &machine);
    let hello = console.wait_for(BOOT, Hello::find);
    assert_eq!(hello.nonce, nonce);
    assert_eq!(hello.uuid, machine.uuid);
    assert_eq!(hello.firmware, if uefi { "efi" } else { "bios" });
    assert_eq!(hello.cpus, 1);
    let sizes: Vec<u64> = hello.disks.into_values().collect();
    assert_eq!(sizes, if medium == Medium::Disk { vec![20 << 20] } else { vec![] });
}

#[test]
fn guest_boots_from_a_disk_by_uefi() {
    boots(Medium::Disk, true);
}

#[test]
fn guest_boots_from_a_cd_by_bios() {
    boots(Medium::Iso, false);
}

#[test]
fn guest_greets_answers_reboots_and_obeys_the_power_button() {
    let libvirt = PrivateLibvirt::start();
    let nonce = guest::nonce();
    let machine = define(&libvirt, Medium::Disk, false, &nonce);
    let mut console = start(&libvirt, &machine);
    assert_eq!(console.wait_for(BOOT, Hello::find).nonce, nonce);

    console.wait_for_text(BOOT, guest::PROMPT);
    console.send("echo $((6 * 7))-limen\n");
    console.wait_for_text(BOOT, "42-limen");

    let reboot = ["reboot", "--mode", "acpi", &machine.name];
    libvirt.virsh(&reboot).expect_success();
    console.wait_for_text(BOOT, guest::POWERING_OFF);
    assert_eq!(console.wait_for(BOOT, Hello::find).nonce, nonce);
    console.wait_for_text(BOOT, guest::PROMPT);

    let shutdown = ["shutdown", "--mode", "acpi", &machine.name];
    libvirt.virsh(&shutdown).expect_success();
    console.wait_for_text(BOOT, guest::POWERING_OFF);
    wait_for("shut off", BOOT, || {
        let state = libvirt.virsh(&["domstate", &machine.name]).expect_success();
        (state.trim() == "shut off").then_some(())
    });
    wait_for("no QEMU left", BOOT, || libvirt.qemu_pids().is_empty().then_some(()));
}

#[test]
fn libvirtd_dies_comes_back_and_stops_without_its_guests_noticing() {
    let libvirt = PrivateLibvirt::start();
    let machine = define(&libvirt, Medium::Disk, false, &guest::nonce());
    libvirt.virsh(&["start", &machine.name]).expect_success();
    let qemu = libvirt.qemu_pids();
    assert_eq!(qemu.len(), 1);

    libvirt.kill9();
    assert!(!libvirt.virsh(&["list"]).success());
    assert_eq!(libvirt.qemu_pids(), qemu);
    libvirt.restart();
    let listed = libvirt.virsh(&["list", "--name"]).expect_success();
    assert_eq!(listed.trim(), machine.name);

    libvirt.sigstop();
    let refused = libvirt.virsh_within(Duration::from_millis(500), &["list"]);
    assert!(refused.timed_out, "{refused:?}");
    libvirt.sigcont();
    libvirt.virsh(&["list"]).expect_success();
}

#[test]
fn private_libvirtds_do_not_see_each_other_and_leave_nothing() {
    let first = PrivateLibvirt::start();
    let second = PrivateLibvirt::start();
    let machine = define(&first, Medium::Disk, false, &guest::nonce());
    first.virsh(&["start", &machine.name]).expect_success();
    let listed = second.virsh(&["list", "--all", "--name"]).expect_success();
    assert_eq!(listed.trim(), "");

    let dir = first.dir().to_owned();
    let pids = [first.qemu_pids(), vec![first.pid()]].concat();
    assert_eq!(pids.len(), 2);
    drop(first);
    assert!(!dir.exists());
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
    second.virsh(&["list"]).expect_success();
}

#[test]
fn postgres_survives_a_crash_and_hangs_when_stopped() {
    let postgres = PrivatePostgres::start();
    let url = postgres.create_database();
    assert_ne!(url, postgres.create_database());
    psql(&url, "CREATE TABLE t (n BIGINT); INSERT INTO t VALUES (7)").expect_success();

    postgres.restart_immediate();
    assert_eq!(psql(&url, "SELECT n FROM t").expect_success().trim(), "7");
    postgres.kill9();
    assert!(!psql(&url, "SELECT 1").success());
    postgres.restart_immediate();
    assert_eq!(psql(&url, "SELECT n FROM t").expect_success().trim(), "7");

    postgres.sigstop();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| psql(&url, "SELECT 1").success());
        std::thread::sleep(Duration::from_millis(500));
        postgres.sigcont();
        assert!(asked.join().expect("psql ran"));
    });
    assert!(started.elapsed() >= Duration::from_millis(500));
}
