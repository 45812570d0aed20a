//! Operations.

use limen_core::model::{Operation, OperationId, Page, VmId};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tag;
use crate::answer::{Accepted, Json};
use crate::dto::OperationListQuery;
use crate::error::Result;
use crate::extract::{self, Caller, Plain, Query};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Operations;

#[OpenApi]
impl Operations {
    /// List operations, newest first
    #[oai(path = "/api/operations", method = "get", operation_id = "list_operations", tag = "Tag::Operations")]
    async fn list_operations(
        &self,
        caller: Caller,
        Query(query): Query<OperationListQuery>,
    ) -> Result<Json<Page<Operation>>> {
        let page = extract::page(query.limit, query.cursor)?;
        Json::of(&caller.limen().list_operations(&caller, query.vm_id.map(VmId), page).await?)
    }

    /// Read an operation
    #[oai(path = "/api/operations/:id", method = "get", operation_id = "get_operation", tag = "Tag::Operations")]
    async fn get_operation(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Json<Operation>> {
        let operation = caller.limen().get_operation(&caller, OperationId(id.0)).await?;
        Ok(Json::of(&operation)?.at(caller.event()))
    }

    /// Ask an operation to stop and take back what it did
    #[oai(
        path = "/api/operations/:id/cancel",
        method = "post",
        operation_id = "cancel_operation",
        tag = "Tag::Operations"
    )]
    async fn cancel_operation(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Accepted> {
        let operation = caller.limen().cancel_operation(&caller, OperationId(id.0)).await?;
        Accepted::new(&operation, caller.event())
    }

    /// Let an operation go on that is held since the store was restored; for admins
    #[oai(
        path = "/api/operations/:id/resume",
        method = "post",
        operation_id = "resume_operation",
        tag = "Tag::Operations"
    )]
    async fn resume_operation(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Accepted> {
        let operation = caller.limen().resume_operation(&caller, OperationId(id.0)).await?;
        Accepted::new(&operation, caller.event())
    }

    /// Give up an operation that is held since the store was restored; no host is touched; for admins
    #[oai(
        path = "/api/operations/:id/abandon",
        method = "post",
        operation_id = "abandon_operation",
        tag = "Tag::Operations"
    )]
    async fn abandon_operation(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Json<Operation>> {
        Json::of(&caller.limen().abandon_operation(&caller, OperationId(id.0)).await?)
    }
}
