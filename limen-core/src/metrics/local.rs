//! Figures of the machine that the program runs on.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, System};
use time::OffsetDateTime;

use super::MetricsSource;
use crate::error::{Error, Result};
use crate::model::HostMetrics;

/// Reads this machine's figures, refreshing only what it reports.
#[derive(Debug, Clone)]
pub struct LocalMetrics {
    system: Arc<Mutex<System>>,
}

impl LocalMetrics {
    /// A source for this machine.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the system tells no figures.
    pub fn new() -> Result<Self> {
        let system = System::new().map_err(|error| {
            Error::new(crate::ErrorKind::Unsupported, "This system tells no figures.").with_source(error)
        })?;
        Ok(Self { system: Arc::new(Mutex::new(system)) })
    }
}

#[async_trait]
impl MetricsSource for LocalMetrics {
    async fn sample(&self) -> Result<HostMetrics> {
        let system = Arc::clone(&self.system);
        tokio::task::spawn_blocking(move || {
            let mut system = system.lock().unwrap_or_else(PoisonError::into_inner);
            system.refresh_cpu_specifics(CpuRefreshKind::nothing().with_usage());
            system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
            HostMetrics {
                sampled_at: OffsetDateTime::now_utc(),
                cpu_percent: f64::from(system.global_cpu_usage()),
                cpus: u32::try_from(system.cpus().len()).unwrap_or(u32::MAX),
                memory_total_bytes: system.total_memory(),
                memory_available_bytes: system.available_memory(),
                uptime_seconds: System::uptime().unwrap_or(0),
            }
        })
        .await
        .map_err(Error::internal)
    }
}
