//! `/api/metrics`: what Prometheus scrapes, written from memory at each scrape; the series of VMs once
//! for each sample ([`domains`]).
//!
//! Invariant: how many series there are depends on what there is, never on what clients send. A
//! request is counted under the pattern of its route, never under its path; all paths that are none
//! share one label value, and so do all methods that a route does not answer.

mod domains;
mod series;
mod text;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once, PoisonError, RwLock};
use std::time::Duration;

use limen_core::service::{Durations, Histogram};
use poem::http::{Method, StatusCode};

use crate::routes::Route;

pub(crate) use domains::Domains;
pub(crate) use series::Exposition;

/// The upper bounds of the durations of requests, in seconds: a read takes milliseconds,
/// `Prefer: wait` up to 50 s.
const REQUEST_SECONDS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];
/// What stands for a value that is none of those that are known.
const OTHER: &str = "other";

/// The requests that were answered.
#[derive(Debug, Default)]
pub(crate) struct Requests(RwLock<HashMap<Labels, Arc<Histogram>>>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels {
    /// None for every path that is no route.
    route: Option<Arc<str>>,
    /// None for every method that the route does not answer.
    method: Option<Method>,
    /// None for every status that has no name: an agent may answer any number.
    status: Option<StatusCode>,
}

/// How often requests of some labels were answered, and how fast.
#[derive(Debug)]
struct Answered {
    route: String,
    method: String,
    status: String,
    durations: Durations,
}

impl Requests {
    /// A request was answered: its answer began `took` after it.
    pub(crate) fn count(&self, route: Option<&Route>, method: &Method, status: StatusCode, took: Duration) {
        let labels = Labels {
            route: route.map(Route::pattern),
            method: route.filter(|route| route.answers(method)).map(|_| method.clone()),
            status: status.canonical_reason().map(|_| status),
        };
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&labels).cloned();
        let durations = known.unwrap_or_else(|| {
            let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(labels).or_insert_with(|| Arc::new(Histogram::new(&REQUEST_SECONDS))))
        });
        durations.add(took);
    }

    /// Everything counted so far, in order.
    fn answered(&self) -> Vec<Answered> {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let or_other = |text: Option<&str>| text.unwrap_or(OTHER).to_owned();
        let mut answered: Vec<Answered> = all
            .into_iter()
            .map(|(labels, durations)| Answered {
                route: or_other(labels.route.as_deref()),
                method: or_other(labels.method.as_ref().map(Method::as_str)),
                status: or_other(labels.status.as_ref().map(StatusCode::as_str)),
                durations: durations.durations(),
            })
            .collect();
        answered.sort_by(|a, b| (&a.route, &a.method, &a.status).cmp(&(&b.route, &b.method, &b.status)));
        answered
    }
}

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts the panics of this process from now on, for `limen_panics_total`; what a panic does
/// otherwise stays as it is. `limen serve` calls it. Idempotent.
pub fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    });
}
