//! What every request passes, outermost first; the order is the order in which it happens.
//!
//! | | |
//! |---|---|
//! | request id | taken over or made; on the answer, in the log and in the problem document |
//! | log | one line an answer, at the level that its status asks for |
//! | security headers | on every answer, errors and panics included |
//! | problem documents | what the routes refuse, in one shape |
//! | panics | become a problem document too; the process lives |
//!
//! Authentication is no layer: each route's extractor does it (`extract.rs`), so that no path and
//! no header can pass it by. What is no request at all never comes here (`unparsed.rs`).

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use poem::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use poem::web::RemoteAddr;
use poem::{Addr, Endpoint, Request, Response};

use crate::app::App;
use crate::error::{self, Problem};
use crate::logging::STRANGERS;
use crate::request_id::{self, X_REQUEST_ID};
use crate::routes::Routes;

/// The headers that the operations guide promises on every answer, but for the two that differ.
static SECURITY_HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::X_XSS_PROTECTION, HeaderValue::from_static("1; mode=block")),
    (header::REFERRER_POLICY, HeaderValue::from_static("strict-origin-when-cross-origin")),
    (
        HeaderName::from_static("permissions-policy"),
        HeaderValue::from_static(
            "accelerometer=(), camera=(), geolocation=(), gyroscope=(), magnetometer=(), microphone=(), payment=(), usb=()",
        ),
    ),
];
/// Nothing that this server answers is a page, but for /docs, which brings its own.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const STRICT_TRANSPORT_SECURITY: &str = "max-age=31536000; includeSubDomains";

/// What a route's extractor needs to know of the request's way here.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) app: Arc<App>,
    pub(crate) request_id: String,
    pub(crate) origin: Option<IpAddr>,
    /// The client came by https, to the proxy before this server.
    pub(crate) https: bool,
    /// Set once the caller is known: what strangers are refused is logged with measure.
    pub(crate) known: Arc<AtomicBool>,
}

/// All layers around the routes.
pub(crate) struct Edge<E> {
    routes: E,
    table: Routes,
    app: Arc<App>,
}

impl<E> std::fmt::Debug for Edge<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edge").finish_non_exhaustive()
    }
}

impl<E> Edge<E> {
    /// `table` lists the methods of each path in `routes`.
    pub(crate) fn new(routes: E, table: Routes, app: Arc<App>) -> Self {
        Self { routes, table, app }
    }
}

impl<E: Endpoint<Output = Response>> Endpoint for Edge<E> {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let started = Instant::now();
        let method = request.method().clone();
        let uri = request.uri().clone();
        let origin = peer(&request);
        let https = is_told_https(&request, origin);
        let request_id = request_id::choose(request.headers().get(&X_REQUEST_ID));
        if method == Method::HEAD {
            // The connection sends the headers of the answer to a GET, and leaves its body out.
            request.set_method(Method::GET);
        }
        let known = Arc::new(AtomicBool::new(false));
        let arrival = Arrival {
            app: Arc::clone(&self.app),
            request_id: request_id.clone(),
            origin,
            https,
            known: Arc::clone(&known),
        };
        request.extensions_mut().insert(arrival);

        let answer = AssertUnwindSafe(self.routes.call(request)).catch_unwind().await;
        let (mut response, problem) = match answer {
            Ok(Ok(response)) => (response, None),
            Ok(Err(refusal)) => refused(error::from_framework(refusal, || self.table.allowed(uri.path())), &request_id),
            Err(payload) => refused(error::panicked(payload.as_ref()), &request_id),
        };

        add_headers(response.headers_mut(), https, uri.path(), &request_id);
        let known = known.load(Ordering::Relaxed);
        log(&method, uri.path(), response.status(), started, &request_id, problem.as_ref(), known);
        Ok(response)
    }
}

fn refused(problem: Problem, request_id: &str) -> (Response, Option<Problem>) {
    (problem.render(request_id), Some(problem))
}

fn peer(request: &Request) -> Option<IpAddr> {
    match request.remote_addr() {
        RemoteAddr(Addr::SocketAddr(address)) => Some(address.ip()),
        RemoteAddr(_) => None,
    }
}

/// A proxy on this machine is believed when it says that the client came by https.
fn is_told_https(request: &Request, origin: Option<IpAddr>) -> bool {
    request.headers().get("x-forwarded-proto").is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
        && origin.is_some_and(|ip| ip.is_loopback())
}

/// All headers of an answer to what was no request.
pub(crate) fn headers_of_refusal(problem: &Problem, request_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    problem.add_headers(&mut headers);
    add_headers(&mut headers, false, "/api", request_id);
    headers
}

fn add_headers(headers: &mut HeaderMap, https: bool, path: &str, request_id: &str) {
    if let Ok(value) = HeaderValue::from_str(request_id) {
        headers.insert(&X_REQUEST_ID, value);
    }
    for (name, value) in &SECURITY_HEADERS {
        headers.insert(name, value.clone());
    }
    if !headers.contains_key(header::CONTENT_SECURITY_POLICY) {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    }
    if https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT_TRANSPORT_SECURITY));
    }
    if path.starts_with("/api") {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

/// Logs an answer once: server errors with their cause, client errors, and changes. What was only
/// read is told at `debug`, so that a busy list costs no line. Refusals of callers who are not
/// `known` are told with measure: a flood of them must not fill the log.
fn log(
    method: &Method,
    path: &str,
    status: StatusCode,
    started: Instant,
    id: &str,
    problem: Option<&Problem>,
    known: bool,
) {
    macro_rules! line {
        ($level:ident, $($extra:tt)*) => {
            tracing::$level!(
                target: "limen",
                request_id = id, method = method.as_str(), path, status = status.as_u16(),
                ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX), $($extra)*
            )
        };
    }
    let code = problem.map(Problem::code).unwrap_or_default();
    if status.is_server_error() {
        let error = problem.and_then(Problem::core);
        let cause = error.map(limen_core::Error::causes).unwrap_or_default();
        let facts: Vec<String> =
            error.map(|error| error.facts().map(|(key, value)| format!("{key}={value}")).collect()).unwrap_or_default();
        line!(error, code, cause, facts = facts.join(" "), "request failed");
    } else if status.is_client_error() && status != StatusCode::NOT_FOUND {
        let field = problem.and_then(Problem::core).and_then(limen_core::Error::field).unwrap_or_default();
        match if known { Some(0) } else { STRANGERS.admit() } {
            Some(0) => line!(warn, code, field, "request refused"),
            Some(suppressed) => line!(warn, code, field, suppressed, "request refused"),
            None => {}
        }
    } else if method != Method::GET && method != Method::HEAD {
        line!(info, code, "request");
    } else {
        line!(debug, code, "request");
    }
}
