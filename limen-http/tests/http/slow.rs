//! Peers that are slow, silent or greedy, and a server that has no file left.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use limen_core::authz::RoleAuthz;
use limen_http::Timeouts;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::abuse::{is_full, memory_mib, quantile};
use crate::harness::PASSWORD;
use crate::process::Running;
use crate::wire::{Kept, LOCAL, Wired, ask, connect, hear};

const HEALTH: &str = "GET /api/health HTTP/1.1\r\n";

fn started(home: &Path, settings: &[(&str, &str)]) -> (Running, SocketAddr) {
    std::fs::write(home.join("known"), "").expect("written");
    let mut all = vec![("ADMIN_PASSWORD", PASSWORD)];
    all.extend_from_slice(settings);
    let (server, _) = Running::start(home, &all);
    let address = server.url.trim_start_matches("http://").parse().expect("an address");
    (server, address)
}

/// How long a connection was left open, and what came on it.
async fn until_closed(mut stream: TcpStream, since: Instant) -> (Duration, String) {
    let mut heard = Vec::new();
    // A reset is an end too.
    drop(tokio::time::timeout(Duration::from_secs(200), stream.read_to_end(&mut heard)).await.expect("it is closed"));
    (since.elapsed(), String::from_utf8_lossy(&heard).into_owned())
}

/// A request whose head never ends: a byte of it now and then.
async fn drip(to: SocketAddr, every: Duration) -> (Duration, String) {
    let mut stream = connect(to, LOCAL).await;
    let since = Instant::now();
    stream.write_all(b"GET /api/health HTTP/1.1\r\nHost: x\r\nX-Slow: ").await.expect("sent");
    let (mut reads, mut writes) = stream.into_split();
    let dripping = tokio::spawn(async move {
        while writes.write_all(b"a").await.is_ok() {
            tokio::time::sleep(every).await;
        }
    });
    let mut heard = Vec::new();
    drop(tokio::time::timeout(Duration::from_secs(200), reads.read_to_end(&mut heard)).await.expect("it is closed"));
    dripping.abort();
    (since.elapsed(), String::from_utf8_lossy(&heard).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn campaign_slow_and_idle_connections_delay_nobody_and_are_closed() {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = rustix::process::Rlimit { current: files.maximum, ..files };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, most).expect("as many files as may be");
    let home = TempDir::new().expect("a directory");
    let short = [("READ_TIMEOUT", "3s"), ("WRITE_TIMEOUT", "3s"), ("IDLE_TIMEOUT", "5s")];
    let (slow, idle, read, silent) = if is_full() { (1000, 5000, 15.0, 120.0) } else { (60, 150, 3.0, 5.0) };
    let (server, to) = started(home.path(), if is_full() { &[] } else { &short });
    let mut slow_ones = JoinSet::new();
    let mut idle_ones = JoinSet::new();
    for number in 0..idle {
        let mut stream = connect(to, LOCAL).await;
        if number % 2 == 0 {
            // It has asked for something before.
            let request = format!("{HEALTH}Host: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = [0; 4096];
            assert!(stream.read(&mut answer).await.expect("an answer") > 0);
        }
        idle_ones.spawn(until_closed(stream, Instant::now()));
    }
    for _ in 0..slow {
        slow_ones.spawn(drip(to, Duration::from_millis(if is_full() { 1000 } else { 200 })));
    }
    let all_closed = Arc::new(AtomicBool::new(false));
    let fresh = tokio::spawn({
        let all_closed = Arc::clone(&all_closed);
        async move {
            let mut times = Vec::new();
            while !all_closed.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(ask(to, LOCAL, HEALTH, "").await.status, 200);
                times.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            times
        }
    });
    // On a busy machine a timer is late, never early.
    let late = |limit: f64| if is_full() { limit * 0.05 } else { 3.0 };
    let mut last = [Duration::ZERO; 2];
    while let Some(ended) = slow_ones.join_next().await {
        let (after, heard) = ended.expect("no panic");
        assert!(heard.starts_with("HTTP/1.1 408 ") && heard.contains("request_timeout"), "{heard:?}");
        let seconds = after.as_secs_f64();
        assert!((read * 0.95..=read + late(read)).contains(&seconds), "a slow one was closed after {after:?}");
        last[0] = last[0].max(after);
    }
    while let Some(ended) = idle_ones.join_next().await {
        let (after, heard) = ended.expect("no panic");
        assert!(!heard.contains("408"), "{heard:?}");
        let seconds = after.as_secs_f64();
        assert!((silent * 0.95..=silent + late(silent)).contains(&seconds), "an idle one was closed after {after:?}");
        last[1] = last[1].max(after);
    }
    all_closed.store(true, Ordering::Relaxed);
    let times = fresh.await.expect("no panic");
    let (worst, memory) = (quantile(&times, 99), memory_mib(server.pid(), "VmHWM:"));
    eprintln!(
        "{slow} slow ones closed within {:?}, {idle} idle ones within {:?}; {} fresh requests, 99 % within {worst:?}; \
         {memory} MiB",
        last[0],
        last[1],
        times.len()
    );
    let patience = Duration::from_millis(if is_full() { 100 } else { 2000 });
    assert!(times.len() > 20 && worst < patience, "99 % of {} within {worst:?}", times.len());
    assert!(memory < 250, "{memory} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_is_refused_before_it_is_read_on() {
    let home = TempDir::new().expect("a directory");
    let (server, to) = started(home.path(), &[]);
    let head = "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    // By its length, before a byte of it, and without an invitation to send it.
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut stream = connect(to, LOCAL).await;
        stream.write_all(format!("{head}{expect}Content-Length: 10000000000\r\n\r\n").as_bytes()).await.expect("sent");
        let heard = hear(&mut stream).await;
        assert!(heard.starts_with("HTTP/1.1 413 ") && heard.contains("\"code\":\"too_large\""), "{heard}");
        assert_eq!(heard.matches("connection: close").count(), 1, "{heard}");
    }
    // Without a length, once too much of it has come: the answer arrives, the rest is not read.
    let before = memory_mib(server.pid(), "VmRSS:");
    let (mut reads, mut writes) = connect(to, LOCAL).await.into_split();
    let sending = tokio::spawn(async move {
        let mut chunk = b"10000\r\n".to_vec();
        chunk.extend_from_slice(&vec![b' '; 0x10000]);
        chunk.extend_from_slice(b"\r\n");
        writes.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await.expect("sent");
        let mut sent = 0_usize;
        while sent < 10_000_000_000 && writes.write_all(&chunk).await.is_ok() {
            sent += chunk.len();
        }
        sent
    });
    let mut heard = Vec::new();
    drop(tokio::time::timeout(Duration::from_secs(60), reads.read_to_end(&mut heard)).await.expect("it ends"));
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(heard.starts_with("HTTP/1.1 413 "), "{heard:?}");
    let sent = sending.await.expect("no panic");
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    let grown = memory_mib(server.pid(), "VmHWM:").saturating_sub(before);
    assert!(grown < 32, "{grown} MiB");
    // Nothing is decompressed: the bytes that are sent are the bytes that count.
    let packed =
        format!("{}Content-Encoding: gzip\r\n", "POST /api/auth/login HTTP/1.1\r\nContent-Type: application/json\r\n");
    assert_eq!(ask(to, LOCAL, &packed, "xxxx").await.status, 415);
    assert_eq!(ask(to, LOCAL, HEALTH, "").await.status, 200);
    assert_eq!(server.stop().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_has_the_time_of_its_request_and_a_slow_answer_has_no_limit() {
    let home = TempDir::new().expect("a directory");
    let (_server, to) =
        started(home.path(), &[("READ_TIMEOUT", "2s"), ("IDLE_TIMEOUT", "1s"), ("WRITE_TIMEOUT", "1s")]);
    let body = json!({"username": "admin", "password": PASSWORD}).to_string();
    let head = format!(
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // In time, in two parts.
    let mut stream = connect(to, LOCAL).await;
    stream.write_all(head.as_bytes()).await.expect("sent");
    tokio::time::sleep(Duration::from_millis(700)).await;
    stream.write_all(body.as_bytes()).await.expect("sent");
    let heard = hear(&mut stream).await;
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
    let token = heard.split("\"access_token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
    // A byte now and then, longer than it may.
    let (mut reads, mut writes) = connect(to, LOCAL).await.into_split();
    let begun = Instant::now();
    writes.write_all(head.as_bytes()).await.expect("sent");
    let slowly = body.clone();
    let dripping = tokio::spawn(async move {
        for byte in slowly.bytes() {
            if writes.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    let mut heard = String::new();
    drop(reads.read_to_string(&mut heard).await);
    dripping.abort();
    let after = begun.elapsed().as_secs_f64();
    assert!(heard.starts_with("HTTP/1.1 408 ") && (1.9..6.0).contains(&after), "{after}: {heard}");

    // What waits for its operation is answered, however short the limits are; and a stream lasts.
    let auth = format!("Authorization: Bearer {token}\r\nContent-Type: application/json\r\n");
    let mut events = connect(to, LOCAL).await;
    events.write_all(format!("GET /api/events HTTP/1.1\r\nHost: x\r\n{auth}\r\n").as_bytes()).await.expect("sent");
    let begun = Instant::now();
    let late = ask(to, LOCAL, &format!("GET /api/vms HTTP/1.1\r\n{auth}X-Limen-Event: 9007199254740991\r\n"), "").await;
    assert_eq!(late.status, 503, "it was waited for: {:?}", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(5)).await;
    let create = json!({"name": "late", "vcpus": 1, "memory_mib": 64}).to_string();
    let made = ask(to, LOCAL, &format!("POST /api/vms HTTP/1.1\r\n{auth}Prefer: wait=30\r\n"), &create).await;
    assert_eq!(made.status, 200, "{made:?}");
    let mut heard = String::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !heard.contains("event: operation") {
        let mut part = [0; 4096];
        let read = tokio::time::timeout_at(deadline.into(), events.read(&mut part)).await.expect("an event in time");
        let read = read.expect("the stream lasts");
        assert!(read > 0, "it was closed: {heard}");
        heard.push_str(&String::from_utf8_lossy(&part[..read]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_is_cut() {
    let timeouts = Timeouts { write: Duration::from_secs(2), ..Timeouts::default() };
    let server = Wired::start(Arc::new(RoleAuthz), timeouts, |app| app).await;
    let page = ask(server.address, LOCAL, "GET /docs HTTP/1.1\r\n", "").await.body.len();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a small buffer");
    let mut stream = socket.connect(server.address).await.expect("connects");
    // More than the buffers of both ends hold.
    let asked = (16 << 20) / page + 1;
    let requests = "GET /docs HTTP/1.1\r\nHost: x\r\n\r\n".repeat(asked);
    stream.write_all(requests.as_bytes()).await.expect("sent");
    // Slowly is fine, as long as it is something.
    let mut taken = 0;
    let mut part = vec![0; 256 << 10];
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        taken += stream.read_exact(&mut part).await.expect("it is not cut");
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut rest = Vec::new();
    drop(tokio::time::timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await.expect("it is cut"));
    taken += rest.len();
    assert!(taken < asked * page, "all {taken} bytes came");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_head_is_taken_up_to_its_limit() {
    let server = Wired::start(Arc::new(RoleAuthz), Timeouts::default(), |app| app).await;
    for (size, status) in [(1000 << 10, 200), (1100 << 10, 431)] {
        let said = ask(server.address, LOCAL, &format!("{HEALTH}X-Large: {}\r\n", "a".repeat(size)), "").await;
        assert_eq!(said.status, status, "{size}");
    }
    // What follows on a connection is read as it comes, also in one piece.
    let mut kept = Kept::new(server.address, LOCAL).await;
    let requests = format!("{HEALTH}Host: x\r\n\r\n").repeat(50);
    assert!(kept.ask(requests.as_bytes(), 50).await.iter().all(|said| said.status == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_file_goes_on_when_there_is_one() {
    let home = TempDir::new().expect("a directory");
    let (server, to) = started(home.path(), &[]);
    let pid = rustix::process::Pid::from_raw(i32::try_from(server.pid()).expect("a pid"));
    let files = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).expect("a process").count() as u64;
    let limit = rustix::process::Rlimit { current: Some(files + 10), maximum: Some(files + 10) };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit).expect("a limit");
    let mut held = Vec::new();
    for _ in 0..60 {
        held.push(connect(to, LOCAL).await);
    }
    let waiting = tokio::spawn(async move { ask(to, LOCAL, HEALTH, "").await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "there was a file left");
    drop(held);
    assert_eq!(waiting.await.expect("no panic").status, 200);
    assert_eq!(ask(to, LOCAL, HEALTH, "").await.status, 200);
    let (code, log) = server.stop();
    assert_eq!(code, 0);
    let told = log.lines().filter(|line| line.contains("a connection could not be accepted")).count();
    assert!((1..=10).contains(&told), "{told} lines");
}
