//! Consoles: which there are, and the tickets to open one.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{EventNumber, SessionId, TokenId, UserId, VmId};

/// Which console of a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsoleKind {
    /// The screen, as RFB (RFC 6143), already authenticated.
    Vnc,
    /// The first serial port, as raw bytes.
    Serial,
}

impl ConsoleKind {
    /// The kind's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            ConsoleKind::Vnc => "vnc",
            ConsoleKind::Serial => "serial",
        }
    }
}

/// What a console ticket was made with: its console lasts no longer than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TicketHolder {
    /// A login.
    Session(SessionId),
    /// An API token.
    Token(TokenId),
}

/// A ticket: opens one console of one VM, once. The secret itself is shown once, and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    /// The SHA-256 of the secret in hexadecimal digits, unique.
    pub hash: String,
    /// Whose it is.
    pub user: UserId,
    /// What the user asked for it with.
    pub holder: TicketHolder,
    /// The VM.
    pub vm: VmId,
    /// The console.
    pub kind: ConsoleKind,
    /// What the process that made it showed then: another one waits until it shows that too.
    pub event: EventNumber,
    /// When it is no longer good.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}
