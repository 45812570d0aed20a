//! API tokens.

use limen_core::model::{Token, TokenId, UserId, VmId};
use limen_core::service::CreateToken;
use limen_core::{Role, Secret};
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Described, Wire};

/// An API token, and the secret itself where it was made just now.
#[derive(Serialize)]
pub(crate) struct TokenView {
    id: TokenId,
    user_id: UserId,
    name: String,
    role: Role,
    vm_id: Option<VmId>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        let Token { id, user, name, role, vm, created_at, expires_at } = token;
        Self { id, user_id: user, name, role, vm_id: vm, created_at, expires_at, token: None }
    }
}

impl TokenView {
    /// With the secret: for the answer to who made it.
    pub(crate) fn shown_once(token: Token, secret: &Secret) -> Self {
        Self { token: Some(secret.expose().to_owned()), ..token.into() }
    }
}

/// A token that a program uses instead of a login.
#[derive(Debug, Object)]
#[oai(rename = "ApiToken")]
pub(crate) struct TokenSchema {
    /// The token's id; it is no secret.
    id: Uuid,
    /// The user whose token it is.
    user_id: Uuid,
    /// Its name, unique among the user's.
    name: String,
    /// What it may do at most; never more than its user.
    role: Wire<Role>,
    /// The one VM that it is for; null for all that its user sees.
    vm_id: Option<Uuid>,
    /// When it was made.
    created_at: OffsetDateTime,
    /// When it ends by itself; null for never.
    expires_at: Option<OffsetDateTime>,
    /// The token itself, for the `Authorization` header: in the answer that made it, and never again.
    #[oai(skip_serializing_if_is_none)]
    token: Option<String>,
}

impl Described for TokenView {
    type Schema = TokenSchema;
}

/// A token to make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateTokenBody {
    name: String,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    vm_id: Option<VmId>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
}

impl From<CreateTokenBody> for CreateToken {
    fn from(body: CreateTokenBody) -> Self {
        let CreateTokenBody { name, role, vm_id, expires_at } = body;
        Self { name, role, vm: vm_id, expires_at }
    }
}

/// A token to make.
#[derive(Debug, Object)]
#[oai(rename = "CreateApiToken")]
pub(crate) struct CreateTokenSchema {
    /// Its name, unique among one's own.
    #[oai(validator(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    name: String,
    /// What it may do at most: one's own role, or less. One's own when it is missing.
    role: Option<Wire<Role>>,
    /// The one VM that it is for; all that one sees when it is missing.
    vm_id: Option<Uuid>,
    /// When it ends by itself; never when it is missing.
    expires_at: Option<OffsetDateTime>,
}

impl Described for CreateTokenBody {
    type Schema = CreateTokenSchema;
}
