//! What a check finds.

use limen_core::model::{CheckReport, FindingKind, Severity};
use poem_openapi::Object;
use time::OffsetDateTime;

use super::{Described, Wire};

/// One disagreement.
#[derive(Debug, Object)]
#[oai(rename = "Finding")]
pub(crate) struct FindingSchema {
    /// What does not agree.
    kind: Wire<FindingKind>,
    /// How much it matters.
    severity: Wire<Severity>,
    /// What it is about: `vm:<id>`, `volume:<id>`, `file:<name>`, …
    subject: String,
    /// The host that it is on; null where it is on none.
    host: Option<String>,
    /// The same in one sentence.
    detail: String,
}

/// What a check came to.
#[derive(Debug, Object)]
#[oai(rename = "CheckReport")]
pub(crate) struct CheckReportSchema {
    /// When it was made.
    checked_at: OffsetDateTime,
    /// The hosts that were compared.
    hosts: Vec<String>,
    /// Every disagreement; none when all agrees.
    findings: Vec<FindingSchema>,
}

impl Described for CheckReport {
    type Schema = CheckReportSchema;
}
