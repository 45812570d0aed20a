//! Quotas.

use limen_core::model;
use limen_core::service::QuotaView;
use poem_openapi::Object;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::Described;

/// An object or null: serde would take an array for a struct, member by member.
pub(super) fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    let Some(object) = Option::<Map<String, Value>>::deserialize(deserializer)? else { return Ok(None) };
    serde_json::from_value(Value::Object(object)).map(Some).map_err(Error::custom)
}

/// What an owner may have at most; null is without limit. In a change of a user, a limit that is
/// missing stays as it is.
#[derive(Debug, Object)]
#[oai(rename = "Quota")]
pub(crate) struct QuotaSchema {
    /// VMs.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    vms: Option<i64>,
    /// Virtual CPUs of all VMs, running or not.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    vcpus: Option<i64>,
    /// Memory of all VMs, running or not, in MiB.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    memory_mib: Option<i64>,
    /// What the disks of all VMs may grow to, each rounded up to whole GiB.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    disk_gib: Option<i64>,
    /// Snapshots.
    #[oai(validator(minimum(value = "0"), maximum(value = "1000000000000")))]
    snapshots: Option<i64>,
}

impl Described for model::Quota {
    type Schema = QuotaSchema;
}

/// What VMs come to.
#[derive(Debug, Object)]
#[oai(rename = "Usage")]
pub(crate) struct UsageSchema {
    /// VMs.
    vms: i64,
    /// Virtual CPUs of all VMs, running or not.
    vcpus: i64,
    /// Memory of all VMs, running or not, in MiB.
    memory_mib: i64,
    /// What the disks of all VMs may grow to, each rounded up to whole GiB.
    disk_gib: i64,
    /// Snapshots.
    snapshots: i64,
}

/// One's own limits, and what is in use.
#[derive(Debug, Object)]
#[oai(rename = "QuotaUse")]
pub(crate) struct QuotaUseSchema {
    /// What one may have at most.
    limits: QuotaSchema,
    /// What one has, VMs that are being made and deleted too.
    used: UsageSchema,
}

impl Described for QuotaView {
    type Schema = QuotaUseSchema;
}
