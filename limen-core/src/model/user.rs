//! Users, owners and sessions.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{OwnerId, SessionId, UserId};
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
