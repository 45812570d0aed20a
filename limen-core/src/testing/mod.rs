//! Conformance suites: what every implementation of a trait must do, as functions to call from your
//! own tests. They panic where a promise is broken.

pub mod authz;
pub mod behaviours;
pub mod hypervisor;
pub mod store;
