//! Whether Store, hosts, files and memory agree; for admins.

use limen_core::model::CheckReport;
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::error::Result;
use crate::extract::{Caller, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Check;

#[OpenApi]
impl Check {
    /// Compare the Store, the hosts, the files and what this server shows; changes nothing
    #[oai(path = "/api/check", method = "get", operation_id = "check", tag = "Tag::Check")]
    async fn check(&self, caller: Caller, _query: Plain) -> Result<Json<CheckReport>> {
        Json::of(&caller.limen().check(&caller).await?)
    }
}
