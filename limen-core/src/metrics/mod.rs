//! Figures of a host.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::HostMetrics;

#[cfg(feature = "metrics-agent")]
mod agent;
#[cfg(feature = "metrics-agent")]
pub use agent::AgentMetrics;
#[cfg(feature = "metrics-local")]
mod local;
#[cfg(feature = "metrics-local")]
pub use local::LocalMetrics;

/// Where a host's figures come from.
#[async_trait]
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// The figures as the source has them last. Where it keeps none itself, CPU use is over the time
    /// since the call before.
    ///
    /// # Errors
    /// It has none, or does not answer. A source has a deadline of its own, of seconds at most.
    async fn sample(&self) -> Result<HostMetrics>;
}
