//! `limen user`.

use clap::{Subcommand, ValueEnum};
use limen_core::Secret;
use poem::http::Method;
use serde_json::{Value, json};

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
    },
    /// List users
    List,
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
    // Users live in the Store alone: no host has to be taken over for them.
    let door = Door::open(args, config, Intent::Read).await?;
    let done = work(&door, args, config, command).await;
    door.close().await;
    done
}

async fn work(door: &Door, args: &DoorArgs, config: &CoreConfig, command: UserCommand) -> Result {
    match command {
        UserCommand::Add { name, role, password_stdin } => {
            let password = new_password(&name, password_stdin)?;
            let role = role.name();
            let body = json!({"username": name, "password": password.expose(), "role": role});
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
            let users = door.list("/api/users").await?;
            let user = users.iter().find(|user| user["username"] == name.as_str());
            let user = user.ok_or_else(|| Failure::new(4, format!("there is no user {name:?}")))?;
            let new = new_password(&name, password_stdin)?;
            let path = format!("/api/users/{}", output::text(user, "/id"));
            door.call(Method::PATCH, &path, Some(json!({"password": new.expose()}))).await?;
            if args.local {
                start::initial_password(config, &name).forget(&name).await;
            }
            output::line(format!("Changed; all sessions of {name} have ended."));
        }
    }
    Ok(())
}

/// Asks twice at a terminal: a slip of the fingers would lock the user out.
fn new_password(name: &str, from_stdin: bool) -> Result<Secret> {
    let first = session::ask_secret(&format!("New password for {name}: "), from_stdin)?;
    if !from_stdin && session::ask_secret("Once more: ", false)?.expose() != first.expose() {
        return Err(Failure::usage("the two passwords differ"));
    }
    Ok(first)
}
