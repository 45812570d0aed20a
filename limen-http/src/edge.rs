//! What every request passes, outermost first; the order is the order in which it happens.
//!
//! | | |
//! |---|---|
//! | request id | taken over or made; on the answer, in the log and in the problem document |
//! | log | one line an answer, at the level that its status asks for |
//! | security headers | on every answer, errors and panics included (`edge/headers.rs`) |
//! | pages of other origins | may read answers or not; preflights are answered (`edge/cors.rs`) |
//! | rate limit | of the token's user, else of the address (`edge/rate.rs`) |
//! | problem documents | what the routes refuse, in one shape |
//! | panics | become a problem document too; the process lives |
//!
//! Who the client is behind a proxy of ours is told once (`edge/client.rs`), for the limit, the audit
//! and https.
//!
//! Authentication is no layer: each route's extractor does it (`extract.rs`), so that no path and
//! no header can pass it by. What is no request at all never comes here (`unparsed.rs`).

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use limen_core::{Error, ErrorKind};
use poem::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use poem::web::RemoteAddr;
use poem::{Addr, Endpoint, Request, Response};

use self::client::Client;
use self::cors::Page;
use self::rate::Sender;
use crate::app::App;
use crate::error::{self, Problem};
use crate::extract;
use crate::logging::STRANGERS;
use crate::request_id::{self, X_REQUEST_ID};
use crate::routes::{Route, Routes};
use crate::unparsed::Malformed;

mod client;
mod cors;
mod headers;
pub(crate) mod logins;
pub(crate) mod rate;

/// Who watches the server asks these, and shall not be refused when many others ask for something.
const UNLIMITED: [&str; 4] = ["/api/health", "/api/health/live", "/api/health/ready", "/api/metrics"];
/// As much of a path as a line of the log shows.
const SHOWN_PATH: usize = 512;

/// What a route's extractor needs to know of the request's way here.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    pub(crate) app: Arc<App>,
    pub(crate) request_id: String,
    pub(crate) origin: Option<IpAddr>,
    /// Whether the client came by https, as a proxy that is believed says.
    pub(crate) https: bool,
    /// A page of another origin asks, and not one that is allowed.
    pub(crate) foreign_page: bool,
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
        let client = Client::of(peer(&request), request.headers(), &self.app.proxies);
        let request_id = request_id::choose(request.headers().get(&X_REQUEST_ID));
        let page = Page::of(request.headers(), client.https, &self.app.origins, &request_id);
        let known = Arc::new(AtomicBool::new(false));
        let route = self.table.find(uri.path());

        let (mut response, problem) = if cors::is_preflight(&method, request.headers()) {
            answer_preflight(&page, &request_id)
        } else if let Err(problem) = self.admit(&request, uri.path(), client) {
            refused(problem, &request_id)
        } else {
            if method == Method::HEAD {
                // The connection sends the headers of the answer to a GET, and leaves its body out.
                request.set_method(Method::GET);
            }
            request.extensions_mut().insert(Arrival {
                app: Arc::clone(&self.app),
                request_id: request_id.clone(),
                origin: client.address,
                https: client.https,
                foreign_page: page == Page::Refused,
                known: Arc::clone(&known),
            });
            match AssertUnwindSafe(self.routes.call(request)).catch_unwind().await {
                Ok(Ok(response)) => (response, None),
                Ok(Err(refusal)) => refused(error::from_framework(refusal, || route.map(Route::allowed)), &request_id),
                Err(payload) => refused(error::panicked(payload.as_ref()), &request_id),
            }
        };

        headers::add(response.headers_mut(), client.https, uri.path(), &request_id);
        page.add_headers(response.headers_mut());
        if problem.as_ref().is_some_and(Problem::ends_connection) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        self.app.requests.count(route, &method, response.status(), started.elapsed());
        let known = known.load(Ordering::Relaxed);
        log(&method, uri.path(), response.status(), started, &request_id, problem.as_ref(), known);
        Ok(response)
    }
}

impl<E> Edge<E> {
    /// Refuses what is not well formed, and who sends too much.
    fn admit(&self, request: &Request, path: &str, client: Client) -> Result<(), Problem> {
        if let Some(malformed) = request.extensions().get::<Malformed>() {
            return Err(malformed.problem());
        }
        let (Some(buckets), Some(address)) = (&self.app.buckets, client.address) else { return Ok(()) };
        if UNLIMITED.contains(&path) {
            return Ok(());
        }
        let sender = extract::user_of(&self.app, request.headers()).map_or(address.into(), Sender::User);
        buckets.take(sender).map_err(|wait| rate::refusal("Too many requests", wait))
    }
}

/// Answers a browser that asks what a page may send: no token goes with that question.
fn answer_preflight(page: &Page, request_id: &str) -> (Response, Option<Problem>) {
    if *page == Page::Refused {
        let sentence = "Pages of this origin may not use the API; ALLOWED_ORIGINS names those that may.";
        return refused(Problem::Core(Error::new(ErrorKind::Forbidden, sentence)), request_id);
    }
    let mut response = Response::builder().status(StatusCode::NO_CONTENT).finish();
    if matches!(page, Page::Allowed(_)) {
        cors::permit(response.headers_mut());
    }
    (response, None)
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

/// All headers of an answer to what was no request.
pub(crate) fn headers_of_refusal(problem: &Problem, request_id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    problem.add_headers(&mut headers);
    // It was not read whether anything said https.
    headers::add(&mut headers, false, "/api", request_id);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    headers
}

/// Logs an answer once, at the level of its status: 5xx with their cause at `error`, 4xx but for 404
/// at `warn`, all others at `info`. Refusals of callers who are not `known` are told with measure: a
/// flood of them must not fill the log.
fn log(
    method: &Method,
    path: &str,
    status: StatusCode,
    started: Instant,
    id: &str,
    problem: Option<&Problem>,
    known: bool,
) {
    let path = path.get(..SHOWN_PATH).unwrap_or(path);
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
    } else if status.is_client_error() {
        let field = problem.and_then(Problem::core).and_then(limen_core::Error::field).unwrap_or_default();
        let suppressed = if known { Some(0) } else { STRANGERS.admit() };
        match suppressed {
            Some(0) if status == StatusCode::NOT_FOUND => line!(info, code, "request"),
            Some(suppressed) if status == StatusCode::NOT_FOUND => line!(info, code, suppressed, "request"),
            Some(0) => line!(warn, code, field, "request refused"),
            Some(suppressed) => line!(warn, code, field, suppressed, "request refused"),
            None => {}
        }
    } else {
        line!(info, code, "request");
    }
}
