//! Consoles of real guests.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use limen_support::guest::{self, Medium};
use limen_support::site::{Database, Site};

use super::*;

/// A VM that boots the guest; its id.
async fn guest_vm(site: &Site, client: &Client) -> String {
    let directory = tempfile::tempdir_in("/tmp").expect("make a directory");
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).expect("set a mode");
    let file = directory.path().join("guest");
    guest::write(Medium::Disk, &guest::nonce(), &file);
    let image = site.add_image("disk", "raw", &file);
    let disks = json!([{ "image": image }]);
    let body = json!({
        "name": "guest", "vcpus": 1, "memory_mib": guest::MEMORY_MIB, "disks": disks, "start": true,
    });
    create(client, &body).await
}

/// The inodes of TCP sockets that listen, on IPv4 and IPv6.
fn listening() -> BTreeSet<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] == "0A")
        .map(|fields| format!("socket:[{}]", fields[9]))
        .collect()
}

fn sockets_of(pid: u32) -> BTreeSet<String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the files of a process");
    let targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    targets.map(|target| target.to_string_lossy().into_owned()).filter(|target| target.starts_with("socket:")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_seen_and_talked_to_byte_by_byte_and_listens_nowhere() {
    let site = Site::start(Database::Sqlite);
    let admin = site.server.admin().await;
    let vm = guest_vm(&site, &admin).await;
    let mut serial = open(&site.server, &admin, &vm, "serial").await;
    serial.until(guest::PROMPT).await;

    // Its screen, twice at once; more than one colour is on it.
    let mut screens = Vec::new();
    for _ in 0..2 {
        screens.push(open(&site.server, &admin, &vm, "vnc").await);
    }
    for socket in &mut screens {
        let screen = socket.rfb().await.expect("a screen");
        assert!(screen.name.contains(&vm[24..]), "{screen:?} of {vm}");
        let picture = socket.screenshot(&screen).await.expect("a picture");
        let colours: BTreeSet<&[u8]> = picture.chunks_exact(screen.bytes.into()).collect();
        println!("{screen:?}: {} bytes, {} colours", picture.len(), colours.len());
        assert_eq!(picture.len(), usize::from(screen.width) * usize::from(screen.height) * usize::from(screen.bytes));
        assert!(colours.len() > 1, "all of it is one colour");
    }
    let listening = listening();
    let pids = site.libvirt.qemu_pids();
    assert!(!pids.is_empty() && !listening.is_empty());
    for pid in pids {
        let open: Vec<_> = sockets_of(pid).into_iter().filter(|socket| listening.contains(socket)).collect();
        assert!(open.is_empty(), "QEMU {pid} listens on TCP: {open:?}");
    }

    // Whatever is typed comes back, every byte there is.
    serial.send("stty raw -echo; echo rea''dy; cat\n").await;
    serial.until("ready\n").await;
    let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for round in 0..32 {
        serial.send(all.clone()).await;
        let back = serial.exact(all.len()).await.expect("an echo");
        assert!(back == all, "round {round}: {back:?}");
    }

    // They end with it, however it ends.
    let path = format!("/api/vms/{vm}/power");
    let stop = async || {
        admin.with_header("Prefer", "wait=50").post(&path, &json!({ "action": "power_off" })).await.expect(200);
    };
    let start = async || site::power(&admin, &vm, "start").await.expect(200);
    let ended = |mut socket: WebSocket| tokio::spawn(async move { (socket.closed().await, Instant::now()) });
    let told =
        async |ended: Vec<tokio::task::JoinHandle<(Closed, Instant)>>, since: Instant, why: &str, reason: &str| {
            for ended in ended {
                let (closed, at) = ended.await.expect("joined");
                let late = at.saturating_duration_since(since);
                println!("{why}: {closed:?}, {late:?} after it");
                assert_eq!(closed, (1000, reason.to_owned()), "{why}");
                assert!(late < SOON, "{why}: only {late:?} after it");
            }
        };
    let watched: Vec<_> = screens.into_iter().chain([serial]).map(ended).collect();
    stop().await;
    told(watched, Instant::now(), "power_off", "The VM has stopped.").await;
    let both = async || {
        start().await;
        let (screen, serial) =
            (open(&site.server, &admin, &vm, "vnc").await, open(&site.server, &admin, &vm, "serial").await);
        vec![ended(screen), ended(serial)]
    };
    let watched = both().await;
    site.libvirt.virsh(&["destroy", &vm]).expect_success();
    told(watched, Instant::now(), "virsh destroy", "The VM has stopped.").await;
    site::wait_for_vm(&admin, &vm, Duration::from_secs(20), |answer| site::is_in(answer, "shut_off")).await;
    let watched = both().await;
    site::delete(&admin, &vm).await;
    told(watched, Instant::now(), "the delete", "The VM was deleted.").await;
    let records = audit(&admin, &vm).await;
    let ends = records.iter().filter(|record| record["outcome"] == "succeeded").count();
    assert_eq!((ends, records.len()), (7, 14), "{records:#?}");
}

/// VMs that come and go, and those that look at them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaign_of_connects_while_vms_come_and_go_never_shows_another_vm() {
    let wanted = if std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full") { 500 } else { 50 };
    let site = Site::start(Database::Sqlite);
    let admin = site.server.admin().await;
    let live: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let over = Arc::new(AtomicBool::new(false));
    let held =
        |live: &Arc<Mutex<BTreeMap<String, String>>>| live.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut makers = tokio::task::JoinSet::new();
    for maker in 0..3 {
        let (admin, live, over) = (admin.clone(), Arc::clone(&live), Arc::clone(&over));
        makers.spawn(async move {
            let mut made = 0;
            while !over.load(Ordering::Relaxed) {
                let mut body = bare(&format!("vm-{maker}-{made}"));
                body["start"] = json!(true);
                let id = create(&admin, &body).await;
                live.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), text(&body, "name"));
                tokio::time::sleep(Duration::from_millis(500)).await;
                // Those who look may still have its id.
                site::delete(&admin, &id).await;
                live.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                made += 1;
            }
            made
        });
    }
    let (seen, tried) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut lookers = tokio::task::JoinSet::new();
    for looker in 0..4_usize {
        let (admin, live, seen, tried) = (admin.clone(), Arc::clone(&live), Arc::clone(&seen), Arc::clone(&tried));
        lookers.spawn(async move {
            while seen.load(Ordering::Relaxed) < wanted {
                let known: Vec<_> = held(&live).into_iter().collect();
                let Some((id, name)) = known.get(looker % known.len().max(1)) else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                tried.fetch_add(1, Ordering::Relaxed);
                let mut socket = match admin.websocket(&format!("/vnc/{id}")).await {
                    Ok(socket) => socket,
                    Err(answer) => {
                        assert!(matches!(answer.status, 404 | 409), "{answer:?}");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                };
                // A console that ends before its name is said shows nothing.
                if let Ok(screen) = socket.rfb().await {
                    let own = format!("{name}-{}", &id[24..]);
                    assert!(screen.name.contains(&own), "the screen of {} for {own}", screen.name);
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let looked = tokio::time::timeout(Duration::from_secs(1200), lookers.join_all()).await;
    over.store(true, Ordering::Relaxed);
    looked.expect("so many were seen in time");
    let made: i32 = makers.join_all().await.into_iter().sum();
    let (seen, tried) = (seen.load(Ordering::Relaxed), tried.load(Ordering::Relaxed));
    println!("{seen} screens seen of {tried} tries, over {made} VMs: none another's");
    assert!(made > 3, "VMs came and went: {made}");
    site.wait_until_in_order(Duration::from_secs(10), &[]);
}
