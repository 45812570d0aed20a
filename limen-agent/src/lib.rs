//! The host agent of LIMEN: figures of the machine that it runs on, as JSON for people and LIMEN, and
//! for Prometheus under node_exporter's names.
//!
//! It is meant to be left on everywhere: it samples on a clock of its own (`clock`), answers from
//! memory (`server`), and what hangs on the machine delays nobody who asks (`room`).

mod clock;
mod config;
mod json;
mod mounts;
mod notify;
mod proc;
mod room;
mod sample;
mod server;
mod text;
mod tls;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::clock::Clock;
use crate::config::{Args, Config};
use crate::server::Server;

/// Runs the agent as the command line and the environment say, until SIGTERM or SIGINT.
///
/// Ends with 0 when it was asked to, with 2 for a setting that cannot be used, and with 1 for what
/// keeps it from serving; one sentence on standard error says which.
pub fn run() -> ExitCode {
    let refused = |sentence: String, code: u8| {
        eprintln!("limen-agent: {sentence}");
        ExitCode::from(code)
    };
    let config = match Args::parse().judge() {
        Ok(config) => config,
        Err(sentence) => return refused(sentence, 2),
    };
    tracing_subscriber::fmt()
        .with_max_level(config.log_level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    // Answers come from memory: one thread gives them all.
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("There is no runtime: {error}."))
        .and_then(|runtime| runtime.block_on(serve(config)));
    served.map_or_else(|sentence| refused(sentence, 1), |()| ExitCode::SUCCESS)
}

async fn serve(config: Config) -> Result<(), String> {
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let scheme = if acceptor.is_some() { "https" } else { "http" };
    let address = config.address;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| format!("{address} cannot be listened on ({error}); PORT and BIND_ADDRESS choose another."))?;
    if !address.ip().is_loopback() && (config.token.is_none() || acceptor.is_none()) {
        tracing::warn!(
            "{address} can be reached from elsewhere, without a token or without TLS: AGENT_TOKEN_FILE, TLS_CERT_FILE"
        );
    }
    let clock = Clock::start(config.period).map_err(|error| format!("The figures cannot be read: {error}."))?;
    let stops = |kind| signal(kind).map_err(|error| format!("No signals can be heard: {error}."));
    let (mut terminate, mut interrupt) = (stops(SignalKind::terminate())?, stops(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        notify::stopping();
    };
    tracing::info!(
        "limen-agent {} answers on {scheme}://{address}; its description is at /docs",
        env!("CARGO_PKG_VERSION")
    );
    notify::serving(&format!("{scheme}://{address}"));
    let alive = tokio::spawn(notify::keep_alive(clock.clone()));
    Server::new(clock, config.token, acceptor).serve(listener, stop).await;
    alive.abort();
    tracing::info!("stopped");
    Ok(())
}
