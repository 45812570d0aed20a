//! Bodies and queries that are not what they must be: a 4xx that names what is wrong, never a 5xx.

use serde_json::{Value, json};

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_are_refused() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let deep = |open: &str, close: &str| [open.repeat(100_000), close.repeat(100_000)].concat();
    let bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "null",
        "[]",
        " [\"an-array\",\"\",1,64]",
        "true",
        "\"x\"",
        "1",
        "{",
        "{}",
        "{\"name\"}",
        "{}{}",
        "{} x",
        "NaN",
        "{\"vcpus\":NaN}",
        "{\"vcpus\":1e400}",
        "{\"vcpus\":-0}",
        "{\"vcpus\":99999999999999999999}",
        "{'name':'a'}",
        "\u{feff}{}",
        "{\"name\":\"\\ud800\",\"vcpus\":1,\"memory_mib\":64}",
        "{\"name\":\"a\",\"name\":\"b\",\"vcpus\":1,\"memory_mib\":64}",
        "{\"name\":\"a\\u0000b\",\"vcpus\":1,\"memory_mib\":64}",
        "{\"name\":\"a\",\"vcpus\":1,\"memory_mib\":64,\"description\":\"\\u0000\"}",
        "{\"name\":\"a\",\"vcpus\":\"1\",\"memory_mib\":64}",
        "{\"name\":\"a\",\"vcpus\":1.5,\"memory_mib\":64}",
        "{\"name\":\"a\",\"vcpus\":1,\"memory_mib\":64,\"role\":\"admin\"}",
        "{\"name\":\"a\",\"vcpus\":1,\"memory_mib\":64,\"Name\":\"b\"}",
        "{\"name\":\"a\",\"vcpus\":1,\"memory_mib\":64,\"disks\":[{}]}",
        "{\"name\":\"a\",\"vcpus\":1,\"memory_mib\":64,\"disks\":[{\"size_gib\":1,\"path\":\"/etc/passwd\"}]}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([deep("[", "]").into_bytes(), deep("{\"a\":", "}").into_bytes(), vec![0xff, 0xfe], vec![0; 100]])
    .collect();
    for body in bodies {
        let text = String::from_utf8_lossy(&body).chars().take(80).collect::<String>();
        let json = [("content-type", "application/json")];
        let answer = server.send("POST", "/api/vms", &token, &json, body).await;
        assert_eq!(answer.status, 400, "{text}: {answer:?}");
        assert_eq!(answer.code(), "invalid", "{text}");
        assert!(answer.json()["field"].is_string(), "{text}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_field_that_is_wrong_is_named() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let base = json!({"name": "a", "vcpus": 1, "memory_mib": 64});
    let cases: [(&str, Value, &str); 8] = [
        ("vcpus", json!("x"), "vcpus"),
        ("vcpus", json!(0), "vcpus"),
        ("vcpus", json!(10_000), "vcpus"),
        ("memory_mib", json!(15), "memory_mib"),
        ("colour", json!("red"), "colour"),
        ("disks", json!([{"size_gib": 1}, {"size_gib": 1, "colour": 1}]), "disks[1].colour"),
        ("disks", json!([{"image": "x"}]), "disks[0].image"),
        ("firmware", json!("openbios"), "firmware"),
    ];
    for (name, value, field) in cases {
        let mut body = base.clone();
        body[name] = value;
        let problem = server.call("POST", "/api/vms", &token, &body).await.expect(400).json();
        assert_eq!(problem["field"], field, "{problem}");
    }
    let missing = server.call("POST", "/api/vms", &token, &json!({"name": "a", "vcpus": 1})).await.expect(400).json();
    assert_eq!(missing["field"], "memory_mib");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_mean_something_else_are_refused_and_korean_is_kept() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    for name in [
        "0196b1f4-5d2c-7b6e-9d5c-0a5b6c7d8e9f",
        "..",
        ".",
        "--help",
        "-a",
        "",
        &"x".repeat(300),
        "a/b",
        "a\nb",
        "<a>",
        "a&b",
        "]]>",
        "이름",
        "a b",
    ] {
        let body = json!({"name": name, "vcpus": 1, "memory_mib": 64});
        let problem = server.call("POST", "/api/vms", &token, &body).await.expect(400).json();
        assert_eq!(problem["field"], "name", "{name:?}");
    }
    let description = "설명 <b>&amp; ]]> \"quoted\" \u{1f980}";
    let body = json!({"name": "korean", "description": description, "vcpus": 1, "memory_mib": 64});
    let made = server.call("POST", "/api/vms", &token, &body).await.expect(202).json();
    let path = format!("/api/vms/{}", made["vm_id"].as_str().expect("an id"));
    assert_eq!(server.get(&path, &token).await.expect(200).json()["description"], description);
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_and_paths_are_read_strictly() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    for (path, field) in [
        ("/api/vms?limit=0", "limit"),
        ("/api/vms?limit=1001", "limit"),
        ("/api/vms?limit=x", "limit"),
        ("/api/vms?limit=-1", "limit"),
        ("/api/vms?limit=", "limit"),
        ("/api/vms?limit=1&limit=2", "limit"),
        ("/api/vms?cursor=x", "cursor"),
        ("/api/vms?state=on", "state"),
        ("/api/vms?owner=me", "owner"),
        ("/api/vms?sort=name", "sort"),
        ("/api/hosts?limit=1", "limit"),
        ("/api/vms/not-a-uuid", "id"),
        ("/api/operations/1", "id"),
        ("/api/health?verbose=1", "verbose"),
    ] {
        let problem = server.get(path, &token).await.expect(400).json();
        assert_eq!(problem["field"], field, "{path}: {problem}");
    }
    for path in ["/api/vms/", "/api//vms", "/api/vms/..%2f..%2fetc", "/API/vms", "/api/vms%00"] {
        let answer = server.get(path, &token).await;
        assert!(answer.status == 404 || answer.status == 400, "{path}: {answer:?}");
        answer.code();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_json_is_read() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let body = json!({"name": "a", "vcpus": 0, "memory_mib": 64}).to_string().into_bytes();
    for (content_type, status) in [
        ("application/json", 400),
        ("Application/JSON; charset=UTF-8", 400),
        ("application/json; charset=utf-16", 415),
        ("application/xml", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/json, text/plain", 415),
    ] {
        let headers = [("content-type", content_type)];
        server.send("POST", "/api/vms", &token, &headers, body.clone()).await.expect(status);
    }
    let packed = [("content-type", "application/json"), ("content-encoding", "gzip")];
    assert_eq!(
        server.send("POST", "/api/vms", &token, &packed, body).await.expect(415).code(),
        "unsupported_media_type"
    );
}
