//! API tokens: what each may, and what ends it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{AuditQuery, PageRequest, PowerAction, Quota, Token, VmId};
use limen_core::service::{CreateToken, CreateUser, HostConfig, UpdateUser};
use limen_core::{Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::world::{QUICK, bare, succeeded};
use time::OffsetDateTime;

use super::users::{add_user, count, log_in, with_users};
use crate::{Db, eventually, kind, store};

fn named(name: &str) -> CreateToken {
    CreateToken { name: name.to_owned(), role: None, vm: None, expires_at: None }
}

async fn make(limen: &Limen, ctx: &Context, create: CreateToken) -> (Token, Secret) {
    limen.create_token(ctx, create).await.expect("a token")
}

async fn with(limen: &Limen, secret: &Secret) -> Context {
    Context::new(limen.authenticate_token(secret).await.expect("the token is good"))
}

fn role_of(ctx: &Context) -> Role {
    match ctx.actor() {
        Actor::Token { role, .. } => *role,
        other => panic!("{other:?}"),
    }
}

async fn names(limen: &Limen, ctx: &Context) -> Vec<String> {
    let page = limen.list_tokens(ctx, PageRequest::default()).await.expect("a list");
    page.items.into_iter().map(|token| token.name).collect()
}

pub(crate) async fn a_token_may_what_it_says_and_its_user_may(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let bob = add_user(&limen, &admin, "bob", Role::Operator).await;

    let (token, secret) = make(&limen, &ann, named("ci")).await;
    assert!(secret.expose().starts_with("limen_") && secret.expose().len() == 70 && Limen::is_token(secret.expose()));
    assert_eq!((token.role, token.expires_at), (Role::User, None));
    let program = with(&limen, &secret).await;
    succeeded(&limen, limen.create_vm(&program, bare("by-token")).await).await;
    assert_eq!((count(&limen, &program).await, count(&limen, &ann).await), (1, 1));
    assert_eq!(limen.get_me(&program).await.expect("oneself").user.name, "ann");

    // Nobody gains by a token, and none makes more of itself.
    let above = CreateToken { role: Some(Role::Operator), ..named("above") };
    let refused = limen.create_token(&ann, above).await.expect_err("above oneself");
    assert_eq!((refused.kind(), refused.field()), (ErrorKind::Invalid, Some("role")));
    let (_, all) = make(&limen, &admin, named("all")).await;
    let all = with(&limen, &all).await;
    assert_eq!(limen.list_users(&all, PageRequest::default()).await.expect("users").items.len(), 3);
    assert_eq!(kind(limen.create_token(&all, named("more")).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_tokens(&all, PageRequest::default()).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.delete_token(&all, token.id).await), ErrorKind::Forbidden);
    let (old, new) = (Secret::new("correct horse 1"), Secret::new("another horse 1"));
    assert_eq!(kind(limen.change_password(&all, &old, &new).await), ErrorKind::Forbidden);
    let id = ann.actor().user_id().expect("a user");
    let password = UpdateUser { password: Some(new.clone()), ..UpdateUser::default() };
    assert_eq!(kind(limen.update_user(&all, id, password).await), ErrorKind::Forbidden);
    let user = CreateUser {
        name: "eve".to_owned(),
        password: new,
        role: Role::Admin,
        disabled: false,
        quota: Quota::default(),
    };
    assert_eq!(kind(limen.create_user(&all, user).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.delete_user(&all, id).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.logout(&all).await), ErrorKind::Forbidden);
    let (_, weak) = make(&limen, &admin, CreateToken { role: Some(Role::Viewer), ..named("weak") }).await;
    let weak = with(&limen, &weak).await;
    assert_eq!(kind(limen.create_vm(&weak, bare("no")).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_users(&weak, PageRequest::default()).await), ErrorKind::Forbidden);

    // Names are one's own; lists are too, but for an admin's.
    assert_eq!(kind(limen.create_token(&ann, named("ci")).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(limen.create_token(&ann, named("a b")).await), ErrorKind::Invalid);
    let past = CreateToken { expires_at: Some(OffsetDateTime::now_utc()), ..named("past") };
    assert_eq!(kind(limen.create_token(&ann, past).await), ErrorKind::Invalid);
    make(&limen, &bob, named("ci")).await;
    assert_eq!((names(&limen, &ann).await, names(&limen, &bob).await), (vec!["ci".to_owned()], vec!["ci".to_owned()]));
    assert_eq!(names(&limen, &admin).await, ["ci", "all", "weak", "ci"]);
    for other in [&bob, &add_user(&limen, &admin, "vera", Role::Viewer).await] {
        let foreign = limen.delete_token(other, token.id).await.expect_err("it is concealed");
        let absent = limen.delete_token(other, limen_core::model::TokenId::generate()).await.expect_err("it is absent");
        assert_eq!((foreign.kind(), foreign.to_string()), (absent.kind(), absent.to_string()));
        assert_eq!(foreign.kind(), ErrorKind::NotFound);
    }
    assert!(limen.authenticate_token(&secret).await.is_ok());
    assert_eq!(kind(limen.create_token(&Context::local(), named("mine")).await), ErrorKind::Forbidden);
}

pub(crate) async fn a_token_for_one_vm_sees_that_vm(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let bob = add_user(&limen, &admin, "bob", Role::User).await;
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        ids.push(succeeded(&limen, limen.create_vm(&ann, bare(name)).await).await.vm_id.expect("a VM"));
    }
    let foreign = CreateToken { vm: Some(ids[0]), ..named("steal") };
    let foreign = limen.create_token(&bob, foreign).await.expect_err("it is concealed");
    let absent = CreateToken { vm: Some(VmId::generate()), ..named("absent") };
    let absent = limen.create_token(&bob, absent).await.expect_err("it is absent");
    assert_eq!((foreign.kind(), foreign.to_string()), (ErrorKind::Invalid, absent.to_string()));

    let (_, secret) = make(&limen, &ann, CreateToken { vm: Some(ids[0]), ..named("one") }).await;
    let program = with(&limen, &secret).await;
    assert_eq!(count(&limen, &program).await, 1);
    assert!(limen.get_vm(&program, ids[0]).await.is_ok());
    let other = limen.get_vm(&program, ids[1]).await.expect_err("it is concealed");
    let absent = limen.get_vm(&program, VmId::generate()).await.expect_err("it is absent");
    assert_eq!((other.kind(), other.to_string()), (absent.kind(), absent.to_string()));
    for (id, kind) in [(ids[1], ErrorKind::NotFound), (VmId::generate(), ErrorKind::NotFound)] {
        assert_eq!(crate::kind(limen.change_power(&program, id, PowerAction::Start, None).await), kind);
        assert_eq!(crate::kind(limen.delete_vm(&program, id, None).await), kind);
    }
    assert_eq!(kind(limen.create_vm(&program, bare("three")).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_images(&program, PageRequest::default()).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.list_hosts(&program).await), ErrorKind::Forbidden);
    let seen = limen.list_operations(&program, None, PageRequest::default()).await.expect("operations").items;
    assert!(!seen.is_empty() && seen.iter().all(|operation| operation.vm_id == Some(ids[0])), "{seen:?}");
    let all = limen.list_operations(&ann, None, PageRequest::default()).await.expect("operations").items;
    for operation in all {
        let got = limen.get_operation(&program, operation.id).await;
        assert_eq!(got.is_ok(), operation.vm_id == Some(ids[0]), "{operation:?}");
    }
    succeeded(&limen, limen.change_power(&program, ids[0], PowerAction::Start, None).await).await;
    succeeded(&limen, limen.delete_vm(&program, ids[0], None).await).await;
    assert_eq!((count(&limen, &program).await, count(&limen, &ann).await), (0, 1));

    // An admin's, narrowed to one VM, sees no more of it all.
    let (_, secret) = make(&limen, &admin, CreateToken { vm: Some(ids[1]), ..named("two") }).await;
    let program = with(&limen, &secret).await;
    assert_eq!((count(&limen, &program).await, role_of(&program)), (1, Role::Admin));
    assert_eq!(kind(limen.list_users(&program, PageRequest::default()).await), ErrorKind::Forbidden);
    assert_eq!(
        kind(limen.list_audit(&program, &AuditQuery::default(), PageRequest::default()).await),
        ErrorKind::Forbidden
    );
}

/// How long until `limen` refuses the secret.
async fn refused_within(limen: &Limen, secret: &Secret) -> Duration {
    let started = Instant::now();
    eventually("the token is refused", || async { limen.authenticate_token(secret).await.is_err() }).await;
    started.elapsed()
}

pub(crate) async fn whatever_ends_a_token_ends_it_at_once_everywhere(on: Db) {
    let (store, _postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let admin = limen_core::service::AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") };
    let server = async || {
        let host = HostConfig::new("host", "sim:", Arc::new(sim.clone()));
        let builder = Limen::builder().store(Arc::clone(&store)).authz(Arc::new(RoleAuthz)).host(host);
        builder.admin(admin.clone()).timings(QUICK).build().await.expect("build")
    };
    let (here, there) = (server().await, server().await);
    let admin = log_in(&here, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&here, &admin, "ann", Role::Operator).await;
    let id = ann.actor().user_id().expect("a user");
    let second = Duration::from_secs(1);
    let good_there = async |secret: &Secret| {
        eventually("the token is good there", || async { there.authenticate_token(secret).await.is_ok() }).await;
    };

    let (token, secret) = make(&here, &ann, named("deleted")).await;
    good_there(&secret).await;
    let open = here.authenticate_token(&secret).await.expect("good");
    here.delete_token(&ann, token.id).await.expect("deleted");
    assert_eq!(kind(here.authenticate_token(&secret).await), ErrorKind::Unauthenticated, "here at once");
    assert_eq!(kind(here.reauthenticate(&open)), ErrorKind::Unauthenticated, "what is open ends too");
    assert!(refused_within(&there, &secret).await < second);
    assert_eq!(kind(here.delete_token(&ann, token.id).await), ErrorKind::NotFound);

    // A demotion acts on what the token may, a disabling on the token, and neither is for ever.
    let (_, secret) = make(&here, &ann, named("kept")).await;
    good_there(&secret).await;
    let set =
        |role: Role, disabled: bool| UpdateUser { role: Some(role), disabled: Some(disabled), ..UpdateUser::default() };
    here.update_user(&admin, id, set(Role::Viewer, false)).await.expect("demoted");
    assert_eq!(role_of(&with(&here, &secret).await), Role::Viewer);
    let started = Instant::now();
    eventually("demoted there", || async { role_of(&with(&there, &secret).await) == Role::Viewer }).await;
    assert!(started.elapsed() < second);
    here.update_user(&admin, id, set(Role::Admin, false)).await.expect("promoted");
    assert_eq!(role_of(&with(&here, &secret).await), Role::Operator, "the token's own role stays");
    here.update_user(&admin, id, set(Role::User, true)).await.expect("disabled");
    assert_eq!(kind(here.authenticate_token(&secret).await), ErrorKind::Unauthenticated);
    assert!(refused_within(&there, &secret).await < second);
    here.update_user(&admin, id, set(Role::User, false)).await.expect("enabled");
    assert_eq!(role_of(&with(&here, &secret).await), Role::User);
    good_there(&secret).await;
    here.delete_user(&admin, id).await.expect("deleted");
    assert_eq!(kind(here.authenticate_token(&secret).await), ErrorKind::Unauthenticated);
    assert!(refused_within(&there, &secret).await < second);

    let end = OffsetDateTime::now_utc() + Duration::from_millis(1500);
    let (_, secret) = make(&here, &admin, CreateToken { expires_at: Some(end), ..named("short") }).await;
    assert!(here.authenticate_token(&secret).await.is_ok());
    refused_within(&here, &secret).await;
    assert!(OffsetDateTime::now_utc() >= end, "not before its end");
    let made_up = Secret::new(format!("limen_{}", "0".repeat(64)));
    assert_eq!(kind(here.authenticate_token(&made_up).await), ErrorKind::Unauthenticated);
}

pub(crate) async fn the_audit_names_the_token(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let (token, secret) = make(&limen, &admin, named("nightly")).await;
    let program = with(&limen, &secret).await;
    let operation = succeeded(&limen, limen.create_vm(&program, bare("one")).await).await;
    assert_eq!(operation.actor.label, "token:admin/nightly");
    assert_eq!(operation.actor.user, admin.actor().user_id());
    limen.delete_token(&admin, token.id).await.expect("deleted");
    let audit =
        limen.list_audit(&admin, &AuditQuery::default(), PageRequest::default()).await.expect("the audit").items;
    let resource = format!("token:{}", token.id);
    let of_token: Vec<&str> =
        audit.iter().filter(|record| record.resource == resource).map(|record| record.action.as_str()).collect();
    assert_eq!(of_token, ["delete_token", "create_token"]);
    assert!(audit.iter().any(|record| record.actor.label == "token:admin/nightly"));
    let text = serde_json::to_string(&audit).expect("JSON");
    assert!(!text.contains(secret.expose()) && !text.contains("limen_"));
}
