//! The committed table: what each back end that LIMEN ships can do, and must not lose.
//!
//! A capability that turns false fails the test, and so does one that turns true without a word
//! here. Behaviours that a back end cannot hold are listed with the reason, and must indeed fail.

use std::collections::BTreeSet;

use super::hypervisor::{BEHAVIOURS, Report};
use crate::hypervisor::Capability;

/// A back end as shipped.
#[derive(Debug, Clone, Copy)]
pub struct Shipped {
    /// Its name in the table, and in `LIMEN_REQUIRE_BACKENDS`.
    pub backend: &'static str,
    /// What it can do on a machine with all that LIMEN installs.
    pub capability: Capability,
    /// The behaviours that it does not hold, each with the reason.
    pub exceptions: &'static [(&'static str, &'static str)],
}

const EVERYTHING: Capability = Capability {
    volumes: true,
    linked_volumes: true,
    vnc_console: true,
    serial_console: true,
    save: true,
    autostart: true,
    stats: true,
    change_definition: true,
    uefi: true,
    witness: true,
    seeded: false,
};

/// One row for each back end.
pub const SHIPPED: &[Shipped] = &[
    Shipped { backend: "sim", capability: Capability { seeded: true, ..EVERYTHING }, exceptions: &[] },
    Shipped {
        backend: "libvirt-test",
        capability: Capability {
            volumes: false,
            linked_volumes: false,
            vnc_console: false,
            serial_console: false,
            stats: false,
            uefi: false,
            witness: false,
            ..EVERYTHING
        },
        exceptions: &[("reset_is_told", "libvirt's test driver resets without telling")],
    },
    Shipped { backend: "libvirt-qemu", capability: EVERYTHING, exceptions: &[] },
];

impl Shipped {
    /// The row of a back end.
    #[must_use]
    pub fn find(backend: &str) -> Option<&'static Shipped> {
        SHIPPED.iter().find(|shipped| shipped.backend == backend)
    }

    /// Holds a run of the suite against this row.
    ///
    /// # Panics
    /// When the back end lost or gained something; all of it is named.
    pub fn check(&self, capability: Capability, report: &Report) {
        let name = self.backend;
        assert_eq!(capability, self.capability, "{name} can do something else than the table says");
        let known: BTreeSet<_> = BEHAVIOURS.iter().map(|behaviour| behaviour.name).collect();
        let excepted: BTreeSet<_> = self.exceptions.iter().map(|(behaviour, _)| *behaviour).collect();
        assert!(excepted.is_subset(&known), "{name}: the table names behaviours that are none");
        let ran: BTreeSet<_> = report.held.iter().chain(report.failed.iter().map(|(name, _)| name)).copied().collect();
        assert_eq!(ran, known, "{name}: not every behaviour was run");
        let failed: BTreeSet<_> = report.failed.iter().map(|(behaviour, _)| *behaviour).collect();
        let broken: Vec<_> = report.failed.iter().filter(|(behaviour, _)| !excepted.contains(behaviour)).collect();
        assert!(broken.is_empty(), "{name} breaks {} of {}: {broken:#?}", broken.len(), known.len());
        let mended: Vec<_> = excepted.difference(&failed).collect();
        assert!(mended.is_empty(), "{name} holds what the table excepts: {mended:?}");
    }
}
