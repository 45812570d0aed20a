//! Tickets for consoles.

use limen_core::hypervisor::ConsoleKind;
use limen_core::service::Ticket;
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{Described, Wire};

/// A ticket, with the secret itself.
#[derive(Serialize)]
pub(crate) struct TicketView {
    url: String,
    ticket: String,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

impl TicketView {
    /// For the answer to who made it; `path` is where it is used.
    pub(crate) fn shown_once(path: &str, ticket: Ticket) -> Self {
        let Ticket { secret, expires_at } = ticket;
        let ticket = secret.expose().to_owned();
        Self { url: format!("{path}?ticket={ticket}"), ticket, expires_at }
    }
}

/// A ticket that opens one console, once.
#[derive(Debug, Object)]
#[oai(rename = "Ticket")]
pub(crate) struct TicketSchema {
    /// Where a WebSocket is connected to, on this server, with the ticket in it.
    url: String,
    /// The ticket alone: in this answer, and never again.
    ticket: String,
    /// When it is no longer good.
    expires_at: OffsetDateTime,
}

impl Described for TicketView {
    type Schema = TicketSchema;
}

/// A ticket to make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTicketBody {
    pub(crate) kind: ConsoleKind,
}

/// A ticket to make.
#[derive(Debug, Object)]
#[oai(rename = "CreateTicket")]
pub(crate) struct CreateTicketSchema {
    /// The screen (`vnc`, as RFB) or the first serial port (`serial`, as raw bytes).
    kind: Wire<ConsoleKind>,
}

impl Described for CreateTicketBody {
    type Schema = CreateTicketSchema;
}
