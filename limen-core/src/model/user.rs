//! Users, owners, sessions and API tokens.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{OwnerId, Quota, SessionId, TokenId, UserId, VmId};
use crate::context::Role;

/// Somebody who may log in. The password's hash is not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub id: UserId,
    /// The login name, unique: letters, digits, `.`, `_`, `-`; 1 to 63 characters.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// A disabled user has no session and cannot log in.
    pub disabled: bool,
    /// The owner whose objects are the user's own.
    pub owner: OwnerId,
    /// Rises by one with each change.
    pub version: i64,
    /// When the user was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// Whom things belong to. Every user has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerRecord {
    /// The owner.
    pub id: OwnerId,
    /// What kind of owner: `user`.
    pub kind: String,
    /// The owner's name, unique.
    pub name: String,
    /// What the owner may have at most.
    #[serde(default)]
    pub quota: Quota,
}

/// A login that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The session; the token carries it.
    pub id: SessionId,
    /// Whose it is.
    pub user: UserId,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// An API token: a user's, for a program. The secret itself is shown once, and kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The token.
    pub id: TokenId,
    /// Whose it is.
    pub user: UserId,
    /// What it is called, unique among the user's tokens: the rules of a VM's name.
    pub name: String,
    /// What it may do at most; never more than its user may at the time.
    pub role: Role,
    /// The one VM that it is for; none for all that its user sees.
    pub vm: Option<VmId>,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends by itself; none for never.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

/// An API token and what it is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The token.
    pub token: Token,
    /// The SHA-256 of the secret in hexadecimal digits, unique.
    pub hash: String,
}
