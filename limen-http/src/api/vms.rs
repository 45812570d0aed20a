//! Virtual machines.

use limen_core::model::{CreateVm, OwnerId, UpdateVm, Vm, VmId, VmSample};
use limen_core::service::{VmQuery, VmView};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;
use uuid::Uuid;

use super::Tag;
use crate::answer::{Accepted, Created, Encoding, Json, Tagged};
use crate::dto::{CreateTicketBody, PowerBody, TicketView, VmList, VmListQuery};
use crate::error::Result;
use crate::extract::{self, Body, Caller, Conditions, Plain, Query, Starter};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Vms;

#[OpenApi]
impl Vms {
    /// List VMs
    ///
    /// Answered from memory: no hypervisor is asked.
    #[oai(path = "/api/vms", method = "get", operation_id = "list_vms", tag = "Tag::Vms")]
    async fn list_vms(&self, caller: Caller, Query(query): Query<VmListQuery>) -> Result<Json<VmList>> {
        let page = extract::page(query.limit, query.cursor)?;
        let VmListQuery { state, host, owner, name, label, .. } = query;
        let wanted = VmQuery { state: state.map(|state| state.0), host, owner: owner.map(OwnerId), name, label };
        let page = caller.limen().list_vms(&caller, &wanted, page).await?;
        if caller.accepts_gzip() {
            return Ok(Json::written(page.gzip().await?).encoded(Encoding::Gzip).at(page.event));
        }
        Ok(Json::written(page.json).encoded(Encoding::Identity).at(page.event))
    }

    /// Create a VM
    #[oai(path = "/api/vms", method = "post", operation_id = "create_vm", tag = "Tag::Vms")]
    async fn create_vm(&self, starter: Starter, _query: Plain, Body(body): Body<CreateVm>) -> Result<Accepted> {
        let operation = starter.limen().create_vm(&starter, body).await?;
        starter.answer(operation).await
    }

    /// Read a VM
    #[oai(path = "/api/vms/:id", method = "get", operation_id = "get_vm", tag = "Tag::Vms")]
    async fn get_vm(
        &self,
        caller: Caller,
        id: Path<Uuid>,
        _query: Plain,
        conditions: Conditions,
    ) -> Result<Tagged<Vm>> {
        let view = caller.limen().get_vm(&caller, VmId(id.0)).await?;
        let tag = tag(&view);
        let is_known = conditions.if_none_match.is_some_and(|tags| tags.hold(&tag));
        Ok(Json::written(view.json).at(view.event).tagged(format!("\"{tag}\""), is_known))
    }

    /// Change a VM's name, description, labels or autostart, or its vCPUs and memory for the next boot
    #[oai(path = "/api/vms/:id", method = "patch", operation_id = "update_vm", tag = "Tag::Vms")]
    async fn update_vm(
        &self,
        starter: Starter,
        id: Path<Uuid>,
        _query: Plain,
        conditions: Conditions,
        Body(body): Body<UpdateVm>,
    ) -> Result<Accepted> {
        let id = VmId(id.0);
        let expected = expected_version(&starter, id, &conditions).await?;
        let operation = starter.limen().update_vm(&starter, id, body, expected).await?;
        starter.answer(operation).await
    }

    /// Delete a VM and the volumes it owns, running or not
    #[oai(path = "/api/vms/:id", method = "delete", operation_id = "delete_vm", tag = "Tag::Vms")]
    async fn delete_vm(
        &self,
        starter: Starter,
        id: Path<Uuid>,
        _query: Plain,
        conditions: Conditions,
    ) -> Result<Accepted> {
        let id = VmId(id.0);
        let expected = expected_version(&starter, id, &conditions).await?;
        let operation = starter.limen().delete_vm(&starter, id, expected).await?;
        starter.answer(operation).await
    }

    /// Make a ticket that opens a console, once
    ///
    /// Connect a WebSocket to `url` within 30 s. docs/consoles.md describes it.
    #[oai(path = "/api/vms/:id/console", method = "post", operation_id = "create_ticket", tag = "Tag::Vms")]
    async fn create_ticket(
        &self,
        caller: Caller,
        id: Path<Uuid>,
        _query: Plain,
        Body(body): Body<CreateTicketBody>,
    ) -> Result<Created<TicketView>> {
        let ticket = caller.limen().create_ticket(&caller, VmId(id.0), body.kind).await?;
        let path = format!("/{}/{}", body.kind.as_str(), id.0);
        Ok(Json::of(&TicketView::shown_once(&path, ticket))?.at(caller.event()).created(path))
    }

    /// Read a running VM's last figures, their rates and their age
    ///
    /// Answered from memory: the counters are read every fifteen seconds (`METRICS_INTERVAL`),
    /// whoever asks.
    #[oai(path = "/api/vms/:id/stats", method = "get", operation_id = "get_vm_stats", tag = "Tag::Vms")]
    async fn get_vm_stats(&self, caller: Caller, id: Path<Uuid>, _query: Plain) -> Result<Json<VmSample>> {
        Json::of(&caller.limen().vm_stats(&caller, VmId(id.0)).await?)
    }

    /// Start, shut down, power off, reboot, reset, pause, resume or save a VM
    #[oai(path = "/api/vms/:id/power", method = "post", operation_id = "change_power", tag = "Tag::Vms")]
    async fn change_power(
        &self,
        starter: Starter,
        id: Path<Uuid>,
        _query: Plain,
        Body(body): Body<PowerBody>,
    ) -> Result<Accepted> {
        let operation = starter.limen().change_power(&starter, VmId(id.0), body.action, body.timeout_s).await?;
        starter.answer(operation).await
    }
}

/// The entity tag of a VM, without its quotes.
fn tag(view: &VmView) -> String {
    format!("{}.{}", view.vm.version, view.vm.status.revision)
}

/// What `If-Match` asks for. Only a header with several tags needs a look at the VM as it is.
async fn expected_version(caller: &Caller, id: VmId, conditions: &Conditions) -> Result<Option<i64>> {
    if !conditions.names_several() {
        return conditions.expected_version(None);
    }
    let view = caller.limen().get_vm(caller, id).await?;
    conditions.expected_version(Some(view.vm.version))
}
