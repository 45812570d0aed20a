//! Users, logins and tokens. On the wire a user's name is `username`.

use limen_core::model::{OwnerId, Quota, UpdateQuota, User, UserId};
use limen_core::{Role, Secret, service};
use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::quota::QuotaSchema;
use super::{Described, Wire};

/// A user, without anything secret.
#[derive(Debug, Serialize)]
pub(crate) struct UserView {
    id: UserId,
    username: String,
    role: Role,
    disabled: bool,
    owner: OwnerId,
    quota: Quota,
    version: i64,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl From<service::UserView> for UserView {
    fn from(view: service::UserView) -> Self {
        let service::UserView { user, quota } = view;
        let User { id, name, role, disabled, owner, version, created_at, .. } = user;
        Self { id, username: name, role, disabled, owner, quota, version, created_at }
    }
}

/// Somebody who may log in.
#[derive(Debug, Object)]
#[oai(rename = "User")]
pub(crate) struct UserSchema {
    /// The user.
    id: Uuid,
    /// The login name.
    username: String,
    /// What the user may do.
    role: Wire<Role>,
    /// A disabled user has no session and cannot log in.
    disabled: bool,
    /// The owner whose objects are the user's own.
    owner: Uuid,
    /// What the owner may have at most.
    quota: QuotaSchema,
    /// Rises by one with each change.
    version: i64,
    /// When the user was made.
    created_at: OffsetDateTime,
}

impl Described for UserView {
    type Schema = UserSchema;
}

/// Name and password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LoginBody {
    pub(crate) username: String,
    pub(crate) password: Secret,
}

/// Name and password.
#[derive(Debug, Object)]
#[oai(rename = "Login")]
pub(crate) struct LoginSchema {
    /// The login name.
    username: String,
    /// The password.
    password: String,
}

impl Described for LoginBody {
    type Schema = LoginSchema;
}

/// A token for the `Authorization` header.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Token")]
pub(crate) struct TokenAnswer {
    /// The token.
    pub(crate) access_token: String,
    /// `Bearer`.
    pub(crate) token_type: String,
    /// For how many seconds it is good.
    pub(crate) expires_in: i64,
}

impl Described for TokenAnswer {
    type Schema = Self;
}

/// A new password for oneself.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangePassword {
    pub(crate) current_password: Secret,
    pub(crate) new_password: Secret,
}

/// A new password for oneself.
#[derive(Debug, Object)]
#[oai(rename = "ChangePassword")]
pub(crate) struct ChangePasswordSchema {
    /// The password until now.
    current_password: String,
    /// The password from now on: 12 characters to 128 bytes.
    #[oai(validator(min_length = 12, max_length = 128))]
    new_password: String,
}

impl Described for ChangePassword {
    type Schema = ChangePasswordSchema;
}

/// A user to make.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateUserBody {
    pub(crate) username: String,
    pub(crate) password: Secret,
    pub(crate) role: Role,
    #[serde(default)]
    pub(crate) disabled: bool,
    #[serde(default, deserialize_with = "super::quota::object")]
    pub(crate) quota: Option<Quota>,
}

/// A user to make.
#[derive(Debug, Object)]
#[oai(rename = "CreateUser")]
pub(crate) struct CreateUserSchema {
    /// The login name, unique.
    #[oai(validator(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"))]
    username: String,
    /// The password: 12 characters to 128 bytes.
    #[oai(validator(min_length = 12, max_length = 128))]
    password: String,
    /// What the user may do.
    role: Wire<Role>,
    /// Whether the user is disabled for now.
    #[oai(default)]
    disabled: bool,
    /// What the user's owner may have at most; without limits when it is missing.
    quota: Option<QuotaSchema>,
}

impl Described for CreateUserBody {
    type Schema = CreateUserSchema;
}

/// A change of a user; fields that are missing stay as they are.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UpdateUserBody {
    #[serde(default)]
    pub(crate) role: Option<Role>,
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    #[serde(default)]
    pub(crate) disabled: Option<bool>,
    #[serde(default, deserialize_with = "super::quota::object")]
    pub(crate) quota: Option<UpdateQuota>,
}

/// A change of a user; fields that are missing stay as they are.
#[derive(Debug, Object)]
#[oai(rename = "UpdateUser")]
pub(crate) struct UpdateUserSchema {
    /// What the user may do from now on.
    role: Option<Wire<Role>>,
    /// The user's password from now on: 12 characters to 128 bytes.
    #[oai(validator(min_length = 12, max_length = 128))]
    password: Option<String>,
    /// Whether the user is disabled from now on.
    disabled: Option<bool>,
    /// Limits from now on; what is in use stays, also past a limit.
    quota: Option<QuotaSchema>,
}

impl Described for UpdateUserBody {
    type Schema = UpdateUserSchema;
}
