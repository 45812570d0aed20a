//! Web pages of other origins (CORS): those of `ALLOWED_ORIGINS` may read answers, no others.
//!
//! A request carries its token in a header and never in a cookie, so a page that is not allowed can
//! do nothing in its visitor's name; what it is refused is to read. No answer allows credentials.

use poem::http::{HeaderMap, HeaderValue, Method, header};

use crate::config::Origins;
use crate::logging::Measure;

/// Lines about origins that are not allowed: 10 a second.
static REFUSED: Measure = Measure::new(10);
/// As much of a refused origin as the log shows.
const SHOWN: usize = 128;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Content-Range, Idempotency-Key, If-Match, If-None-Match, Last-Event-ID, Prefer, \
     X-Limen-Event, X-Request-Id",
);
const ANSWER_HEADERS: HeaderValue =
    HeaderValue::from_static("Allow, ETag, Location, Retry-After, WWW-Authenticate, X-Limen-Event, X-Request-Id");
/// How long a browser may remember the answer to a preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// The page that a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    /// No browser, or a page of this server.
    Ours,
    /// One of those that are allowed.
    Allowed(HeaderValue),
    /// Any other.
    Refused,
}

impl Page {
    /// `https` as the client came; a page of this server has the scheme and host of the request.
    pub(super) fn of(headers: &HeaderMap, https: bool, origins: &Origins, request_id: &str) -> Self {
        let mut values = headers.get_all(header::ORIGIN).iter();
        let Some(value) = values.next() else { return Page::Ours };
        let single = values.next().is_none().then(|| value.to_str().ok()).flatten();
        match single {
            Some(origin) if origins.allows(origin) => Page::Allowed(value.clone()),
            Some(origin) if is_own(origin, https, headers) => Page::Ours,
            _ => {
                let shown: String = String::from_utf8_lossy(value.as_bytes()).chars().take(SHOWN).collect();
                if let Some(suppressed) = REFUSED.admit() {
                    tracing::warn!(
                        target: "limen", request_id, origin = ?shown, suppressed,
                        "cors: the origin is not in ALLOWED_ORIGINS"
                    );
                }
                Page::Refused
            }
        }
    }

    /// Lets the page read the answer. Caches must keep the answers to different pages apart.
    pub(super) fn add_headers(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Page::Allowed(origin) = self {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANSWER_HEADERS);
        }
    }
}

fn is_own(origin: &str, https: bool, headers: &HeaderMap) -> bool {
    let scheme = if https { "https://" } else { "http://" };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    origin.strip_prefix(scheme).is_some_and(|authority| host == Some(authority))
}

/// Whether a browser asks what it may send, before it sends it.
pub(super) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What an allowed page may send.
pub(super) fn permit(headers: &mut HeaderMap) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}
