//! Tickets: what opens one console of one VM, once, within half a minute.
//!
//! A browser cannot send a header with a WebSocket, and what stands in an address is kept by
//! proxies and histories: so what stands there is worth nothing a moment later. A ticket is 256
//! random bits, shown when it is made; the Store keeps its SHA-256, so every server on the Store
//! knows it, and its use deletes that, so one use among them all goes through.

use std::time::Duration;

use rand::RngExt as _;
use time::OffsetDateTime;

use super::{Limen, tokens};
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::model::{AuditOutcome, ConsoleKind, TicketHolder, TicketRecord, VmId};
use crate::secret::Secret;
use crate::store::{Change, Row};

/// How long a ticket is good.
const GOOD: Duration = Duration::from_secs(30);
/// How long another process than the one that made a ticket may take to show what that one did.
const CATCH_UP: Duration = Duration::from_secs(1);

/// A ticket, as whoever asked for it gets it.
#[derive(Debug, Clone)]
pub struct Ticket {
    /// The ticket itself: told this once.
    pub secret: Secret,
    /// When it is no longer good.
    pub expires_at: OffsetDateTime,
}

fn no_longer_good() -> Error {
    let text = "The console ticket is not known, was used, or has expired; ask for a new one.";
    Error::new(ErrorKind::Unauthenticated, text)
}

impl Limen {
    /// Makes a ticket that opens this console of a VM: once, within 30 s, at any server on the same
    /// Store, and as the actor, whose session or token must then still be good. The VM need not run
    /// yet.
    ///
    /// # Errors
    /// [`Forbidden`](ErrorKind::Forbidden): the actor is no user, in a session or with a token.
    pub async fn create_ticket(&self, ctx: &Context, id: VmId, kind: ConsoleKind) -> Result<Ticket> {
        self.find_managed(ctx, Action::CreateTicket, id)?;
        let (user, holder) = match ctx.actor() {
            Actor::User { id, session, .. } => (*id, TicketHolder::Session(*session)),
            Actor::Token { id, user, .. } => (*user, TicketHolder::Token(*id)),
            _ => return Err(Error::new(ErrorKind::Forbidden, "A console ticket belongs to a user: log in as one.")),
        };
        let bytes: [u8; 32] = rand::rng().random();
        let secret = hex(&bytes);
        let expires_at = self.now() + GOOD;
        let record =
            TicketRecord { hash: tokens::digest(&secret), user, holder, vm: id, kind, event: self.event(), expires_at };
        let (resource, detail) = (format!("vm:{id}"), Some(kind.as_str().to_owned()));
        let audit = vec![self.audit_record(ctx, Action::CreateTicket, resource, AuditOutcome::Succeeded, detail)];
        let rows = vec![Row::Ticket(Box::new(record))];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await?;
        Ok(Ticket { secret: Secret::new(secret), expires_at })
    }

    /// Uses a ticket up for this console, and answers who made it, as they are now: the actor to
    /// [open](Self::open_console) it as. `ctx` is of whoever brings the ticket: nobody who is known,
    /// or its own user. A ticket that is refused as foreign stays good for what it is for.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated): it is not known, was used (also at once, at
    /// another server), or has expired, or what it was made with is no longer good.
    /// [`Forbidden`](ErrorKind::Forbidden): it is another user's, or for another console.
    pub async fn use_ticket(&self, ctx: &Context, ticket: &Secret, id: VmId, kind: ConsoleKind) -> Result<Actor> {
        let refused = || {
            self.count_unknown();
            no_longer_good()
        };
        let hash = tokens::digest(ticket.expose());
        let record = self.shared.store.ticket(&hash).await?.filter(|record| record.expires_at > self.now());
        let record = record.ok_or_else(refused)?;
        self.wait_for_event(record.event, CATCH_UP).await?;
        let actor = match record.holder {
            TicketHolder::Session(session) => self.authenticate(session).await?,
            TicketHolder::Token(token) => {
                self.shared.recall(self.shared.inventory.token(token).is_some()).await?;
                let (record, user) = self.shared.inventory.token(token).ok_or_else(refused)?;
                self.actor_of(&record.token, &user).inspect_err(|_| self.count_unknown())?
            }
        };
        let foreign = match ctx.actor().user_id() {
            Some(user) if user != record.user => Some("This console ticket is another user's."),
            _ if (record.vm, record.kind) != (id, kind) => Some("This console ticket is for another console."),
            _ => None,
        };
        if let Some(text) = foreign {
            // The audit names who brought it, or else whose it is.
            let by = if ctx.actor().user_id().is_some() { ctx.clone() } else { ctx.clone().with_actor(actor) };
            self.note_refusal(&by, Action::OpenConsole, format!("vm:{id}"), "foreign_ticket");
            return Err(Error::new(ErrorKind::Forbidden, text));
        }
        match self.commit_detached(Change { rows: vec![Row::TicketUsed(hash)], ..Change::default() }).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Err(refused()),
            Err(error) => Err(error),
            Ok(_) => Ok(actor),
        }
    }
}
