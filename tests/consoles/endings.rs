//! When a console ends, and that it says why.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_console_ends_within_a_second_of_its_reason_and_names_it() {
    let (server, admin) = simulated().await;
    let (ann, ann_id) = user(&server, &admin, "ann", "user").await;
    let vm = running(&ann, "one").await;
    let start = async || {
        site::power(&ann, &vm, "start").await.expect(200);
    };
    let both = async || {
        let mut sockets = Vec::new();
        for kind in ["vnc", "serial"] {
            sockets.push(open(&server, &ann, &vm, kind).await);
        }
        sockets
    };
    let told = |closed: Closed, code: u16, reason: &str| assert_eq!(closed, (code, reason.to_owned()));

    for mut socket in both().await {
        let since = Instant::now();
        site::power(&ann, &vm, "power_off").await.expect(200);
        told(ends_soon(&mut socket, since, "power_off").await, 1000, "The VM has stopped.");
        start().await;
    }
    let mut sockets = both().await;
    let since = Instant::now();
    site::power(&ann, &vm, "save").await.expect(200);
    for socket in &mut sockets {
        told(ends_soon(socket, since, "save").await, 1000, "The VM has stopped.");
    }
    start().await;

    let mut sockets = both().await;
    let mut admins = open(&server, &admin, &vm, "serial").await;
    let since = Instant::now();
    admin.patch(&format!("/api/users/{ann_id}"), &json!({ "role": "viewer" })).await.expect(200);
    for socket in &mut sockets {
        told(ends_soon(socket, since, "the role").await, 1008, "You may not use this console any more.");
    }
    admin.patch(&format!("/api/users/{ann_id}"), &json!({ "role": "user" })).await.expect(200);

    let mut sockets = both().await;
    let since = Instant::now();
    ann.post("/api/auth/logout", &json!({})).await.expect(204);
    for socket in &mut sockets {
        let reason = "The session or token is no longer good; log in again.";
        told(ends_soon(socket, since, "the logout").await, 1008, reason);
    }
    // Whose right is as it was, their console is too.
    admins.send("still here").await;
    admins.until("still here").await;

    let mut screen = open(&server, &admin, &vm, "vnc").await;
    let since = Instant::now();
    site::delete(&admin, &vm).await;
    for socket in [&mut admins, &mut screen] {
        told(ends_soon(socket, since, "the delete").await, 1000, "The VM was deleted.");
    }

    // Each console is in the audit twice: that it began, and how it ended.
    let records = audit(&admin, &vm).await;
    let of = |outcome: &str| records.iter().filter(|record| record["outcome"] == outcome).count();
    assert_eq!((of("accepted"), of("succeeded")), (10, 10), "{records:#?}");
    let details: Vec<_> = records.iter().map(|record| text(record, "detail")).collect();
    for (kind, reason) in [("vnc", "The VM has stopped."), ("serial", "The VM was deleted."), ("vnc", "log in again.")]
    {
        let fits = |detail: &&String| detail.starts_with(&format!("{kind}: ")) && detail.ends_with(reason);
        assert!(details.iter().any(|detail| fits(&detail)), "{kind} {reason}: {details:#?}");
    }
    let talked = details.iter().find(|detail| detail.contains(" 10 bytes written")).expect("the one that talked");
    assert!(talked.starts_with("serial: ") && !talked.contains(" 0 bytes read"), "{talked}");
    assert!(
        records.iter().all(|record| ["user:ann", "user:admin"].map(Value::from).contains(&record["actor"]["label"]))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_says_so_and_records_the_ends() {
    let (server, admin) = simulated().await;
    let vm = running(&admin, "one").await;
    let mut sockets = Vec::new();
    for kind in ["vnc", "serial"] {
        sockets.push(open(&server, &admin, &vm, kind).await);
    }
    let pid = i32::try_from(server.pid()).expect("a process id");
    let since = Instant::now();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a process"),
        rustix::process::Signal::TERM,
    )
    .expect("a signal");
    for socket in &mut sockets {
        let closed = ends_soon(socket, since, "SIGTERM").await;
        assert_eq!(closed, (1001, "The server is stopping; open the console again.".to_owned()));
    }
    assert_eq!(server.sigterm(), Some(0), "it stops gently");
    server.restart();
    let admin = server.admin().await;
    let ends = audit(&admin, &vm).await;
    let stopped = |record: &&Value| {
        record["outcome"] == "succeeded"
            && text(record, "detail").ends_with("The server is stopping; open the console again.")
    };
    assert_eq!(ends.iter().filter(stopped).count(), 2, "{ends:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_time_of_requests_ends_a_console() {
    let mut options = Server::options().env("HYPERVISOR_URI", "sim:///?vms=0");
    for name in ["READ_TIMEOUT", "WRITE_TIMEOUT", "IDLE_TIMEOUT"] {
        options = options.env(name, "1s");
    }
    let server = options.start();
    let admin = server.admin().await;
    let vm = running(&admin, "one").await;
    let mut serial = open(&server, &admin, &vm, "serial").await;
    for word in ["one", "another"] {
        tokio::time::sleep(Duration::from_secs(3)).await;
        serial.send(word).await;
        serial.until(word).await;
    }
}
