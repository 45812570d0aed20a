//! Tickets, at several processes on one Store.

use limen_core::hypervisor::ConsoleKind;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{AuditOutcome, AuditQuery, PageRequest, PowerAction};
use limen_core::service::UpdateUser;
use limen_core::{Action, Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::world::{bare, succeeded};

use super::events::process;
use super::users::{add_user, log_in};
use crate::{Db, kind, store};

fn anybody() -> Context {
    Context::new(Actor::Anonymous)
}

pub(crate) async fn a_ticket_is_good_everywhere_and_once(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let (here, there) = (process(&store, &sim).await, process(&store, &sim).await);
    let admin = log_in(&here, "admin", "correct horse 1").await.expect("a login");
    for round in 0..6 {
        // The other process may not know of the user, the session or the VM yet.
        let name = format!("user-{round}");
        let ann = add_user(&here, &admin, &name, Role::User).await;
        let made = succeeded(&here, here.create_vm(&ann, bare("one")).await).await;
        let vm = made.vm_id.expect("a VM");
        let ticket = here.create_ticket(&ann, vm, ConsoleKind::Serial).await.expect("a ticket");
        let uses = [&there, &here, &there, &here].map(|limen| {
            let (limen, secret): (Limen, Secret) = (limen.clone(), ticket.secret.clone());
            tokio::spawn(async move { limen.use_ticket(&anybody(), &secret, vm, ConsoleKind::Serial).await })
        });
        let mut actors = Vec::new();
        for outcome in uses {
            match outcome.await.expect("joined") {
                Ok(actor) => actors.push(actor),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}"),
            }
        }
        assert_eq!(actors, [ann.actor().clone()], "one of four, and as who made it");
    }

    // It is nobody else's, for nothing else, and no better than what it was made with.
    let ann = add_user(&here, &admin, "ann", Role::User).await;
    let mut vms = Vec::new();
    for name in ["one", "two"] {
        vms.push(succeeded(&here, here.create_vm(&ann, bare(name)).await).await.vm_id.expect("a VM"));
    }
    there.wait_for_event(here.event(), std::time::Duration::from_secs(10)).await.expect("it follows");
    let ticket = here.create_ticket(&ann, vms[0], ConsoleKind::Vnc).await.expect("a ticket").secret;
    assert_eq!(kind(there.use_ticket(&admin, &ticket, vms[0], ConsoleKind::Vnc).await), ErrorKind::Forbidden);
    assert_eq!(kind(there.use_ticket(&ann, &ticket, vms[1], ConsoleKind::Vnc).await), ErrorKind::Forbidden);
    assert_eq!(kind(there.use_ticket(&anybody(), &ticket, vms[0], ConsoleKind::Serial).await), ErrorKind::Forbidden);
    there.use_ticket(&ann, &ticket, vms[0], ConsoleKind::Vnc).await.expect("it is as good as it was");
    assert_eq!(kind(here.use_ticket(&ann, &ticket, vms[0], ConsoleKind::Vnc).await), ErrorKind::Unauthenticated);
    let id = ann.actor().user_id().expect("a user");
    let ticket = here.create_ticket(&ann, vms[0], ConsoleKind::Vnc).await.expect("a ticket").secret;
    here.update_user(&admin, id, UpdateUser { disabled: Some(true), ..UpdateUser::default() }).await.expect("disabled");
    there.wait_for_event(here.event(), std::time::Duration::from_secs(10)).await.expect("it follows");
    for limen in [&here, &there] {
        let refused = limen.use_ticket(&anybody(), &ticket, vms[0], ConsoleKind::Vnc).await;
        assert_eq!(kind(refused), ErrorKind::Unauthenticated);
    }
    assert_eq!(kind(here.create_ticket(&Context::local(), vms[0], ConsoleKind::Vnc).await), ErrorKind::Forbidden);

    // Who asked for a ticket is in the audit, and the ticket is not.
    let query = AuditQuery { action: Some(Action::CreateTicket), ..AuditQuery::default() };
    let records = here.list_audit(&admin, &query, PageRequest::first(100).expect("a page")).await.expect("the audit");
    assert_eq!(records.items.len(), 8);
    assert!(records.items.iter().all(|record| record.outcome == AuditOutcome::Succeeded));
    assert_eq!(records.items[0].detail.as_deref(), Some("vnc"));
}

pub(crate) async fn consoles_are_in_the_audit_at_both_ends(on: Db) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (store, _postgres) = store(on).await;
    let limen = process(&store, &SimHypervisor::new()).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let vm = succeeded(&limen, limen.create_vm(&admin, bare("one")).await).await.vm_id.expect("a VM");
    assert_eq!(kind(limen.open_console(&admin, vm, ConsoleKind::Vnc).await), ErrorKind::Conflict);
    succeeded(&limen, limen.change_power(&admin, vm, PowerAction::Start, None).await).await;
    let records = async || {
        let query = AuditQuery { action: Some(Action::OpenConsole), ..AuditQuery::default() };
        let page = PageRequest::first(100).expect("a page");
        let records = limen.list_audit(&admin, &query, page).await.expect("the audit").items;
        records.into_iter().rev().map(|record| (record.outcome, record.detail.unwrap_or_default())).collect::<Vec<_>>()
    };
    let mut console = limen.open_console(&admin, vm, ConsoleKind::Serial).await.expect("a console");
    assert_eq!(records().await, [(AuditOutcome::Accepted, "serial".to_owned())], "written before it is given");
    console.write_all(b"12345").await.expect("it takes bytes");
    let mut heard = Vec::new();
    while !heard.ends_with(b"12345") {
        heard.push(console.read_u8().await.expect("it gives bytes"));
    }
    drop(console);
    crate::eventually("its end is recorded", || async { records().await.len() == 2 }).await;
    let (outcome, detail) = records().await.remove(1);
    assert_eq!(outcome, AuditOutcome::Succeeded);
    let bytes = format!("{} bytes read, 5 bytes written. The viewer left.", heard.len());
    assert!(detail.starts_with("serial: ") && detail.ends_with(&bytes), "{detail}");
}
