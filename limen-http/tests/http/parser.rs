//! What is no request, as the parser refuses it.

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::PASSWORD;
use crate::process::{Running, exchange};

#[test]
fn what_is_no_request_gets_a_problem_document_too() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    let address = server.url.trim_start_matches("http://").to_owned();
    let many: String = (0..300).map(|index| format!("x-{index}: y\r\n")).collect();
    let cases = [
        ("no Host", b"GET /api/health HTTP/1.1\r\n\r\n".to_vec(), 400, "invalid"),
        ("two Hosts", b"GET /api/health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(), 400, "invalid"),
        (
            "a transfer coding",
            b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_vec(),
            501,
            "unsupported",
        ),
        ("no request line", b"\x16\x03\x01 hello\r\n\r\n".to_vec(), 400, "invalid"),
        ("no version", b"GET /api/vms HTTP/9.9\r\n\r\n".to_vec(), 400, "invalid"),
        ("a broken header", b"GET /api/vms HTTP/1.1\r\nno colon\r\n\r\n".to_vec(), 400, "invalid"),
        ("a long path", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)).into_bytes(), 414, "uri_too_long"),
        ("many headers", format!("GET / HTTP/1.1\r\n{many}\r\n").into_bytes(), 431, "headers_too_large"),
        ("after an answer", b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n\x01\x02\r\n\r\n".to_vec(), 400, "invalid"),
    ];
    for (what, sent, status, code) in cases {
        let answer = exchange(&address, &sent);
        let at = answer.find(&format!("HTTP/1.1 {status} ")).unwrap_or_else(|| panic!("{what}: {answer:?}"));
        assert_eq!(at > 0, what == "after an answer", "{what}: {answer:?}");
        let (head, body) = answer[at..].split_once("\r\n\r\n").expect("a head");
        for header in ["content-type: application/problem+json", "x-content-type-options: nosniff", "x-request-id: "] {
            assert_eq!(head.matches(header).count(), 1, "{what}: {header}: {head}");
        }
        assert!(head.contains(&format!("content-length: {}", body.len())), "{what}: {answer:?}");
        let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{what}: {error}: {body:?}"));
        assert_eq!((&problem["status"], &problem["code"]), (&json!(status), &json!(code)), "{what}");
        assert!(head.contains(problem["request_id"].as_str().expect("an id")), "{what}: {head}");
    }
}
