//! The clock of the samples: a thread that takes one each period, whoever reads. What readers get is
//! in memory, and none changes what another gets.

use std::io;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::sample::{Facts, Sample, Sampling};
use crate::{json, text};

/// The second sample, from which on CPU use is told, comes so long after the first.
const SECOND: Duration = Duration::from_secs(1);

/// A sample, and its texts once somebody has asked for them.
#[derive(Debug)]
pub(crate) struct Snapshot {
    facts: Arc<Facts>,
    sample: Sample,
    period: Duration,
    json: OnceLock<String>,
    text: OnceLock<Bytes>,
}

impl Snapshot {
    fn new(facts: Arc<Facts>, sample: Sample, period: Duration) -> Self {
        Self { facts, sample, period, json: OnceLock::new(), text: OnceLock::new() }
    }

    /// How old the sample is.
    pub(crate) fn age(&self) -> Duration {
        self.sample.taken.elapsed()
    }

    /// The sample for Prometheus.
    pub(crate) fn text(&self) -> Bytes {
        self.text.get_or_init(|| text::render(&self.facts, &self.sample).into()).clone()
    }

    /// The sample as JSON, with its age now.
    pub(crate) fn json(&self) -> Bytes {
        let rest = self.json.get_or_init(|| {
            // Numbers and texts: there is nothing that cannot be written.
            json::render(&self.facts, &self.sample, self.period).unwrap_or_else(|_| "{}".to_owned())
        });
        format!("{{\"age_seconds\":{:.3},{}", self.age().as_secs_f64(), &rest[1..]).into()
    }
}

/// The samples. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    latest: Arc<RwLock<Arc<Snapshot>>>,
    period: Duration,
}

impl Clock {
    /// Takes the first sample, and one each `period` from then on, until the process ends.
    ///
    /// # Errors
    /// The figures cannot be read, or there is no thread to read them.
    pub(crate) fn start(period: Duration) -> io::Result<Self> {
        let mut sampling = Sampling::new();
        let facts = Arc::new(sampling.facts.clone());
        let snapshot = move |facts: &Arc<Facts>, sample| Arc::new(Snapshot::new(Arc::clone(facts), sample, period));
        let latest = Arc::new(RwLock::new(snapshot(&facts, sampling.sample()?)));
        let clock = Self { latest: Arc::clone(&latest), period };
        std::thread::Builder::new().name("sample".to_owned()).spawn(move || {
            let mut due = Instant::now() + SECOND.min(period);
            loop {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                match sampling.sample() {
                    Ok(sample) => {
                        *latest.write().unwrap_or_else(PoisonError::into_inner) = snapshot(&facts, sample);
                    }
                    Err(error) => tracing::warn!(%error, "no sample; the last one is served"),
                }
                // Samples that a machine asleep has missed are not made up for.
                due = (due + period).max(Instant::now());
            }
        })?;
        Ok(clock)
    }

    /// The last sample.
    pub(crate) fn latest(&self) -> Arc<Snapshot> {
        Arc::clone(&self.latest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether samples come as they should: the last one is younger than three periods and 10 s.
    pub(crate) fn runs(&self) -> bool {
        self.latest().age() < 3 * self.period + Duration::from_secs(10)
    }
}
