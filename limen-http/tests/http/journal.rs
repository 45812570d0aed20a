//! The log as the operations guide describes it, and as the journal of systemd reads it.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::PASSWORD;
use crate::process::{exchange, server};

/// The address of a server that has just been started, from its standard output.
fn address_of(child: &mut Child) -> String {
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut first).expect("a line");
    let url = first.split_whitespace().find_map(|word| word.strip_prefix("http://"));
    url.unwrap_or_else(|| panic!("no address in {first:?}")).trim_end_matches(';').to_owned()
}

/// Serves with a socket for standard error, as systemd does, asks for something of every level, and
/// answers the lines that came; `journal` tells `JOURNAL_STREAM` from the socket's device and inode.
fn logged(journal: impl Fn(u64, u64) -> String, settings: &[(&str, &str)]) -> Vec<String> {
    let home = TempDir::new().expect("a directory");
    let (mut ours, theirs) = UnixStream::pair().expect("two sockets");
    let of = rustix::fs::fstat(&theirs).expect("a file");
    let mut command = server(home.path());
    command.args(["serve", "--bind-address", "127.0.0.1", "--port", "0"]);
    command.env("JOURNAL_STREAM", journal(of.st_dev, of.st_ino)).env("ADMIN_PASSWORD", PASSWORD);
    command.envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(OwnedFd::from(theirs));
    let mut child = command.spawn().expect("starts");
    drop(command);
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        ours.read_to_string(&mut text).expect("text");
        text
    });
    let address = address_of(&mut child);
    let ask = |head: &str| {
        let request = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(&address, request.as_bytes())
    };
    let body = format!("{{\"username\":\"admin\",\"password\":\"{PASSWORD}\"}}");
    let login = format!(
        "POST /api/auth/login HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\nHost: x\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(&address, login.as_bytes());
    let token = answer.split("\"access_token\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let token = token.unwrap_or_else(|| panic!("{answer}")).to_owned();
    let auth = format!("Authorization: Bearer {token}");
    for (head, status) in [
        ("GET /api/health HTTP/1.1".to_owned(), "200"),
        ("GET /nothing/%1b%5b31m%0a HTTP/1.1".to_owned(), "404"),
        ("GET /api/vms HTTP/1.1".to_owned(), "401"),
        (format!("GET /api/vms HTTP/1.1\r\n{auth}\r\nX-Limen-Event: 9007199254740991"), "503"),
        (format!("GET /api/vms?limit=0 HTTP/1.1\r\n{auth}"), "400"),
    ] {
        let answer = ask(&head);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert!(child.wait().expect("ends").success());
    let text = reader.join().expect("joined");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn the_journal_gets_the_priority_of_each_line() {
    let lines = logged(|device, inode| format!("{device}:{inode}"), &[]);
    let status = |line: &str| {
        let text = line.split(" status=").nth(1)?;
        text.split(' ').next()?.parse::<u16>().ok()
    };
    assert_eq!(lines.iter().filter_map(|line| status(line)).count(), 6, "{lines:#?}");
    for line in &lines {
        let (priority, level) = match status(line) {
            Some(500..) => ("<3>", "ERROR"),
            Some(404) | Some(0..400) => ("<6>", "INFO"),
            Some(_) => ("<4>", "WARN"),
            None => (line.get(..3).expect("a priority"), ""),
        };
        assert!(line.starts_with(priority) && line.contains(level), "{line}");
    }
    // What `journalctl -p err` shows.
    let errors: Vec<_> = lines.iter().filter(|line| ["<0>", "<1>", "<2>", "<3>"].contains(&&line[..3])).collect();
    assert!(errors.len() == 1 && status(errors[0]) == Some(503), "{errors:#?}");
}

#[test]
fn the_journal_gets_json_too_and_who_else_reads_gets_no_priority() {
    let lines = logged(|device, inode| format!("{device}:{inode}"), &[("LOG_FORMAT", "json")]);
    for line in &lines {
        let (priority, event) = line.split_at(3);
        let event: Value = serde_json::from_str(event).unwrap_or_else(|error| panic!("{error}: {line}"));
        let level = match priority {
            "<3>" => "ERROR",
            "<4>" => "WARN",
            "<6>" => "INFO",
            other => panic!("{other}: {line}"),
        };
        assert_eq!(event["level"], level, "{line}");
    }
    // Of a stream that was redirected since.
    let lines = logged(|device, inode| format!("{device}:{}", inode + 1), &[]);
    assert!(lines.len() >= 6 && lines.iter().all(|line| !line.starts_with('<')), "{lines:#?}");
}
