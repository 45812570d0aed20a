//! A whole installation on real back ends: the `limen` program as a server, a
//! libvirtd with QEMU and a database, and the judge of what is left on them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Client, Response};
use crate::libvirt::PrivateLibvirt;
use crate::postgres::{PrivatePostgres, psql};
use crate::process::{self, Output};
use crate::server::{Options, Server};

/// Random enough for a server that refuses placeholders.
const JWT_SECRET: &str = "2ede4e2518e913967aa82a79478b1c43b67163b9b818f64e67069c689f5df1cb";

/// How long `Prefer: wait` waits for an operation.
const WAIT: u32 = 50;

/// Prints the rows of a query as psql does; what it changes is kept.
const SQLITE: &str = "import sqlite3, sys
file = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
for row in file.execute(sys.argv[2]): print(*row, sep='|')";

/// Runs SQL in a SQLite file, for at most 20 s; the rows come unaligned, without header.
pub fn sqlite(file: &Path, sql: &str) -> Output {
    process::run(Command::new("python3").args(["-c", SQLITE]).arg(file).arg(sql), Duration::from_secs(20))
}

/// A server, its host and its Store.
#[derive(Debug)]
pub struct Site {
    /// The server.
    pub server: Server,
    /// Its host.
    pub libvirt: PrivateLibvirt,
    postgres: Option<(PrivatePostgres, String)>,
    volumes: PathBuf,
}

/// Which database the server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// The embedded one, in the data directory.
    Sqlite,
    /// A PostgreSQL of the test's own.
    Postgres,
}

impl Site {
    /// Starts an installation whose volumes are where the server's process cannot see them.
    ///
    /// # Panics
    /// When a part of it does not come up; with the reason.
    pub fn start(database: Database) -> Self {
        Self::start_with(database, Server::options())
    }

    /// The same, with more options for the server.
    ///
    /// # Panics
    /// When a part of it does not come up; with the reason.
    pub fn start_with(database: Database, options: Options) -> Self {
        let libvirt = PrivateLibvirt::start();
        let hidden = libvirt.hidden_storage_dir().join("limen");
        let volumes = libvirt.dir().join("lib/images/limen");
        Self::assemble(libvirt, volumes, database, options.env("LIMEN_VMS_DIR", hidden))
    }

    /// The same, with the volumes in the data directory, where they are without a setting.
    ///
    /// # Panics
    /// When a part of it does not come up; with the reason.
    pub fn start_in_data_dir(database: Database, options: Options) -> Self {
        let mut site = Self::assemble(PrivateLibvirt::start(), PathBuf::new(), database, options);
        site.volumes = site.server.data_dir().join("vms");
        site
    }

    fn assemble(libvirt: PrivateLibvirt, volumes: PathBuf, database: Database, options: Options) -> Self {
        let postgres = (database == Database::Postgres).then(|| {
            let postgres = PrivatePostgres::start();
            let url = postgres.create_database();
            (postgres, url)
        });
        let mut options = options.env("HYPERVISOR_URI", libvirt.uri()).env("VIRT_TYPE", "qemu");
        if let Some((_, url)) = &postgres {
            options = options.env("DATABASE_URL", url).env("JWT_SECRET", JWT_SECRET);
        }
        let server = options.start();
        Self { server, libvirt, postgres, volumes }
    }

    /// The URL of its database, where that is PostgreSQL.
    pub fn database_url(&self) -> Option<&str> {
        self.postgres.as_ref().map(|(_, url)| url.as_str())
    }

    /// Its PostgreSQL.
    ///
    /// # Panics
    /// When its database is another one.
    pub fn postgres(&self) -> &PrivatePostgres {
        &self.postgres.as_ref().expect("a site on PostgreSQL").0
    }

    /// Ends its PostgreSQL as a crash does and starts it again.
    ///
    /// # Panics
    /// When its database is another one, or does not come up.
    pub fn restart_database(&self) {
        self.postgres().restart_immediate();
    }

    /// Rows of its database, unaligned.
    ///
    /// # Panics
    /// When the database refuses.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> Vec<String> {
        let output = match &self.postgres {
            Some((_, url)) => psql(url, sql),
            None => sqlite(&self.server.data_dir().join("limen.db"), sql),
        };
        output.expect_success().lines().map(str::to_owned).collect()
    }

    /// Adds an image with the program, and answers its id.
    ///
    /// # Panics
    /// When the program refuses.
    pub fn add_image(&self, name: &str, format: &str, file: &Path) -> String {
        let mut add = self.server.command();
        add.args(["--json", "image", "add", "--name", name, "--format", format]).arg(file);
        let said = process::run(&mut add, Duration::from_secs(60)).expect_success();
        let image: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        text(&image, "id")
    }

    /// Names of the files that LIMEN has on the host, but for what the host remembers of the Store.
    ///
    /// # Panics
    /// When the directory cannot be read.
    pub fn files(&self) -> BTreeSet<String> {
        let Ok(entries) = std::fs::read_dir(&self.volumes) else { return BTreeSet::new() };
        let names = entries.map(|entry| entry.expect("read a directory").file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.ends_with(".witness")).collect()
    }

    /// Where one of them is, as this process sees it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.volumes.join(name)
    }

    /// UUIDs of the domains on the host.
    pub fn domains(&self) -> BTreeSet<String> {
        let list = self.libvirt.virsh(&["list", "--all", "--uuid"]).expect_success();
        list.split_whitespace().map(str::to_owned).collect()
    }

    /// What `limen check` finds, straight on the Store and the host, a finding a line.
    ///
    /// # Panics
    /// When it does not check at all.
    #[track_caller]
    pub fn check(&self) -> Vec<String> {
        let mut check = self.server.command();
        check.args(["--local", "check", "--json"]);
        let output = process::run(&mut check, Duration::from_secs(60));
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        let findings = report["findings"].as_array().unwrap_or_else(|| panic!("no findings: {output:?}"));
        assert_eq!(output.code == Some(0), findings.is_empty(), "{output:?}");
        findings.iter().map(|f| format!("{} {}: {}", text(f, "kind"), text(f, "subject"), text(f, "detail"))).collect()
    }

    /// Everything in which database, host and files do not agree; `foreign` are domains of others.
    pub fn disagreements(&self, foreign: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, recorded: BTreeSet<String>, held: BTreeSet<String>| {
            found.extend(held.difference(&recorded).map(|id| format!("{what} {id} is there without a row")));
            found.extend(recorded.difference(&held).map(|id| format!("{what} {id} has a row and is not there")));
        };
        let rows = |sql: &str| -> BTreeSet<String> { self.sql(sql).into_iter().collect() };
        let mut domains = self.domains();
        domains.retain(|id| !foreign.contains(&id.as_str()));
        compare("domain", rows("SELECT id FROM vms"), domains.clone());
        let mut statuses = rows("SELECT vm_id FROM statuses");
        statuses.retain(|id| !foreign.contains(&id.as_str()));
        compare("status", statuses, domains);
        let volumes: BTreeSet<String> =
            self.files().into_iter().filter(|name| name.ends_with(".raw") || name.ends_with(".qcow2")).collect();
        compare("volume", rows("SELECT id || '.' || format FROM volumes"), volumes);
        for (what, sql) in [
            ("an operation is not finished", "SELECT id, kind, state FROM operations WHERE finished = 0"),
            ("a lock is held", "SELECT resource FROM operation_locks"),
            ("a VM is half made", "SELECT id, phase FROM vms WHERE phase <> 'defined'"),
            (
                "an owner's use is not the sum over the VMs",
                "SELECT id, used_vms FROM owners WHERE used_vms <> (SELECT COUNT(*) FROM vms WHERE owner_id = owners.id)",
            ),
            (
                "a volume has no VM and no image",
                "SELECT id FROM volumes WHERE image_id IS NULL AND vm_id NOT IN (SELECT id FROM vms)",
            ),
        ] {
            found.extend(self.sql(sql).into_iter().map(|row| format!("{what}: {row}")));
        }
        found
    }

    /// Waits until nothing disagrees, for this judge and for `limen check`.
    ///
    /// # Panics
    /// With what does, at the deadline.
    #[track_caller]
    pub fn wait_until_in_order(&self, deadline: Duration, foreign: &[&str]) {
        let end = Instant::now() + deadline;
        loop {
            let mut found = self.disagreements(foreign);
            if found.is_empty() {
                found = self.check();
            }
            if found.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "not in order after {deadline:?}: {found:#?}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// What a guest says on its serial console until `text` is in it.
    ///
    /// # Panics
    /// When it is not said within a minute and a half.
    #[track_caller]
    pub fn console_until(&self, vm: &str, text: &str) -> String {
        let mut console = self.server.command();
        console.args(["vm", "console", vm, "--serial", "--until", text, "--timeout", "90"]);
        process::run(&mut console, Duration::from_secs(120)).expect_success()
    }
}

/// A text in a JSON object.
///
/// # Panics
/// When it is not there.
#[track_caller]
pub fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

/// A VM of 64 MiB with nothing else.
pub fn bare(name: &str) -> Value {
    json!({ "name": name, "vcpus": 1, "memory_mib": 64 })
}

/// Creates a VM and answers its id.
///
/// # Panics
/// When that does not succeed.
pub async fn create(client: &Client, create: &Value) -> String {
    let operation = client.waiting(WAIT).post("/api/vms", create).await.expect(200).json();
    text(&operation, "vm_id")
}

/// A VM.
///
/// # Panics
/// When it is not there.
pub async fn vm(client: &Client, id: &str) -> Value {
    client.get(&format!("/api/vms/{id}")).await.expect(200).json()
}

/// Asks for a power action and waits for its end.
pub async fn power(client: &Client, id: &str, action: &str) -> Response {
    client.waiting(WAIT).post(&format!("/api/vms/{id}/power"), &json!({ "action": action })).await
}

/// Deletes a VM, which must succeed.
///
/// # Panics
/// When it does not.
pub async fn delete(client: &Client, id: &str) {
    client.waiting(WAIT).delete(&format!("/api/vms/{id}")).await.expect(200);
    client.get(&format!("/api/vms/{id}")).await.expect(404);
}

/// Waits until a VM is as `wanted`, and answers how long that took.
///
/// # Panics
/// With the VM, at the deadline.
pub async fn wait_for_vm(
    client: &Client,
    id: &str,
    deadline: Duration,
    mut wanted: impl FnMut(&Response) -> bool + Send,
) -> Duration {
    let begun = Instant::now();
    loop {
        let answer = client.get(&format!("/api/vms/{id}")).await;
        if wanted(&answer) {
            return begun.elapsed();
        }
        let body = String::from_utf8_lossy(&answer.body);
        assert!(begun.elapsed() < deadline, "not within {deadline:?}: {} {body}", answer.status);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether an answer shows a VM in this state.
pub fn is_in(answer: &Response, state: &str) -> bool {
    answer.status == 200 && answer.json()["status"]["state"] == state
}
