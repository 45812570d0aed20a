//! The host agent, `limen-agent`, as its users have it: over HTTP, beside the machine's own figures.

mod figures;
mod formats;
mod hung;
mod life;
mod readers;
mod secrets;
mod sources;

use limen_support::agent::Agent;
use limen_support::http::Client;
use serde_json::Value;

/// The samples are a second apart.
fn agent() -> Agent {
    Agent::start(&[])
}

async fn figures(client: &Client) -> Value {
    client.get("/metrics").await.expect(200).json()
}

async fn text(client: &Client) -> String {
    String::from_utf8(client.get("/metrics/prometheus").await.expect(200).body.to_vec()).expect("UTF-8")
}

/// The value of one series, which must be there.
#[track_caller]
fn series(text: &str, series: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in {text}"))
}
