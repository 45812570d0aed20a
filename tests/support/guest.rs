//! A small real guest: Debian's cloud kernel and a busybox, which greets on
//! its serial console, obeys the power button and gives a shell there.
//! `scripts/guest-image.sh` makes it; see there for what it is made of.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process;

/// Memory that is enough for the guest by BIOS, in MiB.
pub const MEMORY_MIB: u64 = 96;

/// Memory that is enough for the guest by UEFI, in MiB.
pub const UEFI_MEMORY_MIB: u64 = 160;

/// What the guest says on its way down after the power button.
pub const POWERING_OFF: &str = "LIMEN-GUEST powering off";

/// The prompt of the guest's shell.
pub const PROMPT: &str = "limen-guest# ";

/// Which medium holds the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A raw disk of 20 MiB.
    Disk,
    /// A CD image.
    Iso,
}

/// Writes a bootable guest that greets with `nonce` (1 to 64 characters of
/// `A-Z a-z 0-9 . _ -`) to `out`; a tenth of a second, some seconds and a
/// download the first time on a machine.
///
/// # Panics
/// When it cannot be made; with the reason.
pub fn write(medium: Medium, nonce: &str, out: &Path) {
    let mut arguments = vec!["--nonce".as_ref(), nonce.as_ref(), "--out".as_ref(), out.as_os_str()];
    if medium == Medium::Iso {
        arguments.push("--iso".as_ref());
    }
    script(&arguments);
}

/// Fills the cache, so that [`write()`] needs no network.
///
/// # Panics
/// When it cannot; with the reason.
pub fn prepare() {
    script(&[]);
}

fn script(arguments: &[&OsStr]) {
    let mut script = Command::new(crate::project_dir().join("scripts/guest-image.sh"));
    script.args(arguments).env("LIMEN_CACHE_DIR", crate::cache_dir());
    process::run(&mut script, Duration::from_secs(300)).expect_success();
}

/// A nonce that no other guest has.
pub fn nonce() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The guest's greeting: what it sees of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// As given when the medium was made.
    pub nonce: String,
    /// The machine's UUID, lower case, from its DMI table.
    pub uuid: String,
    /// `bios` or `efi`.
    pub firmware: String,
    /// Processors online.
    pub cpus: u32,
    /// Memory the kernel manages, about 35 MiB less than the machine has.
    pub memory_kib: u64,
    /// Sizes in bytes of the virtio disks, by name (`vda`).
    pub disks: BTreeMap<String, u64>,
}

impl Hello {
    /// Finds the last complete greeting in console output.
    pub fn find(console: &str) -> Option<Self> {
        let (_, line) = console.rsplit_once("LIMEN-GUEST hello ")?;
        let (line, _) = line.split_once('\n')?;
        let mut fields: BTreeMap<&str, &str> =
            line.split_whitespace().filter_map(|word| word.split_once('=')).collect();
        Some(Self {
            nonce: fields.remove("nonce")?.to_owned(),
            uuid: fields.remove("uuid")?.to_owned(),
            firmware: fields.remove("firmware")?.to_owned(),
            cpus: fields.remove("cpus")?.parse().ok()?,
            memory_kib: fields.remove("memory_kib")?.parse().ok()?,
            disks: fields.into_iter().filter_map(|(name, size)| Some((name.to_owned(), size.parse().ok()?))).collect(),
        })
    }

    /// The pattern that ends a wait for this guest's greeting.
    pub fn pattern(nonce: &str) -> String {
        format!("LIMEN-GUEST hello nonce={nonce} ")
    }
}
