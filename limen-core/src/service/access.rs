//! The policy, asked in one place.

use time::OffsetDateTime;
use uuid::Uuid;

use super::Limen;
use crate::authz::{Decision, Resource};
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ActorRef, AuditOutcome, AuditRecord, Page, PageRequest};

impl Limen {
    /// Refuses what the policy refuses; `noun` names the object for "there is no such".
    pub(super) fn authorize(&self, ctx: &Context, action: Action, resource: Resource, noun: &str) -> Result<()> {
        self.ask(ctx.actor(), action, resource, noun)
    }

    /// The same once more, of the actor as they are now: for what took long since it was asked.
    pub(super) fn authorize_again(&self, ctx: &Context, action: Action, resource: Resource, noun: &str) -> Result<()> {
        self.ask(&self.reauthenticate(ctx.actor())?, action, resource, noun)
    }

    fn ask(&self, actor: &Actor, action: Action, resource: Resource, noun: &str) -> Result<()> {
        match self.shared.authz.decide(actor, action, resource) {
            Decision::Allow => Ok(()),
            Decision::Conceal => Err(Error::not_found(noun)),
            Decision::Deny if *actor == Actor::Anonymous => {
                Err(Error::new(ErrorKind::Unauthenticated, "A token is needed: log in first."))
            }
            Decision::Deny if matches!(actor, Actor::Token { .. }) => {
                Err(Error::new(ErrorKind::Forbidden, "This API token does not allow it."))
            }
            Decision::Deny => Err(Error::new(ErrorKind::Forbidden, "Your role does not allow this.")),
        }
    }

    pub(super) fn audit_record(
        &self,
        ctx: &Context,
        action: Action,
        resource: String,
        outcome: AuditOutcome,
        detail: Option<String>,
    ) -> AuditRecord {
        AuditRecord {
            id: Uuid::now_v7(),
            at: self.now(),
            actor: ActorRef { label: ctx.actor().label(), user: ctx.actor().user_id() },
            origin: ctx.origin(),
            request_id: ctx.request_id().to_owned(),
            action,
            resource,
            outcome,
            operation: None,
            detail,
        }
    }

    pub(super) fn now(&self) -> OffsetDateTime {
        self.shared.clock.now()
    }

    /// A page of the audit, newest first.
    pub async fn list_audit(&self, ctx: &Context, page: PageRequest) -> Result<Page<AuditRecord>> {
        self.authorize(ctx, Action::ListAudit, Resource::Any, "audit record")?;
        self.shared.store.audit(page).await
    }
}

/// Cuts a list that is in memory, ordered by id, to a page.
pub(super) fn page_of<T>(all: impl Iterator<Item = (Uuid, T)>, page: PageRequest) -> Page<T> {
    let limit = page.limit() as usize;
    let rest = all.filter(|(id, _)| page.after().is_none_or(|after| *id > after));
    let mut items: Vec<(Uuid, T)> = rest.take(limit + 1).collect();
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|(id, _)| id.to_string());
    Page { items: items.into_iter().map(|(_, item)| item).collect(), next_cursor }
}
