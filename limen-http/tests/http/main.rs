//! The server as its clients see it, on the simulator.

mod document;
mod errors;
mod harness;
mod json;
mod process;
mod routes;
mod tokens;
