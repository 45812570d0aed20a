//! The stream of events: who is told what, from where on, and until when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{EventKind, EventNumber, EventObject, EventView, PageRequest, PowerAction, VmPhase};
use limen_core::service::{AdminSeed, CreateToken, Events, HostConfig, Told, UpdateUser, VmQuery};
use limen_core::store::{Retention, Store};
use limen_core::{Context, Error, ErrorKind, Limen, Role, Secret};
use limen_support::world::{QUICK, bare, succeeded};
use time::OffsetDateTime;

use super::users::{add_user, log_in};
use crate::{Db, eventually, kind, store};

/// A process of its own on this Store and host.
pub(super) async fn process(store: &Arc<dyn Store>, sim: &SimHypervisor) -> Limen {
    let admin = AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") };
    let host = HostConfig::new("host", "sim:", Arc::new(sim.clone()));
    let builder = Limen::builder().store(Arc::clone(store)).authz(Arc::new(RoleAuthz)).host(host).admin(admin);
    builder.timings(QUICK).build().await.expect("build")
}

/// What a stream tells next; none at its end.
async fn next(events: &mut Events) -> Option<Result<Told, Error>> {
    tokio::time::timeout(Duration::from_secs(20), events.next()).await.expect("a stream is never silent for long")
}

/// Everything that a stream tells up to `number`.
async fn until(events: &mut Events, number: EventNumber) -> Vec<EventView> {
    let mut told = Vec::new();
    while events.position() < number {
        match next(events).await.expect("it goes on").expect("it goes on") {
            Told::Event(event) => told.push(*event),
            Told::Position(position) => assert_eq!(position, events.position()),
        }
    }
    assert!(told.iter().is_sorted_by(|a, b| a.number < b.number), "numbers rise");
    told
}

/// Everything up to now that `ctx` is told.
async fn all(limen: &Limen, ctx: &Context) -> Vec<EventView> {
    let mut events = limen.watch_events(ctx, 0).await.expect("a stream");
    until(&mut events, limen.event()).await
}

/// Why a stream ends, and how long that took.
async fn end(events: &mut Events) -> (Error, Duration) {
    let started = Instant::now();
    let error = loop {
        if let Err(error) = next(events).await.expect("it tells why") {
            break error;
        }
    };
    let took = started.elapsed();
    assert!(next(events).await.is_none(), "an error is the end");
    (error, took)
}

/// Creates, starts and deletes a VM.
async fn a_life(limen: &Limen, ctx: &Context, name: &str) -> limen_core::model::VmId {
    let id = succeeded(limen, limen.create_vm(ctx, bare(name)).await).await.vm_id.expect("a VM");
    succeeded(limen, limen.change_power(ctx, id, PowerAction::Start, None).await).await;
    succeeded(limen, limen.delete_vm(ctx, id, None).await).await;
    id
}

pub(crate) async fn an_admin_is_told_every_number_and_no_secret(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=3").expect("a URI");
    let limen = process(&store, &sim).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let token = CreateToken { name: "ci".to_owned(), role: None, vm: None, expires_at: None };
    let (token, secret) = limen.create_token(&ann, token).await.expect("a token");
    a_life(&limen, &ann, "short").await;
    limen.delete_token(&ann, token.id).await.expect("deleted");
    limen.logout(&ann).await.expect("a logout");

    let told = all(&limen, &admin).await;
    let numbers: Vec<EventNumber> = told.iter().map(|event| event.number).collect();
    let last = *numbers.last().expect("events");
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>());
    assert!(last >= 20, "{last} events");
    for wanted in [EventKind::User, EventKind::Session, EventKind::SessionGone, EventKind::Token, EventKind::TokenGone]
    {
        let event = told.iter().find(|event| event.kind == wanted).unwrap_or_else(|| panic!("no {wanted:?}"));
        assert_eq!(event.object, None, "{event:?}");
    }
    let text = serde_json::to_string(&told).expect("JSON");
    let hash = store.snapshot().await.expect("a snapshot").tokens;
    assert!(hash.is_empty() && !text.contains("hash") && !text.contains("argon2"), "{text}");
    assert!(!text.contains(secret.expose()) && !text.contains("sim:") && !text.contains("password"), "{text}");

    // From any number on, and at another process, it is the same.
    let other = process(&store, &sim).await;
    let again = all(&other, &Context::local()).await;
    assert_eq!(again[..told.len()], told[..]);
    let mut rest = other.watch_events(&Context::local(), last - 5).await.expect("a stream");
    assert_eq!(until(&mut rest, last).await[..5], told[told.len() - 5..]);
}

pub(crate) async fn others_are_told_of_what_they_see(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=3").expect("a URI");
    let limen = process(&store, &sim).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let [ann, bob, otto] = [
        add_user(&limen, &admin, "ann", Role::User).await,
        add_user(&limen, &admin, "bob", Role::User).await,
        add_user(&limen, &admin, "otto", Role::Operator).await,
    ];
    let kept = succeeded(&limen, limen.create_vm(&ann, bare("kept")).await).await.vm_id.expect("a VM");
    let narrow = CreateToken { name: "one".to_owned(), role: None, vm: Some(kept), expires_at: None };
    let (_, narrow) = limen.create_token(&ann, narrow).await.expect("a token");
    let narrow = Context::new(limen.authenticate_token(&narrow).await.expect("good"));
    let mut live = limen.watch_events(&ann, limen.event()).await.expect("a stream");
    let gone = a_life(&limen, &ann, "gone").await;
    succeeded(&limen, limen.change_power(&ann, kept, PowerAction::Start, None).await).await;
    a_life(&limen, &bob, "foreign").await;
    let foreign = sim.outside().define_foreign("foreign");
    eventually("the foreign VM is seen", || async { limen.get_vm(&admin, foreign).await.is_ok() }).await;

    let dense = all(&limen, &admin).await;
    let last = dense.last().expect("events").number;
    let owner_of = |ctx: &Context| match ctx.actor() {
        limen_core::Actor::User { owner, .. } | limen_core::Actor::Token { owner, .. } => *owner,
        other => panic!("{other:?}"),
    };
    let people = |event: &EventView| {
        use EventKind::*;
        matches!(event.kind, User | UserGone | Owner | OwnerGone | Session | SessionGone | Token | TokenGone)
    };
    let of_vms = |event: &EventView| {
        matches!(event.kind, EventKind::Vm | EventKind::VmGone | EventKind::Status | EventKind::StatusGone)
    };
    let unmanaged = |event: &EventView| of_vms(event) && event.owner.is_none();
    assert!(dense.iter().any(|event| unmanaged(event) && event.id == foreign.0));
    let host = |event: &EventView| event.kind == EventKind::Host;
    for (who, expected) in [
        (&ann, dense.iter().filter(|e| !people(e) && (host(e) || e.owner == Some(owner_of(&ann)))).collect::<Vec<_>>()),
        (&bob, dense.iter().filter(|e| !people(e) && (host(e) || e.owner == Some(owner_of(&bob)))).collect()),
        (&otto, dense.iter().filter(|e| !people(e) && !unmanaged(e)).collect()),
    ] {
        let told: Vec<EventView> = all(&limen, who).await.into_iter().filter(|event| event.number <= last).collect();
        assert_eq!(told.iter().collect::<Vec<_>>(), expected, "{}", who.actor().label());
    }
    let told = all(&limen, &narrow).await;
    let about_it = |event: &EventView| match &event.object {
        Some(EventObject::Operation(operation)) => operation.vm_id == Some(kept),
        _ => of_vms(event) && event.id == kept.0,
    };
    assert!(told.len() >= 6 && told.iter().all(about_it), "{told:?}");

    // What is gone is told to its owner to the end, as it happens.
    let told = until(&mut live, last).await;
    let kinds: Vec<EventKind> = told.iter().filter(|event| event.id == gone.0).map(|event| event.kind).collect();
    assert_eq!(kinds.first(), Some(&EventKind::Vm));
    for last in [EventKind::StatusGone, EventKind::VmGone] {
        assert!(kinds[kinds.len() - 2..].contains(&last), "{kinds:?}");
    }
    let anonymous = Context::new(limen_core::Actor::Anonymous);
    assert_eq!(kind(limen.watch_events(&anonymous, 0).await), ErrorKind::Unauthenticated);
}

/// The states of VMs by name: what a list shows.
async fn listed(limen: &Limen, ctx: &Context) -> (EventNumber, BTreeMap<String, String>) {
    let page = limen.list_vms(ctx, &VmQuery::default(), PageRequest::default()).await.expect("a list");
    let list: serde_json::Value = serde_json::from_slice(&page.json).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let items = list["items"].as_array().expect("items").iter();
    (page.event, items.map(|vm| (text(&vm["id"]), text(&vm["status"]["state"]))).collect())
}

pub(crate) async fn a_list_and_the_events_after_it_have_no_gap(on: Db) {
    let (store, _postgres) = store(on).await;
    let limen = process(&store, &SimHypervisor::from_uri("sim:///?vms=3").expect("a URI")).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (limen, ann) = (limen.clone(), ann.clone());
        writers.spawn(async move {
            let kept = format!("kept-{writer}");
            let kept = succeeded(&limen, limen.create_vm(&ann, bare(&kept)).await).await.vm_id.expect("a VM");
            for round in 0..2 {
                a_life(&limen, &ann, &format!("short-{writer}-{round}")).await;
            }
            succeeded(&limen, limen.change_power(&ann, kept, PowerAction::Start, None).await).await;
        });
    }
    let mut lists = Vec::new();
    while !writers.is_empty() {
        lists.push(listed(&limen, &ann).await);
        if let Ok(Some(done)) = tokio::time::timeout(Duration::from_millis(100), writers.join_next()).await {
            done.expect("no panic");
        }
    }
    let (last, expected) = listed(&limen, &ann).await;
    assert_eq!(expected.values().filter(|state| *state == "running").count(), 4, "{expected:?}");
    for (number, list) in lists {
        let mut events = limen.watch_events(&ann, number).await.expect("a stream");
        let mut states = list;
        for event in until(&mut events, last).await.into_iter().filter(|event| event.number <= last) {
            let id = event.id.to_string();
            match (event.kind, event.object) {
                (_, Some(EventObject::Vm(vm))) => {
                    let state = match vm.phase {
                        VmPhase::Creating => "creating",
                        VmPhase::Deleting => "deleting",
                        VmPhase::Defined => states.get(&id).map_or("missing", String::as_str),
                    };
                    let state = state.to_owned();
                    states.insert(id, state);
                }
                (_, Some(EventObject::Status(status))) => drop(states.insert(id, status.state.as_str().to_owned())),
                (EventKind::VmGone, _) => drop(states.remove(&id)),
                _ => {}
            }
        }
        assert_eq!(states.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "from {number}");
        let running = |states: &BTreeMap<String, String>| states.values().filter(|state| *state == "running").count();
        assert_eq!(running(&states), running(&expected), "from {number}: {states:?}");
    }
}

pub(crate) async fn a_stream_ends_with_its_right(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=3").expect("a URI");
    let (here, there) = (process(&store, &sim).await, process(&store, &sim).await);
    let admin = log_in(&here, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&here, &admin, "ann", Role::Operator).await;
    let id = ann.actor().user_id().expect("a user");
    let second = Duration::from_secs(1);
    let set =
        |role: Role, disabled: bool| UpdateUser { role: Some(role), disabled: Some(disabled), ..UpdateUser::default() };
    let watch = async |limen: &Limen, ctx: &Context| {
        limen.wait_for_event(here.event(), Duration::from_secs(10)).await.expect("it follows");
        limen.watch_events(ctx, limen.event()).await.expect("a stream")
    };
    let ends = async |mut streams: Vec<Events>, what: &str| {
        for stream in &mut streams {
            let (error, took) = end(stream).await;
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{what}");
            assert!(took < second, "{what}: after {took:?}");
        }
    };

    let streams = vec![watch(&here, &ann).await, watch(&there, &ann).await];
    here.logout(&ann).await.expect("a logout");
    ends(streams, "a logout").await;

    // A role that is narrowed narrows what is told, from the next event on.
    let ann = log_in(&here, "ann", "a long password").await.expect("a login");
    let mut stream = watch(&here, &ann).await;
    succeeded(&here, here.create_vm(&admin, bare("seen")).await).await;
    assert!(!until(&mut stream, here.event()).await.is_empty(), "an operator sees all");
    here.update_user(&admin, id, set(Role::User, false)).await.expect("demoted");
    succeeded(&here, here.create_vm(&admin, bare("unseen")).await).await;
    assert!(until(&mut stream, here.event()).await.is_empty(), "a user sees their own");
    here.update_user(&admin, id, set(Role::User, true)).await.expect("disabled");
    ends(vec![stream], "a disabling").await;

    here.update_user(&admin, id, set(Role::User, false)).await.expect("enabled");
    let ann = log_in(&here, "ann", "a long password").await.expect("a login");
    let password = UpdateUser { password: Some(Secret::new("a new password")), ..UpdateUser::default() };
    let streams = vec![watch(&there, &ann).await];
    here.update_user(&admin, id, password).await.expect("a new password");
    ends(streams, "a new password").await;

    let ann = log_in(&here, "ann", "a new password").await.expect("a login");
    let token = |name: &str, expires_at| CreateToken { name: name.to_owned(), role: None, vm: None, expires_at };
    let (deleted, secret) = here.create_token(&ann, token("deleted", None)).await.expect("a token");
    let program = Context::new(here.authenticate_token(&secret).await.expect("good"));
    let streams = vec![watch(&here, &program).await, watch(&there, &program).await];
    here.delete_token(&ann, deleted.id).await.expect("deleted");
    ends(streams, "a deleted token").await;

    let at = OffsetDateTime::now_utc() + Duration::from_millis(1500);
    let (_, secret) = here.create_token(&ann, token("short", Some(at))).await.expect("a token");
    let program = Context::new(here.authenticate_token(&secret).await.expect("good"));
    let mut stream = watch(&here, &program).await;
    assert_eq!(end(&mut stream).await.0.kind(), ErrorKind::Unauthenticated);
    let late = OffsetDateTime::now_utc() - at;
    assert!(late >= Duration::ZERO && late < second, "an expiry: after {late}");

    // Also for a door whose reader takes nothing.
    let mut stream = watch(&there, &ann).await;
    here.delete_user(&admin, id).await.expect("deleted");
    let over = tokio::time::timeout(second, stream.over()).await.expect("a deleted user: within a second");
    assert_eq!(over.kind(), ErrorKind::Unauthenticated);
    assert!(stream.next().await.is_none());

    let mut stream = watch(&there, &Context::local()).await;
    there.shutdown().await;
    assert_eq!(end(&mut stream).await.0.kind(), ErrorKind::Unavailable);
}

pub(crate) async fn what_is_kept_no_longer_is_said_to_be_gone(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=150").expect("a URI");
    let first = process(&store, &sim).await;
    let ctx = Context::local();
    eventually("all are there", || async { listed(&first, &ctx).await.1.len() == 100 && first.event() > 300 }).await;
    // One that has not read these itself.
    let limen = process(&store, &sim).await;
    let mut behind = limen.watch_events(&ctx, 0).await.expect("a stream");
    let Some(Ok(Told::Event(one))) = next(&mut behind).await else { panic!("no event") };
    assert_eq!(one.number, 1);
    let last = store.snapshot().await.expect("a snapshot").event;
    limen.wait_for_event(last, Duration::from_secs(10)).await.expect("it follows");
    let later = OffsetDateTime::now_utc() + Duration::from_secs(40 * 24 * 3600);
    while store.prune(&Retention::default(), later).await.expect("prune")["events"] > 0 {}
    let refused = limen.watch_events(&ctx, 1).await.expect_err("it is gone");
    let oldest = refused.oldest().expect("the oldest");
    assert_eq!(refused.kind(), ErrorKind::Gone);
    assert!(oldest > last, "{oldest}");
    limen.watch_events(&ctx, oldest - 1).await.expect("from the oldest on");
    let (error, _) = end(&mut behind).await;
    assert_eq!((error.kind(), error.oldest()), (ErrorKind::Gone, Some(oldest)));
    assert!(behind.position() < 300, "it held {} events", behind.position());

    let ahead = limen.watch_events(&ctx, limen.event() + 1000).await.expect_err("the log ends before");
    assert_eq!(ahead.kind(), ErrorKind::Gone);
    assert!(ahead.oldest().is_some_and(|oldest| oldest <= limen.event() + 1));
    assert_eq!(kind(limen.watch_events(&ctx, -1).await), ErrorKind::Invalid);
}

pub(crate) async fn so_many_streams_are_enough(on: Db) {
    let (store, _postgres) = store(on).await;
    let limen = process(&store, &SimHypervisor::new()).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let mut open = Vec::new();
    for _ in 0..32 {
        open.push(limen.watch_events(&admin, 0).await.expect("a stream"));
    }
    let refused = limen.watch_events(&admin, 0).await.expect_err("enough");
    assert_eq!((refused.kind(), refused.retry_after().is_some()), (ErrorKind::RateLimited, true));
    limen.watch_events(&Context::local(), 0).await.expect("another's");
    open.pop();
    open.push(limen.watch_events(&admin, 0).await.expect("room for one"));
    // They wait, and all are woken.
    let number = limen.event() + 1;
    add_user(&limen, &admin, "ann", Role::User).await;
    for stream in &mut open {
        until(stream, number).await;
    }
}
