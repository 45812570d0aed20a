//! The audit; for admins.

use limen_core::model::{AuditRecord, Page};
use poem_openapi::OpenApi;

use super::Tag;
use crate::answer::Json;
use crate::dto::AuditListQuery;
use crate::error::Result;
use crate::extract::{self, Caller, Query};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Audit;

#[OpenApi]
impl Audit {
    /// List who asked for what, from where, with which outcome; newest first
    #[oai(path = "/api/audit", method = "get", operation_id = "list_audit", tag = "Tag::Audit")]
    async fn list_audit(&self, caller: Caller, Query(query): Query<AuditListQuery>) -> Result<Json<Page<AuditRecord>>> {
        let page = extract::page(query.limit, query.cursor)?;
        Json::of(&caller.limen().list_audit(&caller, &query.into(), page).await?)
    }
}
