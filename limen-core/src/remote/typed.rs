//! Every operation with its types: what [`Limen`](crate::Limen) takes and answers, without a context, for
//! the client bears who asks. Limits and errors are told there.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

use super::wire::strange;
use super::{Remote, RemoteConsole, RemoteEvents, console};
use crate::error::{Error, Result};
use crate::model::{
    AuditQuery, AuditRecord, CheckReport, ConsoleKind, CreateVm, EventNumber, Host, HostSample, Image, ImageId,
    Network, Operation, OperationId, Page, PageRequest, PowerAction, Restored, Token, TokenId, UpdateVm, UserId, Vm,
    VmId, VmSample,
};
use crate::secret::Secret;
use crate::service::{
    CreateToken, CreateUser, Figures, Health, ListedVm, QuotaView, Refusals, Ticket, UpdateUser, UserView, VmPage,
    VmQuery, VmView,
};

/// A VM as a server tells it: what its host adds to the status is no part of [`Vm`].
#[derive(Deserialize)]
struct ToldVm {
    status: ToldStatus,
}

#[derive(Deserialize)]
struct ToldStatus {
    #[serde(with = "time::serde::rfc3339::option")]
    observed_at: Option<OffsetDateTime>,
    stale: bool,
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(strange)
}

fn listed(told: Value) -> Result<ListedVm> {
    let ToldVm { status } = serde_json::from_value(told.clone()).map_err(strange)?;
    let vm: Vm = serde_json::from_value(told).map_err(strange)?;
    Ok(ListedVm { vm: vm.into(), observed_at: status.observed_at, stale: status.stale })
}

/// The tag that names a version of a VM's record, whatever its status is.
fn tag(version: Option<i64>) -> Option<String> {
    version.map(|version| format!("{version}.0"))
}

impl Remote {
    async fn tell<T: DeserializeOwned>(&self, operation: &str, args: Value) -> Result<T> {
        let Value::Object(args) = args else { return Err(Error::internal("arguments are an object")) };
        read(&self.call(operation, args).await?)
    }

    /// [`Limen::event`](crate::Limen::event): of the server that answers.
    pub async fn event(&self) -> Result<EventNumber> {
        self.shown(None).await
    }

    /// [`Limen::wait_for_event`](crate::Limen::wait_for_event).
    pub async fn wait_for_event(&self, number: EventNumber, at_most: Duration) -> Result<()> {
        self.wait_shown(number, at_most).await
    }

    /// [`Limen::watch_events`](crate::Limen::watch_events).
    pub async fn watch_events(&self, after: EventNumber) -> Result<RemoteEvents> {
        RemoteEvents::open(&self.wire, self.who.as_ref(), after).await
    }

    /// [`Limen::health`](crate::Limen::health): also whether LIMEN answers at the address at all.
    pub async fn health(&self) -> Result<Health> {
        serde_json::from_value(self.look_at_health().await?).map_err(strange)
    }

    /// [`Limen::ping_store`](crate::Limen::ping_store).
    pub async fn ping_store(&self) -> Result<()> {
        self.tell("ping_store", json!({})).await
    }

    /// [`Limen::refusals`](crate::Limen::refusals).
    pub async fn refusals(&self) -> Result<Refusals> {
        self.tell("refusals", json!({})).await
    }

    /// [`Limen::get_metrics`](crate::Limen::get_metrics).
    pub async fn get_metrics(&self) -> Result<Figures> {
        self.tell("get_metrics", json!({})).await
    }

    /// [`Limen::check`](crate::Limen::check).
    pub async fn check(&self) -> Result<CheckReport> {
        self.tell("check", json!({})).await
    }

    /// [`Limen::get_restored`](crate::Limen::get_restored).
    pub async fn get_restored(&self) -> Result<Restored> {
        self.tell("get_restored", json!({})).await
    }

    /// [`Limen::login`](crate::Limen::login): a client that asks in the new session.
    pub async fn login(&self, name: &str, password: &Secret) -> Result<Remote> {
        #[derive(Deserialize)]
        struct Session {
            session: Secret,
        }
        let args = json!({ "name": name, "password": password.expose() });
        let Session { session } = self.tell("login", args).await?;
        Ok(self.with_token(session))
    }

    /// [`Limen::logout`](crate::Limen::logout).
    pub async fn logout(&self) -> Result<()> {
        self.tell("logout", json!({})).await
    }

    /// [`Limen::get_me`](crate::Limen::get_me).
    pub async fn get_me(&self) -> Result<UserView> {
        self.tell("get_me", json!({})).await
    }

    /// [`Limen::change_password`](crate::Limen::change_password).
    pub async fn change_password(&self, current: &Secret, new: &Secret) -> Result<()> {
        self.tell("change_password", json!({ "current": current.expose(), "new": new.expose() })).await
    }

    /// [`Limen::list_users`](crate::Limen::list_users).
    pub async fn list_users(&self, page: PageRequest) -> Result<Page<UserView>> {
        self.tell("list_users", json!({ "page": page })).await
    }

    /// [`Limen::get_user`](crate::Limen::get_user).
    pub async fn get_user(&self, id: UserId) -> Result<UserView> {
        self.tell("get_user", json!({ "id": id })).await
    }

    /// [`Limen::create_user`](crate::Limen::create_user).
    pub async fn create_user(&self, create: CreateUser) -> Result<UserView> {
        let CreateUser { name, password, role, disabled, quota } = create;
        let password = password.expose();
        let create = json!({ "name": name, "password": password, "role": role, "disabled": disabled, "quota": quota });
        self.tell("create_user", json!({ "create": create })).await
    }

    /// [`Limen::update_user`](crate::Limen::update_user).
    pub async fn update_user(&self, id: UserId, update: UpdateUser) -> Result<UserView> {
        let UpdateUser { password, role, disabled, quota } = update;
        let all = [
            ("password", json!(password.as_ref().map(Secret::expose))),
            ("role", json!(role)),
            ("disabled", json!(disabled)),
            ("quota", json!(quota)),
        ];
        let update: Map<String, Value> = all
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        self.tell("update_user", json!({ "id": id, "update": update })).await
    }

    /// [`Limen::delete_user`](crate::Limen::delete_user).
    pub async fn delete_user(&self, id: UserId) -> Result<()> {
        self.tell("delete_user", json!({ "id": id })).await
    }

    /// [`Limen::create_token`](crate::Limen::create_token).
    pub async fn create_token(&self, create: CreateToken) -> Result<(Token, Secret)> {
        #[derive(Deserialize)]
        struct Made {
            token: Token,
            secret: Secret,
        }
        let Made { token, secret } = self.tell("create_token", json!({ "create": create })).await?;
        Ok((token, secret))
    }

    /// [`Limen::list_tokens`](crate::Limen::list_tokens).
    pub async fn list_tokens(&self, page: PageRequest) -> Result<Page<Token>> {
        self.tell("list_tokens", json!({ "page": page })).await
    }

    /// [`Limen::delete_token`](crate::Limen::delete_token).
    pub async fn delete_token(&self, id: TokenId) -> Result<()> {
        self.tell("delete_token", json!({ "id": id })).await
    }

    /// [`Limen::get_quota`](crate::Limen::get_quota).
    pub async fn get_quota(&self) -> Result<QuotaView> {
        self.tell("get_quota", json!({})).await
    }

    /// [`Limen::list_vms`](crate::Limen::list_vms).
    pub async fn list_vms(&self, query: &VmQuery, page: PageRequest) -> Result<VmPage> {
        #[derive(Deserialize)]
        struct Told {
            items: Vec<Value>,
            next_cursor: Option<String>,
            event: EventNumber,
        }
        let told: Told = self.tell("list_vms", json!({ "query": query, "page": page })).await?;
        let vms = told.items.into_iter().map(listed).collect::<Result<_>>()?;
        Ok(VmPage::told(vms, told.next_cursor, told.event))
    }

    /// [`Limen::get_vm`](crate::Limen::get_vm).
    pub async fn get_vm(&self, id: VmId) -> Result<VmView> {
        #[derive(Deserialize)]
        struct Told {
            etag: String,
            event: EventNumber,
        }
        let told: Value = self.tell("get_vm", json!({ "id": id })).await?;
        let Told { etag, event } = serde_json::from_value(told.clone()).map_err(strange)?;
        let one = listed(told)?;
        let (mut vm, versions) = (one.vm.as_ref().clone(), etag.split_once('.').unwrap_or_default());
        vm.version = versions.0.parse().map_err(strange)?;
        vm.status.revision = versions.1.parse().map_err(strange)?;
        let json = one.json();
        let (observed_at, stale) = (one.observed_at, one.stale);
        Ok(VmView { vm: vm.into(), observed_at, stale, json, etag, event })
    }

    /// [`Limen::create_vm`](crate::Limen::create_vm).
    pub async fn create_vm(&self, create: CreateVm) -> Result<Operation> {
        self.tell("create_vm", json!({ "create": create })).await
    }

    /// [`Limen::update_vm`](crate::Limen::update_vm).
    pub async fn update_vm(&self, id: VmId, update: UpdateVm, expected: Option<i64>) -> Result<Operation> {
        self.tell("update_vm", json!({ "id": id, "update": update, "expected": tag(expected) })).await
    }

    /// [`Limen::delete_vm`](crate::Limen::delete_vm).
    pub async fn delete_vm(&self, id: VmId, expected: Option<i64>) -> Result<Operation> {
        self.tell("delete_vm", json!({ "id": id, "expected": tag(expected) })).await
    }

    /// [`Limen::change_power`](crate::Limen::change_power).
    pub async fn change_power(&self, id: VmId, action: PowerAction, timeout_s: Option<u32>) -> Result<Operation> {
        self.tell("change_power", json!({ "id": id, "action": action, "timeout_s": timeout_s })).await
    }

    /// [`Limen::vm_stats`](crate::Limen::vm_stats).
    pub async fn vm_stats(&self, id: VmId) -> Result<VmSample> {
        self.tell("vm_stats", json!({ "id": id })).await
    }

    /// [`Limen::create_ticket`](crate::Limen::create_ticket).
    pub async fn create_ticket(&self, id: VmId, kind: ConsoleKind) -> Result<Ticket> {
        #[derive(Deserialize)]
        struct Told {
            secret: Secret,
            #[serde(with = "time::serde::rfc3339")]
            expires_at: OffsetDateTime,
        }
        let Told { secret, expires_at } = self.tell("create_ticket", json!({ "id": id, "kind": kind })).await?;
        Ok(Ticket { secret, expires_at })
    }

    /// [`Limen::open_console`](crate::Limen::open_console). It is at work on the runtime that this is
    /// called on.
    pub async fn open_console(&self, id: VmId, kind: ConsoleKind) -> Result<RemoteConsole> {
        console::open(&self.wire, self.who.as_ref(), id, kind).await
    }

    /// [`Limen::list_images`](crate::Limen::list_images).
    pub async fn list_images(&self, page: PageRequest) -> Result<Page<Image>> {
        self.tell("list_images", json!({ "page": page })).await
    }

    /// [`Limen::get_image`](crate::Limen::get_image).
    pub async fn get_image(&self, id: ImageId) -> Result<Image> {
        self.tell("get_image", json!({ "id": id })).await
    }

    /// [`Limen::delete_image`](crate::Limen::delete_image).
    pub async fn delete_image(&self, id: ImageId) -> Result<Operation> {
        self.tell("delete_image", json!({ "id": id })).await
    }

    /// [`Limen::list_hosts`](crate::Limen::list_hosts).
    pub async fn list_hosts(&self) -> Result<Vec<Host>> {
        self.tell("list_hosts", json!({})).await
    }

    /// [`Limen::host_metrics`](crate::Limen::host_metrics).
    pub async fn host_metrics(&self, name: &str) -> Result<HostSample> {
        self.tell("host_metrics", json!({ "name": name })).await
    }

    /// [`Limen::list_networks`](crate::Limen::list_networks).
    pub async fn list_networks(&self) -> Result<Vec<Network>> {
        self.tell("list_networks", json!({})).await
    }

    /// [`Limen::list_operations`](crate::Limen::list_operations).
    pub async fn list_operations(&self, vm: Option<VmId>, page: PageRequest) -> Result<Page<Operation>> {
        self.tell("list_operations", json!({ "vm": vm, "page": page })).await
    }

    /// [`Limen::get_operation`](crate::Limen::get_operation).
    pub async fn get_operation(&self, id: OperationId) -> Result<Operation> {
        self.tell("get_operation", json!({ "id": id })).await
    }

    /// [`Limen::wait_operation`](crate::Limen::wait_operation).
    pub async fn wait_operation(&self, id: OperationId, at_most: Duration) -> Result<Operation> {
        read(&self.wait_finished(&id.to_string(), at_most).await?)
    }

    /// [`Limen::cancel_operation`](crate::Limen::cancel_operation).
    pub async fn cancel_operation(&self, id: OperationId) -> Result<Operation> {
        self.tell("cancel_operation", json!({ "id": id })).await
    }

    /// [`Limen::resume_operation`](crate::Limen::resume_operation).
    pub async fn resume_operation(&self, id: OperationId) -> Result<Operation> {
        self.tell("resume_operation", json!({ "id": id })).await
    }

    /// [`Limen::abandon_operation`](crate::Limen::abandon_operation).
    pub async fn abandon_operation(&self, id: OperationId) -> Result<Operation> {
        self.tell("abandon_operation", json!({ "id": id })).await
    }

    /// [`Limen::list_audit`](crate::Limen::list_audit).
    pub async fn list_audit(&self, query: &AuditQuery, page: PageRequest) -> Result<Page<AuditRecord>> {
        self.tell("list_audit", json!({ "query": query, "page": page })).await
    }
}
