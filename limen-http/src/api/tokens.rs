//! API tokens: one's own; for admins, everybody's.

use limen_core::model::{Page, TokenId};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tag;
use crate::answer::{Created, Json, NoContent};
use crate::dto::{CreateTokenBody, PageQuery, TokenView};
use crate::error::Result;
use crate::extract::{Body, Caller, Plain, Query};

#[derive(Debug, Clone, Copy)]
pub(crate) struct ApiTokens;

#[OpenApi]
impl ApiTokens {
    /// List one's own API tokens; admins see everybody's
    #[oai(path = "/api/tokens", method = "get", operation_id = "list_tokens", tag = "Tag::Tokens")]
    async fn list_tokens(&self, caller: Caller, query: Query<PageQuery>) -> Result<Json<Page<TokenView>>> {
        let page = caller.limen().list_tokens(&caller, query.0.request()?).await?;
        let items = page.items.into_iter().map(TokenView::from).collect();
        Json::of(&Page { items, next_cursor: page.next_cursor })
    }

    /// Make an API token of one's own; the answer shows it, this once
    #[oai(path = "/api/tokens", method = "post", operation_id = "create_token", tag = "Tag::Tokens")]
    async fn create_token(
        &self,
        caller: Caller,
        _query: Plain,
        Body(body): Body<CreateTokenBody>,
    ) -> Result<Created<TokenView>> {
        let (token, secret) = caller.limen().create_token(&caller, body.into()).await?;
        let location = format!("/api/tokens/{}", token.id);
        Ok(Json::of(&TokenView::shown_once(token, &secret))?.at(caller.event()).created(location))
    }

    /// Delete an API token: it is no longer good, now
    #[oai(path = "/api/tokens/:id", method = "delete", operation_id = "delete_token", tag = "Tag::Tokens")]
    async fn delete_token(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<NoContent> {
        caller.limen().delete_token(&caller, TokenId(id.0)).await?;
        Ok(NoContent(Some(caller.event())))
    }
}
