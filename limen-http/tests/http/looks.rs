//! Local commands that only look.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::process::{PASSWORD, Running, limen, succeed};

/// Everything under a directory, to the byte; SQLite's shared memory and an empty journal are no data.
fn everything(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(everything(&path));
            all.push((path, Vec::new()));
        } else if path.extension().is_none_or(|extension| extension != "db-shm")
            && !(path.extension().is_some_and(|extension| extension == "db-wal")
                && entry.metadata().is_ok_and(|m| m.len() == 0))
        {
            all.push((path.clone(), std::fs::read(path).expect("read")));
        }
    }
    all.sort();
    all
}

#[test]
fn what_only_looks_makes_and_changes_nothing() {
    let home = TempDir::new().expect("a directory");
    let looks: [&[&str]; 7] = [
        &["check"],
        &["vm", "list"],
        &["user", "list"],
        &["user", "quota"],
        &["image", "list"],
        &["op", "list"],
        &["audit", "list"],
    ];
    let look = |args: &[&str]| limen(home.path()).arg("--local").args(args).output().expect("runs");
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    for args in looks {
        let output = look(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {output:?}");
        assert!(said(&output).contains("no store here yet"), "{args:?}: {output:?}");
    }
    assert_eq!(everything(home.path()), [], "nothing was made");

    // A server that was killed leaves a journal, which is read and not worked in.
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    drop(server);
    std::fs::remove_file(home.path().join("log")).expect("removed");
    let before = everything(home.path());
    for args in looks {
        let output = look(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        assert!(everything(home.path()) == before, "{args:?} changed something");
    }

    // Another schema is neither changed nor misread, and a script can tell it from a finding.
    let file = home.path().join("data/limen.db");
    let schema = |sql: &str| {
        let code = "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()";
        succeed(Command::new("python3").args(["-c", code]).arg(&file).arg(sql));
    };
    let refused = |word: &str| {
        let before = everything(home.path());
        let (check, list) = (look(&["check"]), look(&["vm", "list"]));
        assert_eq!((check.status.code(), list.status.code()), (Some(3), Some(1)), "{check:?} {list:?}");
        assert!(said(&check).contains(word) && said(&list).contains(word), "{check:?}");
        assert!(everything(home.path()) == before, "something changed");
    };
    schema("INSERT INTO schema_migrations (version, name, applied_at) VALUES (9999, 'later', 0)");
    refused("newer LIMEN");
    schema("DELETE FROM schema_migrations WHERE version <> 1");
    refused("up to date");
}

#[test]
fn the_figures_of_a_vm_are_shown_through_a_server_and_without() {
    let home = TempDir::new().expect("a directory");
    std::fs::write(home.path().join("known"), "").expect("written");
    let (server, _) = Running::start(home.path(), &[("ADMIN_PASSWORD", PASSWORD)]);
    let mut login = limen(home.path());
    login.args(["--url", &server.url, "login", "--password-stdin"]);
    assert!(crate::process::with_stdin(&mut login, PASSWORD).status.success());
    let listed = succeed(limen(home.path()).args(["vm", "list", "--state", "running", "--json"]));
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let name = listed[0]["name"].as_str().expect("a VM that runs");
    let doors = [vec!["vm", "stats"], vec!["--local", "vm", "stats"]];
    for door in &doors {
        let shown = succeed(limen(home.path()).args(door).arg(name));
        assert!(shown.contains("CPU_%") && shown.contains("RECEIVED_B/S"), "{shown}");
        let told = succeed(limen(home.path()).args(door).args([name, "--json"]));
        let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
        assert!(told["memory_mib"].as_u64() > Some(0) && told["stale"] == false, "{told}");
        let nobody = limen(home.path()).args(door).arg("nobody").output().expect("runs");
        assert_eq!(nobody.status.code(), Some(4), "{nobody:?}");
    }
    succeed(limen(home.path()).args(["vm", "power-off", name]));
    let refused = limen(home.path()).args(&doors[0]).arg(name).output().expect("runs");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("does not run"), "{refused:?}");
    server.stop();
}
