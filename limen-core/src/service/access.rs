//! The policy, asked in one place.

use time::OffsetDateTime;
use uuid::Uuid;

use super::Limen;
use crate::authz::{Decision, Resource};
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ActorRef, AuditOutcome, AuditQuery, AuditRecord, Page, PageRequest};

impl Limen {
    /// Refuses what the policy refuses; `noun` names the object for "there is no such".
    pub(super) fn authorize(&self, ctx: &Context, action: Action, resource: Resource, noun: &str) -> Result<()> {
        self.ask(ctx, ctx.actor(), action, resource, noun, None)
    }

    /// The same where the resource does not tell which one it is: `id` names it for the audit.
    pub(super) fn authorize_one(
        &self,
        ctx: &Context,
        action: Action,
        resource: Resource,
        noun: &str,
        id: Uuid,
    ) -> Result<()> {
        self.ask(ctx, ctx.actor(), action, resource, noun, Some(id))
    }

    /// The same once more, of the actor as they are now: for what took long since it was asked.
    pub(super) fn authorize_again(&self, ctx: &Context, action: Action, resource: Resource, noun: &str) -> Result<()> {
        self.ask(ctx, &self.reauthenticate(ctx.actor())?, action, resource, noun, None)
    }

    fn ask(
        &self,
        ctx: &Context,
        actor: &Actor,
        action: Action,
        resource: Resource,
        noun: &str,
        id: Option<Uuid>,
    ) -> Result<()> {
        let refusal = match self.shared.authz.decide(actor, action, resource) {
            Decision::Allow => return Ok(()),
            Decision::Conceal => Error::not_found(noun),
            Decision::Deny if *actor == Actor::Anonymous => {
                Error::new(ErrorKind::Unauthenticated, "A token is needed: log in first.")
            }
            Decision::Deny if matches!(actor, Actor::Token { .. }) => {
                Error::new(ErrorKind::Forbidden, "This API token does not allow it.")
            }
            Decision::Deny => Error::new(ErrorKind::Forbidden, "Your role does not allow this."),
        };
        match actor {
            Actor::Anonymous => self.count_unknown(),
            _ => self.note_refusal(ctx, action, subject(resource, noun, id), refusal.kind().code()),
        }
        Err(refusal)
    }

    /// Tells the audit that the actor may not do this, and why.
    pub(super) fn note_refusal(&self, ctx: &Context, action: Action, resource: String, why: &str) {
        let record = self.audit_record(ctx, action, resource, AuditOutcome::Refused, Some(why.to_owned()));
        self.shared.refusals.add(record);
    }

    pub(super) fn audit_record(
        &self,
        ctx: &Context,
        action: Action,
        resource: String,
        outcome: AuditOutcome,
        detail: Option<String>,
    ) -> AuditRecord {
        let at = self.now();
        AuditRecord {
            id: AuditRecord::id_at(at),
            at,
            count: 1,
            last_at: None,
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

    /// A page of what fits `query` in the audit, newest first. A refusal that was folded stands
    /// where it was first, so it may come to stand behind records that were read already.
    pub async fn list_audit(&self, ctx: &Context, query: &AuditQuery, page: PageRequest) -> Result<Page<AuditRecord>> {
        self.authorize(ctx, Action::ListAudit, Resource::Any, "audit record")?;
        self.shared.store.audit(query, page).await
    }
}

/// What a refusal is about, as the audit names it.
fn subject(resource: Resource, noun: &str, id: Option<Uuid>) -> String {
    let (kind, own) = match resource {
        Resource::Vm { id, .. } => ("vm", Some(id.0)),
        Resource::Operation { .. } => ("operation", None),
        Resource::User(id) => ("user", Some(id.0)),
        Resource::Token(_) => ("token", None),
        Resource::Any | Resource::Shared => match noun {
            "VM" => ("vm", None),
            "API token" => ("token", None),
            "audit record" => ("audit", None),
            noun => (noun, None),
        },
    };
    match id.or(own) {
        Some(id) => format!("{kind}:{id}"),
        None => kind.to_owned(),
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
