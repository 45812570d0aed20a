//! One's own quota.

use limen_core::service::QuotaView;
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::error::Result;
use crate::extract::{Caller, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Quota;

#[OpenApi]
impl Quota {
    /// One's own limits, and what is in use
    #[oai(path = "/api/quota", method = "get", operation_id = "get_quota", tag = "Tag::Quota")]
    async fn get_quota(&self, caller: Caller, _query: Plain) -> Result<Json<QuotaView>> {
        Json::of(&caller.limen().get_quota(&caller).await?)
    }
}
