//! What Prometheus scrapes.

use poem_openapi::OpenApi;

use super::Tag;
use crate::error::Result;
use crate::extract::{Plain, Visitor};
use crate::metrics::Exposition;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Metrics;

#[OpenApi]
impl Metrics {
    /// Figures for monitoring
    ///
    /// Totals and hosts without a token; with one, quotas of those whom its user may know of, and
    /// counters of the VMs that they may see. docs/metrics.md lists the series. Answered from memory:
    /// no host and no database is asked. Where `Accept` names `application/json`, the figures that the
    /// text is made of, without those of requests and of VMs: what `limen.Client.get_metrics` answers.
    #[oai(path = "/api/metrics", method = "get", operation_id = "get_metrics", tag = "Tag::Metrics")]
    async fn get_metrics(&self, visitor: Visitor, _query: Plain) -> Result<Exposition> {
        let figures = visitor.limen().get_metrics(&visitor).await?;
        if visitor.accepts_json() {
            return Exposition::json(&figures);
        }
        let app = visitor.app();
        let text = Exposition::write(&figures, &app.requests, app.last_backup().await);
        let domains = app.domains.of(visitor.limen(), &visitor).await?;
        Ok(Exposition::of(text, &domains, visitor.accepts_gzip()))
    }
}
