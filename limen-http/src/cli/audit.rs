//! `limen audit`.

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::door::{Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::CoreConfig;

#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// List who asked for what, from where, with which outcome; newest first
    #[command(after_help = "Examples:\n  limen audit list --outcome refused\n  \
        limen audit list --resource vm:01995f3a-7d5c-7a51-9f3e-52f1b7a3c0de\n  \
        limen audit list --actor user:alice --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z --limit 1000")]
    List(Filter),
}

#[derive(Args, Debug)]
pub(super) struct Filter {
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// By whom: user:NAME, token:NAME/TOKEN, local, system:PART
    #[arg(long, value_name = "LABEL")]
    actor: Option<String>,
    /// By which user, in a session or with a token
    #[arg(long, value_name = "ID")]
    user_id: Option<Uuid>,
    /// Of which action, like delete_vm
    #[arg(long)]
    action: Option<String>,
    /// On one thing (vm:ID), or on all of a kind (vm)
    #[arg(long)]
    resource: Option<String>,
    /// accepted, succeeded, failed, cancelled or refused
    #[arg(long)]
    outcome: Option<String>,
    /// Under which request id
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Not before this time, like 2026-01-31T00:00:00Z
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
}

impl Filter {
    /// The query of the same names; the server judges the values.
    fn query(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("limit", &self.limit.to_string());
        for (name, value) in [
            ("actor", self.actor.as_deref()),
            ("user_id", self.user_id.map(|id| id.to_string()).as_deref()),
            ("action", self.action.as_deref()),
            ("resource", self.resource.as_deref()),
            ("outcome", self.outcome.as_deref()),
            ("request_id", self.request_id.as_deref()),
            ("from", self.from.as_deref()),
            ("to", self.to.as_deref()),
        ] {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        query.finish()
    }
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: AuditCommand) -> Result {
    let AuditCommand::List(filter) = command;
    let door = Door::open(args, config, Intent::Look).await?;
    let done = list(&door, args, &filter).await;
    door.close().await;
    done
}

async fn list(door: &Door, args: &DoorArgs, filter: &Filter) -> Result {
    let page = door.get(&format!("/api/audit?{}", filter.query())).await?;
    if args.json {
        output::json(&page["items"]);
    } else {
        let columns = [
            ("AT", "/at"),
            ("BY", "/actor/label"),
            ("FROM", "/origin"),
            ("ACTION", "/action"),
            ("ON", "/resource"),
            ("OUTCOME", "/outcome"),
            ("TIMES", "/count"),
            ("DETAIL", "/detail"),
            ("REQUEST", "/request_id"),
        ];
        output::table(&columns, &page["items"].as_array().cloned().unwrap_or_default());
    }
    Ok(())
}
