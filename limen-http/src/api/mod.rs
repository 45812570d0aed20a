//! The routes, one noun a file. A handler extracts, makes one call on `Limen`, and converts.

mod audit;
mod auth;
mod check;
mod events;
mod health;
mod hosts;
mod images;
mod operations;
mod quota;
mod restored;
mod tokens;
mod users;
mod vms;

use std::collections::HashMap;

use poem::{Route, RouteMethod};
use poem_openapi::{OpenApi, OpenApiService, Tags};

/// How the document groups the operations.
#[derive(Tags)]
pub(crate) enum Tag {
    /// Whether the server works.
    Health,
    /// Login, logout and oneself.
    Auth,
    /// Users; for admins.
    Users,
    /// API tokens, for programs.
    Tokens,
    /// Limits and use of one's own.
    Quota,
    /// Virtual machines.
    Vms,
    /// Disk and ISO images.
    Images,
    /// Hosts and their networks.
    Hosts,
    /// Durable changes, at work and finished.
    Operations,
    /// The numbered changes, as they happen.
    Events,
    /// Who asked for what; for admins.
    Audit,
    /// Whether all agrees; for admins.
    Check,
}

fn all() -> impl OpenApi {
    (
        health::Health,
        auth::Auth,
        users::Users,
        tokens::ApiTokens,
        quota::Quota,
        vms::Vms,
        images::Images,
        hosts::Hosts,
        operations::Operations,
        events::Events,
        audit::Audit,
        check::Check,
        restored::Restored,
    )
}

/// All routes of the document, under one router and with nothing between.
pub(crate) fn routes() -> Route {
    let mut table = HashMap::new();
    all().add_routes(&mut table);
    table.into_iter().fold(Route::new(), |routes, (path, methods)| {
        let methods =
            methods.into_iter().fold(RouteMethod::new(), |all, (method, handler)| all.method(method, handler));
        routes.at(path, methods)
    })
}

/// The description of [`routes`].
pub(crate) fn service() -> OpenApiService<impl OpenApi, ()> {
    OpenApiService::new(all(), "LIMEN", env!("CARGO_PKG_VERSION")).description(
        "Manages KVM/libvirt virtual machines. Errors are problem documents (RFC 9457). A change that touches a \
         host answers 202 with an operation; `Prefer: wait=N` waits for it.",
    )
}
