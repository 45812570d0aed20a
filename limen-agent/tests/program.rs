//! The program as it ships: what it needs, and what it says of itself.

use std::path::Path;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_limen-agent");

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output, text)
}

#[test]
fn it_links_neither_libvirt_nor_a_database() {
    let (ldd, libraries) = output(Command::new("ldd").arg(PROGRAM));
    assert!(ldd.status.success() && libraries.contains("libc.so"), "{libraries}");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the project");
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(root).args([
        "tree",
        "--offline",
        "--locked",
        "-p",
        "limen-agent",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    let (tree, crates) = output(&mut tree);
    assert!(tree.status.success() && crates.contains("hyper v"), "{crates}");
    for foreign in ["virt", "sqlx", "sqlite", "postgres", "libpq", "limen-core"] {
        assert!(!libraries.contains(foreign), "{foreign} in {libraries}");
        assert!(!crates.contains(foreign), "{foreign} in {crates}");
    }
}

#[test]
fn its_help_teaches_and_its_refusals_name_the_setting() {
    let (help, text) = output(Command::new(PROGRAM).arg("--help").env_clear());
    assert!(help.status.success());
    for word in
        ["PORT", "BIND_ADDRESS", "LOG_LEVEL", "AGENT_TOKEN_FILE", "TLS_KEY_FILE", "SAMPLE_SECONDS", "curl -s", "9000"]
    {
        assert!(text.contains(word), "no {word} in {text}");
    }
    let (refused, text) = output(Command::new(PROGRAM).env_clear().env("PORT", "x").env("AGENT_TOKEN", "canary"));
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(text, "limen-agent: PORT must be a number from 1 to 65535, not \"x\".\n");
}
