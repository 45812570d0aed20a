//! Who may ask, and over what.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use limen_support::agent::{self, Agent};
use limen_support::process;

const TOKEN: &str = "canary-0123456789abcdef";
const QUICK: Duration = Duration::from_secs(60);

fn private_file(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).expect("a file");
    file.write_all(text.as_bytes()).expect("written");
}

#[tokio::test]
async fn figures_are_for_who_shows_the_token() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    private_file(&file, &format!("{TOKEN}\n"));
    let by_file = Agent::start(&[("AGENT_TOKEN_FILE", file.to_str().expect("UTF-8")), ("LOG_LEVEL", "trace")]);
    let by_value = Agent::start(&[("AGENT_TOKEN", TOKEN), ("LOG_LEVEL", "trace")]);
    for agent in [by_file, by_value] {
        let client = agent.client();
        for path in ["/metrics", "/metrics/prometheus"] {
            let refused = client.get(path).await.expect(401);
            assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
            assert!(refused.json()["detail"].as_str().expect("a detail").contains("token"));
            for wrong in ["canary-0123456789abcdeg", "canary-0123456789abcde", "", "canary-0123456789abcdef0"] {
                client.with_token(wrong).get(path).await.expect(401);
            }
            client.with_header("Authorization", &format!("Basic {TOKEN}")).get(path).await.expect(401);
            client.with_token(TOKEN).get(path).await.expect(200);
            client.with_header("Authorization", &format!("bearer {TOKEN}")).get(path).await.expect(200);
        }
        for path in ["/health", "/docs", "/openapi.json"] {
            client.get(path).await.expect(200);
        }
        assert!(!agent.log().contains("canary"), "{}", agent.log());
        let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", agent.pid())).expect("a command line");
        assert!(!command_line.contains("canary"));
    }
}

#[test]
fn tls_is_served_by_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (key, certificate) = (place("key.pem"), place("cert.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    make.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ]);
    process::run(&mut make, QUICK).expect_success();
    process::run(Command::new("chmod").args(["600", &key]), QUICK).expect_success();
    let mut agent = Agent::start(&[("TLS_CERT_FILE", &certificate), ("TLS_KEY_FILE", &key)]);
    let url = format!("//127.0.0.1:{}/health", agent.port());
    let curl = |scheme: &str, more: &[&str]| {
        let mut curl = Command::new("curl");
        process::run(curl.args(["-sS", "--noproxy", "*"]).args(more).arg(format!("{scheme}:{url}")), QUICK)
    };
    for version in ["--tlsv1.3", "--tls-max"] {
        let more: &[&str] = if version == "--tls-max" { &["--tls-max", "1.2"] } else { &[version] };
        let said = curl("https", &[&["--cacert", certificate.as_str()], more].concat()).expect_success();
        assert!(said.contains("\"up\""), "{said}");
    }
    assert!(!curl("https", &[]).success(), "a certificate of nobody's is trusted");
    assert!(!curl("http", &[]).success(), "plain HTTP is served");
    agent.sigterm();
    assert_eq!(agent.ended(), Some(0));

    // What cannot be served is told before the port is bound.
    for (files, name) in [
        ([("TLS_CERT_FILE", certificate.as_str()), ("TLS_KEY_FILE", certificate.as_str())], "TLS_KEY_FILE"),
        ([("TLS_CERT_FILE", key.as_str()), ("TLS_KEY_FILE", key.as_str())], "TLS_CERT_FILE"),
    ] {
        let mut command = Command::new(agent::binary());
        let output = process::run(command.env_clear().env("PORT", "1").envs(files), QUICK);
        assert!([Some(1), Some(2)].contains(&output.code), "{output:?}");
        assert!(output.stderr.contains(name) && !output.stderr.contains("PRIVATE"), "{output:?}");
    }
}
