//! A file system that hangs: a real one (FUSE) whose server answers no more, as an NFS server that is
//! away.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use limen_support::agent::Agent;
use limen_support::http::Client;
use serde_json::Value;

use crate::{figures, series, text};

/// Operations of the FUSE protocol (linux/fuse.h).
const STATFS: u32 = 17;
const INIT: u32 = 26;

/// Answers the kernel's questions about one file system, while it answers at all.
fn serve(mut kernel: File, hangs: &AtomicBool, held: &Mutex<Vec<u64>>) {
    let mut request = vec![0; 1 << 17];
    while let Ok(length) = kernel.read(&mut request) {
        let word = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let unique = u64::from_le_bytes(request[8..16].try_into().expect("eight bytes"));
        assert!(length >= 40, "a request of {length} bytes");
        match word(4) {
            // Version 7.31 of the protocol, nothing asked for, small writes.
            INIT => {
                let mut body = [0; 64];
                body[..4].copy_from_slice(&7_u32.to_le_bytes());
                body[4..8].copy_from_slice(&31_u32.to_le_bytes());
                body[20..24].copy_from_slice(&4096_u32.to_le_bytes());
                reply(&mut kernel, unique, 0, &body);
            }
            // Read and kept: the kernel waits for its answer.
            STATFS if hangs.load(Ordering::SeqCst) => held.lock().expect("a lock").push(unique),
            STATFS => reply(&mut kernel, unique, 0, &room()),
            _ => reply(&mut kernel, unique, -38, &[]),
        }
    }
}

/// 1000 blocks of 4096 bytes, 400 free, 300 of them for users; 50 files, 20 free.
fn room() -> [u8; 80] {
    let mut room = [0; 80];
    for (at, number) in [1000_u64, 400, 300, 50, 20].into_iter().enumerate() {
        room[8 * at..8 * at + 8].copy_from_slice(&number.to_le_bytes());
    }
    for (at, number) in [(40, 4096_u32), (44, 255), (48, 4096)] {
        room[at..at + 4].copy_from_slice(&number.to_le_bytes());
    }
    room
}

fn reply(kernel: &mut File, unique: u64, error: i32, body: &[u8]) {
    let length = u32::try_from(16 + body.len()).expect("a length");
    let head = [&length.to_le_bytes()[..], &error.to_le_bytes(), &unique.to_le_bytes()].concat();
    // A question that is withdrawn (its asker is gone) takes no answer.
    drop(kernel.write(&[&head, body].concat()));
}

fn hung(told: &Value, mount: &str) -> Value {
    let disks = told["disks"].as_array().expect("disks");
    disks.iter().find(|disk| disk["mount"] == mount).unwrap_or_else(|| panic!("no {mount} in {told}")).clone()
}

async fn until(client: &Client, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let told = figures(client).await;
        if is_so(&told) {
            return told;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}: {told}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_file_system_that_hangs_delays_nothing_and_is_told_as_it_last_was() {
    let directory = tempfile::tempdir().expect("a directory");
    let mount = directory.path().to_str().expect("UTF-8").to_owned();
    let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let (hangs, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let kernel = fuse.try_clone().expect("a second handle");
    let (hangs_there, held_there) = (Arc::clone(&hangs), Arc::clone(&held));
    // It hangs from the start: that delays the agent's no more than anything else.
    let agent = Agent::start_beside(&fuse, directory.path());
    // It ends when the file system is unmounted, which it is with the agent.
    let server = std::thread::spawn(move || serve(kernel, &hangs_there, &held_there));
    let client = agent.client();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("threads").count();

    let told = until(&client, "it answers", |told| hung(told, &mount)["total_bytes"].is_u64()).await;
    let before = hung(&told, &mount);
    assert_eq!((&before["total_bytes"], &before["available_bytes"]), (&(1000 * 4096).into(), &(300 * 4096).into()));
    assert_eq!(before["used_bytes"], 600 * 4096);
    assert_eq!(before["stale"], false);

    hangs.store(true, Ordering::SeqCst);
    let is_stale = |told: &Value| hung(told, &mount)["stale"] == true;
    let told = until(&client, "it is stale", is_stale).await;
    let first = told["sampled_at"].clone();
    // Samples go on coming, of all else fresh, of this one the last figures and their age.
    let told = until(&client, "more samples", |told| told["sampled_at"] != first && is_stale(told)).await;
    let stale = hung(&told, &mount);
    assert_eq!(stale["total_bytes"], before["total_bytes"]);
    assert!(stale["age_seconds"].as_f64() > Some(1.0), "{stale}");
    for disk in told["disks"].as_array().expect("disks").iter().filter(|disk| disk["mount"] != mount.as_str()) {
        assert_eq!(disk["stale"], false, "{disk}");
        assert!(disk["age_seconds"].as_f64() < Some(1.0), "another was delayed: {disk}");
    }
    let labels = format!("{{device=\"limen-hung\",fstype=\"fuse\",mountpoint=\"{mount}\"}}");
    let sample = text(&client).await;
    assert_eq!(series(&sample, &format!("node_filesystem_device_error{labels}")), 1.0);
    assert_eq!(series(&sample, &format!("node_filesystem_size_bytes{labels}")), 4_096_000.0);
    assert!(series(&sample, &format!("limen_agent_filesystem_age_seconds{labels}")) > 1.0);
    client.get("/health").await.expect(200);
    // However many samples: the kernel was asked once, and one thread waits.
    assert_eq!(held.lock().expect("a lock").len(), 1);
    assert!(threads() <= 4, "{} threads", threads());

    // It answers again.
    hangs.store(false, Ordering::SeqCst);
    let mut kernel = fuse.try_clone().expect("a handle");
    for unique in held.lock().expect("a lock").drain(..) {
        reply(&mut kernel, unique, 0, &room());
    }
    until(&client, "it is well again", |told| {
        !is_stale(told) && hung(told, &mount)["age_seconds"].as_f64() < Some(1.0)
    })
    .await;

    // One that hangs keeps the agent from ending no longer than it lasts.
    hangs.store(true, Ordering::SeqCst);
    until(&client, "it is stale again", is_stale).await;
    agent.sigterm();
    for unique in held.lock().expect("a lock").drain(..) {
        reply(&mut kernel, unique, 0, &room());
    }
    hangs.store(false, Ordering::SeqCst);
    drop(kernel);
    drop(fuse);
    let mut agent = agent;
    assert_eq!(agent.ended(), Some(0));
    server.join().expect("the file system's server");
}
