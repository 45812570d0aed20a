//! What clients meet at the address that they know: the proxy before the server.

use std::error::Error as _;
use std::time::Duration;

use reqwest::{Client, Response, StatusCode, Url};

use super::database::clock_differs;
use super::finding::{Kind, Report};
use super::place::{Place, quoted};
use super::systemctl;

const PATIENCE: Duration = Duration::from_secs(4);

/// Where nginx reads its configuration.
const NGINX: &str = "/etc/nginx";

pub(super) async fn look(place: &Place, url: &Url) -> Report {
    let mut report = Report::default();
    let builder = Client::builder().timeout(PATIENCE).connect_timeout(PATIENCE).no_proxy().http1_only();
    let Ok(client) = builder.redirect(reqwest::redirect::Policy::none()).build() else { return report };
    let at = |path: &str| url.join(path).map(String::from).unwrap_or_default();
    let answer = match client.get(at("/api/health/live")).send().await {
        Ok(answer) => answer,
        Err(error) => return unanswered(url, &error),
    };
    report.add(clock(url, &answer));
    if !is_limen(&answer) {
        let message = format!("What answers at {url} says {}, and it is not LIMEN that says so.", answer.status());
        report.find(Kind::ProxyUpstream, message, systemctl("start", "limen"));
        return report;
    }
    // The server says HSTS to whom a trusted proxy says that the client speaks https.
    if url.scheme() == "https" && !answer.headers().contains_key("strict-transport-security") {
        let message = format!(
            "LIMEN does not hear that clients of {url} speak https: the proxy sends no X-Forwarded-Proto, or is not in TRUSTED_PROXIES."
        );
        let command = match configured(place) {
            Some(command) => command,
            None => in_nginx("proxy_set_header X-Forwarded-Proto $scheme;"),
        };
        report.find(Kind::ProxyScheme, message, command);
    }
    let console = client
        .get(at("/vnc/00000000-0000-0000-0000-000000000000"))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "bGltZW4gZG9jdG9yIGhlcmU=");
    match console.send().await {
        // The upgrade came through: what is missing is a ticket.
        Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED => {
            report.good("proxy", format!("{url} passes WebSocket on"));
        }
        answer => {
            let why = answer
                .map_or_else(|_| "there is no answer".to_owned(), |answer| format!("it says {}", answer.status()));
            let message = format!("The proxy at {url} does not pass Upgrade on to LIMEN ({why}): no console opens.");
            let lines = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";";
            report.find(Kind::ProxyUpgrade, message, in_nginx(lines));
        }
    }
    report
}

fn is_limen(answer: &Response) -> bool {
    answer.headers().contains_key(&crate::request_id::X_REQUEST_ID)
}

fn unanswered(url: &Url, error: &reqwest::Error) -> Report {
    let mut cause = error.source();
    let mut causes = Vec::new();
    while let Some(one) = cause {
        causes.push(one.to_string());
        cause = one.source();
    }
    let why = causes.last().cloned().unwrap_or_else(|| error.to_string());
    if causes.iter().any(|cause| cause.contains("certificate")) {
        let host = url.host_str().unwrap_or_default();
        let message = format!("The certificate at {url} is not good for {host}: {why}.");
        return Report::found(Kind::ProxyCertificate, message, format!("certbot certonly --nginx -d {}", quoted(host)));
    }
    let why = if error.is_timeout() { "there was no answer in time".to_owned() } else { why };
    Report::found(Kind::ProxyAway, format!("Nobody answers at {url}: {why}."), systemctl("start", "nginx"))
}

fn clock(url: &Url, answer: &Response) -> Report {
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    // RFC 9110: always GMT.
    let format = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let date = date.and_then(|date| time::PrimitiveDateTime::parse(date, format).ok());
    date.map_or_else(Report::default, |date: time::PrimitiveDateTime| clock_differs(url.as_str(), date.assume_utc()))
}

/// The setting to mend where the proxies of this machine are believed by nobody.
fn configured(place: &Place) -> Option<String> {
    let trusted = std::env::var("TRUSTED_PROXIES").ok()?;
    (!trusted.contains("127.0.0.")).then(|| place.unset("TRUSTED_PROXIES"))
}

/// The command that puts lines after each `proxy_pass` to LIMEN in nginx's configuration.
fn in_nginx(lines: &str) -> String {
    format!(
        "sed -i '/proxy_pass/a {lines}' $(grep -rlE 'proxy_pass +http://(127\\.0\\.0\\.1|localhost|\\[::1\\]):18443' {NGINX}) && \
         nginx -s reload"
    )
}
