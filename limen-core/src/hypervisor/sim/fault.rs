//! Scripted faults, and the log of calls that proves what was called.

use std::fmt;
use std::time::Duration;

use uuid::Uuid;

use crate::error::ErrorKind;
use crate::model::{VmId, VolumeId};

macro_rules! methods {
    ($($method:ident = $name:literal;)+) => {
        /// A method of [`Hypervisor`](crate::Hypervisor) that calls the host. `capability` and
        /// `subscribe` are none.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Method {
            $(#[doc = concat!("`", $name, "`.")] $method,)+
        }

        impl Method {
            /// Every method.
            pub const ALL: &'static [Method] = &[$(Method::$method,)+];

            /// The method's name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Method::$method => $name,)+ }
            }
        }
    };
}

methods! {
    HostInfo = "host_info";
    CreateDefinition = "create_definition";
    ChangeDefinition = "change_definition";
    ReadDefinition = "read_definition";
    RestoreDefinition = "restore_definition";
    RemoveDefinition = "remove_definition";
    Get = "get";
    List = "list";
    ChangePower = "change_power";
    Stats = "stats";
    OpenConsole = "open_console";
    CreateVolume = "create_volume";
    WriteVolume = "write_volume";
    ReadVolume = "read_volume";
    ResizeVolume = "resize_volume";
    RemoveVolume = "remove_volume";
    ListVolumes = "list_volumes";
    ReadWitness = "read_witness";
    WriteWitness = "write_witness";
    ListNetworks = "list_networks";
    Close = "close";
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call answers this kind of error and has no effect; a `write_volume` has written half of
    /// its bytes.
    Fails(ErrorKind),
    /// The disk is full: the same as `Fails(ErrorKind::NoSpace)`.
    NoSpace,
    /// The call hangs for this long, or until [`release`](super::SimHypervisor::release) where no
    /// time is given; then it is done. A caller that waits longer than the simulator's deadline gets
    /// [`ErrorKind::Timeout`]; the call is done later all the same.
    Hangs(Option<Duration>),
    /// The caller gets [`ErrorKind::Timeout`] at once; the effect lands this much later.
    LandsLate(Duration),
    /// The call is done at once, and its answer comes this much later: what it read is old by then.
    AnswersLate(Duration),
    /// The call is done, and none of the events that it leads to is sent.
    EventLost,
    /// The call panics and has no effect: a defect of a back end.
    Panics,
    /// The connection is lost instead: the call answers [`ErrorKind::Unavailable`] and has no
    /// effect, and so do all calls until [`reconnect`](super::SimHypervisor::reconnect).
    ConnectionLost,
}

/// Which call a [`Fault`] hits, counted from the moment it is scripted.
///
/// ```
/// use limen_core::ErrorKind;
/// use limen_core::hypervisor::sim::{Fault, Method, On, SimHypervisor};
///
/// let sim = SimHypervisor::new();
/// // The second call of `create_volume` from now on finds the disk full.
/// sim.inject(On::method(Method::CreateVolume).nth(2), Fault::NoSpace);
/// // Every `list` fails until the faults are cleared.
/// sim.inject(On::method(Method::List).forever(), Fault::Fails(ErrorKind::Internal));
/// sim.clear_faults();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct On {
    method: Option<Method>,
    subject: Option<Uuid>,
    nth: u32,
    forever: bool,
}

impl On {
    /// The next call of this method.
    #[must_use]
    pub const fn method(method: Method) -> Self {
        Self { method: Some(method), subject: None, nth: 1, forever: false }
    }

    /// The next call of any method.
    #[must_use]
    pub const fn any() -> Self {
        Self { method: None, subject: None, nth: 1, forever: false }
    }

    /// Only calls about this VM.
    #[must_use]
    pub const fn vm(mut self, id: VmId) -> Self {
        self.subject = Some(id.0);
        self
    }

    /// Only calls about this volume.
    #[must_use]
    pub const fn volume(mut self, id: VolumeId) -> Self {
        self.subject = Some(id.0);
        self
    }

    /// The `nth` of them, counted from 1; 0 is the next one too.
    #[must_use]
    pub const fn nth(mut self, nth: u32) -> Self {
        self.nth = nth;
        self
    }

    /// And all after it.
    #[must_use]
    pub const fn forever(mut self) -> Self {
        self.forever = true;
        self
    }

    fn matches(&self, method: Method, subject: Option<Uuid>) -> bool {
        self.method.is_none_or(|wanted| wanted == method) && self.subject.is_none_or(|wanted| Some(wanted) == subject)
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet: it hangs, or lands later.
    Open,
    /// It was done.
    Done,
    /// It failed.
    Failed(ErrorKind),
}

/// One line of the log of calls. Its `Display` is stable: `12 change_power <id> done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 1.
    pub number: u64,
    /// What was called.
    pub method: Method,
    /// The VM or volume that it is about.
    pub subject: Option<Uuid>,
    /// What the host did; a caller that got [`ErrorKind::Timeout`] may find `Done` here later.
    pub outcome: Outcome,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.number, self.method.as_str())?;
        match self.subject {
            Some(id) => write!(f, "{id} ")?,
            None => f.write_str("- ")?,
        }
        match self.outcome {
            Outcome::Open => f.write_str("open"),
            Outcome::Done => f.write_str("done"),
            Outcome::Failed(kind) => f.write_str(kind.code()),
        }
    }
}

/// The faults that are still to come, in the order in which they were scripted.
#[derive(Debug, Default)]
pub(super) struct Script(Vec<(On, Fault)>);

impl Script {
    pub(super) fn add(&mut self, on: On, fault: Fault) {
        self.0.push((on, fault));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts this call; the first fault that is due hits it.
    pub(super) fn next(&mut self, method: Method, subject: Option<Uuid>) -> Option<Fault> {
        let mut hit = None;
        self.0.retain_mut(|(on, fault)| {
            if !on.matches(method, subject) {
                return true;
            }
            on.nth = on.nth.saturating_sub(1);
            if on.nth > 0 || hit.is_some() {
                on.nth = on.nth.max(1);
                return true;
            }
            hit = Some(*fault);
            on.forever
        });
        hit
    }
}

/// The log of calls: all are counted, the last [`Log::KEPT`] are kept.
#[derive(Debug, Default)]
pub(super) struct Log {
    calls: std::collections::VecDeque<Call>,
    counts: std::collections::BTreeMap<Method, u64>,
    number: u64,
}

impl Log {
    pub(super) const KEPT: usize = 100_000;

    pub(super) fn begin(&mut self, method: Method, subject: Option<Uuid>) -> u64 {
        self.number += 1;
        *self.counts.entry(method).or_default() += 1;
        if self.calls.len() == Self::KEPT {
            self.calls.pop_front();
        }
        self.calls.push_back(Call { number: self.number, method, subject, outcome: Outcome::Open });
        self.number
    }

    pub(super) fn end(&mut self, number: u64, failed: Option<ErrorKind>) {
        let first = self.calls.front().map_or(0, |call| call.number);
        let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
        if let Some(call) = place.and_then(|place| self.calls.get_mut(place)) {
            call.outcome = failed.map_or(Outcome::Done, Outcome::Failed);
        }
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.iter().copied().collect()
    }

    pub(super) fn count(&self, method: Method) -> u64 {
        self.counts.get(&method).copied().unwrap_or(0)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
