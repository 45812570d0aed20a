//! The server as its clients see it, on the simulator.

mod abuse;
mod agent;
mod document;
mod errors;
mod events;
mod harness;
mod headers;
mod journal;
mod json;
mod jwt;
mod limit;
mod looks;
mod matrix;
mod metrics;
mod parser;
mod process;
mod routes;
mod service;
mod slow;
mod tokens;
mod wire;
