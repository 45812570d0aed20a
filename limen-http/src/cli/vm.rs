//! `limen vm`.

use std::io::{BufRead, IsTerminal, Write};

use clap::{Args, Subcommand};
use poem::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::door::{Door, Intent};
use super::{DoorArgs, Failure, Result, console, output};
use crate::config::CoreConfig;

#[derive(Subcommand, Debug)]
pub(super) enum VmCommand {
    /// List VMs
    #[command(after_help = "Example:\n  limen vm list --state running --label env=prod")]
    List(ListArgs),
    /// Show one VM
    Show(VmArg),
    /// Show a running VM's last figures: CPU use, memory, disks, network, and how old they are
    Stats(VmArg),
    /// Power on, or resume from saved memory
    Start(VmArg),
    /// Ask the guest to power off, and wait for it
    Shutdown {
        #[command(flatten)]
        vm: VmArg,
        /// How many seconds the guest has
        #[arg(long, value_name = "SECONDS", default_value_t = 90)]
        timeout: u32,
    },
    /// Cut the power
    PowerOff(VmArg),
    /// Delete a VM and the volumes it owns
    Delete {
        #[command(flatten)]
        vm: VmArg,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Open a console on this machine, beside the server or without one
    #[command(after_help = console::HELP)]
    Console {
        #[command(flatten)]
        vm: VmArg,
        #[command(flatten)]
        console: console::ConsoleArgs,
    },
}

#[derive(Args, Debug)]
pub(super) struct VmArg {
    /// The VM: its name, or its id
    #[arg(value_name = "VM")]
    vm: String,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// Only VMs in this state: running, shut_off, paused, …
    #[arg(long)]
    state: Option<String>,
    /// Only VMs on this host
    #[arg(long)]
    host: Option<String>,
    /// Only VMs of this name
    #[arg(long)]
    name: Option<String>,
    /// Only VMs with this label: KEY or KEY=VALUE
    #[arg(long)]
    label: Option<String>,
}

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig, command: VmCommand) -> Result<u8> {
    let intent = match &command {
        VmCommand::Console { vm, console } => return console::run(config, &vm.vm, console).await,
        VmCommand::List(_) | VmCommand::Show(_) | VmCommand::Stats(_) => Intent::Look,
        _ => Intent::Change,
    };
    let door = Door::open(args, config, intent).await?;
    let done = work(&door, args, command).await;
    door.close().await;
    done.map(|()| 0)
}

async fn work(door: &Door, args: &DoorArgs, command: VmCommand) -> Result {
    match command {
        VmCommand::List(filters) => list(door, args, &filters).await,
        VmCommand::Stats(VmArg { vm }) => {
            let vm = find(door, &vm).await?;
            let figures = door.get(&format!("/api/vms/{}/stats", output::text(&vm, "/id"))).await?;
            if args.json {
                output::json(&figures);
            } else {
                stats(&figures);
            }
            Ok(())
        }
        VmCommand::Show(VmArg { vm }) => {
            let vm = find(door, &vm).await?;
            if args.json {
                output::json(&vm);
            } else {
                show(&vm);
            }
            Ok(())
        }
        VmCommand::Start(VmArg { vm }) => power(door, args, &vm, json!({"action": "start"})).await,
        VmCommand::Shutdown { vm, timeout } => {
            power(door, args, &vm.vm, json!({"action": "shutdown", "timeout_s": timeout})).await
        }
        VmCommand::PowerOff(VmArg { vm }) => power(door, args, &vm, json!({"action": "power_off"})).await,
        VmCommand::Delete { vm, yes } => {
            let found = find(door, &vm.vm).await?;
            let name = output::cell(found.pointer("/name"));
            if !yes && !confirmed(&name)? {
                return Err(Failure::new(1, "not deleted"));
            }
            let path = format!("/api/vms/{}", output::text(&found, "/id"));
            let operation = door.operate(Method::DELETE, &path, None).await?;
            report(args, &operation, &format!("Deleted {name}."));
            Ok(())
        }
        // It needs no door: `run` has answered it.
        VmCommand::Console { .. } => Ok(()),
    }
}

fn query_of(filters: &ListArgs) -> String {
    let ListArgs { state, host, name, label } = filters;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("state", state), ("host", host), ("name", name), ("label", label)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

async fn list(door: &Door, args: &DoorArgs, filters: &ListArgs) -> Result {
    let query = query_of(filters);
    let path = if query.is_empty() { "/api/vms".to_owned() } else { format!("/api/vms?{query}") };
    let vms = door.list(&path).await?;
    if args.json {
        output::json(&Value::Array(vms));
    } else {
        let columns = [
            ("NAME", "/name"),
            ("STATE", "/status/state"),
            ("VCPUS", "/spec/vcpus"),
            ("MEMORY_MIB", "/spec/memory_mib"),
            ("ADDRESS", "/status/addresses/0/address"),
            ("HOST", "/host"),
            ("STALE", "/status/stale"),
            ("ID", "/id"),
        ];
        output::table(&columns, &vms);
    }
    Ok(())
}

fn show(vm: &Value) {
    let lines = [
        ("Name", "/name"),
        ("Id", "/id"),
        ("State", "/status/state"),
        ("Reason", "/status/reason"),
        ("Seen", "/status/observed_at"),
        ("Stale", "/status/stale"),
        ("Host", "/host"),
        ("Owner", "/owner"),
        ("Managed", "/managed"),
        ("vCPUs", "/spec/vcpus"),
        ("Memory MiB", "/spec/memory_mib"),
        ("Firmware", "/spec/firmware"),
        ("Disks", "/spec/disks"),
        ("ISO", "/spec/iso"),
        ("NICs", "/spec/nics"),
        ("Addresses", "/status/addresses"),
        ("Autostart", "/autostart"),
        ("Labels", "/labels"),
        ("Description", "/description"),
        ("Operation", "/operation"),
        ("Created", "/created_at"),
    ];
    for (title, pointer) in lines {
        output::line(format!("{title:12} {}", output::cell(vm.pointer(pointer))));
    }
}

/// A running VM's figures, for people.
fn stats(figures: &Value) {
    let columns = [
        ("CPU_%", "/cpu_percent"),
        ("CPU_TIME_S", "/cpu_time_seconds"),
        ("MEMORY_MIB", "/memory_mib"),
        ("RSS_MIB", "/memory_rss_mib"),
        ("USABLE_MIB", "/memory_usable_mib"),
        ("AGE_S", "/age_seconds"),
        ("STALE", "/stale"),
    ];
    let mut whole = figures.clone();
    for name in ["cpu_percent", "cpu_time_seconds", "age_seconds"] {
        if let Some(number) = figures[name].as_f64() {
            whole[name] = format!("{number:.1}").into();
        }
    }
    output::table(&columns, &[whole]);
    let rows = |name: &str| -> Vec<Value> {
        let devices = figures[name].as_array().into_iter().flatten().cloned();
        let rounded = devices.map(|mut device| {
            for (_, value) in device.as_object_mut().into_iter().flatten() {
                if value.is_f64() {
                    *value = value.as_f64().unwrap_or_default().round().into();
                }
            }
            device
        });
        rounded.collect()
    };
    let (disks, nics) = (rows("disks"), rows("nics"));
    if !disks.is_empty() {
        output::line("");
        let columns = [
            ("DISK", "/device"),
            ("READ_B", "/read_bytes"),
            ("WRITTEN_B", "/written_bytes"),
            ("READ_B/S", "/read_bytes_per_second"),
            ("WRITTEN_B/S", "/written_bytes_per_second"),
        ];
        output::table(&columns, &disks);
    }
    if !nics.is_empty() {
        output::line("");
        let columns = [
            ("NIC", "/device"),
            ("RECEIVED_B", "/received/bytes"),
            ("SENT_B", "/sent/bytes"),
            ("RECEIVED_B/S", "/received_bytes_per_second"),
            ("SENT_B/S", "/sent_bytes_per_second"),
        ];
        output::table(&columns, &nics);
    }
}

/// A VM by its id or name. Names are unique for an owner: an admin may see several of one name.
pub(super) async fn find(door: &Door, wanted: &str) -> Result<Value> {
    if wanted.parse::<Uuid>().is_ok() {
        return door.get(&format!("/api/vms/{wanted}")).await;
    }
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("name", wanted).finish();
    let mut found = door.list(&format!("/api/vms?{query}")).await?;
    match (found.pop(), found.is_empty()) {
        (Some(vm), true) => Ok(vm),
        (None, _) => Err(Failure::new(4, format!("there is no VM {wanted:?}"))),
        (Some(_), false) => Err(Failure::usage(format!("several owners have a VM {wanted:?}; name it by its id"))),
    }
}

async fn power(door: &Door, args: &DoorArgs, vm: &str, body: Value) -> Result {
    let vm = find(door, vm).await?;
    let id = output::text(&vm, "/id");
    let operation = door.operate(Method::POST, &format!("/api/vms/{id}/power"), Some(body)).await?;
    let now = door.get(&format!("/api/vms/{id}")).await?;
    let word = |pointer| output::cell(now.pointer(pointer));
    report(args, &operation, &format!("{} is {}.", word("/name"), word("/status/state")));
    Ok(())
}

fn report(args: &DoorArgs, operation: &Value, sentence: &str) {
    if args.json {
        output::json(operation);
    } else {
        output::line(sentence);
    }
}

fn confirmed(name: &str) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask whether to delete it; say --yes"));
    }
    let mut out = std::io::stdout().lock();
    write!(out, "Delete {name} and its disks? Type its name: ")?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == name)
}
