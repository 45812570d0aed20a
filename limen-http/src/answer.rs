//! What handlers answer: bytes that serde wrote, described to the document by their type.

use std::marker::PhantomData;

use bytes::Bytes;
use limen_core::Error;
use limen_core::model::{EventNumber, Operation};
use poem::http::{HeaderName, HeaderValue, StatusCode, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;
use serde::Serialize;

use crate::dto::Described;
use crate::error::Result;

/// The event number that an answer shows.
pub(crate) static X_LIMEN_EVENT: HeaderName = HeaderName::from_static("x-limen-event");

/// More than any answer has.
const MOST_HEADERS: usize = 16;

pub(crate) const JSON: &str = "application/json";

/// 200 with a value.
#[derive(Debug)]
pub(crate) struct Json<T> {
    body: Bytes,
    encoding: Encoding,
    event: Option<EventNumber>,
    value: PhantomData<fn() -> T>,
}

/// How a body is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Always so.
    AsItIs,
    /// Chosen by `Accept-Encoding`: plain.
    Identity,
    /// Chosen by `Accept-Encoding`: compressed.
    Gzip,
}

/// 200 with a value and its entity tag, or 304.
#[derive(Debug)]
pub(crate) struct Tagged<T> {
    body: Option<Json<T>>,
    tag: String,
}

/// 201 with a value, and where it is.
#[derive(Debug)]
pub(crate) struct Created<T> {
    value: Json<T>,
    location: String,
}

/// 202 with an operation at work, or 200 with one that the caller waited for.
#[derive(Debug)]
pub(crate) struct Accepted {
    operation: Json<Operation>,
    status: StatusCode,
    location: String,
}

/// 204.
#[derive(Debug)]
pub(crate) struct NoContent(pub(crate) Option<EventNumber>);

impl<T: Described> Json<T> {
    /// Writes `value`.
    pub(crate) fn of(value: &T) -> Result<Self>
    where
        T: Serialize,
    {
        let body = serde_json::to_vec(value).map_err(Error::internal)?;
        Ok(Self::written(body.into()))
    }

    /// Takes bytes that are written already.
    pub(crate) fn written(body: Bytes) -> Self {
        Self { body, encoding: Encoding::AsItIs, event: None, value: PhantomData }
    }

    /// Says that the bytes are gzip's, or that they would have been for a client that takes them.
    pub(crate) fn encoded(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Names the event that the value shows.
    pub(crate) fn at(mut self, event: EventNumber) -> Self {
        self.event = Some(event);
        self
    }

    /// 201: the value was made, and is at `location`.
    pub(crate) fn created(self, location: String) -> Created<T> {
        Created { value: self, location }
    }

    /// With an entity tag; 304 when `is_known` to the client.
    pub(crate) fn tagged(self, tag: String, is_known: bool) -> Tagged<T> {
        Tagged { body: (!is_known).then_some(self), tag }
    }
}

impl Accepted {
    pub(crate) fn new(operation: &Operation, event: EventNumber) -> Result<Self> {
        let status = if operation.state.is_finished() { StatusCode::OK } else { StatusCode::ACCEPTED };
        Ok(Self {
            operation: Json::of(operation)?.at(event),
            status,
            location: format!("/api/operations/{}", operation.id),
        })
    }
}

impl<T: Described> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut response = Response::default();
        let headers = response.headers_mut();
        // With those that the edge adds, so that the map grows once.
        headers.reserve(MOST_HEADERS);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
        if self.encoding != Encoding::AsItIs {
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if self.encoding == Encoding::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        set_event(&mut response, self.event);
        response.set_body(Body::from_bytes(self.body));
        response
    }
}

impl<T: Described> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        let mut response = match self.body {
            Some(body) => body.into_response(),
            None => StatusCode::NOT_MODIFIED.into_response(),
        };
        set(&mut response, header::ETAG, &self.tag);
        response
    }
}

impl<T: Described> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        let mut response = self.value.into_response();
        response.set_status(StatusCode::CREATED);
        set(&mut response, header::LOCATION, &self.location);
        response
    }
}

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        let mut response = self.operation.into_response();
        response.set_status(self.status);
        set(&mut response, header::LOCATION, &self.location);
        response
    }
}

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        set_event(&mut response, self.0);
        response
    }
}

fn set(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn set_event(response: &mut Response, event: Option<EventNumber>) {
    if let Some(event) = event {
        response.headers_mut().insert(&X_LIMEN_EVENT, HeaderValue::from(event));
    }
}

fn meta<T: Described>(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType { content_type: JSON, schema: T::Schema::schema_ref() }],
        headers: vec![],
    }
}

fn bare(status: u16, description: &'static str) -> MetaResponse {
    MetaResponse { description, status: Some(status), status_range: None, content: vec![], headers: vec![] }
}

macro_rules! described {
    ($([$($generic:tt)*] $answer:ty, $value:ty => [$($response:expr),+];)+) => {$(
        impl<$($generic)*> ApiResponse for $answer {
            fn meta() -> MetaResponses {
                MetaResponses { responses: vec![$($response),+] }
            }

            fn register(registry: &mut Registry) {
                <$value as Described>::Schema::register(registry);
            }
        }
    )+};
}

described! {
    [T: Described] Json<T>, T => [meta::<T>(200, "Here it is")];
    [T: Described] Tagged<T>, T => [meta::<T>(200, "Here it is"), bare(304, "It is as `If-None-Match` says")];
    [T: Described] Created<T>, T => [meta::<T>(201, "It was made")];
    [] Accepted, Operation => [
        meta::<Operation>(200, "`Prefer: wait` was given, and the operation succeeded"),
        meta::<Operation>(202, "The operation is recorded and will be done")
    ];
    [] NoContent, Operation => [bare(204, "It was done")];
}
