//! `limen serve`: from a configuration to a server that stops when it is asked to.

use std::io::IsTerminal;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, Result, output, port};
use crate::app::{self, App};
use crate::config::{CoreConfig, HttpConfig};
use crate::{logging, metrics, notify, server, start};

pub(super) const HELP: &str = "\
Examples:
  limen serve                             libvirt on this machine, SQLite in /var/lib/limen
  limen serve --bind-address 127.0.0.1    behind a proxy of this machine
  DATABASE_URL=postgres://limen:secret@db/limen JWT_SECRET=$(cat /etc/limen/jwt) limen serve
  limen serve --hypervisor-uri 'sim:///?vms=10' --data-dir /tmp/limen
                                          a simulator, to try it out

The first start makes a user (ADMIN_USER, ADMIN_PASSWORD). Without a password one is made and written to
initial-admin-password in the data directory; it is shown only on a terminal, and removed when it is changed.";

pub(super) async fn run(core: &CoreConfig, http: &HttpConfig) -> Result {
    logging::log_panics();
    metrics::count_panics();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    start::make_data_dir(core)?;
    let jwt_secret = start::jwt_secret(core, http)?;
    allow_connections();
    let listener = listen(http).await?;
    let address = listener.local_addr()?;

    let store = start::await_store(core).await?;
    let first = start::first_admin(core, http, &*store).await?;
    let mut builder = start::builder(core, store).await?.session(http.token_expiry).retention(http.retention);
    let lock = start::lock_data_dir(core);
    if let Some(lock) = &lock {
        builder = builder.holder(&lock.holder);
    }
    if let Some(first) = &first {
        builder = builder.admin(first.seed.clone());
    }
    let limen = builder.build().await.map_err(start::name_admin)?;
    if let Some(lock) = &lock {
        tracing::info!(target: "limen", name = lock.holder, "the name of this server");
    }
    let initial = start::initial_password(core, &http.admin_user);
    let mut app = App::new(limen.clone(), &jwt_secret)
        .with_initial_password(initial)
        .with_data_dir(&core.data_dir)
        .with_origins(http.origins.clone())
        .with_proxies(http.proxies.clone())
        .at_agent(http.agent.clone());
    if let Some(rate) = http.rate {
        app = app.with_rate_limit(rate.per_second, rate.burst);
    }
    if let Some(previous) = &http.jwt_secret_previous {
        app = app.with_previous_secret(previous);
    }
    let endpoint = app::endpoint(Arc::new(app))?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(target: "limen", "stopping");
        notify::stopping();
    };
    let version = env!("CARGO_PKG_VERSION");
    output::line(format!("LIMEN {version} answers on http://{address}; its description is at /docs."));
    if let Some(first) = first.filter(|first| first.made) {
        announce(&first);
    }
    notify::serving(&format!("http://{address}"));
    let keeping_alive = tokio::spawn(notify::keep_alive(limen.clone()));
    server::serve_with(listener, endpoint, http.timeouts, stop).await?;
    limen.shutdown().await;
    keeping_alive.abort();
    drop(lock);
    Ok(())
}

/// Each connection is an open file, and the usual limit of 1024 is for programs that know only as
/// many: this one may have what the system allows it.
fn allow_connections() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        tracing::warn!(target: "limen", %error, "the limit of open files stays as it is");
    }
}

/// The password is shown to a person at a terminal, never to a log.
fn announce(first: &start::FirstAdmin) {
    let (name, file) = (&first.seed.name, first.initial.file.display());
    if std::io::stdout().is_terminal() {
        let password = first.seed.password.expose();
        output::line(format!("First user: {name}, password: {password} (also in {file})."));
    } else {
        output::line(format!("First user: {name}; the password is in {file}."));
    }
}

async fn listen(http: &HttpConfig) -> Result<TcpListener> {
    let number = http.bind.port();
    TcpListener::bind(http.bind).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            let holder = port::holder(number).unwrap_or_else(|| "another process".to_owned());
            Failure::new(1, format!("PORT: {number} is taken by {holder}; stop it, or name another port."))
        }
        std::io::ErrorKind::PermissionDenied => {
            Failure::new(1, format!("PORT: this user may not listen on {number}; name one above 1023."))
        }
        _ => Failure::new(1, format!("BIND_ADDRESS: it is not possible to listen on {}: {error}.", http.bind)),
    })
}
