//! The audit; for admins.

use limen_core::model::{AuditRecord, Page};
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::dto::PageQuery;
use crate::error::Result;
use crate::extract::{Caller, Query};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Audit;

#[OpenApi]
impl Audit {
    /// List who asked for what, from where, with which outcome; newest first
    #[oai(path = "/api/audit", method = "get", operation_id = "list_audit", tag = "Tag::Audit")]
    async fn list_audit(&self, caller: Caller, query: Query<PageQuery>) -> Result<Json<Page<AuditRecord>>> {
        Json::of(&caller.limen().list_audit(&caller, query.0.request()?).await?)
    }
}
