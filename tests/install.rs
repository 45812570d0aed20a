//! What the installer puts where, looked at in a directory that stands for the machine.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use limen_support::process::{self, Output};
use limen_support::project_dir;

const UNIT: &str = "etc/systemd/system/limen.service";
const SETTINGS: &str = "etc/systemd/system/limen.service.d/settings.conf";
const JOURNALD: &str = "etc/systemd/journald.conf.d/limen.conf";

fn run(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(project_dir().join("scripts/install.sh"));
    process::run(command.args(arguments).arg("--root").arg(root), Duration::from_secs(60))
}

/// A program, and the agent beside it.
fn install(root: &Path) {
    let programs = tempfile::tempdir().expect("a directory");
    let place = |name: &str| programs.path().join(name);
    for name in ["limen", "limen-agent"] {
        std::fs::copy("/bin/true", place(name)).expect("copied");
    }
    run(root, &["--bin", place("limen").to_str().expect("UTF-8")]).expect_success();
}

/// Files and directories below `root` with their modes.
fn found(root: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = std::fs::symlink_metadata(&path).expect("metadata");
            if metadata.is_dir() {
                directories.push(path.clone());
            }
            let name = path.strip_prefix(root).expect("below it").display().to_string();
            found.insert(name, metadata.permissions().mode() & 0o7777);
        }
    }
    found
}

/// Every setting of LIMEN's journald file.
fn kept(root: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(root.join(JOURNALD)).expect("journald's settings");
    text.lines().filter(|line| line.contains('=')).map(str::to_owned).collect()
}

#[test]
fn everything_is_where_the_guide_looks_for_it_and_settings_outlive_an_upgrade_and_the_end() {
    let root = tempfile::tempdir().expect("a directory");
    let root = root.path();
    install(root);
    let there = found(root);
    let link = std::fs::read_link(root.join("etc/systemd/system/limen-backup.service.d")).expect("a link");
    assert_eq!(link, Path::new("/etc/systemd/system/limen.service.d"), "the backup has the server's settings");
    for (name, mode) in [
        ("usr/bin/limen", 0o755),
        ("usr/bin/limen-agent", 0o755),
        (UNIT, 0o644),
        ("etc/systemd/system/limen-agent.service", 0o644),
        ("etc/systemd/system/limen-backup.service", 0o644),
        ("etc/systemd/system/limen-backup.timer", 0o644),
        (SETTINGS, 0o644),
        (JOURNALD, 0o644),
        ("etc/limen", 0o700),
        ("var/lib/limen", 0o711),
    ] {
        assert_eq!(there.get(name), Some(&mode), "{name} of {there:?}");
    }
    assert_eq!(kept(root), ["SystemMaxUse=1G", "SystemKeepFree=100M", "MaxRetentionSec=14day", "Compress=yes"]);
    let unit = std::fs::read_to_string(root.join(UNIT)).expect("the unit");
    assert!(unit.contains("ExecStart=/usr/bin/limen serve\n"));

    let mine = "[Service]\nEnvironment=ALLOWED_ORIGINS=https://www.darc.kr,https://darc.kr\n";
    std::fs::write(root.join(SETTINGS), mine).expect("written");
    std::fs::write(root.join(UNIT), "of an older version").expect("written");
    std::fs::write(root.join("var/lib/limen/limen.db"), "data").expect("written");
    install(root);
    assert_eq!(std::fs::read_to_string(root.join(UNIT)).expect("the unit"), unit);
    assert_eq!(kept(root).len(), 4, "its own figures do not count as stricter ones");
    run(root, &["--uninstall"]).expect_success();
    let left: Vec<String> = found(root).into_keys().filter(|name| root.join(name).is_file()).collect();
    assert_eq!(left, [SETTINGS, "var/lib/limen/limen.db"]);
    assert_eq!(std::fs::read_to_string(root.join(SETTINGS)).expect("settings"), mine);
    run(root, &["--uninstall"]).expect_success();
}

#[test]
fn a_stricter_limit_of_the_log_is_kept_and_a_wider_one_is_not() {
    for (main, other, expected) in [
        ("SystemMaxUse=200M", "", &["SystemKeepFree=100M", "MaxRetentionSec=14day", "Compress=yes"][..]),
        (
            "SystemMaxUse=1G\nMaxRetentionSec=1209600",
            "",
            &["SystemMaxUse=1G", "SystemKeepFree=100M", "MaxRetentionSec=14day", "Compress=yes"],
        ),
        (
            "#SystemMaxUse=5M\nSystemMaxUse=2T\nMaxRetentionSec=1month",
            "",
            &["SystemMaxUse=1G", "SystemKeepFree=100M", "MaxRetentionSec=14day", "Compress=yes"],
        ),
        ("SystemMaxUse=4G", "SystemMaxUse = 1023M\nSystemKeepFree=1G\nMaxRetentionSec=2days", &["Compress=yes"]),
        (
            "SystemKeepFree=50M\nMaxRetentionSec=0",
            "SystemMaxUse=",
            &["SystemMaxUse=1G", "SystemKeepFree=100M", "MaxRetentionSec=14day", "Compress=yes"],
        ),
    ] {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        let below = root.join("etc/systemd/journald.conf.d");
        std::fs::create_dir_all(&below).expect("directories");
        std::fs::write(root.join("etc/systemd/journald.conf"), format!("[Journal]\n{main}\n")).expect("written");
        std::fs::write(below.join("90-mine.conf"), format!("[Journal]\n{other}\n")).expect("written");
        for _ in 0..2 {
            install(root);
            assert_eq!(kept(root), expected, "{main} {other}");
        }
    }
}

#[test]
fn what_cannot_be_installed_is_said_and_leaves_nothing() {
    let root = tempfile::tempdir().expect("a directory");
    // /bin/true has no agent beside it.
    for arguments in [&["--bin", "/nowhere/limen"][..], &["--bin", "/bin/true"], &["--colour"]] {
        let refused = run(root.path(), arguments);
        assert!(refused.code == Some(1) && refused.stderr.starts_with("limen: "), "{refused:?}");
    }
    assert_eq!(found(root.path()).len(), 0);
}
