//! Users; for admins.

use limen_core::model::{Page, UserId};
use limen_core::service::{CreateUser, UpdateUser};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tag;
use crate::answer::{Created, Json, NoContent};
use crate::dto::{CreateUserBody, PageQuery, UpdateUserBody, UserView};
use crate::error::Result;
use crate::extract::{Body, Caller, Plain, Query};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Users;

#[OpenApi]
impl Users {
    /// List users
    #[oai(path = "/api/users", method = "get", operation_id = "list_users", tag = "Tag::Users")]
    async fn list_users(&self, caller: Caller, query: Query<PageQuery>) -> Result<Json<Page<UserView>>> {
        let page = caller.limen().list_users(&caller, query.0.request()?).await?;
        let items = page.items.into_iter().map(UserView::from).collect();
        Json::of(&Page { items, next_cursor: page.next_cursor })
    }

    /// Create a user
    #[oai(path = "/api/users", method = "post", operation_id = "create_user", tag = "Tag::Users")]
    async fn create_user(
        &self,
        caller: Caller,
        _query: Plain,
        Body(body): Body<CreateUserBody>,
    ) -> Result<Created<UserView>> {
        let CreateUserBody { username: name, password, role, disabled, quota } = body;
        let quota = quota.unwrap_or_default();
        let create = CreateUser { name, password, role, disabled, quota };
        let user = caller.limen().create_user(&caller, create).await?;
        let location = format!("/api/users/{}", user.user.id);
        Ok(Json::of(&user.into())?.at(caller.event()).created(location))
    }

    /// Read a user
    #[oai(path = "/api/users/:id", method = "get", operation_id = "get_user", tag = "Tag::Users")]
    async fn get_user(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Json<UserView>> {
        Json::of(&caller.limen().get_user(&caller, UserId(id.0)).await?.into())
    }

    /// Change a user's role, password, disabled flag or limits
    #[oai(path = "/api/users/:id", method = "patch", operation_id = "update_user", tag = "Tag::Users")]
    async fn update_user(
        &self,
        caller: Caller,
        id: Path<Uuid>,
        _query: Plain,
        Body(body): Body<UpdateUserBody>,
    ) -> Result<Json<UserView>> {
        let UpdateUserBody { role, password, disabled, quota } = body;
        let quota = quota.unwrap_or_default();
        let has_password = password.is_some();
        let update = UpdateUser { role, password, disabled, quota };
        let user = caller.limen().update_user(&caller, UserId(id.0), update).await?;
        if has_password {
            caller.app().password_changed(&user.user.name).await;
        }
        Ok(Json::of(&user.into())?.at(caller.event()))
    }

    /// Delete a user; their tokens are revoked, their VMs stay
    #[oai(path = "/api/users/:id", method = "delete", operation_id = "delete_user", tag = "Tag::Users")]
    async fn delete_user(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<NoContent> {
        caller.limen().delete_user(&caller, UserId(id.0)).await?;
        Ok(NoContent(Some(caller.event())))
    }
}
