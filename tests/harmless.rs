//! Neither `make run` nor the rig of the tests leaves a mark on the machine:
//! no listener, mount, boot file, kernel or enabled unit comes or goes, and
//! what libvirt had stays as it was.

use std::time::Duration;

use limen_support::agent;
use limen_support::guest;
use limen_support::libvirt::PrivateLibvirt;
use limen_support::machine::Machine;
use limen_support::postgres::PrivatePostgres;
use limen_support::process::{self, Output, wait_for};
use limen_support::serial::Console;
use limen_support::server::binary;

/// What must not change, by name; each is a line of shell whose output is
/// compared.
const MARKS: &[(&str, &str)] = &[
    ("mounts", "cut -d' ' -f4- /proc/self/mountinfo | sort"),
    ("boot files", "ls -lR --time-style=full-iso /boot"),
    ("kernels", "ls /lib/modules; dpkg-query -Wf '${Package} ${Status}\\n' 'linux-image-*' 'grub*' 2>/dev/null || :"),
    ("enabled units", "find /etc/systemd /etc/rc*.d -type l | sort"),
    ("service policy", "ls -l /usr/sbin/policy-rc.d* 2>/dev/null || :"),
    ("package sources", "find /etc/apt -type f -exec sha256sum {} + | sort"),
];

const MINUTE: Duration = Duration::from_secs(60);

/// The machine's marks, as `run` sees them.
fn marks(run: impl Fn(&str) -> Output) -> Vec<(&'static str, String)> {
    MARKS.iter().map(|(name, line)| (*name, run(line).expect_success())).collect()
}

fn here(line: &str) -> Output {
    process::run(std::process::Command::new("sh").args(["-c", line]), MINUTE)
}

fn listeners(machine: &Machine) -> Vec<String> {
    let listening = machine.shell(MINUTE, "ss -Hltnp").expect_success();
    listening.lines().map(str::to_owned).collect()
}

#[test]
fn the_rig_leaves_no_mark() {
    let before = marks(here);
    let libvirt = PrivateLibvirt::start();
    let postgres = PrivatePostgres::start();
    let (dir, port) = (libvirt.dir().to_owned(), postgres.port());
    drop((libvirt, postgres));
    assert_eq!(marks(here), before);
    assert!(!dir.exists());
    std::net::TcpListener::bind(("127.0.0.1", port)).expect("PostgreSQL's port is free again");
}

/// `make run` on a terminal of its own, where Ctrl-C works also when the tests run in the background.
/// `LIMEN_BIN` stands in for building.
fn make_run(machine: &Machine, port: u16) -> Console {
    let keep = |name: &str| std::env::var(name).map_or_else(|_| String::new(), |value| format!("{name}='{value}' "));
    let kept: String =
        ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "LIMEN_BIN"].map(keep).concat();
    Console::new(&format!(
        "{} env --default-signal -i TERM=dumb {kept} LIMEN_CACHE_DIR='{}' LIMEN_DATA_DIR='{}' PORT={port} make --no-print-directory -C '{}' run",
        machine.enter().join(" "),
        limen_support::cache_dir().display(),
        machine.dir().join("data").display(),
        limen_support::project_dir().display(),
    ))
}

/// The same by `limen-builder`, who is no root; with `sudo` before it or without.
fn make_run_by_builder(machine: &Machine, port: u16, sudo: bool) -> Console {
    let (dir, home) = (machine.dir().display(), machine.home().display().to_string());
    let prepare = format!(
        "cp '{}' {dir}/limen && cp '{}' {dir}/limen-agent && cp -a '{}'/guest-* {home}/cache && chown -R limen-builder: {home}/cache",
        binary().display(),
        agent::binary().display(),
        limen_support::cache_dir().display(),
    );
    machine.shell(MINUTE, &prepare).expect_success();
    let path = std::env::var("PATH").unwrap_or_default();
    let settings = format!(
        "LIMEN_BIN={dir}/limen LIMEN_CACHE_DIR={home}/cache LIMEN_DATA_DIR={home}/data LIMEN_VMS_DIR={dir}/vms PORT={port}"
    );
    let make = format!("make --no-print-directory -C {home}/limen run");
    let line = if sudo { format!("sudo {settings} {make}") } else { format!("env {settings} {make}") };
    Console::new(&format!(
        "{} runuser -u limen-builder -- env --default-signal -i TERM=dumb HOME={home} 'PATH={path}' {line}",
        machine.enter().join(" "),
    ))
}

/// Waits for the last lines of `make run`, which tell what to type, and
/// returns all that it said.
fn door(console: &mut Console) -> String {
    // The server may have to be built.
    console.wait_for(20 * MINUTE, |said| {
        let last = said.trim_end().lines().last()?;
        last.contains("curl -s http://127.0.0.1").then(|| said.to_owned())
    })
}

#[test]
fn make_run_greets_stops_and_leaves_no_mark() {
    // The machine in the test has no way to Debian's mirror.
    guest::prepare();
    let machine = Machine::start();
    let port = 18443;
    let before = marks(|line| machine.shell(MINUTE, line));
    assert_eq!(listeners(&machine), Vec::<String>::new());

    let mut run = make_run(&machine, port);
    let said = door(&mut run);
    assert!(said.contains("The guest says: LIMEN-GUEST hello nonce="), "{said}");
    let listening = listeners(&machine);
    let ours = [format!("127.0.0.1:{port} "), "127.0.0.1:9000 ".to_owned()];
    let (ours, others): (Vec<_>, Vec<_>) =
        listening.iter().partition(|line| ours.iter().any(|place| line.contains(place)));
    assert_eq!(ours.len(), 2, "the server and the agent: {listening:?}");
    assert!(others.iter().all(|line| line.contains("dnsmasq")), "{listening:?}");
    assert_eq!(machine.shell(MINUTE, "stat -c %G:%a /dev/kvm").expect_success().trim(), "kvm:660");

    // What the last lines tell to type works.
    let typed: Vec<&str> = said.trim_end().lines().rev().take(3).map(str::trim).collect();
    let vms = machine.shell(MINUTE, &format!("{}\n{}", typed[2], typed[1])).expect_success();
    assert!(vms.contains("\"hello\""), "{vms}");
    let figures = machine.shell(MINUTE, typed[0]).expect_success();
    let figures: serde_json::Value = serde_json::from_str(&figures).expect("the agent's figures");
    for figure in ["/cpu/use_percent", "/memory/total_bytes", "/disks/0/total_bytes"] {
        assert!(figures.pointer(figure).is_some_and(serde_json::Value::is_number), "{figure} of {figures}");
    }

    // A second one beside it changes nothing, and is content.
    let again =
        make_run(&machine, port).wait_for(MINUTE, |said| said.contains("curl -s http").then(|| said.to_owned()));
    assert!(again.contains("is running already"), "{again}");

    run.send("\x03");
    run.wait_for_text(MINUTE, "The server has stopped");
    wait_for("nothing to listen", MINUTE, || {
        listeners(&machine).iter().all(|line| line.contains("dnsmasq")).then_some(())
    });
    let running = machine.shell(MINUTE, "virsh -q list --name").expect_success();
    assert!(running.trim().starts_with("hello-"), "{running}");
    assert_eq!(marks(|line| machine.shell(MINUTE, line)), before);

    // The next start finds its guest and makes no other.
    let mut run = make_run(&machine, port);
    let said = door(&mut run);
    assert!(!said.contains("LIMEN-GUEST"), "{said}");
    run.send("\x03");
    run.wait_for_text(MINUTE, "The server has stopped");
    assert_eq!(machine.shell(MINUTE, "virsh -q list --all --name").expect_success(), running);
}

#[test]
fn make_run_works_for_an_ordinary_user_and_under_sudo() {
    guest::prepare();
    for (sudo, port, owner) in [(false, 18443, "limen-builder"), (true, 18444, "root")] {
        let machine = Machine::start();
        let mut run = make_run_by_builder(&machine, port, sudo);
        let said = door(&mut run);
        assert!(said.contains("The guest says: LIMEN-GUEST hello nonce="), "{said}");
        assert_eq!(said.contains("Adding limen-builder to group libvirt"), !sudo, "{said}");
        let server = "ps -o user:32= -p $(ss -Hltnp | sed -n 's/.*\"limen\",pid=\\([0-9]*\\).*/\\1/p')";
        assert_eq!(machine.shell(MINUTE, server).expect_success().trim(), owner);
        run.send("\x03");
        run.wait_for_text(MINUTE, "The server has stopped");
        let running = machine.shell(MINUTE, "virsh -q list --name").expect_success();
        assert!(running.trim().starts_with("hello-"), "{running}");
    }
}

#[test]
fn make_run_leaves_a_libvirtd_that_was_there_as_it_was() {
    guest::prepare();
    let machine = Machine::start();
    let mine = "<domain type='qemu'><name>mine</name><memory unit='MiB'>32</memory>\
                <os><type arch='x86_64'>hvm</type></os></domain>";
    std::fs::write(machine.dir().join("mine.xml"), mine).expect("write a file");
    let there = format!(
        "chgrp kvm /dev/kvm && chmod 660 /dev/kvm && virtlogd -d && libvirtd -d && virsh -q define {}/mine.xml",
        machine.dir().display()
    );
    machine.shell(MINUTE, &there).expect_success();
    let told = || {
        machine
            .shell(MINUTE, "pgrep -x libvirtd --ns $$ --nslist mnt; virsh -q dumpxml mine; virsh -q net-list --name")
            .expect_success()
    };
    let before = told();

    let mut run = make_run(&machine, 18443);
    let said = door(&mut run);
    assert!(!said.contains("Starting libvirtd"), "{said}");
    run.send("\x03");
    run.wait_for_text(MINUTE, "The server has stopped");
    assert_eq!(told().replace("limen\n", ""), before.clone());
}

#[test]
fn make_run_names_the_process_that_has_its_port() {
    let machine = Machine::start();
    let line = "python3 -m http.server --bind 127.0.0.1 18443 >/dev/null 2>&1 &";
    machine.shell(MINUTE, line).expect_success();
    wait_for("a listener", MINUTE, || (!listeners(&machine).is_empty()).then_some(()));
    let said = make_run(&machine, 18443)
        .wait_for(MINUTE, |said| said.contains("Stop it, or choose another port").then(|| said.to_owned()));
    assert!(said.contains("Port 18443 is taken by python3 (process "), "{said}");
}
