//! An nginx of the test's own, with blocks that a document shows.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::http::Client;
use crate::process::{self, Leash};

/// A private nginx; dropping it ends it and removes its files.
#[derive(Debug)]
pub struct Nginx {
    base: PathBuf,
    port: u16,
    server: Mutex<Child>,
    leash: Option<Leash>,
}

/// What is around the blocks: one process in the foreground, with everything in its own directory.
fn around(base: &str, blocks: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid {base}/pid;\nerror_log {base}/errors;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         log_format served '$status $request_method $upstream_addr';\naccess_log {base}/served served;\n\
         client_body_temp_path {base}/body;\nproxy_temp_path {base}/proxy;\nfastcgi_temp_path {base}/fastcgi;\n\
         uwsgi_temp_path {base}/uwsgi;\nscgi_temp_path {base}/scgi;\n\
         {blocks}\n}}\n"
    )
}

/// The first block of nginx's in a document (a path in the project), with each text that `edits`
/// names replaced by the other: so the test runs what the reader sees.
///
/// # Panics
/// When there is no such document or block, or an edit finds nothing to replace.
pub fn blocks_of(document: &str, edits: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(crate::project_dir().join(document)).expect("read a document");
    let block = text.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next());
    let mut block = block.unwrap_or_else(|| panic!("no nginx block in {document}")).to_owned();
    for (from, to) in edits {
        assert!(block.contains(from), "{document} has no {from:?}");
        block = block.replace(from, to);
    }
    block
}

impl Nginx {
    /// Starts one with `blocks` in its `http` block, one of which listens on 127.0.0.1:`port`, and
    /// waits until it does.
    ///
    /// # Panics
    /// When nginx is not installed, refuses the blocks, or does not come up; with the reason.
    pub fn start(port: u16, blocks: &str) -> Self {
        let base = crate::scratch_dir("nginx");
        let leash = Leash::new(include_str!("nginx-leash.sh"), &[&base]);
        let config = base.join("nginx.conf");
        fs::write(&config, around(&base.to_string_lossy(), blocks)).expect("write a file");
        let output = fs::File::create(base.join("output")).expect("make a file");
        let server = Command::new("nginx")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg("-c")
            .arg(&config)
            .arg("-p")
            .arg(&base)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share a file"))
            .stderr(output)
            .spawn()
            .expect("start nginx; `make setup` installs it");
        let nginx = Self { base, port, server: Mutex::new(server), leash: Some(leash) };
        process::wait_for("a private nginx", Duration::from_secs(20), || {
            if let Ok(Some(status)) = nginx.server().try_wait() {
                panic!("nginx ended with {status}:\n{}", process::tail(&nginx.base.join("output"), 20));
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        nginx
    }

    /// A client that comes through it, without a token.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// What it has served so far, a line for each request: the status, the method, and the
    /// addresses of the servers that were asked.
    pub fn served(&self) -> Vec<String> {
        let log = fs::read_to_string(self.base.join("served")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn server(&self) -> std::sync::MutexGuard<'_, Child> {
        self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("nginx's errors end:\n{}", process::tail(&self.base.join("errors"), 15));
        }
        drop(self.leash.take());
        process::kill9(&mut self.server());
    }
}
