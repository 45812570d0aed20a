//! Daemons that die, hang or are absent; guests that hang.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_or_hangs_is_found_again() {
    let libvirt = PrivateLibvirt::start();
    let quick = LibvirtOptions {
        look_deadline: Duration::from_secs(3),
        change_deadline: Duration::from_secs(4),
        ..options(&libvirt)
    };
    let host = LibvirtHypervisor::connect(quick).await.expect("begin to connect");
    let vm = definition("daemon");
    host.create_definition(&vm).await.expect("define");
    host.change_power(vm.id, PowerAction::Start).await.expect("start");
    let mut events = host.subscribe();
    let mut again = Vec::new();
    for _ in 0..3 {
        libvirt.kill9();
        wait_for_event(&mut events, HostEvent::Disconnected, SOON).await;
        let began = Instant::now();
        assert_eq!(host.list().await.expect_err("nobody is there").kind(), ErrorKind::Unavailable);
        assert!(began.elapsed() < Duration::from_millis(500), "it answers at once: {:?}", began.elapsed());
        let began = Instant::now();
        libvirt.restart();
        wait_for_event(&mut events, HostEvent::Connected, SOON).await;
        again.push(began.elapsed());
        assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Running);
    }
    println!("connected again after {again:?}, the daemon's own start included");

    // A guest that dies while nobody looks gives no event; the list tells.
    libvirt.kill9();
    wait_for_event(&mut events, HostEvent::Disconnected, SOON).await;
    for pid in libvirt.qemu_pids() {
        signal(pid, Signal::KILL);
    }
    libvirt.restart();
    wait_for_event(&mut events, HostEvent::Connected, SOON).await;
    assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Crashed);

    libvirt.sigstop();
    let began = Instant::now();
    let (list, change, other) = tokio::join!(
        host.list(),
        host.change_power(vm.id, PowerAction::Pause),
        host.remove_definition(VmId::generate()),
    );
    assert_eq!(list.expect_err("it hangs").kind(), ErrorKind::Timeout);
    for error in [change.expect_err("it hangs"), other.expect_err("it hangs")] {
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(7), "each by its deadline: {:?}", began.elapsed());
    wait_for_event(&mut events, HostEvent::Disconnected, Duration::from_secs(20)).await;
    assert_eq!(host.list().await.expect_err("it is away").kind(), ErrorKind::Unavailable);
    libvirt.sigcont();
    wait_for_event(&mut events, HostEvent::Connected, SOON).await;
    assert_eq!(listed(&host, vm.id).await.expect("listed").state, VmState::Crashed);
    host.remove_definition(vm.id).await.expect("remove");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_daemon_is_no_error_and_close_is_for_good() {
    let libvirt = PrivateLibvirt::start();
    libvirt.kill9();
    let options = LibvirtOptions { connect_wait: Duration::from_millis(200), ..options(&libvirt) };
    let host = LibvirtHypervisor::connect(options).await.expect("nobody is there, which is no error");
    assert_eq!(host.list().await.expect_err("nobody is there").kind(), ErrorKind::Unavailable);
    assert!(host.capability().volumes && !host.capability().uefi);
    let mut events = host.subscribe();
    libvirt.restart();
    wait_for_event(&mut events, HostEvent::Connected, Duration::from_secs(10)).await;
    assert!(host.list().await.expect("list").is_empty());
    until("the firmware is known", Duration::from_secs(30), async || host.capability().uefi).await;
    host.close().await;
    assert_eq!(host.list().await.expect_err("it is closed").kind(), ErrorKind::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_vm_delays_nobody() {
    let libvirt = PrivateLibvirt::start();
    let quick = LibvirtOptions { change_deadline: Duration::from_secs(6), ..options(&libvirt) };
    let host = LibvirtHypervisor::connect(quick).await.expect("begin to connect");
    let (hung, well) = (definition("hung"), definition("well"));
    host.create_definition(&hung).await.expect("define");
    host.change_power(hung.id, PowerAction::Start).await.expect("start");
    let pid = libvirt.qemu_pids()[0];
    host.create_definition(&well).await.expect("define");
    host.change_power(well.id, PowerAction::Start).await.expect("start");
    signal(pid, Signal::STOP);

    // Calls on the hung one take what they can get; two at once wait for each other.
    let stuck = async {
        tokio::join!(host.change_power(hung.id, PowerAction::Pause), host.change_power(hung.id, PowerAction::Pause))
    };
    let others = async {
        let mut slow = 0;
        for n in 0..20 {
            let began = Instant::now();
            let action = if n % 2 == 0 { PowerAction::Pause } else { PowerAction::Resume };
            host.change_power(well.id, action).await.expect("the other VM obeys");
            assert_eq!(host.list().await.expect("list").len(), 2);
            slow += u32::from(began.elapsed() > Duration::from_secs(1));
        }
        slow
    };
    let ((first, second), slow) = tokio::join!(stuck, others);
    for result in [first, second] {
        assert_eq!(result.expect_err("it hangs").kind(), ErrorKind::Timeout);
    }
    assert!(slow < 5, "another VM was delayed {slow} times of 20");
    let stats = host.stats().await.expect("stats");
    assert!(stats.iter().any(|(id, _)| *id == well.id), "{stats:?}");
    assert!(stats.iter().all(|(id, _)| *id != hung.id), "a VM that does not answer is left out: {stats:?}");

    // libvirt itself waits 10 s before it kills a QEMU that does not end when it is asked.
    if let Err(error) = host.change_power(hung.id, PowerAction::PowerOff).await {
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    }
    wait_for_state(&host, hung.id, VmState::ShutOff).await;
    for vm in [hung, well] {
        host.remove_definition(vm.id).await.expect("remove");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_under_way_is_waited_for() {
    let libvirt = PrivateLibvirt::start();
    let (first, second) = (connect(&libvirt).await, connect(&libvirt).await);
    let vm = definition("twice");
    first.create_definition(&vm).await.expect("define");
    for turn in 1.. {
        assert!(turn < 50, "no start was met under way");
        let follow = async {
            let mut state = VmState::ShutOff;
            until("it starts", BOOT, async || {
                state = second.get(vm.id).await.expect("get the VM").state;
                state != VmState::ShutOff
            })
            .await;
            (state, second.change_power(vm.id, PowerAction::Start).await)
        };
        let (begun, (met, again)) = tokio::join!(first.change_power(vm.id, PowerAction::Start), follow);
        begun.expect("start");
        again.expect("a start that finds another one under way succeeds with it");
        assert_eq!(listed(&first, vm.id).await.expect("listed").state, VmState::Running);
        first.change_power(vm.id, PowerAction::PowerOff).await.expect("power off");
        if met == VmState::Paused {
            break;
        }
    }
    first.remove_definition(vm.id).await.expect("remove");
}
