//! Users, their sessions, and what each may see and do.

use std::sync::Arc;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{PageRequest, PowerAction, Quota, VmId};
use limen_core::service::{AdminSeed, CreateUser, HostConfig, UpdateUser, VmQuery};
use limen_core::{Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{QUICK, bare, succeeded};

use crate::{Db, ctx, eventually, kind, store};

pub(super) async fn with_users(on: Db) -> (Limen, SimHypervisor, Option<PrivatePostgres>) {
    let (store, postgres) = store(on).await;
    let sim = SimHypervisor::from_uri("sim:///?vms=3").expect("a URI");
    let admin = AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") };
    let limen = Limen::builder()
        .store(store)
        .authz(Arc::new(RoleAuthz))
        .host(HostConfig::new("host", "sim:", Arc::new(sim.clone())))
        .admin(admin)
        .timings(QUICK)
        .build()
        .await
        .expect("build");
    (limen, sim, postgres)
}

pub(super) async fn log_in(limen: &Limen, name: &str, password: &str) -> limen_core::Result<Context> {
    let anonymous = Context::new(Actor::Anonymous);
    let (_, session) = limen.login(&anonymous, name, &Secret::new(password)).await?;
    Ok(Context::new(limen.authenticate(session.id).await?))
}

pub(super) async fn add_user(limen: &Limen, admin: &Context, name: &str, role: Role) -> Context {
    let password = Secret::new("a long password");
    let user = CreateUser { name: name.to_owned(), password, role, disabled: false, quota: Quota::default() };
    limen.create_user(admin, user).await.expect("a user");
    log_in(limen, name, "a long password").await.expect("a login")
}

pub(super) async fn count(limen: &Limen, ctx: &Context) -> usize {
    let page = limen.list_vms(ctx, &VmQuery::default(), PageRequest::default()).await.expect("a list");
    let list: serde_json::Value = serde_json::from_slice(&page.json).expect("JSON");
    list["items"].as_array().expect("items").len()
}

pub(crate) async fn users_see_their_own(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    eventually("the simulator's VMs are the admin's", || async { count(&limen, &admin).await == 3 }).await;
    let user = add_user(&limen, &admin, "ann", Role::User).await;
    let other = add_user(&limen, &admin, "bob", Role::User).await;
    let viewer = add_user(&limen, &admin, "vera", Role::Viewer).await;
    let operator = add_user(&limen, &admin, "otto", Role::Operator).await;
    let id = limen.create_vm(&user, bare("one")).await.expect("a VM");
    let id = succeeded(&limen, Ok(id)).await.vm_id.expect("a VM");
    limen.create_vm(&other, bare("one")).await.map(drop).expect("another owner may use the name");
    assert_eq!((count(&limen, &user).await, count(&limen, &viewer).await), (1, 0));
    assert_eq!((count(&limen, &admin).await, count(&limen, &operator).await), (5, 5));
    let foreign = limen.get_vm(&other, id).await.expect_err("it is concealed");
    let absent = limen.get_vm(&other, VmId::generate()).await.expect_err("it is absent");
    assert_eq!((foreign.kind(), foreign.to_string()), (absent.kind(), absent.to_string()));
    assert_eq!(kind(limen.delete_vm(&other, id, None).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.delete_vm(&operator, id, None).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.create_vm(&viewer, bare("two")).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_users(&operator, PageRequest::default()).await), ErrorKind::Forbidden);
    assert!(limen.change_power(&operator, id, PowerAction::Start, None).await.is_ok());
    let anonymous = Context::new(Actor::Anonymous);
    let listed = limen.list_vms(&anonymous, &VmQuery::default(), PageRequest::default()).await;
    assert_eq!(kind(listed), ErrorKind::Unauthenticated);
    let theirs = limen.list_operations(&other, None, PageRequest::default()).await.expect("operations").items;
    assert!(theirs.iter().all(|operation| operation.vm_id != Some(id)));
}

pub(crate) async fn the_last_admin_stays(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let id = admin.actor().user_id().expect("a user");
    let demote = UpdateUser { role: Some(Role::User), ..UpdateUser::default() };
    assert_eq!(kind(limen.update_user(&ctx(), id, demote.clone()).await), ErrorKind::Conflict);
    assert_eq!(kind(limen.delete_user(&ctx(), id).await), ErrorKind::Conflict);
    let second = add_user(&limen, &admin, "second", Role::Admin).await;
    assert_eq!(kind(limen.update_user(&admin, id, demote.clone()).await), ErrorKind::Conflict, "nobody their own");
    assert_eq!(limen.update_user(&second, id, demote).await.expect("another may").user.role, Role::User);
    let user = limen.create_vm(&admin_of(&limen, &admin).await, bare("one")).await.expect("a VM");
    succeeded(&limen, Ok(user)).await;
    assert_eq!(kind(limen.delete_user(&second, id).await), ErrorKind::Conflict, "the user owns a VM");
}

async fn admin_of(limen: &Limen, ctx: &Context) -> Context {
    let Actor::User { session, .. } = ctx.actor() else { panic!("a user") };
    Context::new(limen.authenticate(*session).await.expect("the session lives"))
}

pub(crate) async fn sessions_end_at_once(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let session = |ctx: &Context| match ctx.actor() {
        Actor::User { session, .. } => *session,
        other => panic!("{other:?}"),
    };
    let first = add_user(&limen, &admin, "ann", Role::User).await;
    let second = log_in(&limen, "ann", "a long password").await.expect("a second login");
    let wrong = limen.change_password(&second, &Secret::new("not this one"), &Secret::new("a new password")).await;
    assert_eq!(kind(wrong), ErrorKind::Invalid);
    limen
        .change_password(&second, &Secret::new("a long password"), &Secret::new("a new password"))
        .await
        .expect("a new password");
    assert_eq!(kind(limen.authenticate(session(&first)).await), ErrorKind::Unauthenticated);
    assert!(limen.authenticate(session(&second)).await.is_ok());
    assert_eq!(kind(log_in(&limen, "ann", "a long password").await), ErrorKind::Unauthenticated);
    limen.logout(&second).await.expect("a logout");
    assert_eq!(kind(limen.authenticate(session(&second)).await), ErrorKind::Unauthenticated);
    let third = log_in(&limen, "ann", "a new password").await.expect("a login");
    let id = third.actor().user_id().expect("a user");
    let disable = UpdateUser { disabled: Some(true), ..UpdateUser::default() };
    limen.update_user(&admin, id, disable).await.expect("disabled");
    assert_eq!(kind(limen.authenticate(session(&third)).await), ErrorKind::Unauthenticated);
    assert_eq!(kind(log_in(&limen, "ann", "a new password").await), ErrorKind::Unauthenticated);
    let unknown = log_in(&limen, "nobody", "a new password").await.expect_err("unknown");
    let wrong = log_in(&limen, "admin", "a new password").await.expect_err("wrong");
    assert_eq!(unknown.to_string(), wrong.to_string());
}

pub(crate) async fn whoever_is_gone_changes_nothing_any_more(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let second = add_user(&limen, &admin, "second", Role::Admin).await;
    // They wait for their turn to hash a password while their admin goes.
    let mut creates = tokio::task::JoinSet::new();
    for turn in 0..12 {
        let (limen, second) = (limen.clone(), second.clone());
        creates.spawn(async move {
            let name = format!("late-{turn}");
            let user = CreateUser {
                name,
                password: Secret::new("a long password"),
                role: Role::Admin,
                disabled: false,
                quota: Quota::default(),
            };
            limen.create_user(&second, user).await.is_ok()
        });
    }
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    limen.delete_user(&admin, second.actor().user_id().expect("a user")).await.expect("deleted");
    let count = || async { limen.list_users(&admin, PageRequest::default()).await.expect("users").items.len() };
    let made = count().await;
    let answered = creates.join_all().await.into_iter().filter(|made| *made).count();
    let all = count().await;
    assert_eq!(answered + 1, all);
    // As many as hash at once were past their turn already.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(all - made <= cores, "{} users were made by nobody", all - made);

    // A password that was reset is not set back by who only knows the old one.
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let id = ann.actor().user_id().expect("a user");
    let (new, old) = (Secret::new("set by the admin"), Secret::new("a long password"));
    let reset = UpdateUser { password: Some(new), ..UpdateUser::default() };
    let theirs = Secret::new("set by the thief");
    let late = limen.change_password(&ann, &old, &theirs);
    let (reset, late) = tokio::join!(limen.update_user(&admin, id, reset), late);
    assert!(!(reset.is_ok() && late.is_ok()), "both were told that theirs is the password");
    assert_eq!(log_in(&limen, "ann", "set by the thief").await.is_ok(), late.is_ok());
    assert_eq!(log_in(&limen, "ann", "set by the admin").await.is_ok(), reset.is_ok());
}
