//! What goes through a console, and what does not.

use tokio::io::AsyncWriteExt;
use tokio_websockets::Message;

use super::*;

/// A frame: its first byte, a payload, masked by zeros where it is masked.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let length = u8::try_from(payload.len()).expect("short");
    let mut frame = vec![first, length | if masked { 0x80 } else { 0 }];
    frame.extend_from_slice(if masked { &[0; 4] } else { &[] });
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_frames_close_with_a_reason_and_good_ones_come_through() {
    let (server, admin) = simulated().await;
    let vm = running(&admin, "one").await;
    let too_long = [&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0][..]].concat();
    for (what, bytes, code) in [
        ("not masked", frame(0x82, b"hello", false), 1002),
        ("a reserved bit", frame(0xc2, b"hello", true), 1002),
        ("an unknown opcode", frame(0x83, b"hello", true), 1002),
        ("a control frame in parts", frame(0x09, b"hello", true), 1002),
        ("a part of nothing", frame(0x80, b"hello", true), 1002),
        ("a close of one byte", frame(0x88, b"x", true), 1002),
        ("a text that is none", frame(0x81, b"\xff\xfe", true), 1007),
        ("64 KiB and a byte", too_long, 1009),
    ] {
        let mut socket = open(&server, &admin, &vm, "serial").await;
        socket.until("Hello from").await;
        let since = Instant::now();
        socket.stream().write_all(&bytes).await.expect("written");
        assert_eq!(ends_soon(&mut socket, since, what).await.0, code, "{what}");
    }

    let mut socket = open(&server, &admin, &vm, "serial").await;
    socket.until("Hello from").await;
    let mut parts = [frame(0x02, b"one ", true), frame(0x89, b"ping", true), frame(0x80, b"whole", true)].concat();
    parts.extend(frame(0x81, "글자".as_bytes(), true));
    socket.stream().write_all(&parts).await.expect("written");
    let pong = socket.next().await.expect("a pong");
    assert!(pong.is_pong() && &pong.as_payload()[..] == b"ping", "{pong:?}");
    socket.until("one whole글자").await;

    // Every byte there is, in messages of all sizes, comes back as it was.
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut at = 0;
    let mut size = 1;
    while at < bytes.len() {
        let end = (at + size).min(bytes.len());
        socket.send(bytes[at..end].to_vec()).await;
        assert!(socket.exact(end - at).await.expect("an echo") == bytes[at..end], "{size} bytes from {at} on");
        (at, size) = (end, (size * 3 + 1) % (64 << 10));
    }
    // The client's own end.
    let close = Message::close(Some(1000.try_into().expect("a code")), "done");
    let since = Instant::now();
    socket.send_message(close).await;
    assert_eq!(ends_soon(&mut socket, since, "the client's close").await.0, 1000);
    let last = audited(&admin, &vm).await;
    assert!(last.contains("3000") && last.ends_with("The viewer left."), "{last}");
}

/// The last console's end, once it is recorded.
async fn audited(admin: &Client, vm: &str) -> String {
    let started = Instant::now();
    loop {
        let records = audit(admin, vm).await;
        let of = |outcome: &str| records.iter().filter(|record| record["outcome"] == outcome).count();
        if of("accepted") == of("succeeded") {
            return text(records.last().expect("a record"), "detail");
        }
        assert!(started.elapsed() < Duration::from_secs(20), "{records:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Sends until nothing is taken for a second; how many bytes were.
async fn fill(socket: &mut WebSocket) -> u64 {
    // A masked frame of 16 KiB.
    let message = [&[0x82, 0xfe, 0x40, 0, 0, 0, 0, 0][..], &[b'x'; 16 << 10]].concat();
    let mut taken = 0;
    let mut rest: &[u8] = &message;
    while let Ok(count) = tokio::time::timeout(Duration::from_secs(1), socket.stream().write(rest)).await {
        let count = count.expect("it is open");
        taken += count as u64;
        rest = if count == rest.len() { &message } else { &rest[count..] };
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_held_back_and_ended_and_costs_little() {
    const CLIENTS: u64 = 16;
    let (server, admin) = simulated().await;
    let vm = running(&admin, "one").await;
    // What the first one brings into memory is not its own.
    drop(open(&server, &admin, &vm, "serial").await.until("Hello from").await);
    let before = resident_kib(server.pid());
    let (mut deaf, mut taken) = (Vec::new(), 0);
    for _ in 0..CLIENTS {
        deaf.push(open(&server, &admin, &vm, "serial").await);
    }
    // Everything comes back, and nobody takes it: at some point nothing more is taken either.
    for filled in futures_util::future::join_all(deaf.iter_mut().map(fill)).await {
        assert!(filled > 64 << 10, "{filled} bytes are less than one console holds");
        taken += filled;
    }
    let rise = resident_kib(server.pid()).saturating_sub(before);
    println!("{CLIENTS} clients gave {} KiB; the server holds {rise} KiB more", taken >> 10);
    // A console may hold 256 KiB, and the simulated guest's end of it as much again.
    assert!(rise < CLIENTS * 512 + 4096, "{rise} KiB");
    // One that reads is not held back by them.
    let mut other = open(&server, &admin, &vm, "serial").await;
    other.send("still here").await;
    other.until("still here").await;
    // Those who answer no ping are let go; one that answers stays.
    let (attentive, started) = (tokio::spawn(async move { while other.next().await.is_ok() {} }), Instant::now());
    loop {
        let records = audit(&admin, &vm).await;
        let ended = records.iter().filter(|record| record["outcome"] == "succeeded").count() as u64;
        if ended > CLIENTS {
            println!("all that answer nothing were let go after {:?}", started.elapsed());
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "{ended} of {CLIENTS}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(!attentive.is_finished(), "{attentive:?}");
    attentive.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stands_still_is_found_by_pings() {
    let (server, admin) = simulated().await;
    let vm = running(&admin, "one").await;
    // It takes what the kernel takes for it, and says nothing: as a process that was stopped.
    let still = open(&server, &admin, &vm, "vnc").await;
    let mut alive = open(&server, &admin, &vm, "vnc").await;
    let alive = tokio::spawn(async move {
        alive.rfb().await.expect("a screen");
        while alive.next().await.is_ok() {}
    });
    let started = Instant::now();
    loop {
        let ended = audit(&admin, &vm).await.into_iter().find(|record| record["outcome"] == "succeeded");
        if let Some(record) = ended {
            println!("found after {:?}: {}", started.elapsed(), record["detail"]);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(90), "nobody found it");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(40), "two pings and their time were not waited for");
    assert!(!alive.is_finished(), "who answers stays");
    alive.abort();
    drop(still);
}
