//! The headers of the operations guide, on every kind of answer; and pages of other origins.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use limen_core::authz::{Decision, Resource, RoleAuthz, Scope};
use limen_core::{Action, Actor, Authz};
use limen_http::Timeouts;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::harness::PASSWORD;
use crate::process::Running;
use crate::wire::{LOCAL, Said, Wired, ask, connect, hear, send};

/// A proxy that the servers here trust, and no other.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// As roles say, but a list of hosts is a defect.
#[derive(Debug)]
struct Defect;

impl Authz for Defect {
    fn decide(&self, actor: &Actor, action: Action, resource: Resource) -> Decision {
        assert!(action != Action::ListHosts, "a defect");
        RoleAuthz.decide(actor, action, resource)
    }

    fn list_scope(&self, actor: &Actor) -> Scope {
        RoleAuthz.list_scope(actor)
    }
}

/// Each of the six exactly once, and HSTS exactly once with https and never without.
#[track_caller]
fn hold(what: &str, said: &Said, https: bool) {
    let expected = [
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("x-xss-protection", "1; mode=block"),
        ("referrer-policy", "strict-origin-when-cross-origin"),
    ];
    for (name, value) in expected {
        assert_eq!(said.all(name), [value], "{name} of {what}: {said:?}");
    }
    for name in ["permissions-policy", "content-security-policy", "x-request-id"] {
        assert_eq!(said.all(name).len(), 1, "{name} of {what}: {said:?}");
    }
    if !what.contains("page") {
        let policy = "default-src 'none'; frame-ancestors 'none'";
        assert_eq!(said.header("content-security-policy"), policy, "{what}");
    }
    let strict = said.all("strict-transport-security");
    let expected: &[&str] = if https { &["max-age=31536000; includeSubDomains"] } else { &[] };
    assert_eq!(strict, expected, "{what}");
    assert!(said.all("server").is_empty(), "{what}");
    assert_eq!(said.all("access-control-allow-credentials").len(), 0, "{what}");
    assert!(said.all("vary").iter().any(|vary| *vary == "origin"), "{what}: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_each_header_once_whoever_brings_it() {
    let proxies = |app: limen_http::App| {
        let app = app.with_trusted_proxies("127.0.0.9").expect("an address");
        app.with_allowed_origins("https://www.darc.kr").expect("an origin")
    };
    let server = Wired::start(Arc::new(Defect), Timeouts::default(), proxies).await;
    let limited =
        Wired::start(Arc::new(RoleAuthz), Timeouts::default(), |app| proxies(app).with_rate_limit(0.1, 1)).await;
    let admin = server.login("admin").await;
    let viewer = json!({"username": "viewer", "password": PASSWORD, "role": "viewer"}).to_string();
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let auth = bearer(&admin);
    let json = "Content-Type: application/json\r\n";
    let to = server.address;
    ask(to, LOCAL, &format!("POST /api/users HTTP/1.1\r\n{auth}{json}"), &viewer).await;
    let as_viewer = bearer(&server.login("viewer").await);
    let create = |name: &str| json!({"name": name, "vcpus": 1, "memory_mib": 64}).to_string();
    let head = format!("POST /api/vms HTTP/1.1\r\n{auth}{json}Prefer: wait=30\r\n");
    let vm = ask(to, LOCAL, &head, &create("first")).await.json()["vm_id"].as_str().expect("an id").to_owned();
    let tag = ask(to, LOCAL, &format!("GET /api/vms/{vm} HTTP/1.1\r\n{auth}"), "").await.header("etag").to_owned();
    assert!(!tag.is_empty());

    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let preflight = "Access-Control-Request-Method: GET\r\nOrigin: https";
    let large = " ".repeat((1 << 20) + 1);
    let mut seen = BTreeMap::new();
    let ways = [("plain", LOCAL, "", false), ("proxy", PROXY, "https", true), ("claimed", LOCAL, "https", false)];
    for (way, from, proto, https) in ways {
        let proto = if proto.is_empty() { String::new() } else { format!("X-Forwarded-Proto: {proto}\r\n") };
        let name = format!("token-{way}");
        let logout = bearer(&server.login("admin").await);
        let requests: Vec<(u16, &str, String, String)> = vec![
            (200, "a health", "GET /api/health HTTP/1.1\r\n".to_owned(), String::new()),
            (200, "a HEAD", "HEAD /api/health HTTP/1.1\r\n".to_owned(), String::new()),
            (200, "the docs page", "GET /docs HTTP/1.1\r\n".to_owned(), String::new()),
            (200, "the other docs page", "GET /swagger HTTP/1.1\r\n".to_owned(), String::new()),
            (200, "the document", "GET /api/swagger.json HTTP/1.1\r\n".to_owned(), String::new()),
            (201, "a token", format!("POST /api/tokens HTTP/1.1\r\n{auth}{json}"), json!({"name": name}).to_string()),
            (202, "a change", format!("POST /api/vms HTTP/1.1\r\n{auth}{json}"), create(way)),
            (204, "a logout", format!("POST /api/auth/logout HTTP/1.1\r\n{logout}"), String::new()),
            (
                304,
                "what is known",
                format!("GET /api/vms/{vm} HTTP/1.1\r\n{auth}If-None-Match: {tag}\r\n"),
                String::new(),
            ),
            (400, "a bad value", format!("GET /api/vms?limit=0 HTTP/1.1\r\n{auth}"), String::new()),
            (401, "nobody", "GET /api/vms HTTP/1.1\r\n".to_owned(), String::new()),
            (403, "a viewer", format!("POST /api/vms HTTP/1.1\r\n{as_viewer}{json}"), create("x")),
            (404, "nothing", "GET /nothing HTTP/1.1\r\n".to_owned(), String::new()),
            (405, "a method", "PUT /api/vms HTTP/1.1\r\n".to_owned(), String::new()),
            (405, "an OPTIONS", "OPTIONS /api/vms HTTP/1.1\r\n".to_owned(), String::new()),
            (204, "a preflight", format!("OPTIONS /api/vms HTTP/1.1\r\n{preflight}://www.darc.kr\r\n"), String::new()),
            (403, "a refused one", format!("OPTIONS /api/vms HTTP/1.1\r\n{preflight}://evil.kr\r\n"), String::new()),
            (409, "a taken name", format!("POST /api/users HTTP/1.1\r\n{auth}{json}"), viewer.clone()),
            (413, "a large body", format!("POST /api/vms HTTP/1.1\r\n{auth}{json}"), large.clone()),
            (415, "no JSON", format!("POST /api/vms HTTP/1.1\r\n{auth}"), "{}".to_owned()),
            (500, "a defect", format!("GET /api/hosts HTTP/1.1\r\n{auth}"), String::new()),
            (
                503,
                "what is to come",
                format!("GET /api/vms HTTP/1.1\r\n{auth}X-Limen-Event: 9007199254740991\r\n"),
                String::new(),
            ),
            (0, "a refused upgrade", format!("GET /vnc/{vm} HTTP/1.1\r\n{upgrade}"), String::new()),
        ];
        for (status, what, head, body) in requests {
            let said = ask(to, from, &format!("{head}{proto}"), &body).await;
            let is_it = if status == 0 { (400..500).contains(&said.status) } else { said.status == status };
            assert!(is_it, "{what}, {way}: {said:?}");
            hold(&format!("{what}, {way}"), &said, https);
            *seen.entry(said.status).or_insert(0) += 1;
        }
        let mut status = 200;
        for _ in 0..2 {
            let said = ask(limited.address, from, &format!("GET /docs HTTP/1.1\r\n{proto}"), "").await;
            hold(&format!("a page, {way}"), &said, https);
            status = said.status;
        }
        assert_eq!(status, 429, "{way}");
        *seen.entry(status).or_insert(0) += 1;
        let two = format!("GET /api/health HTTP/1.1\r\nHost: a\r\n{proto}");
        let said = ask(to, from, &two, "").await;
        assert_eq!(said.status, 400, "two hosts");
        hold(&format!("two hosts, {way}"), &said, https);
    }
    for status in [200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 409, 413, 415, 429, 500, 503] {
        assert!(seen.contains_key(&status), "no {status} was seen: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_has_them_too() {
    let timeouts = Timeouts { read: Duration::from_secs(1), ..Timeouts::default() };
    let server = Wired::start(Arc::new(RoleAuthz), timeouts, |app| app).await;
    let to = server.address;
    let large = format!("GET / HTTP/1.1\r\nX-A: {}\r\n\r\n", "a".repeat(2 << 20));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    for (status, bytes) in [(400, "\x16\x03\x01 hello\r\n\r\n"), (414, &long), (431, &large)] {
        let said = send(to, LOCAL, bytes.as_bytes()).await;
        assert_eq!(said.status, status, "{said:?}");
        hold(&format!("a {status}"), &said, false);
    }
    // A head, and a body, that do not come.
    let head = "GET /api/health HTTP/1.1\r\nHost: x\r\nX-Forwarded-Proto: https\r\n";
    let body =
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    for bytes in [head, body] {
        let mut stream = connect(to, LOCAL).await;
        stream.write_all(bytes.as_bytes()).await.expect("sent");
        let heard = hear(&mut stream).await;
        assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("\"code\":\"request_timeout\""), "{heard}");
        assert_eq!(heard.matches("connection: close").count(), 1, "{heard}");
        for name in ["x-content-type-options: nosniff", "content-security-policy: ", "x-request-id: "] {
            assert_eq!(heard.matches(name).count(), 1, "{name}: {heard}");
        }
    }
}

/// Origins that are none of `https://www.darc.kr` and `http://localhost:5173`.
const FOREIGN: [&str; 20] = [
    "https://evil.example",
    "null",
    "https://www.darc.kr.evil.com",
    "https://www.darc.kr@evil.com",
    "https://www.darc.kr:444",
    "https://www.darc.kr:443",
    "http://www.darc.kr",
    "https://WWW.DARC.KR",
    "HTTPS://www.darc.kr",
    "https://www.darc.kr.",
    "https://www.darc.kr/",
    "https://www.darc.kr, https://evil.example",
    "https://evilwww.darc.kr",
    "https://darc.kr",
    "https://www.darc.kr%00.evil.com",
    "https://www.darc.kr\\.evil.com",
    "http://localhost",
    "http://localhost:51730",
    "*",
    "file://",
];

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_listed_origins_may_read_and_no_others() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let origins = "https://www.darc.kr,http://localhost:5173";
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD), ("ALLOWED_ORIGINS", origins)]);
    let to: std::net::SocketAddr = server.url.trim_start_matches("http://").parse().expect("an address");
    let get = "GET /api/vms HTTP/1.1\r\n";
    let options = "OPTIONS /api/vms HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\n\
                   Access-Control-Request-Headers: authorization,content-type\r\n";
    let allows = |said: &Said| said.headers.iter().any(|(name, _)| name.starts_with("access-control-"));
    for origin in origins.split(',') {
        let said = ask(to, LOCAL, &format!("{get}Origin: {origin}\r\n"), "").await;
        // Also an error is read by the page: how else would it know?
        assert_eq!((said.status, said.all("access-control-allow-origin")), (401, vec![origin]));
        assert!(said.header("access-control-expose-headers").contains("X-Request-Id"), "{said:?}");
        let said = ask(to, LOCAL, &format!("{options}Origin: {origin}\r\n"), "").await;
        assert_eq!((said.status, said.all("access-control-allow-origin")), (204, vec![origin]), "no token is needed");
        assert!(said.header("access-control-allow-methods").contains("POST"), "{said:?}");
        assert!(said.header("access-control-allow-headers").contains("Authorization"), "{said:?}");
        hold("a preflight", &said, false);
    }
    let own = ask(to, LOCAL, &format!("{get}Origin: http://{to}\r\n"), "").await;
    assert!(!allows(&own));
    let mut refused = 0;
    let two = format!("{}\r\nOrigin: {}", "https://www.darc.kr", "https://www.darc.kr");
    for origin in FOREIGN.iter().copied().chain(["", two.as_str()]) {
        for (head, status) in [(get, 401), (options, 403)] {
            let id = format!("refused-{refused}");
            let said = ask(to, LOCAL, &format!("{head}X-Request-Id: {id}\r\nOrigin: {origin}\r\n"), "").await;
            assert_eq!(said.status, status, "{origin}");
            assert!(!allows(&said), "{origin}: {said:?}");
            assert!(said.all("vary").contains(&"origin"), "{origin}");
            refused += 1;
            // Ten lines a second are written.
            if refused % 8 == 0 {
                tokio::time::sleep(Duration::from_millis(1100)).await;
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let flood = format!("Origin: https://{}\u{e9}\r\n", "x".repeat(5000));
    for _ in 0..100 {
        ask(to, LOCAL, &format!("{get}{flood}"), "").await;
    }
    let (_, log) = server.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("cors")).collect();
    for number in 0..refused {
        let id = format!("request_id=\"refused-{number}\" ");
        let told: Vec<_> = lines.iter().filter(|line| line.contains(&id)).collect();
        assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("origin="), "{id}: {told:?}");
    }
    assert!(lines.iter().any(|line| line.contains("https://www.darc.kr@evil.com")), "the origin is shown");
    let flooded = lines.len() - refused;
    assert!((1..=60).contains(&flooded), "{flooded} lines for 100 in a few seconds");
    assert!(lines.iter().all(|line| line.len() < 400), "an origin is cut");
    assert!(lines.iter().all(|line| !line.contains(origins)), "one that is allowed is not logged");
}
