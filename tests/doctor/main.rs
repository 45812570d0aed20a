//! `limen doctor`: each fault is made for real on a machine of the test's own, is found, alone, and
//! is gone once the command that doctor prints was run.

mod faults;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use limen_support::machine::Machine;
use limen_support::process::{self, Output};
use limen_support::{agent, libvirt, project_dir, server};
use serde_json::Value;

/// A machine that LIMEN serves on, and is well.
struct Ward {
    machine: Machine,
    base: PathBuf,
}

/// What doctor said.
#[derive(Debug)]
struct Findings {
    code: i32,
    took: Duration,
    /// The id and the command of each.
    found: Vec<(String, String)>,
    said: String,
}

impl Ward {
    fn admit() -> Self {
        let machine = Machine::start();
        limen_support::copy_tree(&libvirt::prepared_capabilities(), &machine.dir().join("cache"));
        let base = machine.dir().join("limen");
        std::fs::create_dir(&base).expect("make a directory");
        let script = project_dir().join("tests/doctor/machine.sh");
        let line = format!("bash {script:?} {base:?} {:?} {:?}", server::binary(), agent::binary());
        machine.shell(Duration::from_secs(120), &line).expect_success();
        Self { machine, base }
    }

    /// Runs bash with the settings of this machine, as root.
    fn bash(&self, line: &str) -> Output {
        self.bash_as("root", Duration::from_secs(60), line)
    }

    fn bash_as(&self, user: &str, deadline: Duration, line: &str) -> Output {
        let enter = self.machine.enter();
        let settled =
            format!("set -a; . {}/env; set +a; export base={}; {line}", self.base.display(), self.base.display());
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(["env", "-i", "HOME=/nonexistent", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["runuser", "-u", user, "--", "bash", "-c", &settled]);
        process::run(&mut command, deadline)
    }

    /// Runs a line of bash as root, and keeps what it does to the settings.
    fn settle(&self, line: &str) {
        let keep = r#"export -p | grep -vE ' (HOME|PWD|OLDPWD|SHLVL|_|base)=' >"$base/env.new" && mv "$base/env.new" "$base/env""#;
        self.bash(&format!("{line}\n{keep}")).expect_success();
    }

    fn doctor(&self, fault: &Fault<'_>) -> Findings {
        let begun = Instant::now();
        // What only doctor is to see, and not libvirt, is mounted for it alone.
        let alone = if fault.shows.is_empty() { "" } else { "unshare --mount" };
        let line = format!("{alone} bash -c '{} exec limen doctor --json {}'", fault.shows, fault.arguments);
        let output = self.bash_as(fault.user, Duration::from_secs(30), &line);
        let took = begun.elapsed();
        let told: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let found = told["findings"].as_array().expect("findings").iter().map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap_or_else(|| panic!("no {key} in {finding}")).to_owned();
            assert!(text("message").ends_with('.') || text("message").contains(':'), "{finding}");
            (text("id"), text("command"))
        });
        Findings { code: output.code.unwrap_or(-1), took, found: found.collect(), said: output.stdout }
    }

    /// Makes a fault, sees it found and nothing else, runs the command, and sees it gone.
    fn treat(&self, fault: &Fault<'_>) {
        self.settle(fault.makes);
        let before = self.doctor(fault);
        let ids: Vec<&str> = before.found.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, [fault.id], "after {}: {}", fault.makes, before.said);
        let warns = before.said.contains(r#""weight": "warning""#);
        assert_eq!(before.code, i32::from(!warns), "{before:?}");
        let (_, command) = &before.found[0];
        eprintln!("{}: {command}", fault.id);
        self.settle(command);
        // A service that was just started may take its time.
        let mut after = self.doctor(fault);
        for _ in 0..20 {
            if after.found.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
            after = self.doctor(fault);
        }
        assert_eq!(after.found, [], "{} after {command}", fault.id);
        assert_eq!(after.code, 0);
        // The settings are those of before, and whatever else the fault has left is taken away.
        self.bash(&format!("{}\ncp $base/conf/env $base/env", fault.clears)).expect_success();
    }
}

/// A fault, in lines of bash.
#[derive(Clone, Copy)]
struct Fault<'a> {
    id: &'a str,
    makes: &'a str,
    clears: &'a str,
    user: &'a str,
    arguments: &'a str,
    shows: &'a str,
}

/// A fault of this name, made so.
const fn fault<'a>(id: &'a str, makes: &'a str) -> Fault<'a> {
    Fault { id, makes, clears: "", user: "root", arguments: "", shows: "" }
}

impl<'a> Fault<'a> {
    /// Looked at as this user.
    const fn seen_by(mut self, user: &'a str) -> Self {
        self.user = user;
        self
    }

    /// Looked at with these arguments.
    const fn with(mut self, arguments: &'a str) -> Self {
        self.arguments = arguments;
        self
    }

    /// With mounts that doctor alone sees.
    const fn shown(mut self, mounts: &'a str) -> Self {
        self.shows = mounts;
        self
    }

    /// What has to be taken away beside what the command mends.
    const fn cleared_by(mut self, line: &'a str) -> Self {
        self.clears = line;
        self
    }
}

/// A file system that answers nothing: FUSE, whose server never reads a question.
fn mount_hung(ward: &Ward, place: &Path) -> File {
    let fuse = File::options().read(true).write(true).open("/dev/fuse").expect("/dev/fuse");
    let enter = ward.machine.enter();
    let mut mount = Command::new(&enter[0]);
    let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
    mount.args(&enter[1..]).args(["mount", "-i", "-t", "fuse", "-o", options, "limen-hung"]).arg(place);
    let status = mount.stdin(fuse.try_clone().expect("a second handle")).status().expect("mount");
    assert!(status.success());
    fuse
}

#[test]
fn every_fault_is_found_alone_and_mended_by_the_command() {
    let ward = Ward::admit();
    let well = ward.doctor(&fault("", "").with("--url https://localhost:8443"));
    assert_eq!((well.code, well.found.len()), (0, 0), "a machine that is well: {}", well.said);
    let told = ward.bash("limen doctor").expect_success();
    assert!(told.ends_with("Nothing is wrong.\n"), "{told}");

    let mut seen = std::collections::BTreeSet::from(["data_dir_hung"]);
    for fault in faults::ALL {
        ward.treat(fault);
        seen.insert(fault.id);
    }

    // A data directory on a file system that hangs.
    ward.settle("mkdir -m 711 $base/hung; export LIMEN_DATA_DIR=$base/hung");
    let fuse = mount_hung(&ward, &ward.base.join("hung"));
    let mut hung = fault("data_dir_hung", "true");
    hung.clears = "rmdir $base/hung";
    ward.treat(&hung);
    drop(fuse);

    let document = std::fs::read_to_string(project_dir().join("docs/doctor.md")).expect("docs/doctor.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let untried: Vec<&str> = rows.filter(|id| !seen.contains(id)).collect();
    assert!(untried.is_empty(), "no fault was made for {untried:?}");

    // All that can hang, at once.
    ward.settle(
        "chmod 711 $base/empty; kill -STOP $(head -1 $base/pg/data/postmaster.pid)
         for one in libvirtd limen-agent limen nginx; do kill -STOP $(cat $base/$one.pid); done",
    );
    let fuse = mount_hung(&ward, &ward.base.join("empty"));
    ward.settle("export LIMEN_DATA_DIR=$base/empty");
    let hung = ward.doctor(&fault("", "").with("--url https://localhost:8443"));
    drop(fuse);
    let mut ids: Vec<&str> = hung.found.iter().map(|(id, _)| id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(
        ids,
        ["agent_away", "data_dir_hung", "database_hung", "libvirt_hung", "port_taken", "proxy_away"],
        "{}",
        hung.said
    );
    assert!(hung.took < Duration::from_secs(10), "it took {:?}", hung.took);
}
