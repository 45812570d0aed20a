//! Hosts and their networks. There are few of them: a list is one page.

use limen_core::model::{Host, HostSample, Network, Page};
use poem_openapi::OpenApi;
use poem_openapi::param::Path;

use super::Tag;
use crate::answer::Json;
use crate::error::Result;
use crate::extract::{Caller, Plain};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Hosts;

#[OpenApi]
impl Hosts {
    /// List hosts
    #[oai(path = "/api/hosts", method = "get", operation_id = "list_hosts", tag = "Tag::Hosts")]
    async fn list_hosts(&self, caller: Caller, _query: Plain) -> Result<Json<Page<Host>>> {
        let items = caller.limen().list_hosts(&caller).await?;
        Json::of(&Page { items, next_cursor: None })
    }

    /// Read a host's last figures
    #[oai(path = "/api/hosts/:name/metrics", method = "get", operation_id = "get_host_metrics", tag = "Tag::Hosts")]
    async fn get_host_metrics(&self, caller: Caller, name: Path<String>, _query: Plain) -> Result<Json<HostSample>> {
        Json::of(&caller.limen().host_metrics(&caller, &name.0).await?)
    }

    /// List the networks that NICs can be on
    #[oai(path = "/api/networks", method = "get", operation_id = "list_networks", tag = "Tag::Hosts")]
    async fn list_networks(&self, caller: Caller, _query: Plain) -> Result<Json<Page<Network>>> {
        let items = caller.limen().list_networks(&caller).await?;
        Json::of(&Page { items, next_cursor: None })
    }
}
