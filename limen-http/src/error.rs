//! The one file of status codes: every error of every origin becomes a problem document (RFC 9457).
//!
//! Handlers answer [`Problem`]; what the framework itself refuses (unknown path, wrong method) and
//! what panics is turned into one by [`from_framework`] and [`panicked`]. The edge renders it once,
//! with the request id.

use limen_core::model::{OperationError, OperationId};
use limen_core::{Error, ErrorKind};
use poem::error::{ReadBodyError, ResponseError};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};
use poem_openapi::ApiResponse;
use poem_openapi::error::ParsePathError;
use poem_openapi::registry::{MetaResponses, Registry};
use serde_json::{Map, Value, json};

/// What a handler answers when it does not answer a value.
pub(crate) type Result<T, E = Problem> = std::result::Result<T, E>;

/// The media type of every error.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// The status of each kind of error.
#[must_use]
pub fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists
        | ErrorKind::Conflict
        | ErrorKind::Busy
        | ErrorKind::QuotaExceeded
        | ErrorKind::Cancelled
        | ErrorKind::Abandoned => StatusCode::CONFLICT,
        ErrorKind::Gone => StatusCode::GONE,
        ErrorKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Timeout | ErrorKind::Interrupted => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The `title` of each kind of error: the same for every problem of the kind.
fn title(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Invalid => "The request is not valid",
        ErrorKind::Unauthenticated => "A valid token is needed",
        ErrorKind::Forbidden => "Not allowed",
        ErrorKind::NotFound => "Not found",
        ErrorKind::AlreadyExists => "It exists already",
        ErrorKind::Conflict => "Not possible in this state",
        ErrorKind::Busy => "Another operation is at work",
        ErrorKind::QuotaExceeded => "The quota does not allow it",
        ErrorKind::Gone => "Kept no longer",
        ErrorKind::PreconditionFailed => "Changed in the meantime",
        ErrorKind::TooLarge => "Too large",
        ErrorKind::RateLimited => "Too many requests",
        ErrorKind::Unsupported => "Not supported here",
        ErrorKind::Unavailable => "Not available now",
        ErrorKind::Timeout => "Not finished in time",
        ErrorKind::NoSpace => "No space left",
        ErrorKind::Interrupted => "The outcome is unknown",
        ErrorKind::Cancelled => "Cancelled",
        ErrorKind::Abandoned => "Given up by hand",
        _ => "Internal error",
    }
}

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The library's.
    Core(Error),
    /// The path exists, the method does not; the value lists those that do, for `Allow`.
    MethodNotAllowed(String),
    /// The body is not JSON by its `Content-Type`.
    UnsupportedMediaType,
    /// The HTTP library could not read it as a request, and answers this status; or it did not come
    /// in time.
    Unparsed(StatusCode),
    /// What follows on its connection need not be what it seems.
    Malformed(Error),
    /// An operation that the caller waited for did not succeed.
    Operation(OperationId, OperationError),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Problem::Core(error)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Problem::Core(error) | Problem::Malformed(error) => error.fmt(f),
            Problem::MethodNotAllowed(allow) => write!(f, "This path answers {allow} only."),
            Problem::UnsupportedMediaType => f.write_str("The body must be JSON: Content-Type application/json."),
            Problem::Unparsed(StatusCode::URI_TOO_LONG) => f.write_str("The path and query are too long."),
            Problem::Unparsed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
                f.write_str("The headers are too large, or too many.")
            }
            Problem::Unparsed(StatusCode::REQUEST_TIMEOUT) => f.write_str("The request did not come in time."),
            Problem::Unparsed(_) => f.write_str("This is not an HTTP request that LIMEN reads."),
            Problem::Operation(_, error) => f.write_str(&error.detail),
        }
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        Problem::status(self)
    }
}

/// Which errors an operation may answer is written into the document by rule, for all of them
/// alike (`openapi.rs`).
impl ApiResponse for Problem {
    fn meta() -> MetaResponses {
        MetaResponses { responses: Vec::new() }
    }

    fn register(_: &mut Registry) {}
}

impl Problem {
    /// `field` of the request is not what it must be.
    pub(crate) fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Problem::Core(Error::invalid(field, detail))
    }

    /// The token is missing, or no longer good.
    pub(crate) fn unauthenticated(detail: &str) -> Self {
        Problem::Core(Error::new(ErrorKind::Unauthenticated, detail))
    }

    /// The status that the client gets.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Problem::Core(error) | Problem::Malformed(error) => status(error.kind()),
            Problem::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Problem::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Problem::Unparsed(status) => *status,
            Problem::Operation(_, error) => status(error.code),
        }
    }

    /// The library's error inside, for the log.
    pub(crate) fn core(&self) -> Option<&Error> {
        match self {
            Problem::Core(error) | Problem::Malformed(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the connection ends with it: what follows, or has not come yet, is not read.
    pub(crate) fn ends_connection(&self) -> bool {
        let unread = [StatusCode::REQUEST_TIMEOUT, StatusCode::PAYLOAD_TOO_LARGE];
        matches!(self, Problem::Malformed(_)) || unread.contains(&self.status())
    }

    /// The `code` of the document.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Problem::Core(error) | Problem::Malformed(error) => error.kind().code(),
            Problem::MethodNotAllowed(_) => "method_not_allowed",
            Problem::UnsupportedMediaType => "unsupported_media_type",
            Problem::Unparsed(StatusCode::URI_TOO_LONG) => "uri_too_long",
            Problem::Unparsed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => "headers_too_large",
            Problem::Unparsed(StatusCode::REQUEST_TIMEOUT) => "request_timeout",
            Problem::Unparsed(_) => ErrorKind::Invalid.code(),
            Problem::Operation(_, error) => error.code.code(),
        }
    }

    /// The problem document.
    pub(crate) fn document(&self, request_id: &str) -> String {
        let title = match self {
            Problem::Core(error) | Problem::Malformed(error) => title(error.kind()),
            Problem::MethodNotAllowed(_) => "Method not allowed",
            Problem::UnsupportedMediaType => "The body is not JSON",
            Problem::Unparsed(StatusCode::URI_TOO_LONG) => "Address too long",
            Problem::Unparsed(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => "Headers too large",
            Problem::Unparsed(StatusCode::REQUEST_TIMEOUT) => "Too slow",
            Problem::Unparsed(_) => title(ErrorKind::Invalid),
            Problem::Operation(_, error) => title(error.code),
        };
        let mut members = Map::new();
        members.insert("type".to_owned(), json!(format!("urn:limen:problem:{}", self.code())));
        members.insert("title".to_owned(), json!(title));
        members.insert("status".to_owned(), json!(self.status().as_u16()));
        members.insert("detail".to_owned(), json!(self.to_string()));
        members.insert("code".to_owned(), json!(self.code()));
        members.insert("request_id".to_owned(), json!(request_id));
        let (field, quota, operation) = match self {
            Problem::Core(error) | Problem::Malformed(error) => {
                (error.field().map(str::to_owned), error.quota().cloned(), error.operation_id())
            }
            Problem::Operation(id, error) => (error.field.clone(), error.quota.clone(), Some(*id)),
            _ => (None, None, None),
        };
        if let Some(field) = field {
            members.insert("field".to_owned(), json!(field));
        }
        if let Some(quota) = quota {
            members.insert("resource".to_owned(), json!(quota.resource));
            members.insert("limit".to_owned(), json!(quota.limit));
            members.insert("used".to_owned(), json!(quota.used));
        }
        if let Some(id) = operation {
            members.insert("operation_id".to_owned(), json!(id));
        }
        if let Some(oldest) = self.core().and_then(Error::oldest) {
            members.insert("oldest".to_owned(), json!(oldest));
        }

        Value::Object(members).to_string()
    }

    /// The answer, without the headers that the edge puts on every one.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = Body::from_string(self.document(request_id));
        let mut response = Response::builder().status(self.status()).body(body);
        self.add_headers(response.headers_mut());
        response
    }

    /// The headers that go with the document.
    pub(crate) fn add_headers(&self, headers: &mut poem::http::HeaderMap) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"limen\", error=\"invalid_token\""),
            );
        }
        if let Problem::MethodNotAllowed(allow) = self
            && let Ok(allow) = HeaderValue::from_str(allow)
        {
            headers.insert(header::ALLOW, allow);
        }
        let wait = match self {
            Problem::Core(error) => error.retry_after(),
            _ => None,
        };
        if let Some(wait) = wait {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
    }
}

/// What the framework refused by itself: `allow` lists the methods of the path, where it exists.
pub(crate) fn from_framework(error: poem::Error, allow: impl FnOnce() -> Option<String>) -> Problem {
    let error = match error.downcast::<Problem>() {
        Ok(problem) => return problem,
        Err(error) => error,
    };
    if error.is::<ParsePathError>() {
        return Problem::invalid("id", "The id in the path must be a UUID.");
    }
    match error.status() {
        StatusCode::NOT_FOUND => Problem::Core(Error::new(ErrorKind::NotFound, "There is nothing at this path.")),
        StatusCode::METHOD_NOT_ALLOWED => Problem::MethodNotAllowed(allow().unwrap_or_default()),
        StatusCode::PAYLOAD_TOO_LARGE => too_large(),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::UnsupportedMediaType,
        status if status.is_client_error() => {
            Problem::Core(Error::new(ErrorKind::Invalid, "The request is not valid.").with_source(error.to_string()))
        }
        _ => Problem::Core(Error::internal(error.to_string())),
    }
}

/// A handler panicked: a defect, whose message goes to the log alone.
pub(crate) fn panicked(payload: &(dyn std::any::Any + Send)) -> Problem {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    Problem::Core(Error::internal(message).with_operation("panic"))
}

/// The body is larger than a JSON body may be.
pub(crate) fn too_large() -> Problem {
    Problem::Core(Error::new(ErrorKind::TooLarge, "The body must not be larger than 1 MiB."))
}

/// The body could not be read to its end.
pub(crate) fn unreadable(error: &ReadBodyError) -> Problem {
    match error {
        ReadBodyError::PayloadTooLarge => too_large(),
        ReadBodyError::Io(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            Problem::Unparsed(StatusCode::REQUEST_TIMEOUT)
        }
        _ => Problem::Core(Error::new(ErrorKind::Invalid, "The body could not be read to its end.")),
    }
}
