//! Quotas: what an owner may have at most, and what the owner's VMs come to.

use serde::{Deserialize, Serialize};

use super::{GIB, VmRecord};

macro_rules! resources {
    ($($(#[$doc:meta])+ $name:ident;)+) => {
        /// An owner's limits, each 0 to 10^12; `None` is without limit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Quota { $($(#[$doc])+ pub $name: Option<i64>,)+ }

        /// What VMs come to, in the units of [`Quota`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        pub struct Usage { $($(#[$doc])+ pub $name: i64,)+ }

        /// A change of an owner's limits: `None` leaves a limit as it is, `Some(None)` takes it away.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct UpdateQuota {
            $($(#[$doc])+
            #[serde(default, deserialize_with = "named", skip_serializing_if = "Option::is_none")]
            pub $name: Option<Option<i64>>,)+
        }

        impl Quota {
            /// The names of what is limited.
            pub const RESOURCES: [&'static str; 5] = [$(stringify!($name),)+];

            /// The limits in the order of [`Quota::RESOURCES`].
            #[must_use]
            pub const fn limits(&self) -> [Option<i64>; 5] {
                [$(self.$name,)+]
            }

            /// These limits after `update`.
            #[must_use]
            pub fn updated(&self, update: &UpdateQuota) -> Self {
                Self { $($name: update.$name.unwrap_or(self.$name),)+ }
            }
        }

        impl Usage {
            /// The figures in the order of [`Quota::RESOURCES`].
            #[must_use]
            pub const fn figures(&self) -> [i64; 5] {
                [$(self.$name,)+]
            }
        }

        impl std::ops::Add for Usage {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)+ }
            }
        }

        impl std::ops::Neg for Usage {
            type Output = Self;

            fn neg(self) -> Self {
                Self { $($name: -self.$name,)+ }
            }
        }
    };
}

resources! {
    /// VMs.
    vms;
    /// Virtual CPUs of all VMs, running or not.
    vcpus;
    /// Memory of all VMs, running or not, in MiB.
    memory_mib;
    /// What the disks of all VMs may grow to, each rounded up to whole GiB.
    disk_gib;
    /// Snapshots.
    snapshots;
}

/// A member that is there, also as null.
fn named<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<i64>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl std::iter::Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| sum + one)
    }
}

impl Usage {
    /// What `record` comes to; with an update at work, the more of before and after.
    #[must_use]
    pub fn of(record: &VmRecord) -> Self {
        let raised = record.raised;
        let vcpus = raised.map_or(0, |raised| raised.vcpus).max(record.spec.vcpus);
        let memory_mib = raised.map_or(0, |raised| raised.memory_mib).max(record.spec.memory_mib);
        let disk_gib: u64 = record.spec.disks.iter().map(|disk| disk.size_bytes.div_ceil(GIB)).sum();
        let figure = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        Self { vms: 1, vcpus: vcpus.into(), memory_mib: figure(memory_mib), disk_gib: figure(disk_gib), snapshots: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_null_goes_and_one_that_is_missing_stays() {
        let update: UpdateQuota = serde_json::from_str(r#"{"vms": 5, "vcpus": null}"#).expect("an update");
        let before = Quota { vcpus: Some(2), memory_mib: Some(64), ..Quota::default() };
        let after = Quota { vms: Some(5), memory_mib: Some(64), ..Quota::default() };
        assert_eq!(before.updated(&update), after);
        assert!(serde_json::from_str::<UpdateQuota>(r#"{"cpus": 5}"#).is_err());
    }
}
