//! The Debian package: what is in it, and what installing, upgrading, removing and purging it leave, on
//! a copy of this machine that nobody else sees. With systemd at work it is `tests/booted.sh`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use limen_support::process::{self, Output};
use limen_support::{project_dir, server};

const PATIENCE: Duration = Duration::from_secs(180);

fn build(to: &Path) -> PathBuf {
    let mut command = Command::new(project_dir().join("scripts/deb.sh"));
    command.arg("--to").arg(to).arg("--bin").arg(server::binary());
    process::run(&mut command, PATIENCE).expect_success();
    let found = std::fs::read_dir(to).expect("a directory").map(|entry| entry.expect("an entry").path());
    let packages: Vec<PathBuf> = found.filter(|path| path.extension().is_some_and(|ext| ext == "deb")).collect();
    assert_eq!(packages.len(), 1, "{packages:?}");
    packages.into_iter().next().expect("one")
}

fn ask(package: &Path, arguments: &[&str]) -> String {
    let (option, fields) = arguments.split_first().expect("an option");
    process::run(Command::new("dpkg-deb").arg(option).arg(package).args(fields), PATIENCE).expect_success()
}

#[test]
fn the_package_has_everything_in_its_place_and_asks_for_what_it_needs() {
    let directory = tempfile::tempdir().expect("a directory");
    let package = build(directory.path());
    let content = ask(&package, &["-c"]);
    let found = |path: &str| content.lines().find(|line| line.ends_with(&format!(" ./{path}"))).map(str::to_owned);
    for (path, mode) in [
        ("usr/bin/limen", "-rwxr-xr-x"),
        ("usr/bin/limen-agent", "-rwxr-xr-x"),
        ("usr/lib/systemd/system/limen.service", "-rw-r--r--"),
        ("usr/lib/systemd/system/limen-agent.service", "-rw-r--r--"),
        ("usr/lib/systemd/system/limen-backup.service", "-rw-r--r--"),
        ("usr/lib/systemd/system/limen-backup.timer", "-rw-r--r--"),
        ("usr/share/doc/limen/ko/operations-guide.md", "-rw-r--r--"),
        ("usr/lib/limen/scripts/agent.sh", "-rw-r--r--"),
        ("usr/share/doc/limen/agent.md", "-rw-r--r--"),
        ("etc/systemd/system/limen.service.d/settings.conf", "-rw-r--r--"),
        ("etc/limen/", "drwx------"),
        ("var/lib/limen/", "drwx--x--x"),
        ("usr/lib/limen/scripts/install.sh", "-rwxr-xr-x"),
        ("usr/lib/limen/scripts/limen-control.sh", "-rwxr-xr-x"),
        ("usr/share/doc/limen/copyright", "-rw-r--r--"),
        ("usr/share/doc/limen/service.md", "-rw-r--r--"),
    ] {
        let line = found(path).unwrap_or_else(|| panic!("{path} is not in\n{content}"));
        assert!(line.starts_with(&format!("{mode} root/root")), "{line}");
    }
    let foreign: Vec<&str> = content.lines().filter(|line| !line.contains(" root/root ")).collect();
    assert!(foreign.is_empty(), "{foreign:?}");
    for path in ["etc/systemd/journald.conf.d/", "etc/systemd/system/limen.service"] {
        assert_eq!(found(path), None, "it is the machine's");
    }
    let depends = ask(&package, &["-f", "Depends"]);
    for wanted in ["libc6 (>=", "libvirt0 (>=", "libvirt-daemon-system", "adduser"] {
        assert!(depends.contains(wanted), "{wanted} of {depends}");
    }
    let project = std::fs::read_to_string(project_dir().join("Cargo.toml")).expect("a manifest");
    let version = ask(&package, &["-f", "Version"]);
    assert!(project.contains(&format!("version = \"{}\"", version.trim())), "{version}");
}

/// Runs a shell's lines as root of a copy of this machine, whose changes go with it.
fn on_a_copy(package: &Path, lines: &str) -> Output {
    let enter = r#"
        set -e
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/upper /mnt/work /mnt/root
        mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
        mount --rbind /proc /mnt/root/proc
        mount --bind /dev /mnt/root/dev
        mount -t tmpfs tmpfs /mnt/root/run
        cp "$1" /mnt/root/run/limen.deb
        exec chroot /mnt/root bash -euxc "$2"
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", enter, "sh"]).arg(package).arg(lines);
    process::run(command.env("DEBIAN_FRONTEND", "noninteractive"), PATIENCE)
}

#[test]
fn a_purged_package_leaves_the_disks_of_guests_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let package = build(directory.path());
    let lines = r#"
        named() { find /usr /etc -iname '*limen*' | sort; }
        before=$(named)
        dpkg -i /run/limen.deb
        limen version
        limen-agent --version
        id -nG limen | tr ' ' '\n' | grep -x libvirt
        test "$(stat -c '%U:%G %a' /var/lib/limen)" = 'limen:limen 711'
        test "$(stat -c '%U:%G %a' /etc/limen)" = 'root:root 700'
        grep -x 'SystemMaxUse=1G' /etc/systemd/journald.conf.d/limen.conf
        echo '[Service]' >/etc/systemd/system/limen.service.d/settings.conf
        echo secret >/etc/limen/jwt-secret
        install -d -o limen /var/lib/limen/vms
        echo disk >/var/lib/limen/vms/disk

        : an upgrade leaves what the operator wrote
        dpkg -i /run/limen.deb
        grep -x '\[Service\]' /etc/systemd/system/limen.service.d/settings.conf

        : so does removing it
        dpkg -r limen
        test ! -e /usr/bin/limen
        test ! -e /usr/bin/limen-agent
        test ! -e /usr/lib/systemd/system/limen.service
        test ! -e /usr/lib/systemd/system/limen-agent.service
        test ! -e /etc/systemd/journald.conf.d/limen.conf
        grep -x secret /etc/limen/jwt-secret
        grep -x '\[Service\]' /etc/systemd/system/limen.service.d/settings.conf

        : with purging it goes all but the disks
        dpkg -P limen
        test ! -e /etc/limen
        test ! -e /etc/systemd/system/limen.service.d
        ! getent passwd limen
        ! getent group limen
        test "$(named)" = "$before"
        grep -x disk /var/lib/limen/vms/disk

        : and what comes later takes the disks over
        dpkg -i /run/limen.deb
        test "$(stat -c %U /var/lib/limen)" = limen
        grep -x disk /var/lib/limen/vms/disk
    "#;
    let users = || std::fs::read_to_string("/etc/passwd").expect("the users");
    let before = users();
    on_a_copy(&package, lines).expect_success();
    assert_eq!(users(), before, "this machine itself is as it was");
}
