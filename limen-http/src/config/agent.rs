//! Where the host's agent is, and where the host's figures come from.

use std::time::Duration;

use clap::Args;
use limen_core::Secret;
use limen_core::metrics::AgentMetrics;
use limen_core::service::Timings;

use super::secret::secret;
use super::value::{duration, given};
use super::{Result, refuse};
use crate::agent::Agent;

/// The agent behind `/agent/*`.
#[derive(Args, Clone, Default)]
pub(super) struct AgentArgs {
    /// The host's agent, http://HOST:PORT: /agent/* leads there [default: http://127.0.0.1:9000]
    #[arg(long, env = "AGENT_URL", value_name = "URL", hide_env_values = true)]
    pub(super) agent_url: Option<String>,
}

impl AgentArgs {
    /// Judges the value.
    pub(super) fn judge(&self) -> Result<Agent> {
        match given("AGENT_URL", self.agent_url.as_ref())?.map(Agent::at) {
            None => Ok(Agent::default()),
            Some(Ok(agent)) => Ok(agent),
            Some(Err(_)) => refuse("AGENT_URL must be a URL like http://127.0.0.1:9000: http, a host, a port."),
        }
    }
}

/// Where the host's figures come from.
#[derive(Args, Clone, Default)]
pub(super) struct FiguresArgs {
    /// Where the host's figures come from: local (this machine), or the limen-agent of the host,
    /// http://HOST:PORT or https://HOST:PORT [default: local]
    #[arg(
        long,
        env = "HOST_METRICS",
        value_name = "SOURCE",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) host_metrics: Option<String>,
    /// The token of that agent; as a flag it shows in the process list
    #[arg(
        long,
        env = "HOST_METRICS_TOKEN",
        value_name = "TOKEN",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) host_metrics_token: Option<String>,
    /// A file with HOST_METRICS_TOKEN that nobody else can read
    #[arg(
        long,
        env = "HOST_METRICS_TOKEN_FILE",
        value_name = "FILE",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) host_metrics_token_file: Option<String>,
    /// How often the counters of running VMs are read, 1s to 1h; 0s for never [default: 15s]
    #[arg(
        long,
        env = "METRICS_INTERVAL",
        value_name = "TIME",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) metrics_interval: Option<String>,
}

/// How often the counters of running VMs may be read, in seconds; 0 for never.
const SLOWEST: u64 = 3600;

/// Where the host's figures come from.
#[derive(Debug, Clone)]
pub(crate) enum FiguresChoice {
    /// This machine.
    Local,
    /// The agent of another one.
    Agent(AgentMetrics),
}

impl FiguresArgs {
    /// How often the counters of running VMs are read; zero for never.
    pub(super) fn interval(&self) -> Result<Duration> {
        let range = Duration::ZERO..=Duration::from_secs(SLOWEST);
        Ok(duration("METRICS_INTERVAL", self.metrics_interval.as_ref(), range)?.unwrap_or(Timings::default().sample))
    }

    /// Judges the values.
    pub(super) fn judge(&self) -> Result<FiguresChoice> {
        let (value, file) = (self.host_metrics_token.as_ref(), self.host_metrics_token_file.as_ref());
        let token = secret("HOST_METRICS_TOKEN", value, file)?;
        let url = match given("HOST_METRICS", self.host_metrics.as_ref())? {
            None | Some("local") if token.is_some() => {
                return refuse("HOST_METRICS_TOKEN is for the agent that HOST_METRICS names; set both or none.");
            }
            None | Some("local") => return Ok(FiguresChoice::Local),
            Some(url) => url,
        };
        AgentMetrics::at(url, token.map(Secret::new)).map(FiguresChoice::Agent).or_else(|_| {
            refuse("HOST_METRICS must be local, or a URL like https://192.0.2.1:9000: http or https, a host, a port.")
        })
    }
}
