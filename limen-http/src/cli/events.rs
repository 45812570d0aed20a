//! `limen events`: every change, as it happens.

use std::io::Write;
use std::time::Duration;

use clap::Args;
use limen_core::service::Told;
use limen_core::{Context, Error};
use poem::http::StatusCode;
use serde_json::Value;

use super::door::{self, Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::CoreConfig;

pub(super) const HELP: &str = "\
Examples:
  limen events                      what happens from now on
  limen events --after 0            everything from the first event on, and then what happens
  limen events --json --after 41    one line of JSON for each event after 41

It goes on until Ctrl-C, also when the server is away for a while.";

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    /// Begin after the event of this number; 0 for all that are kept [default: with what is to come]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(0..))]
    after: Option<i64>,
}

/// How long to wait before a server that went away is asked again.
const AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn run(door: &DoorArgs, config: &CoreConfig, args: &EventsArgs) -> Result {
    let print = |event: &Value| print(event, door.json);
    if door.local {
        return local(config, args.after, print).await;
    }
    let open = Door::open(door, config, Intent::Look).await?;
    let mut last = args.after;
    // The first time it must work; later a server that is away is waited for.
    let mut begun = false;
    loop {
        match follow(&open, &mut last, &mut begun, print).await {
            Ok(false) => return Ok(()),
            Ok(true) => {}
            Err(failure) if !begun || failure.code != 3 => return Err(failure),
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn local(config: &CoreConfig, after: Option<i64>, print: impl Fn(&Value) -> bool) -> Result {
    let limen = door::open_local(config, Intent::Look).await?;
    let after = after.unwrap_or_else(|| limen.event());
    let mut events = limen.watch_events(&Context::local(), after).await?;
    let mut done = Ok(());
    while let Some(told) = events.next().await {
        match told {
            Ok(Told::Event(event)) if !print(&serde_json::to_value(&event).map_err(Error::internal)?) => break,
            Ok(_) => {}
            Err(error) => done = Err(error.into()),
        }
    }
    drop(events);
    limen.shutdown().await;
    done
}

/// One connection; whether there is to be another one.
async fn follow(door: &Door, last: &mut Option<i64>, begun: &mut bool, print: impl Fn(&Value) -> bool) -> Result<bool> {
    let mut answer = door.stream("/api/events", last.map(|last| ("last-event-id", last.to_string()))).await?;
    *begun = true;
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = answer.chunk().await {
        bytes.extend_from_slice(&chunk);
        while let Some(end) = bytes.windows(2).position(|pair| pair == b"\n\n") {
            let block = String::from_utf8_lossy(&bytes[..end]).into_owned();
            bytes.drain(..end + 2);
            let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let data: Option<Value> = field("data").and_then(|data| serde_json::from_str(data).ok());
            match (field("event"), data) {
                (Some("end"), Some(problem)) => {
                    let status = problem["status"].as_u64().and_then(|status| u16::try_from(status).ok());
                    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    door::read(status, problem.to_string().as_bytes())?;
                }
                (Some(_), Some(event)) if !print(&event) => return Ok(false),
                _ => {}
            }
            *last = field("id").and_then(|id| id.parse().ok()).or(*last);
        }
    }
    Ok(true)
}

/// Prints an event; false when the reader went away (`limen events | head`).
fn print(event: &Value, json: bool) -> bool {
    let line = if json {
        event.to_string()
    } else {
        let word = |pointer: &str| output::cell(event.pointer(pointer));
        let told = ["/object/name", "/object/kind", "/object/phase", "/object/state"];
        let told: Vec<String> =
            told.iter().filter_map(|pointer| event.pointer(pointer)).map(|v| output::cell(Some(v))).collect();
        format!(
            "{:>8}  {:<30}  {:<12}  {}  {}",
            word("/number"),
            word("/at"),
            word("/kind"),
            word("/id"),
            told.join(" ")
        )
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", line.trim_end()).and_then(|()| out.flush()).is_ok()
}
