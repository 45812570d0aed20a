//! Which series there are. docs/metrics.md is the table of them; a test compares it with what is
//! served.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use limen_core::Error;
use limen_core::model::{HostState, Quota, VmState};
use limen_core::service::{Figures, HostFigures, OperationFigures, OwnerFigures, Refusals};
use poem::http::{HeaderValue, header};
use poem::{Body, IntoResponse, Response};
use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::{Any, Type};
use serde_json::Value;

use super::domains::Written;
use super::text::{CONTENT_TYPE, Kind, Text};
use super::{PANICS, Requests};
use crate::answer::JSON;
use crate::error::Result;

/// 200 with the series as text, or the figures as JSON.
#[derive(Debug)]
pub(crate) struct Exposition {
    body: Bytes,
    content_type: &'static str,
    gzip: bool,
}

impl Exposition {
    /// `text`, and the series of VMs behind it.
    pub(crate) fn of(text: Text, domains: &Written, gzip: bool) -> Self {
        let text = text.into_string();
        let body = if gzip { domains.gzip_after(&text) } else { domains.plain_after(text) };
        Self { body, content_type: CONTENT_TYPE, gzip }
    }

    /// The figures themselves, for programs: what the library answers.
    pub(crate) fn json(figures: &Figures) -> Result<Self> {
        let body = serde_json::to_vec(figures).map_err(Error::internal)?.into();
        Ok(Self { body, content_type: JSON, gzip: false })
    }

    /// Writes everything that there is to tell, but for the VMs.
    pub(crate) fn write(figures: &Figures, requests: &Requests, last_backup: Option<f64>) -> Text {
        let mut text = Text::default();
        write_requests(&mut text, requests);
        write_vms(&mut text, &figures.vms);
        write_hosts(&mut text, &figures.hosts);
        let lag = figures.event_lag.as_secs_f64();
        text.family(
            "limen_event_lag_seconds",
            Kind::Gauge,
            "How long ago this server had read everything of the event log.",
        )
        .sample(&[], lag);
        write_operations(&mut text, &figures.operations);
        if !figures.owners.is_empty() {
            write_quotas(&mut text, &figures.owners);
        }
        write_refusals(&mut text, figures.refusals);
        text.family("limen_panics_total", Kind::Counter, "Panics of this process: each is a defect.")
            .sample(&[], PANICS.load(Ordering::Relaxed));
        let help = "When the last backup of this installation succeeded, in seconds since 1970; 0 before the first.";
        text.family("limen_backup_last_success_timestamp_seconds", Kind::Gauge, help)
            .sample(&[], last_backup.unwrap_or_default());
        text.family("limen_build_info", Kind::Gauge, "1; the version is in the label.")
            .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        text
    }
}

fn write_requests(text: &mut Text, requests: &Requests) {
    let answered = requests.answered();
    let mut family = text.family("http_requests_total", Kind::Counter, "Requests that were answered.");
    for one in &answered {
        let labels = [("method", &*one.method), ("route", &*one.route), ("status", &*one.status)];
        family.sample(&labels, one.durations.count);
    }
    let help = "From a request's headers to the beginning of its answer.";
    let mut family = text.family("http_request_duration_seconds", Kind::Histogram, help);
    for one in &answered {
        let labels = [("method", &*one.method), ("route", &*one.route), ("status", &*one.status)];
        family.durations(&labels, &one.durations);
    }
}

fn write_vms(text: &mut Text, vms: &[(VmState, u64)]) {
    let total: u64 = vms.iter().map(|(_, count)| count).sum();
    let running = vms.iter().find(|(state, _)| *state == VmState::Running).map_or(0, |(_, count)| *count);
    text.family("vm_total", Kind::Gauge, "VMs, those that LIMEN did not make among them.").sample(&[], total);
    text.family("vm_running", Kind::Gauge, "VMs that run.").sample(&[], running);
    let mut family = text.family("limen_vms", Kind::Gauge, "VMs in each state.");
    for (state, count) in vms {
        family.sample(&[("state", state.as_str())], count);
    }
}

fn write_hosts(text: &mut Text, hosts: &[HostFigures]) {
    let mut family =
        text.family("limen_host_up", Kind::Gauge, "1 while the host was observed within the last 5 s, else 0.");
    for host in hosts {
        family.sample(&[("host", &host.name)], u8::from(host.state == HostState::Up));
    }
    let help = "How long ago the host was last observed in full; absent before the first time.";
    let mut family = text.family("limen_observation_age_seconds", Kind::Gauge, help);
    for (host, age) in hosts.iter().filter_map(|host| Some((host, host.observation_age?))) {
        family.sample(&[("host", &host.name)], age.as_secs_f64());
    }
}

fn write_operations(text: &mut Text, operations: &[OperationFigures]) {
    let help = "Operations that this server recorded.";
    let mut family = text.family("limen_operation_started_total", Kind::Counter, help);
    for one in operations {
        family.sample(&[("kind", one.kind.as_str())], one.started);
    }
    let help = "Operations that this server, as the owner of their host, brought to this end.";
    let mut family = text.family("limen_operation_finished_total", Kind::Counter, help);
    for one in operations {
        for (outcome, count) in &one.ended {
            family.sample(&[("kind", one.kind.as_str()), ("outcome", outcome.as_str())], count);
        }
    }
    let help = "From an operation's request to its end.";
    let mut family = text.family("limen_operation_duration_seconds", Kind::Histogram, help);
    for one in operations {
        family.durations(&[("kind", one.kind.as_str())], &one.durations);
    }
    let help = "Operations that have not ended, whichever server works on them.";
    let mut family = text.family("limen_operation_unfinished", Kind::Gauge, help);
    for one in operations {
        for (state, count) in &one.unfinished {
            family.sample(&[("kind", one.kind.as_str()), ("state", state.as_str())], count);
        }
    }
}

fn write_quotas(text: &mut Text, owners: &[OwnerFigures]) {
    let help = "What the owner may have at most; absent where there is no limit.";
    let mut family = text.family("limen_quota_limit", Kind::Gauge, help);
    for owner in owners {
        for (resource, limit) in Quota::RESOURCES.iter().zip(owner.limits.limits()) {
            if let Some(limit) = limit {
                family.sample(&[("owner", &owner.name), ("resource", resource)], limit);
            }
        }
    }
    let mut family = text.family("limen_quota_used", Kind::Gauge, "What the owner's VMs come to.");
    for owner in owners {
        for (resource, used) in Quota::RESOURCES.iter().zip(owner.used.figures()) {
            family.sample(&[("owner", &owner.name), ("resource", resource)], used);
        }
    }
}

fn write_refusals(text: &mut Text, refusals: Refusals) {
    text.family("limen_refusals_total", Kind::Counter, "Refusals, by whether it was known who asked.")
        .sample(&[("actor", "known")], refusals.known)
        .sample(&[("actor", "unknown")], refusals.unknown);
    let help = "Refusals of known actors that are in no record of the audit, since there was no room.";
    text.family("limen_refusals_unrecorded_total", Kind::Counter, help).sample(&[], refusals.dropped);
}

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        let mut response = Response::builder().body(Body::from_bytes(self.body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
        if self.gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }
}

impl ApiResponse for Exposition {
    fn meta() -> MetaResponses {
        let content = vec![
            MetaMediaType { content_type: CONTENT_TYPE, schema: String::schema_ref() },
            MetaMediaType { content_type: JSON, schema: Any::<Value>::schema_ref() },
        ];
        let description = "The series, in the text format of Prometheus; the figures as JSON where `Accept` names it";
        let response =
            MetaResponse { description, status: Some(200), status_range: None, content, headers: Vec::new() };
        MetaResponses { responses: vec![response] }
    }

    fn register(_: &mut Registry) {}
}
