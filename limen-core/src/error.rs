//! One error type for the whole library, and the one table of its kinds.
//!
//! [`Error`]'s `Display` is a single sentence that may be shown to any client. What must not leave
//! the process (SQL, libvirt's text, paths, XML) travels in the source chain, for the log alone.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{EventNumber, OperationId};

/// The result of every fallible call in this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

macro_rules! kinds {
    ($($(#[$doc:meta])+ $kind:ident = $code:literal, retry: $retry:literal;)+) => {
        /// What went wrong, as a caller may act on it. New kinds may be added.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])+ $kind,)+ }

        impl ErrorKind {
            /// Every kind, in the order of the table in `docs/errors.md`.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$kind,)+];

            /// The stable code on every surface: the `code` of a problem document, the name in a log.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(ErrorKind::$kind => $code,)+ }
            }

            /// Whether the same call may succeed later without being changed.
            #[must_use]
            pub const fn is_retryable(self) -> bool {
                match self { $(ErrorKind::$kind => $retry,)+ }
            }
        }
    };
}

kinds! {
    /// An argument is outside its limits; [`Error::field`] names it. Nothing was changed.
    Invalid = "invalid", retry: false;
    /// Nobody is known to be asking: no token, or one that is no longer good.
    Unauthenticated = "unauthenticated", retry: false;
    /// The actor is known and may not do this.
    Forbidden = "forbidden", retry: false;
    /// No such object, or one that the actor may not know of.
    NotFound = "not_found", retry: false;
    /// The name or id is taken.
    AlreadyExists = "already_exists", retry: false;
    /// The object is not in a state that allows this.
    Conflict = "conflict", retry: false;
    /// Another operation holds the object; [`Error::operation_id`] names it.
    Busy = "busy", retry: true;
    /// The owner's quota does not allow it; [`Error::quota`] has the figures.
    QuotaExceeded = "quota_exceeded", retry: false;
    /// It was there and is kept no longer; [`Error::oldest`] names what still is.
    Gone = "gone", retry: false;
    /// The object changed since the caller read it.
    PreconditionFailed = "precondition_failed", retry: false;
    /// The request is larger than allowed.
    TooLarge = "too_large", retry: false;
    /// Too many requests; wait [`Error::retry_after`].
    RateLimited = "rate_limited", retry: true;
    /// This back end cannot do it.
    Unsupported = "unsupported", retry: false;
    /// Store or host cannot be reached, or is overloaded; wait [`Error::retry_after`].
    Unavailable = "unavailable", retry: true;
    /// The deadline passed; the work may go on, its id is in [`Error::operation_id`].
    Timeout = "timeout", retry: true;
    /// The host or the Store has no space left for it.
    NoSpace = "no_space", retry: false;
    /// The outcome of a call sent once is unknown: the process ended between call and record.
    Interrupted = "interrupted", retry: false;
    /// The operation was cancelled, or another one took its place.
    Cancelled = "cancelled", retry: false;
    /// The operation was held after a restore of the Store, and given up by hand.
    Abandoned = "abandoned", retry: false;
    /// A defect of LIMEN or an answer that it did not expect; the log has the cause.
    Internal = "internal", retry: false;
}

/// The figures of a refused reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaFigures {
    /// What ran out: `vms`, `vcpus`, `memory_mib`, `disk_gib` or `snapshots`.
    pub resource: String,
    /// The owner's limit, in the unit of the resource.
    pub limit: i64,
    /// What was in use when the call was refused, in the same unit.
    pub used: i64,
}

/// An error of any call of this library.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    operation: Option<&'static str>,
    context: Vec<(&'static str, String)>,
    field: Option<String>,
    quota: Option<QuotaFigures>,
    operation_id: Option<OperationId>,
    oldest: Option<EventNumber>,
    retry_after: Option<Duration>,
    outdated: bool,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind`; `message` is one sentence that any client may read.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            operation: None,
            context: Vec::new(),
            field: None,
            quota: None,
            operation_id: None,
            oldest: None,
            retry_after: None,
            outdated: false,
            source: None,
        }))
    }

    /// `field` is outside its limits; `message` names the limit.
    #[must_use]
    pub fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Invalid, message);
        error.0.field = Some(field.into());
        error
    }

    /// There is no such `noun` (a word of the glossary: "VM", "image", …).
    #[must_use]
    pub fn not_found(noun: &str) -> Self {
        Self::new(ErrorKind::NotFound, format!("There is no such {noun}."))
    }

    /// A defect or an unexpected answer; the source keeps the cause for the log.
    #[must_use]
    pub fn internal(source: impl Into<Source>) -> Self {
        Self::new(ErrorKind::Internal, "An internal error occurred; the log has it under the request id.")
            .with_source(source)
    }

    /// `what` (a noun phrase: "The host", "The store") cannot be reached now.
    #[must_use]
    pub fn unavailable(what: &str) -> Self {
        let mut error = Self::new(ErrorKind::Unavailable, format!("{what} cannot be reached now; try again soon."));
        error.0.retry_after = Some(Duration::from_secs(2));
        error
    }

    /// The database has the schema of a newer program: this one writes no more.
    #[must_use]
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn outdated() -> Self {
        let text = "The database was upgraded by a newer LIMEN: upgrade this server, or stop it; it writes no more.";
        let mut error = Self::new(ErrorKind::Unavailable, text);
        error.0.retry_after = Some(Duration::from_secs(60));
        error.0.outdated = true;
        error
    }

    /// Whether this program is older than the Store's schema.
    #[must_use]
    pub(crate) fn is_outdated(&self) -> bool {
        self.0.outdated
    }

    /// There is more to do than can wait in line; `what` is too much of what.
    #[must_use]
    pub fn overloaded(what: &str) -> Self {
        let mut error = Self::new(ErrorKind::Unavailable, format!("{what}; try again soon."));
        error.0.retry_after = Some(Duration::from_secs(2));
        error
    }

    /// `operation_id` holds the object now.
    #[must_use]
    pub fn busy(operation_id: OperationId) -> Self {
        let mut error =
            Self::new(ErrorKind::Busy, "Another operation is at work on this object; wait for it or cancel it.");
        error.0.operation_id = Some(operation_id);
        error.0.retry_after = Some(Duration::from_secs(1));
        error
    }

    /// Events that the log had and has no more; `oldest` is the number of the first that it still
    /// has. `message` says why.
    #[must_use]
    pub fn gone(oldest: EventNumber, message: &str) -> Self {
        let mut error = Self::new(ErrorKind::Gone, message);
        error.0.oldest = Some(oldest);
        error
    }

    /// Adds the cause; it is never shown to a client.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Names the call that failed; an earlier name is kept as context `called`.
    #[must_use]
    pub fn with_operation(mut self, operation: &'static str) -> Self {
        if let Some(earlier) = self.0.operation.replace(operation) {
            self.0.context.push(("called", earlier.to_owned()));
        }
        self
    }

    /// Adds a fact for the log.
    #[must_use]
    pub fn with_context(mut self, key: &'static str, value: impl ToString) -> Self {
        self.0.context.push((key, value.to_string()));
        self
    }

    /// Names the operation that the error is about.
    #[must_use]
    pub fn with_operation_id(mut self, id: OperationId) -> Self {
        self.0.operation_id = Some(id);
        self
    }

    /// Says when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Names the argument that it is about.
    #[must_use]
    #[cfg(feature = "remote")]
    pub(crate) fn with_field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Names the oldest event that is still kept.
    #[must_use]
    #[cfg(feature = "remote")]
    pub(crate) fn with_oldest(mut self, oldest: EventNumber) -> Self {
        self.0.oldest = Some(oldest);
        self
    }

    /// Adds the figures of a refused reservation.
    #[must_use]
    pub fn with_quota(mut self, quota: QuotaFigures) -> Self {
        self.0.quota = Some(quota);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The argument that an [`ErrorKind::Invalid`] is about, as a path: `disks[0].size_gib`.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The figures of an [`ErrorKind::QuotaExceeded`].
    #[must_use]
    pub fn quota(&self) -> Option<&QuotaFigures> {
        self.0.quota.as_ref()
    }

    /// The operation that holds the object, or that goes on after a timeout.
    #[must_use]
    pub fn operation_id(&self) -> Option<OperationId> {
        self.0.operation_id
    }

    /// Of an [`ErrorKind::Gone`]: the number of the oldest event that is still kept.
    #[must_use]
    pub fn oldest(&self) -> Option<EventNumber> {
        self.0.oldest
    }

    /// How long to wait before the next try.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The call that failed, and facts about it, for the log.
    pub fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let operation = self.0.operation.map(|name| ("operation", name));
        operation.into_iter().chain(self.0.context.iter().map(|(key, value)| (*key, value.as_str())))
    }

    /// The sources joined by `: `, for the log; empty when there are none.
    #[must_use]
    pub fn causes(&self) -> String {
        let mut causes = Vec::new();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        causes.join(": ")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        f.debug_struct("Error")
            .field("kind", &inner.kind)
            .field("message", &inner.message)
            .field("operation", &inner.operation)
            .field("context", &inner.context)
            .field("field", &inner.field)
            .field("operation_id", &inner.operation_id)
            .field("source", &inner.source)
            .finish_non_exhaustive()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
