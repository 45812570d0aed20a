//! Who gets a console: tickets, bearers and origins.

use super::*;

const LIFE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_its_own_console_once_and_nothing_else() {
    let (server, admin) = simulated().await;
    let (ann, _) = user(&server, &admin, "ann", "user").await;
    let (bob, _) = user(&server, &admin, "bob", "user").await;
    let (eve, _) = user(&server, &admin, "eve", "viewer").await;
    let (vm, other) = (running(&ann, "one").await, running(&ann, "two").await);
    let anybody = server.client();
    let (late, made) = (ann.ticket(&vm, "vnc").await, Instant::now());

    // Used up by its use, and by nothing that was refused before.
    let path = ann.ticket(&vm, "vnc").await;
    let ticket = path.split_once("?ticket=").expect("a ticket").1.to_owned();
    for (elsewhere, by) in [
        (format!("/serial/{vm}?ticket={ticket}"), &anybody),
        (format!("/vnc/{other}?ticket={ticket}"), &anybody),
        (path.clone(), &bob),
        (path.clone(), &admin),
    ] {
        refused(by, &elsewhere, 403, "forbidden").await;
    }
    let mut socket =
        anybody.with_header("Sec-WebSocket-Protocol", "base64, binary").websocket(&path).await.expect("open");
    assert_eq!(socket.headers["sec-websocket-protocol"], "binary");
    assert!(socket.headers.contains_key("x-content-type-options"));
    let screen = socket.rfb().await.expect("a screen");
    assert!(screen.name.contains(&vm[24..]), "{screen:?} of {vm}");
    for by in [&anybody, &ann] {
        refused(by, &path, 401, "unauthenticated").await;
    }
    drop(socket);
    // Its own user may bring it too, and one may do without.
    for by in [ann.ticket(&vm, "serial").await, format!("/serial/{vm}")] {
        let mut socket = ann.websocket(&by).await.expect("open");
        assert!(!socket.headers.contains_key("sec-websocket-protocol"), "none was offered");
        socket.until("Hello from").await;
    }
    let token = ann.post("/api/tokens", &json!({ "name": "ci" })).await.expect(201).json();
    let program = server.client().with_token(&text(&token, "token"));
    open(&server, &program, &vm, "serial").await.until("Hello from").await;

    // Of many uses at once one goes through.
    let path = ann.ticket(&vm, "vnc").await;
    let uses = (0..16).map(|_| {
        let (client, path) = (server.client(), path.clone());
        tokio::spawn(async move { client.websocket(&path).await.map(drop).map_err(|answer| answer.status) })
    });
    let uses: Vec<_> =
        futures_util::future::join_all(uses).await.into_iter().map(|use_| use_.expect("joined")).collect();
    assert_eq!(uses.iter().filter(|use_| use_.is_ok()).count(), 1, "{uses:?}");
    assert!(uses.iter().all(|use_| use_.is_ok() || *use_ == Err(401)), "{uses:?}");

    // What is asked for is not there, not running, not one's own, or no console.
    refused(&anybody, &format!("/vnc/{vm}"), 401, "unauthenticated").await;
    refused(&anybody, &format!("/vnc/{vm}?ticket={}", "0".repeat(64)), 401, "unauthenticated").await;
    refused(&anybody, &format!("/vnc/{vm}?ticket="), 401, "unauthenticated").await;
    refused(&ann, &format!("/vnc/{vm}?tickets=1"), 400, "invalid").await;
    refused(&ann, "/vnc/one", 400, "invalid").await;
    refused(&bob, &format!("/vnc/{vm}"), 404, "not_found").await;
    refused(&ann, &format!("/vnc/{}", uuid::Uuid::new_v4()), 404, "not_found").await;
    assert_eq!(bob.post(&format!("/api/vms/{vm}/console"), &json!({ "kind": "vnc" })).await.status, 404);
    let shut_off = create(&ann, &bare("off")).await;
    let path = ann.ticket(&shut_off, "vnc").await;
    refused(&anybody, &path, 409, "conflict").await;
    refused(&ann, &format!("/serial/{shut_off}"), 409, "conflict").await;
    let plain = ann.get(&format!("/vnc/{vm}")).await;
    assert_eq!((plain.status, text(&plain.json(), "field").as_str()), (400, "upgrade"));
    let old = ann.with_header("Connection", "upgrade").with_header("Upgrade", "websocket");
    let old = old.with_header("Sec-WebSocket-Version", "8").get(&format!("/vnc/{vm}")).await;
    assert_eq!((old.status, text(&old.json(), "field").as_str()), (400, "sec-websocket-version"));
    let not_get = ann.post(&format!("/vnc/{vm}"), &json!({})).await;
    assert_eq!((not_get.status, not_get.header("allow")), (405, Some("GET, HEAD")));
    for body in [json!({}), json!({ "kind": "spice" }), json!({ "kind": "vnc", "more": 1 })] {
        assert_eq!(ann.post(&format!("/api/vms/{vm}/console"), &body).await.status, 400, "{body}");
    }
    assert_eq!(eve.post(&format!("/api/vms/{vm}/console"), &json!({ "kind": "vnc" })).await.status, 404);

    // The right is asked for again when it is used: the session, the VM, the time.
    let (gone, path) = (server.client().login("ann", "a password that is long").await, String::new());
    let path = [path, gone.ticket(&vm, "vnc").await].concat();
    gone.post("/api/auth/logout", &json!({})).await.expect(204);
    refused(&anybody, &path, 401, "unauthenticated").await;
    let path = ann.ticket(&other, "vnc").await;
    site::delete(&ann, &other).await;
    refused(&anybody, &path, 404, "not_found").await;
    tokio::time::sleep((LIFE + SOON).saturating_sub(made.elapsed())).await;
    refused(&anybody, &late, 401, "unauthenticated").await;
    let path = format!("/api/audit?action=open_console&outcome=refused&resource=vm:{vm}");
    let refusals = admin.get(&path).await.expect(200).json();
    let whys: Vec<_> = refusals["items"].as_array().expect("items").iter().map(|item| item["detail"].clone()).collect();
    assert!(whys.contains(&json!("foreign_ticket")), "{whys:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_opens_nothing() {
    let server = Server::options().env("HYPERVISOR_URI", "sim:///?vms=0");
    let server = server.env("ALLOWED_ORIGINS", "https://ui.example").start();
    let admin = server.admin().await;
    let vm = running(&admin, "one").await;
    let (path, port) = (admin.ticket(&vm, "vnc").await, server.port());
    let anybody = server.client();
    for origin in [
        "https://evil.example",
        "null",
        "",
        &format!("http://127.0.0.1.evil.example:{port}"),
        &format!("http://127.0.0.1:{port}@evil.example"),
        &format!("http://127.0.0.1:{}", port ^ 1),
        "http://127.0.0.1",
        &format!("https://127.0.0.1:{port}"),
        &format!("HTTP://127.0.0.1:{port}"),
        &format!("http://127.0.0.1.:{port}"),
        &format!("http://127.0.0.1:{port}/"),
        "*",
        "https://ui.example:8443",
        "http://ui.example",
    ] {
        for by in [anybody.with_header("Origin", origin), admin.with_header("Origin", origin)] {
            refused(&by, &path, 403, "forbidden").await;
            // Before anything else is looked at: not even whether there is such a VM.
            refused(&by, "/serial/none", 403, "forbidden").await;
        }
    }
    let own = format!("http://127.0.0.1:{port}");
    let twice = anybody.with_header("Origin", &own).with_header("Origin", "https://evil.example");
    refused(&twice, &path, 403, "forbidden").await;
    // The ticket is as good as it was.
    let mut socket = anybody.with_header("Origin", &own).websocket(&path).await.expect("open");
    socket.rfb().await.expect("a screen");
    let path = admin.ticket(&vm, "vnc").await;
    anybody.with_header("Origin", "https://ui.example").websocket(&path).await.expect("open");
    // By https, as a proxy on this machine says.
    let proxied = anybody.with_header("X-Forwarded-Proto", "https");
    let path = admin.ticket(&vm, "serial").await;
    refused(&proxied.with_header("Origin", &own), &path, 403, "forbidden").await;
    let own = format!("https://127.0.0.1:{port}");
    proxied.with_header("Origin", &own).websocket(&path).await.expect("open").until("Hello from").await;
}
