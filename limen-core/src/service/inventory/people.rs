//! Who there is: owners, users, and what users come with, sessions and API tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Held, Inventory, State};
use crate::model::{
    OwnerId, OwnerRecord, Quota, SessionId, SessionRecord, Token, TokenId, TokenRecord, Usage, User, UserId,
};

#[derive(Debug, Default)]
pub(super) struct People {
    owners: BTreeMap<OwnerId, OwnerRecord>,
    users: BTreeMap<UserId, Arc<User>>,
    sessions: HashMap<SessionId, SessionRecord>,
    tokens: BTreeMap<TokenId, Arc<TokenRecord>>,
    by_hash: HashMap<String, TokenId>,
}

impl People {
    pub(super) fn new(
        owners: Vec<OwnerRecord>,
        users: Vec<User>,
        sessions: Vec<SessionRecord>,
        tokens: Vec<TokenRecord>,
    ) -> Self {
        let mut people = Self::default();
        owners.into_iter().for_each(|owner| people.owner(owner));
        users.into_iter().for_each(|user| people.user(user));
        sessions.into_iter().for_each(|session| people.session(session));
        tokens.into_iter().for_each(|token| people.token(token));
        people
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &OwnerRecord> {
        self.owners.values()
    }

    pub(super) fn owner(&mut self, record: OwnerRecord) {
        self.owners.insert(record.id, record);
    }

    pub(super) fn owner_gone(&mut self, id: OwnerId) {
        self.owners.remove(&id);
    }

    pub(super) fn user(&mut self, user: User) {
        self.users.insert(user.id, Arc::new(user));
    }

    pub(super) fn user_gone(&mut self, id: UserId) {
        self.users.remove(&id);
    }

    pub(super) fn session(&mut self, record: SessionRecord) {
        self.sessions.insert(record.id, record);
    }

    pub(super) fn session_gone(&mut self, id: SessionId) {
        self.sessions.remove(&id);
    }

    pub(super) fn token(&mut self, record: TokenRecord) {
        let id = record.token.id;
        self.by_hash.insert(record.hash.clone(), id);
        self.tokens.insert(id, Arc::new(record));
    }

    pub(super) fn held(&self, held: &mut BTreeMap<String, Held>) {
        let owners = self.owners.iter().map(|(id, owner)| (format!("owner:{id}"), Held::Owner(owner.clone())));
        let users = self.users.iter().map(|(id, user)| (format!("user:{id}"), Held::User(Arc::clone(user))));
        let sessions = self.sessions.iter();
        let sessions = sessions.map(|(id, session)| (format!("session:{id}"), Held::Session(session.clone())));
        let tokens = self.tokens.iter().map(|(id, token)| (format!("token:{id}"), Held::Token(Arc::clone(token))));
        held.extend(owners.chain(users).chain(sessions).chain(tokens));
    }

    pub(super) fn token_gone(&mut self, id: TokenId) {
        if let Some(record) = self.tokens.remove(&id) {
            self.by_hash.remove(&record.hash);
        }
    }
}

impl State {
    /// What the VMs of `owner` come to.
    pub(super) fn used_by(&self, owner: OwnerId) -> Usage {
        let owned = self.by_owner.0.get(&owner).into_iter().flatten().filter_map(|vm| self.vms.get(vm));
        owned.filter_map(|entry| entry.record.as_deref()).map(Usage::of).sum()
    }
}

impl Inventory {
    /// An owner's record, and what the owner's VMs come to.
    pub(crate) fn owner(&self, id: OwnerId) -> Option<(OwnerRecord, Usage)> {
        let state = self.read();
        state.people.owners.get(&id).map(|owner| (owner.clone(), state.used_by(id)))
    }

    /// An owner's limits.
    pub(crate) fn quota(&self, owner: OwnerId) -> Quota {
        self.read().people.owners.get(&owner).map(|owner| owner.quota).unwrap_or_default()
    }

    pub(crate) fn owner_named(&self, name: &str) -> Option<OwnerId> {
        self.read().people.owners.values().find(|owner| owner.name == name).map(|owner| owner.id)
    }

    pub(crate) fn user(&self, id: UserId) -> Option<Arc<User>> {
        self.read().people.users.get(&id).cloned()
    }

    pub(crate) fn users(&self) -> Vec<Arc<User>> {
        self.read().people.users.values().cloned().collect()
    }

    /// A session and its user.
    pub(crate) fn session(&self, id: SessionId) -> Option<(SessionRecord, Arc<User>)> {
        let state = self.read();
        let session = state.people.sessions.get(&id)?;
        let user = state.people.users.get(&session.user)?;
        Some((session.clone(), Arc::clone(user)))
    }

    /// A token and its user, by the hash of the secret.
    pub(crate) fn token_of_hash(&self, hash: &str) -> Option<(Arc<TokenRecord>, Arc<User>)> {
        let state = self.read();
        let record = state.people.tokens.get(state.people.by_hash.get(hash)?)?;
        let user = state.people.users.get(&record.token.user)?;
        Some((Arc::clone(record), Arc::clone(user)))
    }

    /// A token and its user.
    pub(crate) fn token(&self, id: TokenId) -> Option<(Arc<TokenRecord>, Arc<User>)> {
        let state = self.read();
        let record = state.people.tokens.get(&id)?;
        let user = state.people.users.get(&record.token.user)?;
        Some((Arc::clone(record), Arc::clone(user)))
    }

    /// Every token that is `wanted`, in the order of ids.
    pub(crate) fn tokens(&self, wanted: impl Fn(&Token) -> bool) -> Vec<Token> {
        let state = self.read();
        let tokens = state.people.tokens.values().map(|record| &record.token);
        tokens.filter(|token| wanted(token)).cloned().collect()
    }
}
