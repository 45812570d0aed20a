//! Serial consoles.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serial_consoles_are_shared_byte_exact_and_many() {
    let libvirt = PrivateLibvirt::start();
    let host = connect(&libvirt).await;
    let nonce = guest::nonce();
    let vm = guest_vm(&host, &nonce).await;
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut first = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open");
    read_until(&mut first, BOOT, |said| said.contains(guest::PROMPT).then_some(())).await.expect("a prompt");
    let mut second = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open another");
    // Both see the echo and the answer of what one of them types.
    let sum = "echo $((41+1))-limen\n";
    second.write_all(sum.as_bytes()).await.expect("type");
    for console in [&mut first, &mut second] {
        read_until(console, BOOT, |said| said.contains("42-limen").then_some(())).await.expect("the answer");
    }
    // Every byte of a long answer arrives, in order.
    second
        .write_all(b"i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo all-$((1+1))\n")
        .await
        .expect("type");
    let said = |said: &str| said.contains("all-2").then(|| said.to_owned());
    let (one, other) = tokio::join!(read_until(&mut first, BOOT, said), read_until(&mut second, BOOT, said));
    for heard in [one.expect("all of it"), other.expect("all of it")] {
        let wanted: String = (0..3000).map(|n| format!("line {n}\r\n")).collect();
        assert!(heard.contains(&wanted), "{} bytes, not every line in its place", heard.len());
    }
    drop(second);
    let mut third = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open a third");
    drop(first);
    third.write_all(b"echo $((5+5))-third\n").await.expect("type");
    read_until(&mut third, BOOT, |said| said.contains("10-third").then_some(())).await.expect("the answer");
    drop(third);
    // The session is over with its last reader, and a new one can be had.
    let again = host.open_console(vm.id, ConsoleKind::Serial).await.expect("open again");

    let mut many = vec![again];
    let mut quiet = Vec::new();
    for n in 0..8 {
        let idle = definition(&format!("idle{n}"));
        host.create_definition(&idle).await.expect("define");
        host.change_power(idle.id, PowerAction::Start).await.expect("start");
        quiet.push(idle.id);
    }
    for n in 0..50 {
        let id = quiet[n % quiet.len()];
        many.push(host.open_console(id, ConsoleKind::Serial).await.expect("open one of many"));
    }
    let began = Instant::now();
    for _ in 0..20 {
        host.list().await.expect("list");
    }
    println!("list beside {} serial consoles: {:?}", many.len(), began.elapsed() / 20);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    for id in quiet {
        host.remove_definition(id).await.expect("remove");
    }
    host.remove_definition(vm.id).await.expect("remove");
    for mut console in many {
        let mut rest = Vec::new();
        tokio::time::timeout(SOON, console.read_to_end(&mut rest)).await.expect("it ends with its VM").expect("read");
    }
}
