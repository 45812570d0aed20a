//! The server as its clients see it, on the simulator.

mod abuse;
mod agent;
mod document;
mod errors;
mod events;
mod harness;
mod json;
mod jwt;
mod matrix;
mod metrics;
mod process;
mod routes;
mod service;
mod tokens;
