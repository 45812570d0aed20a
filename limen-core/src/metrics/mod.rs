//! Figures of a host.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::HostMetrics;

#[cfg(feature = "metrics-local")]
mod local;
#[cfg(feature = "metrics-local")]
pub use local::LocalMetrics;

/// Where a host's figures come from.
#[async_trait]
pub trait MetricsSource: Debug + Send + Sync + 'static {
    /// The figures now. CPU use is over the time since the call before.
    async fn sample(&self) -> Result<HostMetrics>;
}
