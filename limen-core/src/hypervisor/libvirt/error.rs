//! libvirt's typed errors as LIMEN's kinds.
//!
//! Only the error's code decides; its text is read for one thing alone, a full disk, for which
//! libvirt has no code. The text itself travels as the source and is never shown.

use virt::enumutil::Enum;
use virt::error::{ErrorDomain, ErrorNumber};

use crate::error::{Error, ErrorKind};

/// The error of a call named `call`.
pub(super) fn from_libvirt(call: &'static str, error: virt::error::Error) -> Error {
    kind(&error).with_operation(call).with_source(error)
}

/// Adapts [`from_libvirt`] to `map_err`.
pub(super) fn during(call: &'static str) -> impl Fn(virt::error::Error) -> Error {
    move |error| from_libvirt(call, error)
}

/// Whether `error` is of this code.
pub(super) fn is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    error.code() == Enum::Known(number)
}

/// The host cannot be reached now.
pub(super) fn unavailable() -> Error {
    Error::unavailable("The host")
}

/// A VM's state does not allow the call.
pub(super) fn conflict(message: &str) -> Error {
    Error::new(ErrorKind::Conflict, message)
}

/// What the host answered is not as it should be; `what` is for the log.
pub(super) fn unexpected(what: impl Into<String>) -> Error {
    Error::internal(what.into())
}

fn kind(error: &virt::error::Error) -> Error {
    use ErrorNumber as N;
    if lacks_space(error.message()) {
        return Error::new(ErrorKind::NoSpace, "The host has no space left for it.");
    }
    if error.message().contains("Cannot allocate memory") {
        return Error::new(ErrorKind::NoSpace, "The host has not enough free memory for it.");
    }
    let Enum::Known(number) = error.code() else { return blank() };
    match number {
        N::NoDomain => Error::not_found("VM"),
        N::NoStorageVolume => Error::not_found("volume"),
        N::NoNetwork => Error::not_found("network"),
        N::NoConnect
        | N::InvalidConn
        | N::Rpc
        | N::UnknownHost
        | N::AuthFailed
        | N::AuthCancelled
        | N::AuthUnavailable
        | N::AccessDenied
        | N::OperationDenied
        | N::Ssh
        | N::Libssh
        | N::GnutlsError => unavailable(),
        N::InternalError | N::SystemError
            if matches!(error.domain(), Enum::Known(ErrorDomain::Rpc | ErrorDomain::Remote)) =>
        {
            unavailable()
        }
        N::OperationTimeout | N::AgentUnresponsive | N::AgentCommandTimeout => {
            Error::new(ErrorKind::Timeout, "The VM did not react in time.")
        }
        N::OperationInvalid | N::ResourceBusy | N::BlockCopyActive => {
            conflict("The VM or volume is in a state that does not allow this.")
        }
        N::DomExist | N::StorageVolExist | N::NetworkExist => {
            Error::new(ErrorKind::AlreadyExists, "The host has one of this name or id already.")
        }
        N::NoSupport | N::ArgumentUnsupported | N::OperationUnsupported => {
            Error::new(ErrorKind::Unsupported, "This host cannot do it.")
        }
        N::ConfigUnsupported
        | N::XmlError
        | N::XmlDetail
        | N::XmlInvalidSchema
        | N::InvalidArg
        | N::InvalidMac
        | N::OsType
        | N::CpuIncompatible
        | N::Overflow => Error::invalid("spec", "The host refuses this hardware."),
        _ => blank(),
    }
}

fn blank() -> Error {
    Error::new(ErrorKind::Internal, "The host could not do it; the log has the cause under the request id.")
}

fn lacks_space(message: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|text| message.contains(text))
}
