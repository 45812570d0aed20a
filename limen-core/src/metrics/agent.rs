//! Figures of another machine, from the limen-agent there.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, Url};
use serde::Deserialize;
use time::OffsetDateTime;

use super::MetricsSource;
use crate::address;
use crate::error::{Error, ErrorKind, Result};
use crate::model::HostMetrics;
use crate::secret::Secret;

/// How long an agent may take for the whole of an answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// The most that an answer may have.
const LARGEST: usize = 4 << 20;

/// Reads `/metrics` of a limen-agent.
#[derive(Debug, Clone)]
pub struct AgentMetrics {
    client: Client,
    url: Url,
    token: Option<Secret>,
}

/// What is read of its answer; all else in it is left.
#[derive(Debug, Deserialize)]
struct Answer {
    age_seconds: f64,
    host: HostPart,
    cpu: CpuPart,
    memory: MemoryPart,
}

#[derive(Debug, Deserialize)]
struct HostPart {
    uptime_seconds: f64,
}

#[derive(Debug, Deserialize)]
struct CpuPart {
    count: u32,
    use_percent: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct MemoryPart {
    total_bytes: u64,
    available_bytes: u64,
}

impl AgentMetrics {
    /// The agent at `url`, `http://HOST:PORT` or `https://HOST:PORT`, whose token is `token` where it
    /// has one. Nothing is asked of it yet. Its certificate must be one that this machine trusts.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), field `agent_url`: it is another kind of URL.
    pub fn at(url: &str, token: Option<Secret>) -> Result<Self> {
        let refused = || {
            let text = "It must be a URL like http://192.0.2.1:9000: http or https, a host, a port.";
            Error::invalid("agent_url", text)
        };
        let mut url = address::parse(url).ok_or_else(refused)?;
        url.set_path("/metrics");
        // It is asked for figures: neither to lead elsewhere nor through anybody.
        let client = Client::builder().timeout(DEADLINE).redirect(reqwest::redirect::Policy::none()).no_proxy();
        let client = client.build().map_err(Error::internal)?;
        Ok(Self { client, url, token })
    }

    async fn ask(&self) -> Result<Answer> {
        let away = |error: reqwest::Error| Error::unavailable("The host's agent").with_source(error.without_url());
        let mut request = self.client.get(self.url.clone()).header("Accept", "application/json");
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let mut answer = request.send().await.map_err(away)?;
        if !answer.status().is_success() {
            let status = answer.status().as_u16();
            return Err(Error::new(ErrorKind::Unavailable, format!("The host's agent answers {status}.")));
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(away)? {
            if body.len() + part.len() > LARGEST {
                return Err(Error::new(ErrorKind::Unavailable, "The host's agent answers more than 4 MiB."));
            }
            body.extend_from_slice(&part);
        }
        serde_json::from_slice(&body)
            .map_err(|error| Error::new(ErrorKind::Unavailable, "What answers is no limen-agent.").with_source(error))
    }
}

#[async_trait]
impl MetricsSource for AgentMetrics {
    async fn sample(&self) -> Result<HostMetrics> {
        let answer = self.ask().await?;
        let age = time::Duration::try_from(Duration::try_from_secs_f64(answer.age_seconds).unwrap_or_default());
        Ok(HostMetrics {
            // Its age counts, and not its clock, which may be another.
            sampled_at: OffsetDateTime::now_utc() - age.unwrap_or_default(),
            cpu_percent: answer.cpu.use_percent.unwrap_or(0.0),
            cpus: answer.cpu.count,
            memory_total_bytes: answer.memory.total_bytes,
            memory_available_bytes: answer.memory.available_bytes,
            uptime_seconds: answer.host.uptime_seconds.max(0.0) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_at_a_host_and_nothing_more() {
        for url in ["http://192.0.2.1:9000", "https://host.example", "http://[::1]:9000/"] {
            let agent = AgentMetrics::at(url, Some(Secret::new("canary"))).expect(url);
            assert!(!format!("{agent:?}").contains("canary"));
        }
        for url in ["", "host:9000", "ftp://host", "http://user:canary@host", "http://host/path", "http://host?q"] {
            let error = AgentMetrics::at(url, None).expect_err(url);
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
