//! The example on libvirt, on a real one; `make test` runs every example by itself too.

use std::process::Command;
use std::time::Duration;

use limen_support::libvirt::PrivateLibvirt;
use limen_support::process;

#[test]
fn the_libvirt_example_runs_a_real_guest_and_leaves_nothing() {
    let libvirt = PrivateLibvirt::start();
    let directory = libvirt.hidden_storage_dir().join("limen");
    // Cargo builds the examples beside the tests.
    let tests = std::env::current_exe().expect("this test is a file");
    let example = tests.ancestors().nth(2).expect("a target directory").join("examples/embed_libvirt");
    assert!(example.exists(), "{} is not built; cargo build --example embed_libvirt", example.display());

    let mut command = Command::new(example);
    let printed = process::run(command.arg(libvirt.uri()).arg(directory), Duration::from_secs(150)).expect_success();
    for line in ["create_vm succeeded", "the VM is running", "the VM is paused", "delete_vm succeeded"] {
        assert!(printed.contains(line), "no {line:?} in:\n{printed}");
    }
    assert_eq!(libvirt.virsh(&["list", "--all", "--name"]).expect_success().trim(), "");
    let volumes = libvirt.virsh(&["pool-list", "--name"]).expect_success();
    for pool in volumes.split_whitespace() {
        // What the host remembers of the Store stays.
        let volumes = libvirt.virsh(&["vol-list", pool]).expect_success();
        let left: Vec<_> = volumes.lines().filter(|line| !line.contains(".witness")).collect();
        assert_eq!(left.concat().trim(), "", "pool {pool}");
    }
}
