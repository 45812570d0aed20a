//! Login, logout and oneself.

use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::{Json, NoContent};
use crate::dto::{ChangePassword, LoginBody, TokenAnswer, UserView};
use crate::error::Result;
use crate::extract::{Anybody, Body, Caller, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Auth;

#[OpenApi]
impl Auth {
    /// Exchange name and password for a token
    #[oai(path = "/api/auth/login", method = "post", operation_id = "login", tag = "Tag::Auth")]
    async fn login(&self, anybody: Anybody, _query: Plain, body: Body<LoginBody>) -> Result<Json<TokenAnswer>> {
        let Body(LoginBody { username, password }) = body;
        let session = anybody.login(&username, &password).await?;
        let (access_token, expires_in) = anybody.app().tokens.issue(&session)?;
        let answer = Json::of(&TokenAnswer { access_token, token_type: "Bearer".to_owned(), expires_in })?;
        Ok(answer.at(anybody.limen().event()))
    }

    /// Revoke the token of this request, now
    #[oai(path = "/api/auth/logout", method = "post", operation_id = "logout", tag = "Tag::Auth")]
    async fn logout(&self, caller: Caller, _query: Plain) -> Result<NoContent> {
        caller.limen().logout(&caller).await?;
        Ok(NoContent(Some(caller.event())))
    }

    /// The user that the token is of
    #[oai(path = "/api/auth/me", method = "get", operation_id = "get_me", tag = "Tag::Auth")]
    async fn get_me(&self, caller: Caller, _query: Plain) -> Result<Json<UserView>> {
        Json::of(&caller.limen().get_me(&caller).await?.into())
    }

    /// Change one's own password; all other tokens of oneself are revoked
    #[oai(path = "/api/auth/password", method = "post", operation_id = "change_password", tag = "Tag::Auth")]
    async fn change_password(
        &self,
        caller: Caller,
        _query: Plain,
        Body(body): Body<ChangePassword>,
    ) -> Result<NoContent> {
        caller.limen().change_password(&caller, &body.current_password, &body.new_password).await?;
        caller.password_changed().await;
        Ok(NoContent(Some(caller.event())))
    }
}
