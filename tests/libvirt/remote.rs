//! A host that is reached as another machine.

use std::io::{Read, Write};
use std::net::TcpStream;

use limen_core::Error;
use limen_core::hypervisor::ConsoleStream;
use limen_core::hypervisor::libvirt::VirtChoice;

use super::*;

async fn connect_remotely(libvirt: &PrivateLibvirt) -> LibvirtHypervisor {
    // libvirt's word on KVM has to do for another machine, and may be wrong of this one.
    let options = LibvirtOptions { uri: libvirt.remote_uri(), virt_type: VirtChoice::Qemu, ..options(libvirt) };
    LibvirtHypervisor::connect(options).await.expect("begin to connect")
}

async fn started(host: &LibvirtHypervisor, name: &str) -> VmDefinition {
    let vm = definition(name);
    host.create_definition(&vm).await.expect("define");
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    vm
}

/// A client's part up to the desktop's name.
async fn enter(console: &mut ConsoleStream) -> String {
    let mut version = [0; 12];
    console.read_exact(&mut version).await.expect("a version");
    console.write_all(&version).await.expect("write");
    let mut types = [0; 2];
    console.read_exact(&mut types).await.expect("kinds of authentication");
    assert_eq!(types, [1, 1], "none alone: the password is between LIMEN and the host");
    // None; and shared, after the word that it is well.
    console.write_all(&[1]).await.expect("write");
    let mut well = [1; 4];
    console.read_exact(&mut well).await.expect("a result");
    assert_eq!(well, [0; 4]);
    console.write_all(&[1]).await.expect("write");
    let mut init = [0; 24];
    console.read_exact(&mut init).await.expect("ServerInit");
    let length = usize::try_from(u32::from_be_bytes([init[20], init[21], init[22], init[23]])).expect("a length");
    let mut name = vec![0; length];
    console.read_exact(&mut name).await.expect("a name");
    String::from_utf8(name).expect("UTF-8")
}

/// The first rectangle's head, of a picture that is asked for whole.
async fn picture(console: &mut ConsoleStream) -> [u8; 16] {
    console.write_all(&[3, 0, 0, 0, 0, 0, 0, 64, 0, 64]).await.expect("ask");
    let mut head = [0; 16];
    tokio::time::timeout(BOOT, console.read_exact(&mut head)).await.expect("in time").expect("a picture");
    head
}

async fn vnc(host: &LibvirtHypervisor, id: VmId) -> Result<ConsoleStream, Error> {
    host.open_console(id, ConsoleKind::Vnc).await
}

fn port(libvirt: &PrivateLibvirt, id: VmId) -> u16 {
    let display = libvirt.virsh(&["vncdisplay", &id.to_string()]).expect_success();
    let (_, number) = display.trim().rsplit_once(':').expect("a display");
    5900 + number.parse::<u16>().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_screen_of_another_machine_is_had_behind_a_password_that_nobody_knows() {
    let libvirt = PrivateLibvirt::start_remote();
    let host = connect_remotely(&libvirt).await;
    let vm = started(&host, "far").await;
    let name = format!("QEMU ({})", vm.domain_name());

    // Whoever comes by himself is asked for a password, and none is good.
    let mut stranger = TcpStream::connect(("127.0.0.1", port(&libvirt, vm.id))).expect("connect");
    stranger.set_read_timeout(Some(BOOT)).expect("a deadline");
    let mut said = [0; 14];
    stranger.read_exact(&mut said[..12]).expect("a version");
    stranger.write_all(b"RFB 003.008\n").expect("write");
    stranger.read_exact(&mut said[12..]).expect("kinds of authentication");
    assert_eq!(said[12..], [1, 2], "VNC authentication alone");
    stranger.write_all(&[2]).expect("write");
    let mut challenge = [0; 16];
    stranger.read_exact(&mut challenge).expect("a challenge");
    stranger.write_all(&challenge).expect("write");
    let mut result = [0; 4];
    stranger.read_exact(&mut result).expect("a result");
    assert_ne!(result, [0; 4]);

    // Several at once, each with a password of its own, and all go on when those have run out.
    let (one, two) = tokio::join!(vnc(&host, vm.id), vnc(&host, vm.id));
    let (mut one, mut two) = (one.expect("open"), two.expect("open"));
    for console in [&mut one, &mut two] {
        assert_eq!(enter(console).await, name);
        assert_eq!(picture(console).await[..2], [0, 0], "FramebufferUpdate");
    }
    let live = libvirt.virsh(&["dumpxml", "--security-info", &vm.id.to_string()]).expect_success();
    let screen = live.lines().find(|line| line.contains("<graphics")).expect("a screen");
    assert!(screen.contains("passwdValidTo='1970-01-01T00:01:00'"), "it has not run out: {screen}");
    let kept = libvirt.virsh(&["dumpxml", "--inactive", &vm.id.to_string()]).expect_success();
    assert!(!kept.contains("passwd="), "{kept}");

    host.change_power(vm.id, PowerAction::PowerOff).await.expect("power off");
    for mut console in [one, two] {
        let mut rest = Vec::new();
        tokio::time::timeout(SOON, console.read_to_end(&mut rest)).await.expect("it ends with its VM").ok();
    }
    let error = vnc(&host, vm.id).await.map(drop).expect_err("a VM that is off");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    host.remove_definition(vm.id).await.expect("remove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_may_be_reached_both_ways() {
    let libvirt = PrivateLibvirt::start_remote();
    let (near, far) = (connect(&libvirt).await, connect_remotely(&libvirt).await);
    let made_near = started(&near, "near").await;
    let made_far = started(&far, "far").await;

    // Where it was made nothing listens, so it cannot be had from elsewhere; its serial port can.
    let error = vnc(&far, made_near.id).await.map(drop).expect_err("a screen without a port");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("no port"), "{error}");
    far.open_console(made_near.id, ConsoleKind::Serial).await.expect("open the serial port");

    let mut console = vnc(&near, made_far.id).await.expect("open");
    assert_eq!(enter(&mut console).await, format!("QEMU ({})", made_far.domain_name()));
    for vm in [made_near, made_far] {
        near.remove_definition(vm.id).await.expect("remove");
    }
}
