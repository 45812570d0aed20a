//! Login and logout: the token of a server, kept for the commands that follow.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use clap::Args;
use limen_core::Secret;
use poem::http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::door::{client, read, send};
use super::{DoorArgs, Failure, Result, output};

const USUAL_URL: &str = "http://127.0.0.1:18443";

#[derive(Args, Debug)]
pub(super) struct LoginArgs {
    /// The user
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// Print the token instead of keeping it, for LIMEN_TOKEN
    #[arg(long)]
    print: bool,
}

/// A login that is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    url: String,
    token: String,
}

fn file() -> Result<PathBuf> {
    let configured = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let none = || Failure::usage("HOME is not set: there is no place for a token");
    Ok(configured.or_else(home).ok_or_else(none)?.join("limen").join("login.json"))
}

fn kept() -> Option<Kept> {
    serde_json::from_slice(&fs::read(file().ok()?).ok()?).ok()
}

/// The server to talk to, and the token for it.
pub(super) fn server(args: &DoorArgs) -> Result<(String, Option<String>)> {
    let kept = kept();
    let url = match (&args.url, &kept) {
        (Some(url), _) => url.trim_end_matches('/').to_owned(),
        (None, Some(kept)) => kept.url.clone(),
        (None, None) => USUAL_URL.to_owned(),
    };
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(Failure::usage(format!("LIMEN_URL must begin with http:// or https://, not {url:?}.")));
    }
    let token = args.token.clone().or_else(|| kept.filter(|kept| kept.url == url).map(|kept| kept.token));
    Ok((url, token))
}

/// Asks for a secret without showing it; from standard input where that is wanted.
pub(super) fn ask_secret(prompt: &str, from_stdin: bool) -> Result<Secret> {
    if from_stdin {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        return Ok(Secret::new(line.trim_end_matches(['\r', '\n'])));
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask for the password; use --password-stdin"));
    }
    Ok(Secret::new(rpassword::prompt_password(prompt)?))
}

pub(super) async fn login(door: &DoorArgs, args: &LoginArgs) -> Result {
    if door.local {
        return Err(Failure::usage("--local needs no login"));
    }
    let (url, _) = server(door)?;
    let password = ask_secret(&format!("Password of {} at {url}: ", args.user), args.password_stdin)?;
    let body = json!({"username": args.user, "password": password.expose()});
    let (status, bytes) = send(&client()?, &url, None, Method::POST, "/api/auth/login", Some(body)).await?;
    let answer = read(status, &bytes)?;
    let token = output::text(&answer, "/access_token").to_owned();
    if args.print {
        output::line(token);
        return Ok(());
    }
    let path = file()?;
    if let Some(directory) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let draft = path.with_extension("new");
    fs::remove_file(&draft).ok();
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let text = serde_json::to_vec(&Kept { url: url.clone(), token }).map_err(std::io::Error::from)?;
    open.write_all(&text)?;
    fs::rename(&draft, &path)?;
    output::line(format!("Logged in to {url} as {}; the token is in {}.", args.user, path.display()));
    Ok(())
}

pub(super) async fn logout(door: &DoorArgs) -> Result {
    let (url, token) = server(door)?;
    let Some(token) = token else {
        return Err(Failure::new(1, format!("there is no login at {url}")));
    };
    let (status, bytes) = send(&client()?, &url, Some(&token), Method::POST, "/api/auth/logout", None).await?;
    // A token that is no longer good has nothing left to revoke.
    if status != StatusCode::UNAUTHORIZED {
        read(status, &bytes)?;
    }
    if kept().is_some_and(|kept| kept.token == token) {
        fs::remove_file(file()?).ok();
    }
    output::line(format!("Logged out of {url}."));
    Ok(())
}
