//! `limen restored`: what is to be seen to after the database was restored.

use serde_json::Value;

use super::door::{Door, Intent};
use super::{DoorArgs, Result, output};
use crate::config::CoreConfig;

pub(super) const HELP: &str = "\
A database that is older than the hosts know it is noticed when a server starts. Nothing on a host is touched for it;
what was at work is held until `limen op resume ID` or `limen op abandon ID`. docs/restore.md says how to decide.";

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig) -> Result {
    let door = Door::open(args, config, Intent::Look).await?;
    let restored = door.get("/api/restored").await;
    door.close().await;
    let restored = restored?;
    if args.json {
        output::json(&restored);
        return Ok(());
    }
    let list = |name: &str| restored[name].as_array().cloned().unwrap_or_default();
    let restores = list("restores");
    if restores.is_empty() {
        output::line("No restore was noticed.");
    }
    for restore in &restores {
        output::line(sentence(restore));
    }
    let vm = [("VM", "/id"), ("NAME", "/name"), ("HOST", "/host")];
    let operation = [
        ("OPERATION", "/id"),
        ("KIND", "/kind"),
        ("VM", "/vm_id"),
        ("IMAGE", "/image_id"),
        ("STEP", "/step"),
        ("BY", "/actor/label"),
        ("SINCE", "/created_at"),
    ];
    for (title, name, columns) in [
        ("Held: resume or abandon each (limen op resume ID, limen op abandon ID)", "held", &operation[..]),
        ("On a host and not in the database", "unrecorded", &vm[..]),
        ("In the database and not on its host", "missing", &vm[..]),
    ] {
        let items = list(name);
        if !items.is_empty() {
            output::line(format!("\n{title}:"));
            output::table(columns, &items);
        }
    }
    Ok(())
}

fn sentence(restore: &Value) -> String {
    let word = |pointer| output::cell(restore.pointer(pointer));
    format!(
        "Noticed at {}: the database ended at event {} ({}), host {} knew event {} ({}); {} operation(s) held, \
         {} session(s) ended.",
        word("/noticed_at"),
        word("/store_event"),
        word("/store_event_at"),
        word("/host"),
        word("/host_event"),
        word("/host_event_at"),
        word("/operations_held"),
        word("/sessions_ended")
    )
}
