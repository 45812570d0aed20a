//! The library's enumerations as OpenAPI types, from the very values that serde writes.

use std::borrow::Cow;
use std::fmt::Debug;

use limen_core::hypervisor::ConsoleKind;
use limen_core::model::{
    AuditOutcome, DiskMode, EventKind, FindingKind, Firmware, HostState, ImageFormat, ImagePhase, OperationKind,
    OperationState, PowerAction, Severity, VirtType, VmPhase, VmState, VolumeFormat,
};
use limen_core::{Action, ErrorKind, Role};
use poem_openapi::registry::{MetaSchema, MetaSchemaRef, Registry};
use poem_openapi::types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// An enumeration with all its values.
pub(crate) trait Enumerated: Debug + Copy + Send + Sync + Serialize + DeserializeOwned + 'static {
    /// Its name in the document.
    const NAME: &'static str;
    /// All values.
    const VALUES: &'static [Self];
}

macro_rules! enumerated {
    ($($name:ident: $values:expr;)+) => {$(
        impl Enumerated for $name {
            const NAME: &'static str = stringify!($name);
            const VALUES: &'static [Self] = $values;
        }
    )+};
}

enumerated! {
    Action: Action::ALL;
    AuditOutcome: &AuditOutcome::ALL;
    ConsoleKind: &[ConsoleKind::Vnc, ConsoleKind::Serial];
    DiskMode: &[DiskMode::Full, DiskMode::Linked];
    ErrorKind: ErrorKind::ALL;
    FindingKind: FindingKind::ALL;
    EventKind: EventKind::ALL;
    Firmware: &[Firmware::Bios, Firmware::Uefi];
    HostState: &[HostState::Up, HostState::Stale, HostState::Unknown];
    ImageFormat: &[ImageFormat::Qcow2, ImageFormat::Raw, ImageFormat::Iso];
    ImagePhase: &[ImagePhase::Adding, ImagePhase::Ready, ImagePhase::Deleting];
    OperationKind: &OperationKind::ALL;
    OperationState: &OperationState::ALL;
    PowerAction: &PowerAction::ALL;
    Role: &[Role::Admin, Role::Operator, Role::User, Role::Viewer];
    Severity: &Severity::ALL;
    VirtType: &[VirtType::Kvm, VirtType::Qemu, VirtType::Test];
    VmPhase: &[VmPhase::Creating, VmPhase::Defined, VmPhase::Deleting];
    VmState: &VmState::ALL;
    VolumeFormat: &[VolumeFormat::Qcow2, VolumeFormat::Raw];
}

/// A value of the enumeration `T`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire<T>(pub(crate) T);

impl<'de, T: Enumerated> Deserialize<'de> for Wire<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Wire)
    }
}

impl<T: Enumerated> Type for Wire<T> {
    const IS_REQUIRED: bool = true;

    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(T::NAME.to_owned())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>(T::NAME.to_owned(), |_| {
            let mut schema = MetaSchema::new("string");
            schema.enum_items = T::VALUES.iter().map(|value| serde_json::json!(value)).collect();
            schema
        });
    }

    fn as_raw_value(&self) -> Option<&Self::RawValueType> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self::RawElementValueType> + 'a> {
        Box::new(self.as_raw_value().into_iter())
    }
}

impl<T: Enumerated> ParseFromJSON for Wire<T> {
    fn parse_from_json(value: Option<Value>) -> ParseResult<Self> {
        serde_json::from_value(value.unwrap_or_default()).map(Wire).map_err(ParseError::custom)
    }
}

impl<T: Enumerated> ToJSON for Wire<T> {
    fn to_json(&self) -> Option<Value> {
        serde_json::to_value(self.0).ok()
    }
}
