//! `limen host`.

use clap::Subcommand;
use serde_json::Value;

use super::door::{Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::CoreConfig;

#[derive(Subcommand, Debug)]
pub(super) enum HostCommand {
    /// List hosts: how each is, and which server works on it
    List,
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: &HostCommand) -> Result {
    let HostCommand::List = command;
    let door = Door::open(args, config, Intent::Look).await?;
    let page = door.get("/api/hosts").await;
    door.close().await;
    let hosts = page?["items"].as_array().cloned().unwrap_or_default();
    if args.json {
        output::json(&Value::Array(hosts));
    } else {
        let columns = [
            ("NAME", "/name"),
            ("STATE", "/state"),
            ("SERVER", "/owner"),
            ("HYPERVISOR", "/info/hypervisor"),
            ("CPUS", "/info/cpus"),
            ("MEMORY_MIB", "/info/memory_mib"),
            ("ID", "/id"),
        ];
        output::table(&columns, &hosts);
    }
    Ok(())
}
