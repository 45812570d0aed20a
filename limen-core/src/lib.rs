//! LIMEN manages KVM/libvirt virtual machines from a Rust program.
//!
//! Everything starts at [`Limen`]: give its builder a [`Store`], an [`Authz`] policy and at least
//! one [`Hypervisor`], and call its methods with a [`Context`] that says who asks. The simulator
//! and SQLite need nothing on the machine; libvirt and PostgreSQL are cargo features.
//!
//! | feature | what it adds |
//! |---|---|
//! | `sqlite` (default) | `store::sqlite`: the embedded store |
//! | `postgres` | `store::postgres`: the store that several servers share |
//! | `libvirt` | `hypervisor::libvirt`: KVM and QEMU guests; needs libvirt's development files, links LGPL crates |
//! | `metrics-local` | `metrics::LocalMetrics`: figures of this machine |
//! | `metrics-agent` | `metrics::AgentMetrics`: figures of another machine, from its limen-agent |
//! | `remote` | `remote::Remote`: the client of a server |
//! | `testing` | `testing`: conformance suites for a back end of your own |
//!
//! The library reads no environment variable, opens no listening socket, starts no runtime and
//! installs no logger: configuration arrives as values, logs leave through `tracing`.

#[cfg(any(feature = "metrics-agent", feature = "remote"))]
mod address;
mod clock;
mod context;
mod error;
mod hex;
mod secret;

pub mod model;

pub mod authz;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub mod backup;
pub mod hypervisor;
pub mod metrics;
pub mod store;

pub mod service;

#[cfg(feature = "remote")]
pub mod remote;

#[cfg(feature = "testing")]
pub mod testing;

pub use authz::Authz;
pub use clock::{Clock, SystemClock};
pub use context::{Action, Actor, Context, Role};
pub use error::{Error, ErrorKind, Result};
pub use hypervisor::Hypervisor;
pub use metrics::MetricsSource;
pub use secret::Secret;
pub use service::{Limen, LimenBuilder};
pub use store::Store;

#[cfg(all(doctest, feature = "remote", feature = "sqlite"))]
#[doc = include_str!("../../docs/en/embedding.md")]
struct EmbeddingGuide;
