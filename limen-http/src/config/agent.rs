//! Where the host's agent is.

use clap::Args;

use super::value::given;
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
