//! `limen user`.

use clap::{Args, Subcommand, ValueEnum};
use limen_core::Secret;
use poem::http::Method;
use serde_json::{Map, Value, json};

use super::door::{Door, Intent};
use super::{DoorArgs, Failure, Result, output, session};
use crate::config::CoreConfig;
use crate::start;

#[derive(Subcommand, Debug)]
pub(super) enum UserCommand {
    /// Add a user; asks for the password
    #[command(after_help = "Example:\n  limen user add alice --role user")]
    Add {
        /// The login name
        name: String,
        /// What the user may do
        #[arg(long, value_enum, default_value_t = RoleArg::User)]
        role: RoleArg,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// List users
    List,
    /// Show one's own limits and use, or a user's limits, and change those
    #[command(
        after_help = "Examples:\n  limen user quota\n  limen user quota alice --quota-vms 5 --quota-disk-gib none"
    )]
    Quota {
        /// The user; oneself when it is missing
        name: Option<String>,
        #[command(flatten)]
        quota: QuotaArgs,
    },
    /// Change a user's password, or one's own
    #[command(after_help = "Examples:\n  limen user passwd                  one's own\n  \
        limen --local user passwd admin    a forgotten one, on the server's machine")]
    Passwd {
        /// The user, whose sessions all end; oneself when it is missing
        name: Option<String>,
        /// Read the password (for oneself: the old one, then the new one) from standard input
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Limits of a user: a number, or `none` for no limit. What is not named stays as it is.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct QuotaArgs {
    /// VMs at most, or none for no limit
    #[arg(long, value_name = "N", value_parser = limit)]
    quota_vms: Option<Limit>,
    /// vCPUs of all VMs at most
    #[arg(long, value_name = "N", value_parser = limit)]
    quota_vcpus: Option<Limit>,
    /// Memory of all VMs at most, in MiB
    #[arg(long, value_name = "MIB", value_parser = limit)]
    quota_memory_mib: Option<Limit>,
    /// Disks of all VMs at most, in GiB
    #[arg(long, value_name = "GIB", value_parser = limit)]
    quota_disk_gib: Option<Limit>,
    /// Snapshots at most
    #[arg(long, value_name = "N", value_parser = limit)]
    quota_snapshots: Option<Limit>,
}

#[derive(Clone, Copy, Debug)]
struct Limit(Option<i64>);

fn limit(text: &str) -> std::result::Result<Limit, String> {
    match text {
        "none" => Ok(Limit(None)),
        text => text.parse().map(|number| Limit(Some(number))).map_err(|_| "a number, or none".to_owned()),
    }
}

impl QuotaArgs {
    /// The limits that are named, as the API takes them.
    fn body(self) -> Map<String, Value> {
        let named = [
            ("vms", self.quota_vms),
            ("vcpus", self.quota_vcpus),
            ("memory_mib", self.quota_memory_mib),
            ("disk_gib", self.quota_disk_gib),
            ("snapshots", self.quota_snapshots),
        ];
        named.into_iter().filter_map(|(name, limit)| Some((name.to_owned(), json!(limit?.0)))).collect()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    /// Everything
    Admin,
    /// Operates every VM, creates their own
    Operator,
    /// Their own VMs
    User,
    /// Looks at their own VMs
    Viewer,
}

impl RoleArg {
    /// The role's name on every surface.
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: UserCommand) -> Result {
    let intent = match &command {
        UserCommand::List | UserCommand::Quota { name: None, .. } => Intent::Look,
        UserCommand::Quota { quota, .. } if quota.body().is_empty() => Intent::Look,
        _ => Intent::Record,
    };
    let door = Door::open(args, config, intent).await?;
    let done = work(&door, args, config, command).await;
    door.close().await;
    done
}

async fn work(door: &Door, args: &DoorArgs, config: &CoreConfig, command: UserCommand) -> Result {
    match command {
        UserCommand::Add { name, role, password_stdin, quota } => {
            let password = new_password(&name, password_stdin)?;
            let role = role.name();
            let body = json!({"username": name, "password": password.expose(), "role": role, "quota": quota.body()});
            let user = door.call(Method::POST, "/api/users", Some(body)).await?;
            if args.json {
                output::json(&user);
            } else {
                output::line(format!("Added {name}, {role}."));
            }
        }
        UserCommand::List => {
            let users = door.list("/api/users").await?;
            if args.json {
                output::json(&Value::Array(users));
            } else {
                let disabled = ("DISABLED", "/disabled");
                let columns =
                    [("NAME", "/username"), ("ROLE", "/role"), disabled, ("SINCE", "/created_at"), ("ID", "/id")];
                output::table(&columns, &users);
            }
        }
        UserCommand::Quota { name: None, quota } => {
            if !quota.body().is_empty() {
                return Err(Failure::usage("nobody changes their own limits: name the user"));
            }
            let quota = door.call(Method::GET, "/api/quota", None).await?;
            if args.json {
                output::json(&quota);
            } else {
                show(&quota["limits"], Some(&quota["used"]));
            }
        }
        UserCommand::Quota { name: Some(name), quota } => {
            let mut user = user_named(door, &name).await?;
            if !quota.body().is_empty() {
                let path = format!("/api/users/{}", output::text(&user, "/id"));
                user = door.call(Method::PATCH, &path, Some(json!({"quota": quota.body()}))).await?;
            }
            if args.json {
                output::json(&user["quota"]);
            } else {
                show(&user["quota"], None);
            }
        }
        UserCommand::Passwd { name: None, password_stdin } => {
            if args.local {
                return Err(Failure::usage("--local is nobody's own: name the user"));
            }
            let old = session::ask_secret("Password until now: ", password_stdin)?;
            let new = new_password("you", password_stdin)?;
            let body = json!({"current_password": old.expose(), "new_password": new.expose()});
            door.call(Method::POST, "/api/auth/password", Some(body)).await?;
            output::line("Changed.");
        }
        UserCommand::Passwd { name: Some(name), password_stdin } => {
            let user = user_named(door, &name).await?;
            let new = new_password(&name, password_stdin)?;
            let path = format!("/api/users/{}", output::text(&user, "/id"));
            door.call(Method::PATCH, &path, Some(json!({"password": new.expose()}))).await?;
            if args.local {
                start::initial_password(config, &name).forget(&name).await;
            }
            output::line(format!("Changed; all sessions of {name} have ended."));
        }
    }
    Ok(())
}

async fn user_named(door: &Door, name: &str) -> Result<Value> {
    let users = door.list("/api/users").await?;
    let user = users.into_iter().find(|user| user["username"] == name);
    user.ok_or_else(|| Failure::new(4, format!("there is no user {name:?}")))
}

/// Prints limits, with what is in use where that is known.
fn show(limits: &Value, used: Option<&Value>) {
    let rows = limits.as_object().into_iter().flatten().map(|(resource, limit)| {
        let limit = if limit.is_null() { json!("none") } else { limit.clone() };
        json!({"resource": resource, "limit": limit, "used": used.map(|used| &used[resource])})
    });
    let mut columns = vec![("RESOURCE", "/resource"), ("LIMIT", "/limit")];
    columns.extend(used.map(|_| ("USED", "/used")));
    output::table(&columns, &rows.collect::<Vec<_>>());
}

/// Asks twice at a terminal: a slip of the fingers would lock the user out.
fn new_password(name: &str, from_stdin: bool) -> Result<Secret> {
    let first = session::ask_secret(&format!("New password for {name}: "), from_stdin)?;
    if !from_stdin && session::ask_secret("Once more: ", false)?.expose() != first.expose() {
        return Err(Failure::usage("the two passwords differ"));
    }
    Ok(first)
}
