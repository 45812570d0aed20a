//! `limen host`.

use clap::Subcommand;
use serde_json::Value;

use super::door::{Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::{CoreConfig, percent_encode};

#[derive(Subcommand, Debug)]
pub(super) enum HostCommand {
    /// List hosts: how each is, and which server works on it
    List,
    /// Show a host's last figures: CPU use, memory, uptime, and how old they are
    Metrics {
        /// The host, by its name in `limen host list`
        #[arg(default_value = "local")]
        name: String,
    },
}

/// Columns of a host's figures.
const FIGURES: [(&str, &str); 8] = [
    ("NAME", "/host"),
    ("CPU_%", "/cpu_percent"),
    ("CPUS", "/cpus"),
    ("MEMORY_MIB", "/memory_total_mib"),
    ("AVAILABLE_MIB", "/memory_free_mib"),
    ("UPTIME_S", "/uptime_seconds"),
    ("AGE_S", "/age_seconds"),
    ("STALE", "/stale"),
];

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: &HostCommand) -> Result {
    let door = Door::open(args, config, Intent::Look).await?;
    let path = match command {
        HostCommand::List => "/api/hosts".to_owned(),
        HostCommand::Metrics { name } => format!("/api/hosts/{}/metrics", percent_encode(name)),
    };
    let page = door.get(&path).await;
    door.close().await;
    if let HostCommand::Metrics { .. } = command {
        let mut figures = page?;
        if args.json {
            output::json(&figures);
        } else {
            for (name, field) in
                [("memory_total_mib", "memory_total_bytes"), ("memory_free_mib", "memory_available_bytes")]
            {
                figures[name] = figures[field].as_u64().map(|bytes| bytes >> 20).into();
            }
            output::table(&FIGURES, &[figures]);
        }
        return Ok(());
    }
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
