//! API tokens: what a user gives to a program instead of a password.
//!
//! A token is 256 random bits behind a prefix by which scanners recognise it. It is shown when it
//! is made; what is kept, in the Store and in memory, is its SHA-256. So many random bits need no
//! slow hash and no salt.

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::access::page_of;
use super::{Limen, validate};
use crate::authz::{Decision, Resource};
use crate::context::{Action, Actor, Context, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::hex::hex;
use crate::model::{AuditOutcome, Page, PageRequest, Token, TokenId, TokenRecord, User, UserId, VmId};
use crate::secret::Secret;
use crate::store::{Change, Row};

/// What every API token begins with.
const PREFIX: &str = "limen_";
/// The random bits of a token.
const BYTES: usize = 32;
/// How many tokens a user may have.
const MOST: usize = 100;

/// A token to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// What it is called, unique among one's own: the rules of a VM's name.
    pub name: String,
    /// What it may do at most; one's own role when none is given, and never more.
    pub role: Option<Role>,
    /// The one VM that it is for.
    pub vm: Option<VmId>,
    /// When it ends by itself; none for never.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

pub(super) fn digest(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn is_well_formed(secret: &str) -> bool {
    let digits = secret.strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 2 * BYTES && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

pub(super) fn ended() -> Error {
    Error::new(ErrorKind::Unauthenticated, "The API token is not known, or has ended.")
}

impl Limen {
    /// Whether `secret` is meant as an API token, good or not.
    #[must_use]
    pub fn is_token(secret: &str) -> bool {
        secret.starts_with(PREFIX)
    }

    /// Who a token belongs to, as [`authenticate`](Self::authenticate) tells it of a session: the
    /// actor may no more than the token's role, nor than its user may now.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated): unknown, deleted, expired, or its user is
    /// disabled or gone.
    /// [`Unavailable`](ErrorKind::Unavailable): it is not in memory, and the Store is away.
    pub async fn authenticate_token(&self, secret: &Secret) -> Result<Actor> {
        let inventory = &self.shared.inventory;
        let hash = digest(secret.expose());
        // What no process has ever made needs no look at the log.
        if is_well_formed(secret.expose()) {
            self.shared.recall(inventory.token_of_hash(&hash).is_some()).await?;
        }
        self.actor_with(&hash).inspect_err(|_| self.count_unknown())
    }

    /// The user of a token that is good now, as [`user_of_session`](Self::user_of_session).
    #[must_use]
    pub fn user_of_token(&self, secret: &Secret) -> Option<UserId> {
        self.actor_with(&digest(secret.expose())).ok()?.user_id()
    }

    fn actor_with(&self, hash: &str) -> Result<Actor> {
        let (record, user) = self.shared.inventory.token_of_hash(hash).ok_or_else(ended)?;
        self.actor_of(&record.token, &user)
    }

    pub(super) fn actor_of(&self, token: &Token, user: &User) -> Result<Actor> {
        if user.disabled || token.expires_at.is_some_and(|end| end <= self.now()) {
            return Err(ended());
        }
        Ok(Actor::Token {
            id: token.id,
            name: token.name.clone(),
            user: user.id,
            user_name: user.name.clone(),
            role: token.role.at_most(user.role),
            owner: user.owner,
            vm: token.vm,
        })
    }

    /// Makes a token of the actor's own. The secret is told this once.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid): the name, an end that has passed, a role above one's own,
    /// or a VM that is not in the actor's sight.
    /// [`AlreadyExists`](ErrorKind::AlreadyExists): the name. [`Conflict`](ErrorKind::Conflict):
    /// 100 tokens are enough. [`Forbidden`](ErrorKind::Forbidden): the actor is no user in a session.
    pub async fn create_token(&self, ctx: &Context, create: CreateToken) -> Result<(Token, Secret)> {
        self.authorize(ctx, Action::CreateToken, Resource::Any, "API token")?;
        let Actor::User { id: user, role: own, .. } = ctx.actor() else {
            return Err(Error::new(ErrorKind::Forbidden, "An API token belongs to a user: log in as one."));
        };
        validate::name("name", &create.name)?;
        let role = create.role.unwrap_or(*own);
        if role.at_most(*own) != role {
            self.note_refusal(ctx, Action::CreateToken, format!("user:{user}"), "role_above_own");
            return Err(Error::invalid("role", "A token may be at most what you are."));
        }
        if create.expires_at.is_some_and(|end| end <= self.now()) {
            return Err(Error::invalid("expires_at", "expires_at has passed already."));
        }
        if let Some(vm) = create.vm
            && self.get_vm(ctx, vm).await.is_err()
        {
            return Err(Error::invalid("vm_id", "There is no such VM."));
        }
        let mine = self.shared.inventory.tokens(|token| token.user == *user);
        if mine.len() >= MOST {
            return Err(Error::new(ErrorKind::Conflict, "You have 100 API tokens; delete one first."));
        }
        let bytes: [u8; BYTES] = rand::rng().random();
        let secret = format!("{PREFIX}{}", hex(&bytes));
        let token = Token {
            id: TokenId::generate(),
            user: *user,
            name: create.name,
            role,
            vm: create.vm,
            created_at: self.now(),
            expires_at: create.expires_at,
        };
        let resource = format!("token:{}", token.id);
        let detail = Some(format!("{} {}", token.name, token.role.as_str()));
        let audit = vec![self.audit_record(ctx, Action::CreateToken, resource, AuditOutcome::Succeeded, detail)];
        let rows = vec![Row::Token(Box::new(TokenRecord { token: token.clone(), hash: digest(&secret) }))];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await?;
        Ok((token, Secret::new(secret)))
    }

    /// A page of tokens: one's own, and all for who may see all. No secret is among them.
    pub async fn list_tokens(&self, ctx: &Context, page: PageRequest) -> Result<Page<Token>> {
        self.authorize(ctx, Action::ListTokens, Resource::Any, "API token")?;
        let sees = |token: &Token| {
            let resource = Resource::Token(token.user);
            self.shared.authz.decide(ctx.actor(), Action::ListTokens, resource) == Decision::Allow
        };
        let tokens = self.shared.inventory.tokens(sees);
        Ok(page_of(tokens.into_iter().map(|token| (token.id.0, token)), page))
    }

    /// Deletes a token: it is no longer good, here at once and at every server within a second.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also for one that is not in the actor's sight.
    pub async fn delete_token(&self, ctx: &Context, id: TokenId) -> Result<()> {
        self.authorize_one(ctx, Action::DeleteToken, Resource::Any, "API token", id.0)?;
        let (record, _) = self.shared.inventory.token(id).ok_or_else(|| Error::not_found("API token"))?;
        self.authorize_one(ctx, Action::DeleteToken, Resource::Token(record.token.user), "API token", id.0)?;
        let resource = format!("token:{id}");
        let detail = Some(record.token.name.clone());
        let audit = vec![self.audit_record(ctx, Action::DeleteToken, resource, AuditOutcome::Succeeded, detail)];
        let rows = vec![Row::TokenGone(id)];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await.map(drop)
    }
}
