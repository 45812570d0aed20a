//! The figures of a host that an agent tells: through the library, and at the command line.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use limen_core::authz::AllowAll;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::metrics::AgentMetrics;
use limen_core::service::{HostConfig, Timings};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, ErrorKind, Limen, MetricsSource, Secret};
use limen_support::agent::Agent;
use limen_support::{process, server};

const TOKEN: &str = "canary-0123456789abcdef";

fn source(agent: &Agent, token: Option<&str>) -> AgentMetrics {
    AgentMetrics::at(&format!("http://127.0.0.1:{}", agent.port()), token.map(Secret::new)).expect("an agent")
}

/// A Limen of one host, whose figures are read ten times a second.
async fn limen(source: AgentMetrics) -> Limen {
    let host = HostConfig::new("far", "sim:///", Arc::new(SimHypervisor::new())).with_metrics(Arc::new(source));
    let store = Arc::new(SqliteStore::in_memory().await.expect("a store"));
    let timings = Timings { info: Duration::from_millis(100), ..Timings::default() };
    let builder = Limen::builder().store(store).authz(Arc::new(AllowAll)).host(host).timings(timings);
    builder.build().await.expect("a Limen")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_figures_stay_with_their_age_when_the_agent_is_gone() {
    let agent = Agent::start(&[]);
    let limen = limen(source(&agent, None)).await;
    let me = Context::local();
    let figures = loop {
        match limen.host_metrics(&me, "far").await {
            // The agent tells no CPU use before its second sample.
            Ok(figures) if figures.metrics.cpu_percent > 0.0 => break figures,
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let told = crate::figures(&agent.client()).await;
    assert_eq!(Some(figures.metrics.memory_total_bytes), told["memory"]["total_bytes"].as_u64());
    assert_eq!(Some(u64::from(figures.metrics.cpus)), told["cpu"]["count"].as_u64());
    assert!(figures.age_seconds < 60.0 && figures.host == "far", "{figures:?}");
    drop(agent);
    let last = loop {
        let last = limen.host_metrics(&me, "far").await.expect("the last figures");
        if last.stale {
            break last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    let later = limen.host_metrics(&me, "far").await.expect("the last figures");
    assert_eq!(later.metrics, last.metrics, "of nobody");
    assert!(later.age_seconds > last.age_seconds, "{later:?}");
    assert_eq!(limen.host_metrics(&me, "near").await.expect_err("no such host").kind(), ErrorKind::NotFound);
    limen.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_refuses_hangs_or_is_none_is_told_apart_from_figures() {
    let agent = Agent::start(&[("AGENT_TOKEN", TOKEN)]);
    source(&agent, Some(TOKEN)).sample().await.expect("figures");
    for token in [None, Some("canary-0123456789abcdeg")] {
        let refused = source(&agent, token).sample().await.expect_err("refused");
        assert!(refused.to_string().contains("401") && !format!("{refused:?}").contains("canary"), "{refused:?}");
    }
    // Accepts, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let late = AgentMetrics::at(&url, None).expect("an agent").sample().await.expect_err("nothing");
    assert_eq!(late.kind(), ErrorKind::Unavailable);
    drop(silent);
    let away = AgentMetrics::at(&url, None).expect("an agent").sample().await.expect_err("nobody");
    assert_eq!(away.kind(), ErrorKind::Unavailable);
}

#[test]
fn the_command_line_shows_them() {
    let agent = Agent::start(&[]);
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("http://127.0.0.1:{}", agent.port());
    let mut serve = Command::new("setpriv");
    let port = process::free_port().to_string();
    serve.args(["--pdeathsig", "KILL"]).arg(server::binary()).arg("serve").env_clear();
    let settings = |command: &mut Command| {
        command.env("LIMEN_DATA_DIR", directory.path()).env("HYPERVISOR_URI", "sim:///?vms=1");
        command
            .env("HOST_METRICS", &url)
            .env("LIMEN_URL", format!("http://127.0.0.1:{port}"))
            .env("HOME", directory.path());
    };
    settings(&mut serve);
    serve.env("PORT", &port).env("BIND_ADDRESS", "127.0.0.1").env("ADMIN_PASSWORD", "a password of admins");
    serve.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut served = serve.spawn().expect("a server");
    let login = format!("http://127.0.0.1:{port}/api/auth/login");
    let body = "{\"username\":\"admin\",\"password\":\"a password of admins\"}";
    let token = process::wait_for("a login", Duration::from_secs(60), || {
        let mut curl = Command::new("curl");
        let said = process::run(curl.args(["-fsS", &login, "--json", body]), Duration::from_secs(30));
        let answer: serde_json::Value = serde_json::from_str(&said.stdout).ok()?;
        answer["access_token"].as_str().map(str::to_owned)
    });
    let shown = process::wait_for("the agent's figures", Duration::from_secs(60), || {
        let mut limen = Command::new(server::binary());
        settings(limen.args(["host", "metrics"]).env_clear());
        let said = process::run(limen.env("LIMEN_TOKEN", &token), Duration::from_secs(30));
        said.success().then_some(said.stdout)
    });
    let (head, figures) = shown.split_once('\n').expect("two lines");
    assert!(head.contains("CPU_%") && head.contains("AVAILABLE_MIB") && figures.contains("local"), "{shown}");
    let mut limen = Command::new(server::binary());
    settings(limen.args(["host", "metrics", "nowhere"]).env_clear());
    let refused = process::run(limen.env("LIMEN_TOKEN", &token), Duration::from_secs(30));
    assert!(!refused.success() && refused.stderr.contains("no such host"), "{refused:?}");
    served.kill().expect("killed");
    served.wait().expect("ended");
}
