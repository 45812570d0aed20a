//! The simulator's other side, for users' tests: faults, and what happens behind LIMEN's back.

use std::time::Duration;

use limen_core::hypervisor::sim::{Edit, Fault, Guest, Method, On, SimHypervisor};
use limen_core::model::VmId;
use limen_core::{Error, ErrorKind, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a test wants of the simulator.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    Inject {
        method: Option<String>,
        vm: Option<VmId>,
        nth: u32,
        forever: bool,
        fault: Wrong,
    },
    ClearFaults,
    Release,
    LoseEvents(usize),
    Disconnect,
    Reconnect,
    /// How many seconds guests take to obey; never without a number.
    SetGuests(Option<f64>),
    SetPoolBytes(u64),
    Start(VmId),
    Destroy(VmId),
    Suspend(VmId),
    Undefine(VmId),
    CrashGuest(VmId),
    DefineForeign(String),
    Edit {
        vm: VmId,
        vcpus: Option<u32>,
        memory_mib: Option<u64>,
    },
    RebootHost,
    Calls,
    ClearCalls,
}

/// [`Fault`] as Python writes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wrong {
    Fails(ErrorKind),
    NoSpace,
    Hangs(Option<f64>),
    LandsLate(f64),
    EventLost,
    Panics,
    ConnectionLost,
}

fn seconds(seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(|_| Error::invalid("seconds", "A time must be 0 seconds or more."))
}

fn method_named(name: &str) -> Result<Method> {
    let found = Method::ALL.iter().find(|method| method.as_str() == name);
    found.copied().ok_or_else(|| {
        let names: Vec<&str> = Method::ALL.iter().map(|method| method.as_str()).collect();
        Error::invalid("method", format!("The hypervisor's methods are {}.", names.join(", ")))
    })
}

/// Does it.
pub(crate) fn obey(sim: &SimHypervisor, order: Order) -> Result<Value> {
    let outside = sim.outside();
    match order {
        Order::Inject { method, vm, nth, forever, fault } => {
            let mut on = match method {
                Some(name) => On::method(method_named(&name)?),
                None => On::any(),
            };
            if let Some(id) = vm {
                on = on.vm(id);
            }
            on = on.nth(nth);
            if forever {
                on = on.forever();
            }
            let fault = match fault {
                Wrong::Fails(kind) => Fault::Fails(kind),
                Wrong::NoSpace => Fault::NoSpace,
                Wrong::Hangs(time) => Fault::Hangs(time.map(seconds).transpose()?),
                Wrong::LandsLate(time) => Fault::LandsLate(seconds(time)?),
                Wrong::EventLost => Fault::EventLost,
                Wrong::Panics => Fault::Panics,
                Wrong::ConnectionLost => Fault::ConnectionLost,
            };
            sim.inject(on, fault);
        }
        Order::ClearFaults => sim.clear_faults(),
        Order::Release => sim.release(),
        Order::LoseEvents(count) => sim.lose_events(count),
        Order::Disconnect => sim.disconnect(),
        Order::Reconnect => sim.reconnect(),
        Order::SetGuests(Some(time)) => sim.set_guests(Guest::Obeys(seconds(time)?)),
        Order::SetGuests(None) => sim.set_guests(Guest::Ignores),
        Order::SetPoolBytes(bytes) => sim.set_pool_bytes(bytes),
        Order::Start(id) => outside.start(id)?,
        Order::Destroy(id) => outside.destroy(id)?,
        Order::Suspend(id) => outside.suspend(id)?,
        Order::Undefine(id) => outside.undefine(id)?,
        Order::CrashGuest(id) => outside.crash_guest(id)?,
        Order::DefineForeign(name) => return Ok(json!(outside.define_foreign(&name))),
        Order::Edit { vm, vcpus, memory_mib } => outside.edit(vm, &Edit { vcpus, memory_mib, ..Edit::default() })?,
        Order::RebootHost => outside.reboot_host(),
        Order::Calls => return Ok(json!(sim.calls().iter().map(ToString::to_string).collect::<Vec<_>>())),
        Order::ClearCalls => sim.clear_calls(),
    }
    Ok(Value::Null)
}
