//! `limen op`.

use std::time::Duration;

use clap::Subcommand;
use poem::http::Method;
use serde_json::Value;
use uuid::Uuid;

use super::door::{Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::CoreConfig;

#[derive(Subcommand, Debug)]
pub(super) enum OpCommand {
    /// List operations, newest first
    List {
        /// How many at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one operation
    Show {
        /// The operation
        id: Uuid,
    },
    /// Ask an operation to stop and take back what it did
    Cancel {
        /// The operation
        id: Uuid,
    },
    /// Let an operation go on that is held since the database was restored
    Resume {
        /// The operation
        id: Uuid,
    },
    /// Give up an operation that is held since the database was restored; nothing on the host is touched
    Abandon {
        /// The operation
        id: Uuid,
    },
    /// Wait until an operation is finished; fails when it failed
    Wait {
        /// The operation
        id: Uuid,
        /// How many seconds at most
        #[arg(long, value_name = "SECONDS", default_value_t = 300)]
        timeout: u64,
    },
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: OpCommand) -> Result {
    let intent = match command {
        OpCommand::List { .. } | OpCommand::Show { .. } => Intent::Look,
        OpCommand::Abandon { .. } => Intent::Record,
        OpCommand::Cancel { .. } | OpCommand::Resume { .. } | OpCommand::Wait { .. } => Intent::Change,
    };
    let door = Door::open(args, config, intent).await?;
    let done = work(&door, args, command).await;
    door.close().await;
    done
}

async fn work(door: &Door, args: &DoorArgs, command: OpCommand) -> Result {
    match command {
        OpCommand::List { limit } => {
            let page = door.get(&format!("/api/operations?limit={limit}")).await?;
            if args.json {
                output::json(&page["items"]);
            } else {
                let columns = [
                    ("ID", "/id"),
                    ("KIND", "/kind"),
                    ("STATE", "/state"),
                    ("BY", "/actor/label"),
                    ("SINCE", "/created_at"),
                    ("ERROR", "/error/detail"),
                ];
                output::table(&columns, &page["items"].as_array().cloned().unwrap_or_default());
            }
        }
        OpCommand::Show { id } => output::json(&door.get(&format!("/api/operations/{id}")).await?),
        OpCommand::Cancel { id } => {
            let operation = door.call(Method::POST, &format!("/api/operations/{id}/cancel"), None).await?;
            report(args, &operation);
        }
        OpCommand::Resume { id } => {
            let operation = door.call(Method::POST, &format!("/api/operations/{id}/resume"), None).await?;
            report(args, &operation);
        }
        OpCommand::Abandon { id } => {
            let operation = door.call(Method::POST, &format!("/api/operations/{id}/abandon"), None).await?;
            report(args, &operation);
        }
        OpCommand::Wait { id, timeout } => {
            let operation = door.get(&format!("/api/operations/{id}")).await?;
            let operation = door.wait(operation, Some(Duration::from_secs(timeout))).await?;
            report(args, &operation);
        }
    }
    Ok(())
}

fn report(args: &DoorArgs, operation: &Value) {
    if args.json {
        output::json(operation);
    } else {
        let word = |pointer| output::cell(operation.pointer(pointer));
        output::line(format!("{} {}: {}", word("/kind"), word("/id"), word("/state")));
    }
}
