//! Consoles: until when they are open.

use std::time::{Duration, Instant};

use limen_core::hypervisor::ConsoleKind;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::PowerAction;
use limen_core::service::{Console, CreateToken, UpdateUser};
use limen_core::{Context, Role};
use limen_support::world::{bare, succeeded};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::events::process;
use super::users::{add_user, log_in};
use crate::{Db, store};

/// Until a console ends, and whether writes fail then.
async fn closed(mut console: Console) -> Duration {
    let started = Instant::now();
    let mut buffer = [0; 256];
    let end = async { while console.read(&mut buffer).await.expect("it gives bytes") > 0 {} };
    tokio::time::timeout(Duration::from_secs(20), end).await.expect("it ends");
    assert!(console.write_all(b"still there?").await.is_err(), "it takes bytes");
    started.elapsed()
}

pub(crate) async fn consoles_end_with_the_right(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let (here, there) = (process(&store, &sim).await, process(&store, &sim).await);
    let admin = log_in(&here, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&here, &admin, "ann", Role::User).await;
    let id = ann.actor().user_id().expect("a user");
    let vm = succeeded(&here, here.create_vm(&ann, bare("one")).await).await.vm_id.expect("a VM");
    succeeded(&here, here.change_power(&ann, vm, PowerAction::Start, None).await).await;
    let open = async |ctx: &Context| {
        there.wait_for_event(here.event(), Duration::from_secs(10)).await.expect("it follows");
        let mut console = there.open_console(ctx, vm, ConsoleKind::Serial).await.expect("a console");
        console.write_all(b"x").await.expect("it takes bytes");
        console
    };
    let second = Duration::from_secs(1);
    let mut admins = open(&admin).await;

    let token = CreateToken { name: "ci".to_owned(), role: None, vm: Some(vm), expires_at: None };
    let (token, secret) = here.create_token(&ann, token).await.expect("a token");
    let console = open(&Context::new(here.authenticate_token(&secret).await.expect("good"))).await;
    here.delete_token(&ann, token.id).await.expect("deleted");
    let took = closed(console).await;
    assert!(took < second, "a deleted token: after {took:?}");

    let console = open(&ann).await;
    let set = |role| UpdateUser { role: Some(role), ..UpdateUser::default() };
    here.update_user(&admin, id, set(Role::Viewer)).await.expect("demoted");
    let took = closed(console).await;
    assert!(took < second, "a role that may not: after {took:?}");

    here.update_user(&admin, id, set(Role::User)).await.expect("promoted");
    let console = open(&ann).await;
    here.logout(&ann).await.expect("a logout");
    let took = closed(console).await;
    assert!(took < second, "a logout: after {took:?}");

    let at = OffsetDateTime::now_utc() + Duration::from_millis(1500);
    let token = CreateToken { name: "short".to_owned(), role: None, vm: None, expires_at: Some(at) };
    let (_, secret) = here.create_token(&admin, token).await.expect("a token");
    closed(open(&Context::new(here.authenticate_token(&secret).await.expect("good"))).await).await;
    let late = OffsetDateTime::now_utc() - at;
    assert!(late >= Duration::ZERO && late < second, "an expiry: after {late}");

    // Whose right is as it was, their console is too.
    admins.write_all(b"still here").await.expect("it takes bytes");
    let mut heard = String::new();
    while !heard.contains("still here") {
        let mut buffer = [0; 256];
        let got = admins.read(&mut buffer).await.expect("it gives bytes");
        assert_ne!(got, 0, "it ended: {heard}");
        heard += &String::from_utf8_lossy(&buffer[..got]);
    }
    there.shutdown().await;
    closed(admins).await;
}
