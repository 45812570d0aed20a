//! `limen token`.

use clap::Subcommand;
use poem::http::Method;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::door::{Door, Intent};
use super::user::RoleArg;
use super::{DoorArgs, Failure, Result, output, vm};
use crate::config::CoreConfig;

#[derive(Subcommand, Debug)]
pub(super) enum TokenCommand {
    /// Make an API token of one's own; it is shown this once
    #[command(after_help = "Examples:\n  limen token add backup --role viewer --days 90\n  \
        limen token add web-1-restart --vm web-1")]
    Add {
        /// Its name
        name: String,
        /// What it may do at most [default: what one may oneself]
        #[arg(long, value_enum)]
        role: Option<RoleArg>,
        /// The one VM that it is for, by name or id [default: all that one sees]
        #[arg(long, value_name = "VM")]
        vm: Option<String>,
        /// After how many days it ends [default: never]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
        days: Option<u16>,
    },
    /// List one's own API tokens; an admin sees everybody's
    List,
    /// Delete an API token: it is no longer good, at once
    Delete {
        /// Its name or id
        // `token` is the name of the flag that every command has.
        #[arg(value_name = "TOKEN")]
        which: String,
    },
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: TokenCommand) -> Result {
    let intent = if matches!(command, TokenCommand::List) { Intent::Look } else { Intent::Record };
    let door = Door::open(args, config, intent).await?;
    let done = work(&door, args, command).await;
    door.close().await;
    done
}

async fn work(door: &Door, args: &DoorArgs, command: TokenCommand) -> Result {
    match command {
        TokenCommand::Add { name, role, vm, days } => {
            if args.local {
                return Err(Failure::usage("--local is nobody's own: an API token belongs to a user who is logged in"));
            }
            let vm = match vm {
                Some(vm) => Some(vm::find(door, &vm).await?["id"].clone()),
                None => None,
            };
            let expires_at = days.map(|days| {
                let end = OffsetDateTime::now_utc() + Duration::days(days.into());
                end.format(&Rfc3339).unwrap_or_default()
            });
            let body = json!({"name": name, "role": role.map(RoleArg::name), "vm_id": vm, "expires_at": expires_at});
            let token = door.call(Method::POST, "/api/tokens", Some(body)).await?;
            if args.json {
                output::json(&token);
            } else {
                output::line(output::text(&token, "/token"));
                eprintln!("Keep it now: it is not shown again.");
            }
        }
        TokenCommand::List => {
            let tokens = door.list("/api/tokens").await?;
            if args.json {
                output::json(&Value::Array(tokens));
            } else {
                let columns = [
                    ("NAME", "/name"),
                    ("ROLE", "/role"),
                    ("VM", "/vm_id"),
                    ("EXPIRES", "/expires_at"),
                    ("USER", "/user_id"),
                    ("ID", "/id"),
                ];
                output::table(&columns, &tokens);
            }
        }
        TokenCommand::Delete { which } => {
            let id = match which.parse::<Uuid>() {
                Ok(id) => id.to_string(),
                Err(_) => find(door, &which).await?,
            };
            door.call(Method::DELETE, &format!("/api/tokens/{id}"), None).await?;
            output::line(format!("Deleted {which}."));
        }
    }
    Ok(())
}

/// The id of the only token of this name.
async fn find(door: &Door, name: &str) -> Result<String> {
    let tokens = door.list("/api/tokens").await?;
    let mut found = tokens.iter().filter(|token| token["name"] == name);
    match (found.next(), found.next()) {
        (Some(token), None) => Ok(output::text(token, "/id").to_owned()),
        (None, _) => Err(Failure::new(4, format!("there is no API token {name:?}"))),
        (Some(_), Some(_)) => Err(Failure::usage(format!("several users have a token {name:?}; name it by its id"))),
    }
}
