//! Events.

use std::collections::HashMap;

use limen_core::model::{EventKind, VmPhase, VmState};
use poem_openapi::{Object, Union};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Wire;
use super::image::ImageSchema;
use super::operation::OperationSchema;
use super::vm::{AddressSchema, VmSpecSchema};
use crate::extract::LARGEST_EVENT;

/// Where the stream begins.
#[derive(Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct EventQuery {
    /// Events after this number; 0 from the first one on. Without it: those to come.
    #[serde(default, deserialize_with = "number")]
    #[oai(validator(minimum(value = "0"), maximum(value = "9007199254740991")))]
    pub(crate) after: Option<i64>,
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    let number = i64::deserialize(deserializer)?;
    if (0..=LARGEST_EVENT).contains(&number) {
        return Ok(Some(number));
    }
    Err(D::Error::custom(format!("it must be a number from 0 to {LARGEST_EVENT}")))
}

/// One change: the `data` of a Server-Sent Event.
#[derive(Debug, Object)]
#[oai(rename = "Event")]
pub(crate) struct EventSchema {
    /// Its number in the log, also its `id`.
    number: i64,
    /// When it was recorded.
    at: OffsetDateTime,
    /// What it is about, also its `event`.
    kind: Wire<EventKind>,
    /// The object that it is about.
    id: Uuid,
    /// Whose object that is.
    #[oai(skip_serializing_if_is_none)]
    owner: Option<Uuid>,
    /// The operation that made the change.
    #[oai(skip_serializing_if_is_none)]
    operation: Option<Uuid>,
    /// How the object is from now on: `EventVm` of `vm`, `EventStatus` of `status`, `Operation` of `operation`, `Image` of `image`, `EventHost` of `host`; the other kinds have none.
    #[oai(skip_serializing_if_is_none)]
    object: Option<EventObjectSchema>,
}

/// The object of an event.
#[derive(Debug, Union)]
#[oai(rename = "EventObject")]
pub(crate) enum EventObjectSchema {
    /// Of `vm`.
    Vm(EventVmSchema),
    /// Of `status`.
    Status(EventStatusSchema),
    /// Of `operation`.
    Operation(OperationSchema),
    /// Of `image`.
    Image(ImageSchema),
    /// Of `host`.
    Host(EventHostSchema),
}

/// A VM's record.
#[derive(Debug, Object)]
#[oai(rename = "EventVm")]
pub(crate) struct EventVmSchema {
    /// Its name.
    name: String,
    /// Free text.
    description: String,
    /// The name of its host.
    host: String,
    /// The wanted hardware.
    spec: VmSpecSchema,
    /// Labels.
    labels: HashMap<String, String>,
    /// Whether the host shall start it when it boots.
    autostart: bool,
    /// While it is `creating` or `deleting`, so is the VM's state.
    phase: Wire<VmPhase>,
    /// When it was asked for.
    created_at: OffsetDateTime,
    /// When the record last changed.
    updated_at: OffsetDateTime,
}

/// What a host shows of a VM.
#[derive(Debug, Object)]
#[oai(rename = "EventStatus")]
pub(crate) struct EventStatusSchema {
    /// The name of the host.
    host: String,
    /// What the definition is called, of a VM that LIMEN did not make.
    #[oai(skip_serializing_if_is_none)]
    name: Option<String>,
    /// What the VM is doing.
    state: Wire<VmState>,
    /// Why it came to this state.
    reason: Option<String>,
    /// The guest's addresses, as far as they are known.
    addresses: Vec<AddressSchema>,
    /// Whether the host starts it when it boots.
    autostart: bool,
    /// Virtual CPUs at the next boot.
    vcpus: u32,
    /// Memory at the next boot, in MiB.
    memory_mib: u64,
}

/// A host's record.
#[derive(Debug, Object)]
#[oai(rename = "EventHost")]
pub(crate) struct EventHostSchema {
    /// Its name.
    name: String,
    /// Labels.
    labels: HashMap<String, String>,
}
