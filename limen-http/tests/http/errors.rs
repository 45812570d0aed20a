//! Errors of every origin have one shape, the right status, and every header.

use std::sync::Arc;

use limen_core::authz::{Decision, Resource, Scope};
use limen_core::{Action, Actor, Authz};
use serde_json::json;

use crate::harness::{PASSWORD, Server};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_has_the_headers() {
    let server = Server::start(1).await;
    let admin = server.login("admin").await;
    let viewer = server.user(&admin, "viewer", "viewer").await;
    let json = ("content-type", "application/json");
    let big = vec![b' '; (1 << 20) + 1];
    let vm = json!({"name": "a", "vcpus": 1, "memory_mib": 64}).to_string().into_bytes();
    let answers = [
        (200, server.get("/api/health", "").await),
        (200, server.get("/docs", "").await),
        (202, server.send("POST", "/api/vms", &admin, &[json], vm.clone()).await),
        (204, server.send("POST", "/api/auth/logout", &server.login("admin").await, &[], vec![]).await),
        (400, server.get("/api/vms?limit=0", &admin).await),
        (401, server.get("/api/vms", "").await),
        (403, server.send("POST", "/api/vms", &viewer, &[json], vm).await),
        (404, server.get("/nothing/here", "").await),
        (404, server.get("/api/nothing", "").await),
        (405, server.send("PUT", "/api/vms", &admin, &[], vec![]).await),
        (405, server.send("OPTIONS", "/api/vms", "", &[], vec![]).await),
        (405, server.send("TRACE", "/docs", "", &[], vec![]).await),
        (413, server.send("POST", "/api/vms", &admin, &[json], big).await),
        (415, server.send("POST", "/api/vms", &admin, &[], b"{}".to_vec()).await),
    ];
    for (status, answer) in answers {
        let answer = answer.expect(status);
        for name in [
            "x-content-type-options",
            "x-frame-options",
            "x-xss-protection",
            "referrer-policy",
            "permissions-policy",
            "content-security-policy",
            "x-request-id",
        ] {
            assert_eq!(answer.headers.get_all(name).iter().count(), 1, "{name} of a {status}");
        }
        assert!(answer.headers.get("strict-transport-security").is_none());
        assert!(answer.headers.get("server").is_none());
        if status >= 400 {
            answer.code();
        }
        match status {
            401 => assert!(answer.header("www-authenticate").starts_with("Bearer ")),
            405 => assert!(answer.header("allow").contains("GET"), "{answer:?}"),
            _ => {}
        }
    }
    let under_api = server.get("/api/vms", &admin).await;
    assert_eq!(under_api.header("cache-control"), "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_is_taken_over_where_it_is_plain() {
    let server = Server::start(0).await;
    let own = server.send("GET", "/x", "", &[("x-request-id", "trace-1.a_B")], vec![]).await.expect(404);
    assert_eq!(own.header("x-request-id"), "trace-1.a_B");
    for bad in ["", "a b", "x".repeat(65).as_str(), "a\u{e9}", "<script>"] {
        let made = server.send("GET", "/x", "", &[("x-request-id", bad)], vec![]).await.expect(404);
        assert_eq!(made.header("x-request-id").len(), 32, "{bad:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_vm_is_answered_as_one_that_does_not_exist() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let theirs = server.vm(&admin, "theirs").await;
    let alice = server.user(&admin, "alice", "user").await;
    let nowhere = "01900000-0000-7000-8000-000000000000";
    let power = json!({"action": "start"});
    for (method, suffix, body) in [
        ("GET", "", None),
        ("DELETE", "", None),
        ("PATCH", "", Some(json!({"description": "mine now"}))),
        ("POST", "/power", Some(power)),
    ] {
        let mut seen = Vec::new();
        for id in [theirs.as_str(), nowhere] {
            let path = format!("/api/vms/{id}{suffix}");
            let answer = match &body {
                Some(body) => server.call(method, &path, &alice, body).await,
                None => server.send(method, &path, &alice, &[], vec![]).await,
            };
            let mut problem = answer.expect(404).json();
            problem["request_id"] = json!("");
            seen.push(problem.to_string());
        }
        assert_eq!(seen[0], seen[1], "{method} {suffix}");
    }
    assert_eq!(server.get("/api/vms", &alice).await.expect(200).json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_refused_alike() {
    let server = Server::start(0).await;
    let good = server.login("admin").await;
    let flipped = format!("{}x", &good[..good.len() - 1]);
    for token in ["x", "a.b.c", flipped.as_str(), &"a".repeat(5000)] {
        let answer = server.get("/api/vms", token).await.expect(401);
        assert_eq!(answer.code(), "unauthenticated");
    }
    let header = format!("Bearer {good}");
    for headers in [
        vec![("authorization", "Basic YWRtaW46YWRtaW4=")],
        vec![("authorization", "Bearer")],
        vec![("authorization", header.as_str()), ("authorization", header.as_str())],
    ] {
        server.send("GET", "/api/vms", "", &headers, vec![]).await.expect(401);
    }
    let lower = format!("bearer {good}");
    server.send("GET", "/api/vms", "", &[("authorization", &lower)], vec![]).await.expect(200);
    server.get(&format!("/api/vms?access_token={good}"), "").await.expect(401);
}

#[derive(Debug)]
struct Panics;

impl Authz for Panics {
    fn decide(&self, actor: &Actor, action: Action, _: Resource) -> Decision {
        match (actor, action) {
            (_, Action::ListHosts) => panic!("on purpose: /secret/path"),
            _ => Decision::Allow,
        }
    }

    fn list_scope(&self, _: &Actor) -> Scope {
        Scope::ALL
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_a_problem_document_and_the_server_goes_on() {
    let server = Server::with_authz(0, Arc::new(Panics)).await;
    let token = server.login("admin").await;
    for _ in 0..3 {
        let answer = server.get("/api/hosts", &token).await.expect(500);
        assert_eq!(answer.code(), "internal");
        assert_eq!(answer.json()["request_id"], answer.header("x-request-id"), "the id under which the log has it");
        assert!(!String::from_utf8_lossy(&answer.bytes).contains("secret"));
    }
    server.get("/api/vms", &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_what_a_password_was() {
    let server = Server::start(0).await;
    let body = json!({"username": "admin", "password": PASSWORD, "extra": PASSWORD});
    let refused = server.call("POST", "/api/auth/login", "", &body).await.expect(400);
    assert!(!String::from_utf8_lossy(&refused.bytes).contains(PASSWORD));
    assert_eq!(refused.json()["field"], "extra");
}
