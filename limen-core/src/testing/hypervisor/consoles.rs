//! Promises about consoles: byte streams that live as long as the VM runs.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Fixture, TestVm, done, refused};
use crate::error::ErrorKind;
use crate::hypervisor::{ConsoleKind, ConsoleStream, Hypervisor};
use crate::model::{PowerAction, VmId, VmState};

const KINDS: [ConsoleKind; 2] = [ConsoleKind::Vnc, ConsoleKind::Serial];

fn has(hypervisor: &dyn Hypervisor, kind: ConsoleKind) -> bool {
    let capability = hypervisor.capability();
    match kind {
        ConsoleKind::Vnc => capability.vnc_console,
        ConsoleKind::Serial => capability.serial_console,
    }
}

fn or_unsupported(hypervisor: &dyn Hypervisor, kind: ConsoleKind, otherwise: ErrorKind) -> ErrorKind {
    if has(hypervisor, kind) { otherwise } else { ErrorKind::Unsupported }
}

/// The consoles of a VM that is not running are a conflict.
pub async fn consoles_of_a_stopped_vm_are_refused(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "console-off").await;
    for kind in KINDS {
        let opened = hypervisor.open_console(vm.id(), kind).await;
        refused(opened, or_unsupported(hypervisor, kind, ErrorKind::Conflict), "open_console");
    }
    vm.clean().await;
}

/// The consoles of a VM that is not there are not found.
pub async fn consoles_of_an_unknown_vm_are_not_found(hypervisor: &dyn Hypervisor, _: &Fixture) {
    for kind in KINDS {
        let opened = hypervisor.open_console(VmId::generate(), kind).await;
        refused(opened, or_unsupported(hypervisor, kind, ErrorKind::NotFound), "open_console");
    }
}

/// The serial console carries what the guest says, and ends when the VM stops.
pub async fn serial_console_speaks_and_ends_with_the_vm(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::bootable(hypervisor, fixture, "serial").await;
    vm.bring(VmState::Running).await;
    if has(hypervisor, ConsoleKind::Serial) {
        for stop in [PowerAction::PowerOff, PowerAction::Save] {
            if stop == PowerAction::Save && !hypervisor.capability().save {
                continue;
            }
            vm.bring(VmState::Running).await;
            let mut console = open_serial(&vm).await;
            if let Some(greeting) = &fixture.greeting {
                read_until(&mut console, greeting, fixture).await;
            }
            done(console.write_all(b"\n").await.map_err(crate::Error::internal), "a key");
            vm.power(stop).await;
            ends(console, fixture).await;
        }
    } else {
        let opened = hypervisor.open_console(vm.id(), ConsoleKind::Serial).await;
        refused(opened, ErrorKind::Unsupported, "open_console");
    }
    vm.clean().await;
}

/// The VNC console speaks RFB 3.8 without asking for a password, names the VM, and ends with it.
pub async fn vnc_console_shakes_hands_and_ends_with_the_vm(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    let vm = TestVm::defined(hypervisor, fixture, "vnc").await;
    vm.bring(VmState::Running).await;
    let opened = hypervisor.open_console(vm.id(), ConsoleKind::Vnc).await;
    if has(hypervisor, ConsoleKind::Vnc) {
        let mut console = done(opened, "open_console");
        let hand = tokio::time::timeout(fixture.patience, shake_hands(&mut console)).await;
        let desktop = match hand {
            Ok(shaken) => done(shaken.map_err(crate::Error::internal), "the handshake"),
            Err(_) => panic!("the handshake does not come to an end"),
        };
        let name = vm.definition.domain_name();
        assert!(desktop.contains(&name), "the desktop {desktop:?} is not that of {name}");
        vm.power(PowerAction::PowerOff).await;
        ends(console, fixture).await;
    } else {
        refused(opened, ErrorKind::Unsupported, "open_console");
    }
    vm.clean().await;
}

/// Open consoles delay no other call.
pub async fn open_consoles_delay_nobody(hypervisor: &dyn Hypervisor, fixture: &Fixture) {
    if !has(hypervisor, ConsoleKind::Vnc) {
        let opened = hypervisor.open_console(VmId::generate(), ConsoleKind::Vnc).await;
        return refused(opened, ErrorKind::Unsupported, "open_console");
    }
    let vm = TestVm::defined(hypervisor, fixture, "consoles").await;
    vm.bring(VmState::Running).await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(done(hypervisor.open_console(vm.id(), ConsoleKind::Vnc).await, "open_console"));
    }
    for _ in 0..8 {
        let looks = tokio::time::timeout(fixture.patience, hypervisor.get(vm.id())).await;
        assert!(matches!(looks, Ok(Ok(_))), "a look beside open consoles: {looks:?}");
    }
    drop(open);
    vm.clean().await;
}

pub(super) async fn open_serial(vm: &TestVm<'_>) -> ConsoleStream {
    done(vm.hypervisor.open_console(vm.id(), ConsoleKind::Serial).await, "open_console")
}

/// Reads until `text` was said.
pub(super) async fn read_until(console: &mut ConsoleStream, text: &str, fixture: &Fixture) {
    let mut heard = Vec::new();
    let listen = async {
        let mut buffer = [0; 1024];
        while !String::from_utf8_lossy(&heard).contains(text) {
            match console.read(&mut buffer).await {
                Ok(0) => return false,
                Ok(read) => heard.extend_from_slice(&buffer[..read]),
                Err(error) => panic!("the console broke: {error}"),
            }
        }
        true
    };
    let said = tokio::time::timeout(fixture.patience, listen).await;
    assert!(matches!(said, Ok(true)), "{text:?} was not said, but {:?}", String::from_utf8_lossy(&heard));
}

/// Reads on to the end, which must come.
async fn ends(mut console: ConsoleStream, fixture: &Fixture) {
    let rest = async {
        let mut buffer = [0; 1024];
        // A broken stream is an end too.
        while console.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
    };
    let ended = tokio::time::timeout(fixture.patience, rest).await;
    assert!(ended.is_ok(), "the console did not end with its VM");
}

/// The client's part of RFC 6143, section 7; answers the desktop's name.
async fn shake_hands(console: &mut ConsoleStream) -> std::io::Result<String> {
    let mut version = [0; 12];
    console.read_exact(&mut version).await?;
    assert_eq!(&version, b"RFB 003.008\n");
    console.write_all(&version).await?;
    let count = console.read_u8().await?;
    let mut types = vec![0; count.into()];
    console.read_exact(&mut types).await?;
    assert!(types.contains(&1), "a password is asked for: {types:?}");
    console.write_u8(1).await?;
    assert_eq!(console.read_u32().await?, 0, "the server refuses");
    // Shared: others may look as well.
    console.write_u8(1).await?;
    let mut geometry_and_pixels = [0; 20];
    console.read_exact(&mut geometry_and_pixels).await?;
    let length = console.read_u32().await?;
    let mut name = vec![0; length.min(4096) as usize];
    console.read_exact(&mut name).await?;
    Ok(String::from_utf8_lossy(&name).into_owned())
}
