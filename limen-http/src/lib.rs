//! LIMEN over HTTP, and its command line.
//!
//! The binary `limen` is [`run`]. A program that wants the routes without the process around them
//! builds an [`App`] from a [`Limen`](limen_core::Limen) and serves [`endpoint`].

mod agent;
mod answer;
mod api;
mod app;
mod auth;
mod cli;
mod config;
mod console;
mod docs;
mod dto;
mod edge;
mod error;
mod extract;
mod line;
mod logging;
mod metrics;
mod notify;
mod openapi;
mod pace;
mod relay;
mod request_id;
mod routes;
mod server;
mod sse;
mod start;
mod unparsed;

pub use app::{App, document, endpoint};
pub use cli::run;
pub use error::status;
pub use metrics::count_panics;
pub use pace::Timeouts;
pub use server::{serve, serve_with};
