//! The operations by their names, as a program of Rust calls them: of a `Limen` with a context, of a
//! server without.

use limen_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use limen_core::model::PageRequest;

/// Arguments that are taken one by one; what is left is the operation's own struct.
pub(crate) struct Args(pub(crate) Map<String, Value>);

impl Args {
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T> {
        read(name, self.0.remove(name).unwrap_or_default())
    }

    pub(crate) fn page(&mut self) -> Result<PageRequest> {
        let limit: Option<u32> = self.take("limit")?;
        limit.map_or_else(|| Ok(PageRequest::default()), PageRequest::first)
    }

    pub(crate) fn rest<T: DeserializeOwned>(self) -> Result<T> {
        read("", Value::Object(self.0))
    }
}

/// A wrong value is the caller's, as a door refuses it before the library sees it.
pub(crate) fn read<T: DeserializeOwned>(name: &str, value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { name.to_owned() } else { path };
        Error::invalid(field, error.inner().to_string())
    })
}

pub(crate) fn shown(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}

/// The version of a VM's record, of its entity tag.
pub(crate) fn version(etag: Option<String>) -> Option<i64> {
    etag?.split('.').next()?.parse().ok()
}

/// What the operation answers, as JSON; in brackets is the context, where it takes one.
macro_rules! operate {
    ($limen:ident.$operation:ident[$($ctx:ident)?]($args:ident)) => {{
        use limen_core::model::{AuditQuery, CreateVm, UpdateVm};
        use limen_core::service::{CreateToken, CreateUser, UpdateUser, VmQuery};
        use serde_json::json;

        use crate::operations::{read, shown, version};

            match $operation {
                "logout" => shown(&$limen.logout($($ctx)?).await?),
                "get_me" => shown(&$limen.get_me($($ctx)?).await?),
                "change_password" => shown(&$limen.change_password($($ctx,)? &$args.take("current")?, &$args.take("new")?).await?),
                "list_users" => shown(&$limen.list_users($($ctx,)? $args.page()?).await?),
                "get_user" => shown(&$limen.get_user($($ctx,)? $args.take("id")?).await?),
                "create_user" => shown(&$limen.create_user($($ctx,)? $args.rest::<CreateUser>()?).await?),
                "update_user" => {
                    let id = $args.take("id")?;
                    shown(&$limen.update_user($($ctx,)? id, $args.rest::<UpdateUser>()?).await?)
                }
                "delete_user" => shown(&$limen.delete_user($($ctx,)? $args.take("id")?).await?),
                "create_token" => {
                    let (token, _) = $limen.create_token($($ctx,)? $args.rest::<CreateToken>()?).await?;
                    Ok(json!({ "token": token }))
                }
                "list_tokens" => shown(&$limen.list_tokens($($ctx,)? $args.page()?).await?),
                "delete_token" => shown(&$limen.delete_token($($ctx,)? $args.take("id")?).await?),
                "get_quota" => shown(&$limen.get_quota($($ctx)?).await?),
                "list_vms" => {
                    let page = $args.page()?;
                    let page = $limen.list_vms($($ctx,)? &$args.rest::<VmQuery>()?, page).await?;
                    read("", serde_json::from_slice(&page.json).map_err(limen_core::Error::internal)?)
                }
                "get_vm" => {
                    let view = $limen.get_vm($($ctx,)? $args.take("id")?).await?;
                    let mut vm: Value = serde_json::from_slice(&view.json).map_err(limen_core::Error::internal)?;
                    vm["etag"] = json!(view.etag);
                    Ok(vm)
                }
                "create_vm" => shown(&$limen.create_vm($($ctx,)? $args.rest::<CreateVm>()?).await?),
                "update_vm" => {
                    let (id, expected) = ($args.take("id")?, version($args.take("expected")?));
                    shown(&$limen.update_vm($($ctx,)? id, $args.rest::<UpdateVm>()?, expected).await?)
                }
                "delete_vm" => {
                    let expected = version($args.take("expected")?);
                    shown(&$limen.delete_vm($($ctx,)? $args.take("id")?, expected).await?)
                }
                "change_power" => {
                    let (id, action, timeout) = ($args.take("id")?, $args.take("action")?, $args.take("timeout_s")?);
                    shown(&$limen.change_power($($ctx,)? id, action, timeout).await?)
                }
                "create_ticket" => {
                    let ticket = $limen.create_ticket($($ctx,)? $args.take("id")?, $args.take("kind")?).await?;
                    Ok(json!({ "secret": ticket.secret.expose() }))
                }
                "vm_stats" => shown(&$limen.vm_stats($($ctx,)? $args.take("id")?).await?),
                "list_images" => shown(&$limen.list_images($($ctx,)? $args.page()?).await?),
                "get_image" => shown(&$limen.get_image($($ctx,)? $args.take("id")?).await?),
                "delete_image" => shown(&$limen.delete_image($($ctx,)? $args.take("id")?).await?),
                "list_hosts" => shown(&$limen.list_hosts($($ctx)?).await?),
                "host_metrics" => shown(&$limen.host_metrics($($ctx,)? &$args.take::<String>("name")?).await?),
                "list_networks" => shown(&$limen.list_networks($($ctx)?).await?),
                "list_operations" => {
                    let page = $args.page()?;
                    shown(&$limen.list_operations($($ctx,)? $args.take("vm")?, page).await?)
                }
                "get_operation" => shown(&$limen.get_operation($($ctx,)? $args.take("id")?).await?),
                "wait_operation" => {
                    let timeout = std::time::Duration::from_secs_f64($args.take("timeout")?);
                    shown(&$limen.wait_operation($($ctx,)? $args.take("id")?, timeout).await?)
                }
                "cancel_operation" => shown(&$limen.cancel_operation($($ctx,)? $args.take("id")?).await?),
                "resume_operation" => shown(&$limen.resume_operation($($ctx,)? $args.take("id")?).await?),
                "abandon_operation" => shown(&$limen.abandon_operation($($ctx,)? $args.take("id")?).await?),
                "list_audit" => {
                    let page = $args.page()?;
                    shown(&$limen.list_audit($($ctx,)? &$args.rest::<AuditQuery>()?, page).await?)
                }
                "get_metrics" => shown(&$limen.get_metrics($($ctx)?).await?),
                "check" => shown(&$limen.check($($ctx)?).await?),
                "get_restored" => shown(&$limen.get_restored($($ctx)?).await?),
                other => panic!("there is no {other}"),
            }
    }};
}

pub(crate) use operate;
