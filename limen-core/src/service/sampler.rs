//! The last figures of running VMs, in memory.
//!
//! A task for each host reads the counters of all its VMs on a clock of its own, in every process:
//! whoever reads them here asks no host. A VM that does not answer keeps its last figures, which
//! grow old; one that no longer runs has none.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

use super::host::HostHandle;
use super::tasks::guarded;
use super::{Limen, Shared};
use crate::authz::{Decision, Resource, Scope};
use crate::context::{Action, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::VmStats;
use crate::model::{DiskSample, DiskStats, NicSample, NicStats, Vm, VmId, VmSample};

/// How long a process waits before it samples on its own: one that ends soon asks nothing.
const REST: Duration = Duration::from_secs(1);
/// How long the first figures are waited for.
const FIRST_FIGURES: Duration = Duration::from_secs(3);

/// The counters of a VM at one moment.
#[derive(Debug, Clone)]
struct Reading {
    stats: VmStats,
    at: Instant,
    wall: OffsetDateTime,
}

/// The last two readings of a VM.
#[derive(Debug, Clone)]
struct Kept {
    last: Reading,
    before: Option<Reading>,
    /// In how many answers it was left out since.
    missed: u32,
}

/// The readings of a host.
#[derive(Debug)]
pub(crate) struct Samples {
    kept: Mutex<HashMap<VmId, Kept>>,
    /// How often all VMs were asked.
    passes: watch::Sender<u64>,
    wanted: Notify,
}

impl Default for Samples {
    fn default() -> Self {
        Self { kept: Mutex::default(), passes: watch::Sender::new(0), wanted: Notify::new() }
    }
}

impl Samples {
    fn kept(&self) -> MutexGuard<'_, HashMap<VmId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what the host told; `is_active` tells which VMs run as far as is known.
    fn take(&self, told: Vec<(VmId, VmStats)>, at: Instant, wall: OffsetDateTime, is_active: impl Fn(VmId) -> bool) {
        let mut kept = self.kept();
        for one in kept.values_mut() {
            one.missed += 1;
        }
        for (vm, stats) in told {
            let before = kept.remove(&vm).map(|kept| kept.last);
            // A VM that was started anew counts from nothing.
            let before = before.filter(|before| before.stats.cpu_time_ns <= stats.cpu_time_ns);
            kept.insert(vm, Kept { last: Reading { stats, at, wall }, before, missed: 0 });
        }
        kept.retain(|vm, one| one.missed == 0 || is_active(*vm));
        drop(kept);
        self.passes.send_modify(|passes| *passes += 1);
    }

    fn of(&self, vm: VmId) -> Option<Kept> {
        self.kept().get(&vm).cloned()
    }
}

/// Reads the counters of the host's VMs again and again.
pub(super) async fn sample(shared: Arc<Shared>, host: Arc<HostHandle>) {
    let every = shared.timings.sample;
    if every.is_zero() || !host.hypervisor.capability().stats {
        return std::future::pending().await;
    }
    let mut rest = REST.min(every);
    loop {
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = host.samples.wanted.notified() => {}
        }
        let begun = shared.clock.monotonic();
        match guarded(host.hypervisor.stats()).await {
            Ok(told) => {
                let inventory = &shared.inventory;
                let is_active = |vm| inventory.vm(vm).is_some_and(|shown| shown.vm.status.state.is_active());
                host.samples.take(told, begun, shared.clock.now(), is_active);
                shared.sampled.send_modify(|sampled| *sampled += 1);
            }
            Err(error) => tracing::debug!(host = %host.name, %error, "the counters of VMs cannot be read"),
        }
        rest = every.saturating_sub(shared.clock.monotonic().saturating_duration_since(begun));
    }
}

/// How much a counter rose in a second.
fn rate(now: u64, before: Option<u64>, seconds: Option<f64>) -> Option<f64> {
    let seconds = seconds.filter(|seconds| *seconds > 0.0)?;
    Some(now.saturating_sub(before?) as f64 / seconds)
}

impl Kept {
    fn figures(&self, vm: VmId, now: Instant, every: Duration) -> VmSample {
        let Reading { stats, at, wall } = &self.last;
        let before = self.before.as_ref();
        let seconds = before.map(|before| at.saturating_duration_since(before.at).as_secs_f64());
        let age = now.saturating_duration_since(*at);
        let disk = |disk: &DiskStats| {
            let before = before.and_then(|before| before.stats.disks.iter().find(|old| old.device == disk.device));
            DiskSample {
                read_bytes_per_second: rate(disk.read_bytes, before.map(|old| old.read_bytes), seconds),
                written_bytes_per_second: rate(disk.written_bytes, before.map(|old| old.written_bytes), seconds),
                stats: disk.clone(),
            }
        };
        let nic = |nic: &NicStats| {
            let before = before.and_then(|before| before.stats.nics.iter().find(|old| old.device == nic.device));
            NicSample {
                received_bytes_per_second: rate(nic.received.bytes, before.map(|old| old.received.bytes), seconds),
                sent_bytes_per_second: rate(nic.sent.bytes, before.map(|old| old.sent.bytes), seconds),
                stats: nic.clone(),
            }
        };
        let cpu = rate(stats.cpu_time_ns, before.map(|before| before.stats.cpu_time_ns), seconds);
        VmSample {
            vm_id: vm,
            sampled_at: *wall,
            age_seconds: age.as_secs_f64(),
            // Once is nothing: somebody else may have asked it something at that moment.
            stale: self.missed > 1 || age > every * 3,
            cpu_time_seconds: stats.cpu_time_ns as f64 / 1e9,
            cpu_percent: cpu.map(|nanoseconds| nanoseconds / 1e7),
            memory_mib: stats.memory_mib,
            memory_rss_mib: stats.memory_rss_mib,
            memory_usable_mib: stats.memory_usable_mib,
            disks: stats.disks.iter().map(disk).collect(),
            nics: stats.nics.iter().map(nic).collect(),
        }
    }
}

/// Names what [`Limen::list_vm_samples`] answers: equal names, equal answers but for their age.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SamplesVersion {
    scope: Scope,
    passes: Vec<u64>,
}

impl SamplesVersion {
    /// Whether the actor sees no VM at all, whichever there are.
    #[must_use]
    pub fn shows_nothing(&self) -> bool {
        self.scope == Scope::nothing()
    }

    /// Whether the other is of an actor who sees the same VMs.
    #[must_use]
    pub fn is_of_the_same_sight(&self, other: &Self) -> bool {
        self.scope == other.scope
    }
}

impl Limen {
    /// The last figures of a running VM, with their rates and their age. No call to a host: they are
    /// read every fifteen seconds (`METRICS_INTERVAL`), whoever asks. Only the first ones are waited
    /// for, three seconds at most.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also for a VM that is not in the actor's sight.
    /// [`Conflict`](ErrorKind::Conflict): the VM does not run.
    /// [`Unsupported`](ErrorKind::Unsupported): the host has no counters, or none are read.
    /// [`Unavailable`](ErrorKind::Unavailable): the VM, or its host, has told nothing yet.
    pub async fn vm_stats(&self, ctx: &Context, id: VmId) -> Result<VmSample> {
        let shown = self.find(ctx, Action::GetVmStats, id)?;
        if !shown.vm.status.state.is_active() {
            return Err(Error::new(ErrorKind::Conflict, "The VM does not run, so it has no figures; start it first."));
        }
        let every = self.shared.timings.sample;
        let host = self.shared.hosts.iter().find(|host| host.id == shown.host);
        let host = host.ok_or_else(|| Error::unavailable("The host"))?;
        if every.is_zero() {
            return Err(Error::new(ErrorKind::Unsupported, "No figures of VMs are read: METRICS_INTERVAL is 0s."));
        }
        if !host.hypervisor.capability().stats {
            return Err(Error::new(ErrorKind::Unsupported, "This host has no figures of VMs."));
        }
        let mut kept = host.samples.of(id);
        if kept.is_none() {
            // It was started since all were asked.
            let mut passes = host.samples.passes.subscribe();
            let seen = *passes.borrow_and_update();
            host.samples.wanted.notify_one();
            // Its sender is here: only the time can end it.
            _ = tokio::time::timeout(FIRST_FIGURES, passes.wait_for(|passes| *passes > seen)).await;
            kept = host.samples.of(id);
        }
        let kept = kept.ok_or_else(|| Error::unavailable("The VM"))?;
        Ok(kept.figures(id, self.shared.clock.monotonic(), every))
    }

    /// The last figures of all running VMs that the actor may see, each with its VM as it is now, in
    /// the order of their ids. No call to a host.
    ///
    /// # Errors
    /// What the policy refuses. The server's own lets everybody, and shows nobody's to who is not
    /// known.
    pub async fn list_vm_samples(&self, ctx: &Context) -> Result<Vec<(Arc<Vm>, VmSample)>> {
        let version = self.samples_version(ctx).await?;
        let (now, every) = (self.shared.clock.monotonic(), self.shared.timings.sample);
        let mut found = Vec::new();
        for host in &self.shared.hosts {
            let kept = host.samples.kept().clone();
            found.extend(kept.into_iter().filter_map(|(id, kept)| {
                let vm = self.shared.inventory.vm(id)?.vm;
                let visible = version.scope.contains(vm.owner, Some(id)) && vm.status.state.is_active();
                visible.then(|| (vm, kept.figures(id, now, every)))
            }));
        }
        found.sort_by_key(|(vm, _)| vm.id);
        Ok(found)
    }

    /// Returns once counters were read more than `after` times, and how often they were; also when
    /// this process stops.
    pub async fn next_samples(&self, after: u64) -> u64 {
        let (mut sampled, mut stopping) = (self.shared.sampled.subscribe(), self.shared.stopping.subscribe());
        tokio::select! {
            _ = sampled.wait_for(|sampled| *sampled > after) => {}
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        *self.shared.sampled.borrow()
    }

    /// What [`Limen::list_vm_samples`] would answer, by name: for what is made of it to be kept.
    ///
    /// # Errors
    /// Those of [`Limen::list_vm_samples`].
    pub async fn samples_version(&self, ctx: &Context) -> Result<SamplesVersion> {
        self.authorize(ctx, Action::GetMetrics, Resource::Any, "figure")?;
        let may_list = self.shared.authz.decide(ctx.actor(), Action::ListVms, Resource::Any) == Decision::Allow;
        let scope = if may_list { self.shared.authz.list_scope(ctx.actor()) } else { Scope::nothing() };
        let passes = self.shared.hosts.iter().map(|host| *host.samples.passes.borrow()).collect();
        Ok(SamplesVersion { scope, passes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(cpu_time_ns: u64, read_bytes: u64) -> VmStats {
        let disk = DiskStats { device: "vda".to_owned(), read_bytes, ..DiskStats::default() };
        VmStats { cpu_time_ns, disks: vec![disk], ..VmStats::default() }
    }

    #[test]
    fn rates_are_over_the_last_two_readings_and_a_silent_vm_grows_old() {
        let (samples, vm, every) = (Samples::default(), VmId(uuid::Uuid::from_u128(1)), Duration::from_secs(15));
        let (start, wall) = (Instant::now(), OffsetDateTime::UNIX_EPOCH);
        let at = |seconds| start + Duration::from_secs(seconds);
        let figures = |now| samples.of(vm).map(|kept| kept.figures(vm, at(now), every));
        samples.take(vec![(vm, stats(1_000_000_000, 0))], at(0), wall, |_| true);
        assert_eq!(figures(1).map(|figures| (figures.cpu_percent, figures.stale)), Some((None, false)));
        samples.take(vec![(vm, stats(6_000_000_000, 2_000_000))], at(10), wall, |_| true);
        let told = figures(10).expect("figures");
        assert_eq!((told.cpu_percent, told.cpu_time_seconds), (Some(50.0), 6.0));
        assert_eq!(told.disks[0].read_bytes_per_second, Some(200_000.0));
        samples.take(Vec::new(), at(20), wall, |_| true);
        assert_eq!(figures(20).map(|figures| figures.stale), Some(false), "it may have been busy for a moment");
        samples.take(Vec::new(), at(25), wall, |_| true);
        let told = figures(26).expect("the last figures");
        assert_eq!((told.stale, told.age_seconds, told.cpu_percent), (true, 16.0, Some(50.0)));
        samples.take(vec![(vm, stats(1_000, 0))], at(40), wall, |_| true);
        let told = figures(40).expect("figures");
        assert_eq!((told.stale, told.cpu_percent), (false, None), "it was started anew");
        samples.take(Vec::new(), at(55), wall, |_| false);
        assert_eq!(figures(55), None, "it no longer runs");
    }
}
