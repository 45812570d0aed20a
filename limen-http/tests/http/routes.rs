//! Every route, once as it is meant and with the refusals that are its own.

use serde_json::json;

use crate::harness::{PASSWORD, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_from_login_to_logout() {
    let server = Server::start(0).await;
    let login = json!({"username": "admin", "password": PASSWORD});
    let answer = server.call("POST", "/api/auth/login", "", &login).await.expect(200);
    assert!(answer.header("x-limen-event").parse::<u64>().is_ok(), "another server can wait for the session");
    let answer = answer.json();
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(86400)));
    let token = answer["access_token"].as_str().expect("a token");
    assert_eq!(server.get("/api/auth/me", token).await.expect(200).json()["username"], "admin");
    server.send("POST", "/api/auth/logout", token, &[], Vec::new()).await.expect(204);
    assert_eq!(server.get("/api/auth/me", token).await.expect(401).code(), "unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_user_and_a_wrong_password_are_answered_alike() {
    let server = Server::start(0).await;
    let mut answers = Vec::new();
    for (name, password) in [("admin", "wrong password"), ("nobody", PASSWORD), ("no name at all!", PASSWORD)] {
        let body = json!({"username": name, "password": password});
        let answer = server.call("POST", "/api/auth/login", "", &body).await.expect(401);
        let mut problem = answer.json();
        problem["request_id"] = json!(null);
        answers.push((problem, answer.headers.len()));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_change_ends_the_other_sessions() {
    let server = Server::start(0).await;
    let (here, there) = (server.login("admin").await, server.login("admin").await);
    let wrong = json!({"current_password": "not this one", "new_password": "another long one"});
    let refused = server.call("POST", "/api/auth/password", &here, &wrong).await.expect(400);
    assert_eq!(refused.json()["field"], "current_password");
    let right = json!({"current_password": PASSWORD, "new_password": "another long one"});
    server.call("POST", "/api/auth/password", &here, &right).await.expect(204);
    server.get("/api/auth/me", &here).await.expect(200);
    server.get("/api/auth/me", &there).await.expect(401);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_made_listed_changed_and_deleted_by_admins_alone() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let body = json!({"username": "alice", "password": PASSWORD, "role": "user"});
    let made = server.call("POST", "/api/users", &admin, &body).await.expect(201);
    let user = made.json();
    assert!(user.get("password").is_none() && user["role"] == "user", "{user}");
    let path = made.header("location").to_owned();
    assert_eq!(path, format!("/api/users/{}", user["id"].as_str().expect("an id")));
    assert_eq!(server.call("POST", "/api/users", &admin, &body).await.expect(409).code(), "already_exists");
    assert_eq!(server.get(&path, &admin).await.expect(200).json(), user);

    let first = server.get("/api/users?limit=1", &admin).await.expect(200).json();
    let cursor = first["next_cursor"].as_str().expect("a second page");
    let second = server.get(&format!("/api/users?limit=1&cursor={cursor}"), &admin).await.expect(200).json();
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    assert!(second["next_cursor"].is_null());

    let alice = server.login("alice").await;
    for (method, path) in [("GET", "/api/users"), ("GET", "/api/audit"), ("GET", "/api/check")] {
        assert_eq!(server.send(method, path, &alice, &[], Vec::new()).await.expect(403).code(), "forbidden");
    }
    let patched = server.call("PATCH", &path, &admin, &json!({"role": "viewer"})).await.expect(200).json();
    assert_eq!(patched["role"], "viewer");
    let vm = json!({"name": "a", "vcpus": 1, "memory_mib": 64});
    assert_eq!(server.call("POST", "/api/vms", &alice, &vm).await.expect(403).code(), "forbidden");
    server.call("PATCH", &path, &admin, &json!({"disabled": true})).await.expect(200);
    server.get("/api/auth/me", &alice).await.expect(401);
    server.send("DELETE", &path, &admin, &[], Vec::new()).await.expect(204);
    assert_eq!(server.get(&path, &admin).await.expect(404).code(), "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_set_by_admins_shown_and_kept() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let quota = json!({"vms": 1, "memory_mib": 100});
    let body = json!({"username": "alice", "password": PASSWORD, "role": "user", "quota": quota});
    let made = server.call("POST", "/api/users", &admin, &body).await.expect(201);
    let path = made.header("location").to_owned();
    let limits = json!({"vms": 1, "vcpus": null, "memory_mib": 100, "disk_gib": null, "snapshots": null});
    assert_eq!(made.json()["quota"], limits);
    let alice = server.login("alice").await;
    assert_eq!(server.get("/api/auth/me", &alice).await.expect(200).json()["quota"], limits);
    server.vm(&alice, "one").await;
    let own = server.get("/api/quota", &alice).await.expect(200).json();
    let used = json!({"vms": 1, "vcpus": 1, "memory_mib": 64, "disk_gib": 0, "snapshots": 0});
    assert_eq!(own, json!({"limits": limits, "used": used}));
    let vm = json!({"name": "two", "vcpus": 1, "memory_mib": 64});
    let refused = server.call("POST", "/api/vms", &alice, &vm).await.expect(409);
    assert_eq!(refused.code(), "quota_exceeded");
    let problem = refused.json();
    let figures = [&problem["resource"], &problem["limit"], &problem["used"]];
    assert_eq!(figures, [&json!("vms"), &json!(1), &json!(1)]);

    // What is named changes, what is null goes, what is missing stays.
    let change = json!({"quota": {"vms": null, "disk_gib": 7}});
    let changed = server.call("PATCH", &path, &admin, &change).await.expect(200).json();
    let limits = json!({"vms": null, "vcpus": null, "memory_mib": 100, "disk_gib": 7, "snapshots": null});
    assert_eq!(changed["quota"], limits);
    assert_eq!(server.get(&path, &admin).await.expect(200).json()["quota"], limits);
    let refused = server.call("POST", "/api/vms", &alice, &vm).await.expect(409).json();
    assert_eq!((&refused["resource"], &refused["used"]), (&json!("memory_mib"), &json!(64)));
    for wrong in
        [json!({"vms": -1}), json!({"cpus": 1}), json!({"vms": "many"}), json!({"vms": 1.5}), json!([]), json!([9])]
    {
        let refused = server.call("PATCH", &path, &admin, &json!({"quota": wrong})).await.expect(400);
        assert_eq!(refused.code(), "invalid", "{wrong}");
    }
    // Nobody raises their own, and where it is read it is not written.
    assert_eq!(server.call("PATCH", &path, &alice, &change).await.expect(403).code(), "forbidden");
    server.call("PATCH", "/api/quota", &admin, &change).await.expect(405);
    let taken = json!({"name": "two", "vcpus": 1, "memory_mib": 16, "quota": {"vms": 9}});
    server.call("POST", "/api/vms", &alice, &taken).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_lives_from_create_to_delete() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let body = json!({"name": "web-1", "description": "웹 서버", "vcpus": 2, "memory_mib": 512,
        "disks": [{"size_gib": 1}], "labels": {"환경": "운영"}});
    let accepted = server.call("POST", "/api/vms", &token, &body).await.expect(202);
    let operation = accepted.json();
    let at = accepted.header("location").to_owned();
    assert_eq!(at, format!("/api/operations/{}", operation["id"].as_str().expect("an id")));
    let event = accepted.header("x-limen-event").to_owned();
    let id = operation["vm_id"].as_str().expect("an id").to_owned();
    let path = format!("/api/vms/{id}");
    let shown = server.send("GET", &path, &token, &[("x-limen-event", &event)], Vec::new()).await.expect(200).json();
    assert_eq!((&shown["name"], &shown["description"]), (&json!("web-1"), &json!("웹 서버")));
    assert_eq!(shown["labels"]["환경"], "운영");

    let wait = [("prefer", "wait=30")];
    let start = json!({"action": "start"});
    let power = format!("{path}/power");
    // The create may still be at work: its VM is then busy, and says with what.
    for _ in 0..200 {
        let answer = server.call_with("POST", &power, &token, &wait, &start).await;
        if answer.status == 200 {
            break;
        }
        assert!(["busy", "conflict"].contains(&answer.code().as_str()), "{answer:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(server.get(&path, &token).await.expect(200).json()["status"]["state"], "running");
    assert_eq!(server.get(&at, &token).await.expect(200).json()["state"], "succeeded");
    let resume = server.call_with("POST", &power, &token, &wait, &json!({"action": "save"})).await.expect(200).json();
    assert_eq!(resume["kind"], "change_power");
    let refused = server.call("POST", &power, &token, &json!({"action": "pause"})).await.expect(409);
    assert_eq!(refused.code(), "conflict");

    let listed = server.get("/api/vms?name=web-1&state=saved&label=%ED%99%98%EA%B2%BD", &token).await.expect(200);
    assert_eq!(listed.json()["items"][0]["id"], id.as_str());
    assert_eq!(server.get("/api/vms?state=running", &token).await.expect(200).json()["items"], json!([]));
    server.send("DELETE", &path, &token, &wait, Vec::new()).await.expect(200);
    server.get(&path, &token).await.expect(404);
    let of_vm = server.get(&format!("/api/operations?vm_id={id}"), &token).await.expect(200).json();
    assert!(of_vm["items"].as_array().is_some_and(|items| items.len() >= 4), "{of_vm}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entity_tags_guard_reads_and_changes() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let path = format!("/api/vms/{}", server.vm(&token, "tagged").await);
    let read = server.get(&path, &token).await.expect(200);
    let tag = read.header("etag").to_owned();
    assert!(tag.starts_with('"') && tag.contains('.'), "{tag}");
    let again = server.send("GET", &path, &token, &[("if-none-match", &tag)], Vec::new()).await.expect(304);
    assert!(again.bytes.is_empty() && again.header("etag") == tag);
    server.send("GET", &path, &token, &[("if-none-match", "*")], Vec::new()).await.expect(304);

    let change = json!({"description": "new"});
    let wait = ("prefer", "wait=30");
    let patched = server.call_with("PATCH", &path, &token, &[("if-match", &tag), wait], &change).await.expect(200);
    assert_eq!(patched.json()["kind"], "update_vm");
    let stale = server.call_with("PATCH", &path, &token, &[("if-match", &tag)], &change).await.expect(412);
    assert_eq!(stale.code(), "precondition_failed");
    server.send("DELETE", &path, &token, &[("if-match", &tag)], Vec::new()).await.expect(412);
    server.send("DELETE", &path, &token, &[("if-match", "W/\"1.1\"")], Vec::new()).await.expect(412);
    let bad = server.send("DELETE", &path, &token, &[("if-match", "1.1")], Vec::new()).await.expect(400);
    assert_eq!(bad.json()["field"], "if-match");
    let now = server.get(&path, &token).await.expect(200).header("etag").to_owned();
    let several = format!("{tag}, {now}");
    server.send("DELETE", &path, &token, &[("if-match", &several), wait], Vec::new()).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_post_repeatable_and_goes_nowhere_else() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let key = [("idempotency-key", "order-66")];
    let body = json!({"name": "once", "vcpus": 1, "memory_mib": 64});
    let first = server.call_with("POST", "/api/vms", &token, &key, &body).await.expect(202).json();
    let second = server.call_with("POST", "/api/vms", &token, &key, &body).await.json();
    assert_eq!(first["id"], second["id"]);
    let other = json!({"name": "twice", "vcpus": 1, "memory_mib": 64});
    assert_eq!(server.call_with("POST", "/api/vms", &token, &key, &other).await.expect(409).code(), "conflict");
    for (method, path) in [("GET", "/api/vms"), ("POST", "/api/auth/logout"), ("GET", "/api/health")] {
        let refused = server.send(method, path, &token, &key, Vec::new()).await.expect(400);
        assert_eq!(refused.json()["field"], "idempotency-key", "{method} {path}");
    }
    let bad = [("idempotency-key", "a b")];
    server.call_with("POST", "/api/vms", &token, &bad, &body).await.expect(400);

    // The answer outlives the object.
    let vm = server.vm(&token, "two").await;
    let (power, start) = (format!("/api/vms/{vm}/power"), json!({"action": "start"}));
    let wait = [("prefer", "wait=30"), ("idempotency-key", "on")];
    let started = server.call_with("POST", &power, &token, &wait, &start).await.expect(200).json();
    server.send("DELETE", &format!("/api/vms/{vm}"), &token, &wait[..1], Vec::new()).await.expect(200);
    assert_eq!(server.call_with("POST", &power, &token, &wait, &start).await.expect(200).json()["id"], started["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_its_users_and_not_of_the_next_one_of_that_name() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let body = json!({"name": "mine", "vcpus": 1, "memory_mib": 64});
    let headers = [("prefer", "wait=30"), ("idempotency-key", "k1")];
    let mut made = Vec::new();
    for _ in 0..2 {
        let bob = server.user(&admin, "bob", "user").await;
        let answer = server.call_with("POST", "/api/vms", &bob, &headers, &body).await.expect(200).json();
        let vm = answer["vm_id"].as_str().expect("an id").to_owned();
        server.get(&format!("/api/vms/{vm}"), &bob).await.expect(200);
        server.send("DELETE", &format!("/api/vms/{vm}"), &bob, &headers[..1], Vec::new()).await.expect(200);
        let me = server.get("/api/auth/me", &bob).await.expect(200).json();
        let path = format!("/api/users/{}", me["id"].as_str().expect("an id"));
        server.send("DELETE", &path, &admin, &[], Vec::new()).await.expect(204);
        made.push(vm);
    }
    assert_ne!(made[0], made[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_changes_with_one_tag_one_is_done() {
    let server = std::sync::Arc::new(Server::start(0).await);
    let admin = server.login("admin").await;
    let path = format!("/api/vms/{}", server.vm(&admin, "one").await);
    for round in 0..10 {
        let tag = server.get(&path, &admin).await.expect(200).header("etag").to_owned();
        let mut changes = tokio::task::JoinSet::new();
        for turn in 0..16 {
            let (server, admin, path, tag) = (std::sync::Arc::clone(&server), admin.clone(), path.clone(), tag.clone());
            changes.spawn(async move {
                tokio::time::sleep(std::time::Duration::from_micros(turn * 1500)).await;
                let headers = [("prefer", "wait=30"), ("if-match", tag.as_str())];
                let body = json!({"description": format!("{round}/{turn}")});
                server.call_with("PATCH", &path, &admin, &headers, &body).await.status.as_u16()
            });
        }
        let mut answers = changes.join_all().await;
        answers.retain(|status| !matches!(status, 409 | 412));
        assert_eq!(answers, [200], "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_waits_for_an_operation_and_is_told_how_it_failed() {
    let server = Server::start(0).await;
    let token = server.login("admin").await;
    let body = json!({"name": "nowhere", "vcpus": 1, "memory_mib": 64, "networks": ["no-such-network"]});
    let failed = server.call_with("POST", "/api/vms", &token, &[("prefer", "respond-async, wait=30")], &body).await;
    let problem = failed.json();
    assert!(failed.status.is_client_error(), "{problem}");
    let code = failed.code();
    if let Some(id) = problem["operation_id"].as_str() {
        let operation = server.get(&format!("/api/operations/{id}"), &token).await.expect(200).json();
        assert_eq!(operation["error"]["code"], code.as_str());
        let cancel = format!("/api/operations/{id}/cancel");
        assert_eq!(server.send("POST", &cancel, &token, &[], Vec::new()).await.expect(409).code(), "conflict");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_number_is_waited_for() {
    let server = Server::start(1).await;
    let token = server.login("admin").await;
    let now = server.get("/api/vms", &token).await.expect(200).header("x-limen-event").to_owned();
    server.send("GET", "/api/vms", &token, &[("x-limen-event", &now)], Vec::new()).await.expect(200);
    let ahead = (now.parse::<i64>().expect("a number") + 1_000_000).to_string();
    let late = server.send("GET", "/api/vms", &token, &[("x-limen-event", &ahead)], Vec::new()).await.expect(503);
    assert_eq!(late.code(), "unavailable");
    for bad in ["-1", "x", "1.5"] {
        let refused = server.send("GET", "/api/vms", &token, &[("x-limen-event", bad)], Vec::new()).await;
        assert_eq!(refused.expect(400).json()["field"], "x-limen-event");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_read_is_there() {
    let server = Server::start(3).await;
    let token = server.login("admin").await;
    assert_eq!(server.get("/api/hosts", &token).await.expect(200).json()["items"][0]["name"], "here");
    assert!(server.get("/api/networks", &token).await.expect(200).json()["items"].is_array());
    assert_eq!(server.get("/api/images", &token).await.expect(200).json()["items"], json!([]));
    let nothing = "/api/images/00000000-0000-7000-8000-000000000000";
    server.get(nothing, &token).await.expect(404);
    server.send("DELETE", nothing, &token, &[], Vec::new()).await.expect(404);
    let audit = server.get("/api/audit", &token).await.expect(200).json();
    assert!(audit["items"].as_array().is_some_and(|items| !items.is_empty()));
    let report = server.get("/api/check", &token).await.expect(200).json();
    assert_eq!((&report["hosts"], &report["findings"]), (&json!(["here"]), &json!([])));
    the_audit_is_searched(&server, &token).await;
    assert_eq!(server.get("/api/health", "").await.expect(200).json()["status"], "ok");
    server.get("/api/health/live", "").await.expect(200);
    server.get("/api/health/ready", "").await.expect(200);

    let get = server.get("/api/vms", &token).await.expect(200);
    let head = server.send("HEAD", "/api/vms", &token, &[], Vec::new()).await.expect(200);
    assert_eq!(get.header("content-type"), head.header("content-type"));
    for path in ["/docs", "/swagger"] {
        let page = server.get(path, "").await.expect(200);
        assert!(page.header("content-security-policy").contains("script-src 'sha256-"), "{page:?}");
        assert!(String::from_utf8_lossy(&page.bytes).contains("create_vm"));
    }
    assert_eq!(server.get("/api/swagger.json", "").await.expect(200).json()["info"]["title"], "LIMEN");
}

async fn the_audit_is_searched(server: &Server, token: &str) {
    let found = async |query: &str| -> Vec<String> {
        let page = server.get(&format!("/api/audit?{query}"), token).await.expect(200).json();
        let items = page["items"].as_array().expect("items");
        items.iter().map(|record| format!("{} {}", record["action"], record["outcome"]).replace('"', "")).collect()
    };
    let me = server.get("/api/auth/me", token).await.expect(200).json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(found("actor=user:admin").await, ["login succeeded"]);
    assert_eq!(found(&format!("resource=user:{me}")).await, ["login succeeded", "create_user succeeded"]);
    assert_eq!(found(&format!("user_id={me}&action=login&outcome=succeeded&resource=user")).await.len(), 1);
    assert_eq!(found("to=2001-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(found("from=2001-01-01T00:00:00.5%2B02:00&resource=user&to=2999-01-01T00:00:00Z").await.len(), 2);
    let login = server.get("/api/audit?action=login", token).await.expect(200).json()["items"][0].clone();
    assert_eq!(found(&format!("request_id={}", login["request_id"].as_str().expect("an id"))).await.len(), 1);
    for (query, field) in [
        ("from=yesterday", "from"),
        ("outcome=won", "outcome"),
        ("action=rm", "action"),
        ("user_id=1", "user_id"),
        ("who=me", "who"),
    ] {
        let refused = server.get(&format!("/api/audit?{query}"), token).await.expect(400).json();
        assert_eq!(refused["field"], field, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_compressed_for_those_who_take_it() {
    let server = Server::start(20).await;
    let admin = server.login("admin").await;
    for (accepted, encoding) in [
        ("", ""),
        ("gzip", "gzip"),
        ("br;q=1.0, GZIP;q=0.5", "gzip"),
        ("gzip;q=0", ""),
        ("gzip ; Q = 0", ""),
        ("gzip;q=nan", ""),
        ("identity, x-gzip", ""),
    ] {
        let headers = [("accept-encoding", accepted)];
        let answer = server.send("GET", "/api/vms?limit=15", &admin, &headers, Vec::new()).await.expect(200);
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            (encoding, "accept-encoding"),
            "{accepted}"
        );
        assert_eq!(answer.json()["items"].as_array().map(Vec::len), Some(15), "{accepted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_read_shows_what_was_done_a_thousand_times() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let vm = server.vm(&admin, "one").await;
    let (power, path) = (format!("/api/vms/{vm}/power"), format!("/api/vms/{vm}"));
    let wait = [("prefer", "wait=30")];
    server.call_with("POST", &power, &admin, &wait, &json!({"action": "start"})).await.expect(200);
    for turn in 0..1000 {
        let (action, state) = if turn % 2 == 0 { ("pause", "paused") } else { ("resume", "running") };
        server.call_with("POST", &power, &admin, &wait, &json!({"action": action})).await.expect(200);
        let shown = server.get(&path, &admin).await.expect(200).json();
        assert_eq!(shown["status"]["state"], state, "after {action}, turn {turn}");
        let listed = server.get("/api/vms", &admin).await.expect(200).json();
        assert_eq!(listed["items"][0]["status"]["state"], state, "after {action}, turn {turn}");
    }
}
