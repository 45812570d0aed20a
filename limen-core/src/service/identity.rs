//! Users, sessions and passwords.

use serde::{Deserialize, Serialize};

use super::access::page_of;
use super::{Limen, tokens, validate};
use crate::authz::Resource;
use crate::context::{Action, Actor, Context, Role};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{
    AuditOutcome, AuditRecord, OwnerId, OwnerRecord, Page, PageRequest, Quota, SessionId, SessionRecord, UpdateQuota,
    User, UserId,
};
use crate::secret::Secret;
use crate::store::{Change, Expect, Row};

/// A user to make.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// The login name: the rules of a VM's name.
    pub name: String,
    /// 12 characters to 128 bytes.
    pub password: Secret,
    /// What the user may do.
    pub role: Role,
    /// Whether the user may not log in yet.
    #[serde(default)]
    pub disabled: bool,
    /// What the user's owner may have at most.
    #[serde(default)]
    pub quota: Quota,
}

/// A change of a user; what is `None` stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateUser {
    /// A new password; all sessions of the user end.
    pub password: Option<Secret>,
    /// A new role.
    pub role: Option<Role>,
    /// Whether the user may log in; when not, all sessions end.
    pub disabled: Option<bool>,
    /// Other limits; what is in use already stays, also past a limit.
    pub quota: UpdateQuota,
}

/// A user as admins see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserView {
    /// The user.
    #[serde(flatten)]
    pub user: User,
    /// What the user's owner may have at most.
    pub quota: Quota,
}

fn check_password(field: &str, password: &Secret) -> Result<()> {
    let text = password.expose();
    if text.chars().count() >= 12 && text.len() <= 128 {
        return Ok(());
    }
    Err(Error::invalid(field, "A password has at least 12 characters and at most 128 bytes."))
}

fn refused() -> Error {
    Error::new(ErrorKind::Unauthenticated, "The user name or the password is wrong.")
}

impl Limen {
    /// Exchanges name and password for a session, of 24 hours where the builder says nothing else.
    /// The same answer, after the same work, for an unknown name, a wrong password and a disabled user.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated); [`Unavailable`](ErrorKind::Unavailable)
    /// when too many logins wait.
    pub async fn login(&self, ctx: &Context, name: &str, password: &Secret) -> Result<(User, SessionRecord)> {
        self.authorize(ctx, Action::Login, Resource::Any, "user")?;
        let refused = || {
            self.count_unknown();
            refused()
        };
        if password.expose().len() > 128 || validate::name("username", name).is_err() {
            return Err(refused());
        }
        let known = self.shared.store.password_hash(name).await?;
        let (id, hash) = known.map_or((None, None), |(id, hash)| (Some(id), Some(hash)));
        let fits = self.shared.hasher.fits(password.clone(), hash.clone()).await?;
        let user = id.and_then(|id| self.shared.inventory.user(id)).filter(|user| fits && !user.disabled);
        let user = user.ok_or_else(refused)?;
        let now = self.now();
        let session = SessionRecord {
            id: SessionId::generate(),
            user: user.id,
            created_at: now,
            expires_at: now + self.shared.session,
        };
        let resource = format!("user:{}", user.id);
        let mut audit = self.audit_record(ctx, Action::Login, resource, AuditOutcome::Succeeded, None);
        audit.actor.label = format!("user:{}", user.name);
        audit.actor.user = Some(user.id);
        let rows = vec![Row::Session(session.clone())];
        let change = Change { rows, audit: vec![audit], ..Change::default() };
        match self.commit_detached(change).await {
            // Disabled or deleted while the password was checked.
            Err(error) if error.kind() == ErrorKind::Conflict => return Err(refused()),
            other => other?,
        };
        // A password that was changed meanwhile ended the sessions before this one began.
        let now = self.shared.store.password_hash(name).await?.map(|(_, hash)| hash);
        if now.as_ref().map(Secret::expose) != hash.as_ref().map(Secret::expose) {
            self.commit_detached(Change { rows: vec![Row::SessionGone(session.id)], ..Change::default() }).await?;
            return Err(refused());
        }
        Ok(((*user).clone(), session))
    }

    /// Who a session belongs to, from memory: what every request with a token begins with. One that
    /// is not in memory may have begun at another process just now: the log is read to its end
    /// first, as also where it has not been read for a second.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated): ended, expired, or its user is disabled or gone.
    /// [`Unavailable`](ErrorKind::Unavailable): it is not in memory, and the Store is away.
    pub async fn authenticate(&self, session: SessionId) -> Result<Actor> {
        self.shared.recall(self.shared.inventory.session(session).is_some()).await?;
        self.actor_in(session).inspect_err(|_| self.count_unknown())
    }

    /// The user of a session that is good now, from memory: to tell clients apart, not to let them in.
    #[must_use]
    pub fn user_of_session(&self, session: SessionId) -> Option<UserId> {
        self.actor_in(session).ok()?.user_id()
    }

    fn actor_in(&self, session: SessionId) -> Result<Actor> {
        let ended = || Error::new(ErrorKind::Unauthenticated, "The session has ended; log in again.");
        let (record, user) = self.shared.inventory.session(session).ok_or_else(ended)?;
        if user.disabled || record.expires_at <= self.now() {
            return Err(ended());
        }
        Ok(Actor::User { id: user.id, name: user.name.clone(), role: user.role, owner: user.owner, session })
    }

    /// The actor as they are now: what is open for long asks this after every event, so that
    /// whatever ends or narrows a session or token ends or narrows that too.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated), as [`authenticate`](Self::authenticate).
    pub fn reauthenticate(&self, actor: &Actor) -> Result<Actor> {
        match actor {
            Actor::User { session, .. } => self.actor_in(*session),
            Actor::Token { id, .. } => {
                let (record, user) = self.shared.inventory.token(*id).ok_or_else(tokens::ended)?;
                self.actor_of(&record.token, &user)
            }
            Actor::Anonymous | Actor::Local | Actor::System(_) => Ok(actor.clone()),
        }
    }

    /// Ends the actor's own session. Idempotent.
    pub async fn logout(&self, ctx: &Context) -> Result<()> {
        self.authorize(ctx, Action::Logout, Resource::Any, "session")?;
        let Actor::User { id, session, .. } = ctx.actor() else { return Ok(()) };
        let audit = vec![self.audit_record(ctx, Action::Logout, format!("user:{id}"), AuditOutcome::Succeeded, None)];
        let rows = vec![Row::SessionGone(*session)];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await.map(drop)
    }

    /// The actor's own user.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for an actor that is no user.
    pub async fn get_me(&self, ctx: &Context) -> Result<UserView> {
        self.authorize(ctx, Action::GetMe, Resource::Any, "user")?;
        let user = ctx.actor().user_id().and_then(|id| self.shared.inventory.user(id));
        user.map(|user| self.view(&user)).ok_or_else(|| Error::not_found("user"))
    }

    fn view(&self, user: &User) -> UserView {
        UserView { quota: self.shared.inventory.quota(user.owner), user: user.clone() }
    }

    /// Changes the actor's own password; all their other sessions end.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) `current_password` or `new_password`.
    pub async fn change_password(&self, ctx: &Context, current: &Secret, new: &Secret) -> Result<()> {
        self.authorize(ctx, Action::ChangePassword, Resource::Any, "user")?;
        let Actor::User { id, name, session, .. } = ctx.actor() else { return Err(Error::not_found("user")) };
        check_password("new_password", new)?;
        // Before its hash: a reset in the meantime makes this version an old one.
        let user = self.shared.inventory.user(*id).ok_or_else(|| Error::not_found("user"))?;
        let hash = self.shared.store.password_hash(name).await?.map(|(_, hash)| hash);
        if !self.shared.hasher.fits(current.clone(), hash).await? {
            self.note_refusal(ctx, Action::ChangePassword, format!("user:{id}"), "wrong_password");
            return Err(Error::invalid("current_password", "The current password is wrong."));
        }
        let password = Some(self.shared.hasher.hash(new.clone()).await?);
        self.authorize_again(ctx, Action::ChangePassword, Resource::Any, "user")?;
        let others = vec![Row::SessionsGone { user: *id, keep: Some(*session) }];
        self.write_user(ctx, Action::ChangePassword, &user, |_| {}, password, others).await.map(drop)
    }

    /// A page of users.
    pub async fn list_users(&self, ctx: &Context, page: PageRequest) -> Result<Page<UserView>> {
        self.authorize(ctx, Action::ListUsers, Resource::Any, "user")?;
        let users = self.shared.inventory.users();
        Ok(page_of(users.into_iter().map(|user| (user.id.0, self.view(&user))), page))
    }

    /// One user.
    pub async fn get_user(&self, ctx: &Context, id: UserId) -> Result<UserView> {
        self.authorize(ctx, Action::GetUser, Resource::User(id), "user")?;
        let user = self.shared.inventory.user(id).ok_or_else(|| Error::not_found("user"))?;
        Ok(self.view(&user))
    }

    /// Makes a user, with an owner of the same name.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid), [`AlreadyExists`](ErrorKind::AlreadyExists).
    pub async fn create_user(&self, ctx: &Context, create: CreateUser) -> Result<UserView> {
        self.authorize(ctx, Action::CreateUser, Resource::Any, "user")?;
        let audit = self.audit_record(ctx, Action::CreateUser, String::new(), AuditOutcome::Succeeded, None);
        let may_still = || self.authorize_again(ctx, Action::CreateUser, Resource::Any, "user");
        self.insert_user(create, audit, may_still).await
    }

    pub(super) async fn insert_user(
        &self,
        create: CreateUser,
        mut audit: AuditRecord,
        may_still: impl FnOnce() -> Result<()> + Send,
    ) -> Result<UserView> {
        validate::name("username", &create.name)?;
        validate::quota(&create.quota)?;
        check_password("password", &create.password)?;
        let taken = || Error::new(ErrorKind::AlreadyExists, "There is a user of this name already.");
        if self.shared.inventory.owner_named(&create.name).is_some() {
            return Err(taken());
        }
        let quota = create.quota;
        let owner = OwnerRecord { id: OwnerId::generate(), kind: "user".to_owned(), name: create.name.clone(), quota };
        let user = User {
            id: UserId::generate(),
            name: create.name,
            role: create.role,
            disabled: create.disabled,
            owner: owner.id,
            version: 1,
            created_at: self.now(),
        };
        audit.resource = format!("user:{}", user.id);
        audit.detail = Some(user.role.as_str().to_owned());
        let password_hash = Some(self.shared.hasher.hash(create.password).await?);
        may_still()?;
        let rows =
            vec![Row::Owner(owner), Row::User { user: Box::new(user.clone()), password_hash, expect: Expect::Absent }];
        match self.commit_detached(Change { rows, audit: vec![audit], ..Change::default() }).await {
            Ok(_) => Ok(UserView { user, quota }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(taken()),
            Err(error) => Err(error),
        }
    }

    /// Changes a user. A new password or role, or disabling, ends the user's sessions or acts on
    /// them at once; a limit acts on the next change of a VM.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): it would leave no enabled admin, or change one's own role.
    pub async fn update_user(&self, ctx: &Context, id: UserId, update: UpdateUser) -> Result<UserView> {
        self.authorize(ctx, Action::UpdateUser, Resource::User(id), "user")?;
        let user = self.shared.inventory.user(id).ok_or_else(|| Error::not_found("user"))?;
        let role = update.role.unwrap_or(user.role);
        let disabled = update.disabled.unwrap_or(user.disabled);
        if ctx.actor().user_id() == Some(id) && (role, disabled) != (user.role, user.disabled) {
            self.note_refusal(ctx, Action::UpdateUser, format!("user:{id}"), "own_role");
            return Err(Error::new(ErrorKind::Conflict, "Nobody changes their own role or disables themselves."));
        }
        let before = self.shared.inventory.quota(user.owner);
        let quota = before.updated(&update.quota);
        validate::quota(&quota)?;
        let password = match update.password {
            None => None,
            Some(password) => {
                check_password("password", &password)?;
                let hash = self.shared.hasher.hash(password).await?;
                self.authorize_again(ctx, Action::UpdateUser, Resource::User(id), "user")?;
                Some(hash)
            }
        };
        let mut also = Vec::new();
        if password.is_some() || disabled {
            also.push(Row::SessionsGone { user: id, keep: None });
        }
        if quota != before {
            also.push(Row::OwnerQuota { owner: user.owner, quota });
        }
        let change = |user: &mut User| {
            user.role = role;
            user.disabled = disabled;
        };
        let user = self.write_user(ctx, Action::UpdateUser, &user, change, password, also).await?;
        Ok(UserView { user, quota })
    }

    /// Deletes a user who owns no VM; all their sessions end.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict): the user owns VMs, is the last enabled admin, or asks.
    pub async fn delete_user(&self, ctx: &Context, id: UserId) -> Result<()> {
        self.authorize(ctx, Action::DeleteUser, Resource::User(id), "user")?;
        let user = self.shared.inventory.user(id).ok_or_else(|| Error::not_found("user"))?;
        if ctx.actor().user_id() == Some(id) {
            return Err(Error::new(ErrorKind::Conflict, "Nobody deletes themselves."));
        }
        let owned = self.shared.inventory.owns(user.owner);
        if owned > 0 {
            let text = format!("The user owns {owned} VM(s); delete those first.");
            return Err(Error::new(ErrorKind::Conflict, text));
        }
        let audit = vec![self.audit_record(
            ctx,
            Action::DeleteUser,
            format!("user:{id}"),
            AuditOutcome::Succeeded,
            Some(user.name.clone()),
        )];
        let rows = vec![Row::UserGone(id), Row::OwnerGone(user.owner)];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await.map(drop)
    }

    /// Writes a user, and rows that go with the change.
    async fn write_user(
        &self,
        ctx: &Context,
        action: Action,
        user: &User,
        change: impl FnOnce(&mut User),
        password_hash: Option<Secret>,
        also: Vec<Row>,
    ) -> Result<User> {
        let expect = Expect::Version(user.version);
        let mut user = user.clone();
        change(&mut user);
        user.version += 1;
        let mut rows = vec![Row::User { user: Box::new(user.clone()), password_hash, expect }];
        rows.extend(also);
        let resource = format!("user:{}", user.id);
        let audit = vec![self.audit_record(ctx, action, resource, AuditOutcome::Succeeded, None)];
        self.commit_detached(Change { rows, audit, ..Change::default() }).await?;
        Ok(user)
    }
}
