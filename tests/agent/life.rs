//! How the agent starts and stops, and what the service manager hears.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use limen_support::agent::Agent;

#[test]
fn the_service_manager_hears_of_its_life() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let hear = |word: &str| {
        loop {
            let mut bytes = [0; 512];
            let read = manager.recv(&mut bytes).unwrap_or_else(|error| panic!("no {word}: {error}"));
            let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
            if text.lines().any(|line| line == word) {
                return text;
            }
        }
    };
    let mut agent = Agent::start(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8")), ("WATCHDOG_USEC", "900000")]);
    let ready = hear("READY=1");
    assert!(ready.contains(&format!("STATUS=answers on http://127.0.0.1:{}", agent.port())), "{ready}");
    for _ in 0..3 {
        hear("WATCHDOG=1");
    }
    // Who is connected when it stops is still answered.
    let mut stream = TcpStream::connect(("127.0.0.1", agent.port())).expect("connected");
    let ask = |stream: &mut TcpStream, end: &str| {
        write!(stream, "GET /health HTTP/1.1\r\nHost: a\r\n{end}\r\n").expect("written");
    };
    ask(&mut stream, "");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    agent.sigterm();
    hear("STOPPING=1");
    assert_eq!(agent.ended(), Some(0));
    assert!(TcpStream::connect(("127.0.0.1", agent.port())).is_err());
    assert!(agent.log().contains("stopped"), "{}", agent.log());
}

#[test]
fn a_port_that_is_taken_is_told() {
    let agent = Agent::start(&[]);
    let mut second = std::process::Command::new(limen_support::agent::binary());
    second.env_clear().args(["--port", &agent.port().to_string()]);
    let output = limen_support::process::run(&mut second, Duration::from_secs(60));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("PORT") && output.stderr.contains(&agent.port().to_string()), "{output:?}");
}
