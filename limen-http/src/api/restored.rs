//! What is to be seen to after the Store was restored; for admins.

use limen_core::model;
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::error::Result;
use crate::extract::{Caller, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Restored;

#[OpenApi]
impl Restored {
    /// What is to be seen to after the store was restored: held operations, VMs that it does not know
    #[oai(path = "/api/restored", method = "get", operation_id = "get_restored", tag = "Tag::Check")]
    async fn get_restored(&self, caller: Caller, _query: Plain) -> Result<Json<model::Restored>> {
        Json::of(&caller.limen().get_restored(&caller).await?)
    }
}
