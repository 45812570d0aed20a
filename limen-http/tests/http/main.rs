//! The server as its clients see it, on the simulator.

mod abuse;
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
mod parser;
mod process;
mod routes;
mod slow;
mod tokens;
mod wire;
