//! What is taken away at one server is gone at the other within a second, open streams too.

use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::server::{ADMIN, ADMIN_PASSWORD};
use limen_support::site::text;
use limen_support::sse::{Following, Said};
use serde_json::json;

use super::{Two, path_of};

const PASSWORD: &str = "a long enough password";
const SECOND: Duration = Duration::from_secs(1);
/// A stream is told why it ends, and may take a moment to be read.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long until `client` is answered with `status`.
async fn answered(client: &Client, path: &str, status: u16) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = client.get(path).await;
        if answer.status == status {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < 10 * SECOND, "still {}", answer.status);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// How long until the stream has ended.
async fn ended(mut stream: Following) -> Duration {
    let begun = Instant::now();
    let mut told = false;
    let end = async {
        while let Some(said) = stream.next().await {
            told |= matches!(said, Said::End(_));
        }
    };
    tokio::time::timeout(10 * SECOND, end).await.expect("the stream ends");
    assert!(told, "it ended without a word");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_at_one_server_is_refused_at_the_other_within_a_second() {
    let two = Two::start(|options| options.env("HYPERVISOR_URI", "sim:///"));
    let [here, there] = [0, 1].map(|place: usize| two.servers[place].client());
    let admin = here.login(ADMIN, ADMIN_PASSWORD).await;
    let user = json!({ "username": "ann", "password": PASSWORD, "role": "operator" });
    let user = path_of("users", &admin.post("/api/users", &user).await.expect(201).json(), "id");
    let mut slowest = (Duration::ZERO, Duration::ZERO);
    for what in ["logout", "password", "own-password", "disabled", "token", "deleted"] {
        // Given out at the one, good at the other at once.
        let password = if what == "disabled" || what == "token" || what == "deleted" {
            "another password, as long"
        } else {
            PASSWORD
        };
        let other = here.login("ann", password).await;
        let session = here.login("ann", password).await;
        let token = session.post("/api/tokens", &json!({ "name": what })).await.expect(201).json();
        let holder =
            if what == "token" { there.with_token(&text(&token, "token")) } else { session.at(two.servers[1].port()) };
        holder.get("/api/auth/me").await.expect(200);
        let stream = holder.follow(0).await.expect("a stream");
        match what {
            "logout" => session.post("/api/auth/logout", &json!({})).await.expect(204),
            "password" => admin.patch(&user, &json!({ "password": PASSWORD })).await.expect(200),
            "own-password" => {
                let change = json!({ "current_password": PASSWORD, "new_password": "another password, as long" });
                other.post("/api/auth/password", &change).await.expect(204)
            }
            "disabled" => admin.patch(&user, &json!({ "disabled": true })).await.expect(200),
            "token" => session.delete(&path_of("tokens", &token, "id")).await.expect(204),
            _ => admin.delete(&user).await.expect(204),
        };
        let (refused, over) = tokio::join!(answered(&holder, "/api/auth/me", 401), ended(stream));
        assert!(refused < SECOND, "{what}: refused after {refused:?}");
        assert!(over < SECOND + FAREWELL, "{what}: the stream was over after {over:?}");
        slowest = (slowest.0.max(refused), slowest.1.max(over));
        if what == "disabled" {
            admin.patch(&user, &json!({ "disabled": false })).await.expect(200);
        }
    }
    // A role acts on who has it, without an end of the session.
    let user = json!({ "username": "ben", "password": PASSWORD, "role": "admin" });
    let user = path_of("users", &admin.post("/api/users", &user).await.expect(201).json(), "id");
    let ben = here.login("ben", PASSWORD).await.at(two.servers[1].port());
    ben.get("/api/users").await.expect(200);
    admin.patch(&user, &json!({ "role": "viewer" })).await.expect(200);
    let narrowed = answered(&ben, "/api/users", 403).await;
    assert!(narrowed < SECOND, "narrowed after {narrowed:?}");
    ben.get("/api/auth/me").await.expect(200);
    eprintln!(
        "at the other server: refused after {:?} at most, streams over after {:?}, a role after {narrowed:?}",
        slowest.0, slowest.1
    );
}
