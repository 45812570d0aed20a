//! API tokens over HTTP.

use serde_json::json;

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_token_is_shown_once_used_as_a_bearer_and_deleted() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let alice = server.user(&admin, "alice", "user").await;
    let (mine, theirs) = (server.vm(&alice, "mine").await, server.vm(&admin, "theirs").await);
    let body = json!({"name": "ci", "role": "viewer", "vm_id": mine, "expires_at": "2099-01-01T00:00:00Z"});
    let made = server.call("POST", "/api/tokens", &alice, &body).await.expect(201);
    let (location, made) = (made.header("location").to_owned(), made.json());
    assert_eq!(location, format!("/api/tokens/{}", made["id"].as_str().expect("an id")));
    let token = made["token"].as_str().expect("the token").to_owned();
    assert!(token.starts_with("limen_"), "{token}");
    for field in ["name", "role", "vm_id", "expires_at"] {
        assert_eq!(made[field], body[field], "{field}");
    }
    let listed = server.get("/api/tokens", &alice).await.expect(200);
    assert!(!String::from_utf8_lossy(&listed.bytes).contains(&token));
    assert_eq!(listed.json()["items"][0]["id"], made["id"]);
    assert!(listed.json()["items"][0].get("token").is_none() && !listed.json().to_string().contains("hash"));

    assert_eq!(server.get("/api/auth/me", &token).await.expect(200).json()["username"], "alice");
    assert_eq!(server.get("/api/vms", &token).await.expect(200).json()["items"].as_array().map(Vec::len), Some(1));
    server.get(&format!("/api/vms/{mine}"), &token).await.expect(200);
    server.get(&format!("/api/vms/{theirs}"), &token).await.expect(404);
    let power = format!("/api/vms/{mine}/power");
    let refused = server.call("POST", &power, &token, &json!({"action": "start"})).await.expect(403);
    assert_eq!(refused.code(), "forbidden");
    for (method, path) in [("POST", "/api/tokens"), ("GET", "/api/tokens"), ("POST", "/api/auth/logout")] {
        server.call(method, path, &token, &json!({"name": "more"})).await.expect(403);
    }
    let passwords = json!({"current_password": "correct horse 1", "new_password": "correct horse 2"});
    server.call("POST", "/api/auth/password", &token, &passwords).await.expect(403);
    server.send("DELETE", &location, &token, &[], Vec::new()).await.expect(403);

    let same = server.call("POST", "/api/tokens", &alice, &body).await.expect(409);
    assert_eq!(same.code(), "already_exists");
    let above = server.call("POST", "/api/tokens", &alice, &json!({"name": "root", "role": "admin"})).await.expect(400);
    assert_eq!(above.json()["field"], "role");
    let bad = [
        json!({"name": ""}),
        json!({"name": "x", "expires_at": "2001-01-01T00:00:00Z"}),
        json!({"name": "x", "expires_at": "tomorrow"}),
        json!({"name": "x", "user_id": made["user_id"]}),
        json!({"name": "x", "token": "limen_0"}),
    ];
    for body in bad {
        server.call("POST", "/api/tokens", &alice, &body).await.expect(400);
    }
    for id in [theirs.as_str(), "01900000-0000-7000-8000-000000000000"] {
        let refused = server.call("POST", "/api/tokens", &alice, &json!({"name": "x", "vm_id": id})).await.expect(400);
        assert_eq!(
            (&refused.json()["field"], &refused.json()["detail"]),
            (&json!("vm_id"), &json!("There is no such VM."))
        );
    }

    server.send("DELETE", &location, &alice, &[], Vec::new()).await.expect(204);
    let after = server.get("/api/auth/me", &token).await.expect(401);
    assert!(after.header("www-authenticate").contains("invalid_token"));
    server.send("DELETE", &location, &alice, &[], Vec::new()).await.expect(404);
}
