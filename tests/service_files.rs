//! The files that make LIMEN a service: the unit, its settings, and the script without systemd.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use limen_support::process::{self, Output};
use limen_support::{project_dir, server};

const QUICK: Duration = Duration::from_secs(60);

/// Lines `Name=value` of a unit, its comments left out.
fn lines(text: &str) -> Vec<(&str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

#[test]
fn the_unit_is_sound_and_exposes_little() {
    let unit = project_dir().join("scripts/limen.service");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold=15"]).arg(&unit);
    let output = process::run(&mut analyze, QUICK);
    assert_eq!(output.code, Some(0), "more than 1.5: {output:?}");

    let text = std::fs::read_to_string(&unit).expect("the unit");
    let lines = lines(&text);
    for wanted in [
        ("Type", "notify"),
        ("WatchdogSec", "30"),
        ("Restart", "always"),
        ("User", "limen"),
        ("StateDirectory", "limen"),
        ("DeviceAllow", "/dev/kvm rw"),
    ] {
        assert!(lines.contains(&wanted), "{wanted:?} is not in the unit");
    }
    let groups = lines.iter().find(|(name, _)| *name == "SupplementaryGroups").expect("groups").1;
    assert!(groups.split(' ').any(|group| group == "libvirt"), "libvirt's socket is for its group");
    let families = lines.iter().find(|(name, _)| *name == "RestrictAddressFamilies").expect("families").1;
    for family in ["AF_UNIX", "AF_INET", "AF_INET6"] {
        assert!(families.split(' ').any(|named| named == family), "{family}");
    }
}

#[test]
fn the_agents_unit_is_sound_exposes_little_and_comes_and_goes_with_the_server() {
    let unit = project_dir().join("scripts/limen-agent.service");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold=15"]).arg(&unit);
    let output = process::run(&mut analyze, QUICK);
    assert_eq!(output.code, Some(0), "more than 1.5: {output:?}");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    let lines = lines(&text);
    for wanted in [("Type", "notify"), ("WatchdogSec", "30"), ("Restart", "always"), ("PartOf", "limen.service")] {
        assert!(lines.contains(&wanted), "{wanted:?} is not in the unit");
    }
    // They would hide what it is to tell of.
    for hiding in [("ProcSubset", "pid"), ("ProtectHome", "yes"), ("ProtectHome", "tmpfs")] {
        assert!(!lines.contains(&hiding), "{hiding:?} is in the unit");
    }
    let server = std::fs::read_to_string(project_dir().join("scripts/limen.service")).expect("the unit");
    let wants = server.lines().find_map(|line| line.strip_prefix("Wants=")).expect("what it wants");
    assert!(wants.split(' ').any(|unit| unit == "limen-agent.service"), "{wants}");

    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("limen-agent.service");
    std::fs::write(&place, text.replace("/usr/bin/limen-agent", "/bin/true")).expect("written");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&place);
    let output = process::run(&mut verify, QUICK);
    let ours: Vec<&str> = output.stderr.lines().filter(|line| line.contains("limen-agent.service")).collect();
    assert!(output.code == Some(0) && ours.is_empty(), "{output:?}");
}

#[test]
fn the_backups_unit_is_as_tight_as_the_servers_and_has_its_settings() {
    let unit = project_dir().join("scripts/limen-backup.service");
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold=15"]).arg(&unit);
    let output = process::run(&mut analyze, QUICK);
    assert_eq!(output.code, Some(0), "more than 1.5: {output:?}");

    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    let text = std::fs::read_to_string(&unit).expect("the unit").replace("/usr/bin/limen", "/bin/true");
    std::fs::write(place("limen-backup.service"), text).expect("written");
    let timer = project_dir().join("scripts/limen-backup.timer");
    std::fs::copy(timer, place("limen-backup.timer")).expect("copied");
    std::fs::create_dir(place("limen.service.d")).expect("a directory");
    std::os::unix::fs::symlink(place("limen.service.d"), place("limen-backup.service.d")).expect("a link");
    let verify = || {
        let mut verify = Command::new("systemd-analyze");
        verify.env("SYSTEMD_UNIT_PATH", format!("{}:", directory.path().display()));
        verify.args(["verify", "--man=no"]);
        let output = process::run(verify.args([place("limen-backup.service"), place("limen-backup.timer")]), QUICK);
        let ours = output.stderr.lines().filter(|line| line.contains("/limen"));
        ours.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(verify(), Vec::<String>::new());
    // What is wrong in the server's settings is wrong here: so they hold for both.
    std::fs::write(place("limen.service.d/settings.conf"), "[Service]\nNoSuchThing=1\n").expect("written");
    assert!(verify().iter().any(|line| line.contains("NoSuchThing")), "the settings are not read");
}

#[test]
fn systemd_understands_the_unit_with_its_settings() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name);
    let text = std::fs::read_to_string(project_dir().join("scripts/limen.service")).expect("the unit");
    // The program is looked for.
    std::fs::write(place("limen.service"), text.replace("/usr/bin/limen", "/bin/true")).expect("written");
    let settings =
        std::fs::read_to_string(project_dir().join("scripts/limen.service.d/settings.conf")).expect("settings");
    let given: String = settings
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.contains('=') && !rest.starts_with(' '))
                .unwrap_or(line)
                .to_owned()
                + "\n"
        })
        .collect();
    assert!(given.contains("\nEnvironment=ALLOWED_ORIGINS=https://"), "{given}");
    assert!(lines(&given).iter().all(|(name, _)| ["Environment", "LoadCredential"].contains(name)), "{given}");
    for (_, value) in lines(&given).iter().filter(|(name, _)| *name == "Environment") {
        for setting in value.split(' ') {
            let (name, value) = setting.split_once('=').expect("a setting");
            let is_secret = ["SECRET", "PASSWORD", "DATABASE_URL"].iter().any(|word| name.contains(word));
            assert!(!is_secret || (name.ends_with("_FILE") && value.starts_with("%d/")), "{setting} is for all to see");
        }
    }
    std::fs::create_dir(place("limen.service.d")).expect("a directory");
    std::fs::write(place("limen.service.d/settings.conf"), given).expect("written");
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).arg(place("limen.service"));
    let output = process::run(&mut verify, QUICK);
    let ours: Vec<&str> = output.stderr.lines().filter(|line| line.contains("limen.service")).collect();
    assert!(output.code == Some(0) && ours.is_empty(), "{output:?}");
}

/// The agent's, of a server on `port`: beyond those that tests are given.
fn agent_port(port: u16) -> u16 {
    port + 12_500
}

/// The script on a machine whose systemd knows no limen.service, or that has none.
fn control(data: &Path, action: &str, port: u16) -> Output {
    let tools = data.parent().expect("a parent").join("tools");
    if !tools.exists() {
        std::fs::create_dir(&tools).expect("a directory");
        std::os::unix::fs::symlink("/bin/false", tools.join("systemctl")).expect("a link");
    }
    let mut path = tools.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(project_dir().join("scripts/limen-control.sh"));
    command.arg(action).env_clear().env("PATH", path);
    command.env("HOME", "/root").env("LIMEN_BIN", server::binary()).env("LIMEN_DATA_DIR", data);
    command.env("AGENT_URL", format!("http://127.0.0.1:{}", agent_port(port)));
    command.env("HYPERVISOR_URI", "sim:///?vms=1").env("BIND_ADDRESS", "127.0.0.1").env("PORT", port.to_string());
    process::run(&mut command, QUICK)
}

#[test]
fn without_systemd_the_script_starts_and_stops_by_a_pid_file() {
    let home = tempfile::tempdir().expect("a directory");
    let data = home.path().join("data");
    let port = process::free_port();
    let pid = || std::fs::read_to_string(data.join("limen.pid")).expect("a pid").trim().to_owned();
    let answers = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let agent_answers = || std::net::TcpStream::connect(("127.0.0.1", agent_port(port))).is_ok();
    let agent_pid = || std::fs::read_to_string(data.join("limen-agent.pid")).unwrap_or_default().trim().to_owned();

    assert_eq!(control(&data, "status", port).code, Some(3));
    control(&data, "stop", port).expect_success();
    let said = control(&data, "start", port).expect_success();
    assert!(answers() && said.contains(&format!("http://127.0.0.1:{port}")), "{said}");
    let (first, first_agent) = (pid(), agent_pid());
    assert!(agent_answers());
    assert!(control(&data, "start", port).expect_success().contains("already"));
    assert_eq!((pid(), agent_pid()), (first.clone(), first_agent.clone()));
    let status = control(&data, "status", port).expect_success();
    for process in [&first, &first_agent] {
        assert!(status.contains(&format!("(process {process})")), "{status}");
    }
    control(&data, "restart", port).expect_success();
    assert_ne!(pid(), first);
    assert_ne!(agent_pid(), first_agent);
    assert!(answers() && agent_answers());

    // Killed, and its number given to somebody else: neither counts as the server.
    process::run(Command::new("kill").args(["-KILL", &pid()]), QUICK).expect_success();
    process::wait_for("the end of the server", QUICK, || (!answers()).then_some(()));
    assert_eq!(control(&data, "status", port).code, Some(3));
    let mut other = Command::new("sleep").arg("600").spawn().expect("sleep");
    std::fs::write(data.join("limen.pid"), other.id().to_string()).expect("written");
    assert_eq!(control(&data, "status", port).code, Some(3));
    control(&data, "stop", port).expect_success();
    assert!(other.try_wait().expect("a process").is_none(), "somebody else was stopped");
    other.kill().expect("killed");
    other.wait().expect("ended");

    control(&data, "start", port).expect_success();
    control(&data, "stop", port).expect_success();
    assert!(!answers() && !data.join("limen.pid").exists());
    assert!(!agent_answers() && !data.join("limen-agent.pid").exists());
    // What keeps it from starting is told.
    let holder = std::net::TcpListener::bind(("127.0.0.1", port)).expect("the port");
    let refused = control(&data, "start", port);
    assert!(refused.code == Some(1) && refused.stderr.contains("PORT"), "{refused:?}");
    drop(holder);
    assert_eq!(control(&data, "dance", port).code, Some(2));
}
