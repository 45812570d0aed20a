//! Where Store, hosts, files and memory do not agree.
//!
//! Invariant: a check reads, and changes nothing. What is at work is left out by asking the
//! unfinished operations, and what is merely on its way from one to the other by looking twice: a
//! finding is what both looks have found. What only the owner of a host could mend in time (a
//! state, a step) counts while the owner is alive: where its beat has risen between the looks.

mod look;

use look::Look;

use super::Limen;
use crate::authz::Resource;
use crate::context::{Action, Context};
use crate::error::Result;
use crate::model::{CheckReport, Finding};

impl Limen {
    /// Compares the Store, the hosts of this process, the files of its images and its memory, and
    /// reports every disagreement. Read-only; needs no lease, so any process may, also beside the
    /// owner of a host. Takes as long as the slowest host takes for its lists; about two seconds
    /// more where the first look has found something.
    ///
    /// # Errors
    /// [`Forbidden`](crate::ErrorKind::Forbidden). What the Store answers. A host that cannot be
    /// reached is a finding.
    pub async fn check(&self, ctx: &Context) -> Result<CheckReport> {
        self.authorize(ctx, Action::Check, Resource::Any, "check")?;
        let mut look = Look::take(&self.shared).await?;
        if !look.is_clean() {
            // Time enough for a living owner to raise its beat.
            tokio::time::sleep(self.shared.timings.beat * 2).await;
            look = Look::take(&self.shared).await?.confirming(&look);
        }
        let (hosts, found) = look.end();
        let findings = found.map(|((kind, subject, host), detail)| Finding {
            kind,
            severity: kind.severity(),
            subject,
            host,
            detail,
        });
        Ok(CheckReport { checked_at: self.now(), hosts, findings: findings.collect() })
    }
}
