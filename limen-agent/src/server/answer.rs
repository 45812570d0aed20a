//! Paths and what is answered on them.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::{Server, accept};
use crate::text;

/// The body of every answer.
pub(super) type Body = Full<Bytes>;

const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const DOCS: &str = include_str!("../docs.html");
const OPENAPI: &str = include_str!("../openapi.json");

impl Server {
    /// Answers a request; none waits for anything.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut refused = problem(StatusCode::METHOD_NOT_ALLOWED, "The agent is only read: GET or HEAD.");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" | "/metrics/prometheus" if !self.admits(request) => {
                let detail = "Figures are for those who show the agent's token: Authorization: Bearer TOKEN.";
                let mut refused = problem(StatusCode::UNAUTHORIZED, detail);
                refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                refused
            }
            "/metrics/prometheus" => self.figures(true),
            "/metrics" => {
                // A reader may send several lines of it.
                let lines = request.headers().get_all(header::ACCEPT).iter().filter_map(|line| line.to_str().ok());
                self.figures(accept::wants_text(&lines.collect::<Vec<_>>().join(",")))
            }
            "/health" => self.health(),
            "/" | "/docs" => {
                let mut page = answer(StatusCode::OK, "text/html; charset=utf-8", DOCS);
                let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
                page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
                page
            }
            "/openapi.json" => answer(StatusCode::OK, JSON, OPENAPI),
            _ => problem(StatusCode::NOT_FOUND, "There is nothing here; /docs tells what there is."),
        }
    }

    fn admits<B>(&self, request: &Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        match shown.split_at_checked(7) {
            Some((scheme, shown)) => scheme.eq_ignore_ascii_case(b"bearer ") && token.is(shown),
            None => false,
        }
    }

    fn figures(&self, as_text: bool) -> Response<Body> {
        let snapshot = self.clock.latest();
        let mut figures = if as_text {
            answer(StatusCode::OK, text::CONTENT_TYPE, snapshot.text())
        } else {
            answer(StatusCode::OK, JSON, snapshot.json())
        };
        figures.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
        figures
    }

    fn health(&self) -> Response<Body> {
        let age = self.clock.latest().age().as_secs_f64();
        if self.clock.runs() {
            let version = env!("CARGO_PKG_VERSION");
            let body = format!("{{\"status\":\"up\",\"version\":\"{version}\",\"sample_age_seconds\":{age:.3}}}");
            answer(StatusCode::OK, JSON, body)
        } else {
            problem(StatusCode::SERVICE_UNAVAILABLE, &format!("No sample was taken for {age:.0} s; the log tells why."))
        }
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// An error as RFC 9457 has it. `detail` has nothing that JSON would escape.
fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    answer(status, PROBLEM, format!("{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{detail}\"}}"))
}
