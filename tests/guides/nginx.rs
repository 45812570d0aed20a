//! The nginx block of the operations guide, as it stands, between a client over TLS and the server.

use std::process::Command;
use std::time::{Duration, Instant};

use limen_support::http::Client;
use limen_support::nginx::{Nginx, blocks_of};
use limen_support::process::{self, free_port};
use limen_support::server::{ADMIN, ADMIN_PASSWORD, Server};
use limen_support::site::{Database, Site, bare, create, power};
use limen_support::sse::Said;
use serde_json::json;

use super::{full_form, shell};

/// nginx with the guide's block, and a plain way into it: a second server of nginx that does nothing
/// but TLS, so that clients without it come over it.
struct Proxied {
    nginx: Nginx,
    https: u16,
    _certificate: tempfile::TempDir,
}

fn proxied(document: &str, server: &Server) -> Proxied {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    let file = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (key, certificate) = (file("key.pem"), file("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=api.example.org"]);
    process::run(openssl.args(["-keyout", &key, "-out", &certificate]), Duration::from_secs(60)).expect_success();
    let (https, plain) = (free_port(), free_port());
    let block = blocks_of(
        document,
        &[
            ("listen 443 ssl http2;", &format!("listen 127.0.0.1:{https} ssl http2;")),
            ("/path/to/cert.pem", &certificate),
            ("/path/to/key.pem", &key),
            ("http://127.0.0.1:18443", &format!("http://127.0.0.1:{}", server.port())),
        ],
    );
    let way_in = format!(
        "server {{ listen 127.0.0.1:{plain}; proxy_http_version 1.1; proxy_buffering off; proxy_read_timeout 1h;\n\
         proxy_set_header Host api.example.org; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $http_connection;\n\
         location / {{ proxy_pass https://127.0.0.1:{https}; }} }}\n"
    );
    Proxied { nginx: Nginx::start(plain, &(block + &way_in)), https, _certificate: directory }
}

#[test]
fn the_block_is_the_same_in_both_languages() {
    let [korean, english] =
        ["ko", "en"].map(|language| blocks_of(&format!("docs/{language}/operations-guide.md"), &[]));
    assert_eq!(korean, english);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_the_guides_nginx_block() {
    let idle = Duration::from_secs(if full_form() { 180 } else { 5 });
    let wait = if full_form() { 50 } else { 3 };
    let site = Site::start_with(Database::Sqlite, Server::options().env("TRUSTED_PROXIES", "127.0.0.1"));
    let proxied = proxied("docs/ko/operations-guide.md", &site.server);

    // HTTP/2 and HSTS over TLS; the client's own address behind the proxy.
    let curl = format!("curl -ksS --resolve api.example.org:{0}:127.0.0.1 https://api.example.org:{0}", proxied.https);
    let health = shell(&format!("{curl}/api/health -i")).expect_success();
    assert!(health.starts_with("HTTP/2 200") && health.contains("\nstrict-transport-security: "), "{health}");
    let login = json!({ "username": ADMIN, "password": ADMIN_PASSWORD }).to_string();
    shell(&format!("{curl}/api/auth/login --interface 127.0.0.2 --json '{login}' -f")).expect_success();
    let client = proxied.nginx.client().login(ADMIN, ADMIN_PASSWORD).await;
    let audit = client.get("/api/audit?action=login").await.expect(200).json();
    let origins: Vec<_> = audit["items"].as_array().expect("a list").iter().map(|record| &record["origin"]).collect();
    assert!(origins.contains(&&json!("127.0.0.2")), "{audit}");

    // A request that waits for an operation which does not end: nothing in this guest obeys.
    let vm = create(&client, &bare("idle")).await;
    power(&client, &vm, "start").await.expect(200);
    let began = Instant::now();
    let asked = json!({ "action": "shutdown", "timeout_s": 600 });
    let answer = client.waiting(wait).post(&format!("/api/vms/{vm}/power"), &asked).await.expect(202).json();
    assert!(began.elapsed() >= Duration::from_secs(wait.into()), "{:?}", began.elapsed());
    let operation = format!("/api/operations/{}", answer["id"].as_str().expect("an id"));
    client.post(&format!("{operation}/cancel"), &json!({})).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.get(&operation).await.expect(200).json()["finished_at"].is_null() {
        assert!(Instant::now() < deadline, "the operation does not end");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // A stream of events and a console that say nothing for longer than nginx waits for an answer.
    let mut stream = client.follow(0).await.expect("a stream");
    let mut screen = client.websocket(&client.ticket(&vm, "vnc").await).await.expect("a console");
    screen.rfb().await.expect("a screen");
    let quiet = tokio::time::Instant::now() + idle;
    let (first, ()) = tokio::join!(
        async {
            let mut last = 0;
            while let Ok(said) = tokio::time::timeout_at(quiet, stream.next()).await {
                match said.expect("a stream that lasts") {
                    Said::Event(number, _) | Said::Position(number) => last = number,
                    Said::End(why) => panic!("{why}"),
                }
            }
            last
        },
        async {
            // It answers the server's pings, and the server says nothing else.
            while let Ok(heard) = tokio::time::timeout_at(quiet, screen.next()).await {
                assert!(heard.as_ref().is_ok_and(|message| message.is_ping()), "{heard:?}");
            }
        }
    );
    assert!(first > 0, "nothing came through");
    // FramebufferUpdateRequest, of a corner: the firmware has changed the size meanwhile.
    screen.send(vec![3, 0, 0, 0, 0, 0, 0, 16, 0, 16]).await;
    assert_eq!(screen.exact(1).await.expect("a picture after the silence")[..], [0]);
    power(&client, &vm, "power_off").await.expect(200);
    let seen = async {
        loop {
            match stream.next().await.expect("a stream that lasts") {
                Said::Event(number, _) if number > first => break,
                _ => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), seen).await.expect("an event as it comes");
    let (code, reason) = screen.closed().await;
    assert_eq!((code, reason.as_str()), (1000, "The VM has stopped."));
    delete_all(&client).await;
}

async fn delete_all(client: &Client) {
    let listed = client.get("/api/vms").await.expect(200).json();
    for vm in listed["items"].as_array().expect("a list") {
        limen_support::site::delete(client, vm["id"].as_str().expect("an id")).await;
    }
}
