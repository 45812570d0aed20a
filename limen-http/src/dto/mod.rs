//! What bodies look like on the wire, for the OpenAPI document.
//!
//! Values are written and read by serde in the library's own types. The types here describe them
//! and are never filled on a request's path; a test holds each to what serde writes.

mod audit;
mod check;
mod enums;
mod event;
mod host;
mod image;
mod operation;
mod quota;
mod restored;
mod sample;
mod ticket;
mod token;
mod user;
mod vm;

use limen_core::model::Page;
use poem_openapi::Object;
use poem_openapi::types::{ParseFromJSON, ToJSON, Type};
use uuid::Uuid;

pub(crate) use audit::AuditListQuery;
pub(crate) use enums::Wire;
pub(crate) use event::{EventQuery, EventSchema};
pub(crate) use host::{HealthHost, HealthReport};
pub(crate) use operation::OperationListQuery;
pub(crate) use ticket::{CreateTicketBody, TicketView};
pub(crate) use token::{CreateTokenBody, TokenView};
pub(crate) use user::{ChangePassword, CreateUserBody, LoginBody, TokenAnswer, UpdateUserBody, UserView};
pub(crate) use vm::{PowerBody, VmList, VmListQuery};

/// A wire type and the schema that describes it.
pub(crate) trait Described {
    /// The description.
    type Schema: Type;
}

/// A part of a list.
#[derive(Debug, Object)]
#[oai(rename = "List")]
pub(crate) struct ListSchema<T: Type + ParseFromJSON + ToJSON> {
    /// The items of this page.
    items: Vec<T>,
    /// Ask for the next page with this as `cursor`; null at the end.
    next_cursor: Option<String>,
}

impl<T: Described<Schema: ParseFromJSON + ToJSON>> Described for Page<T> {
    type Schema = ListSchema<T::Schema>;
}

/// Which part of a list is wanted.
#[derive(Debug, Default, serde::Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    /// How many items at most.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000")))]
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<Uuid>,
}

/// No query parameters at all.
#[derive(Debug, Default, serde::Deserialize, Object)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoQuery {}

/// A problem document (RFC 9457): what every error looks like.
#[derive(Debug, Object)]
#[oai(rename = "Problem")]
pub(crate) struct ProblemSchema {
    /// A URN that names the kind of error.
    r#type: String,
    /// The kind of error in words; the same for every problem of the kind.
    title: String,
    /// The HTTP status again.
    status: u16,
    /// What was wrong this time.
    detail: String,
    /// The kind of error in one word, for programs.
    code: String,
    /// The request; the server's log knows it under this name.
    request_id: String,
    /// The field of the request that is not what it must be.
    #[oai(skip_serializing_if_is_none)]
    field: Option<String>,
    /// The operation that holds the object, that failed, or that goes on.
    #[oai(skip_serializing_if_is_none)]
    operation_id: Option<Uuid>,
    /// What the quota does not allow more of.
    #[oai(skip_serializing_if_is_none)]
    resource: Option<String>,
    /// How much of it is allowed.
    #[oai(skip_serializing_if_is_none)]
    limit: Option<i64>,
    /// How much of it is in use.
    #[oai(skip_serializing_if_is_none)]
    used: Option<i64>,
    /// The oldest event that is still kept.
    #[oai(skip_serializing_if_is_none)]
    oldest: Option<i64>,
}
