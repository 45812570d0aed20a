//! The audit: both ends of every change, and whoever may not.

use std::collections::BTreeSet;
use std::sync::Arc;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::ConsoleKind;
use limen_core::hypervisor::sim::{Fault, Method, On, SimHypervisor};
use limen_core::model::{
    AuditOutcome, AuditQuery, AuditRecord, ImageFormat, OperationState, PageRequest, PowerAction, SessionId, TokenId,
    UpdateVm, UserId, VmId,
};
use limen_core::service::{AdminSeed, CreateToken, HostConfig, Refusals, UpdateUser};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Action, Actor, Context, ErrorKind, Limen, Role, Secret};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{QUICK, add_image, bare, blank, ended};

use super::users::{add_user, log_in, with_users};
use crate::{Db, Rig, create, ctx, eventually, kind, power, rig};
use AuditOutcome::{Accepted, Cancelled, Failed, Refused, Succeeded};

/// All that fits, oldest first.
async fn audit(limen: &Limen, query: AuditQuery) -> Vec<AuditRecord> {
    let page = PageRequest::first(1000).expect("a page");
    let mut records = limen.list_audit(&ctx(), &query, page).await.expect("the audit").items;
    records.reverse();
    records
}

fn outcomes(records: &[AuditRecord]) -> Vec<AuditOutcome> {
    records.iter().map(|record| record.outcome).collect()
}

/// Actions that change nothing.
const READING: [Action; 21] = [
    Action::GetMe,
    Action::ListUsers,
    Action::GetUser,
    Action::ListTokens,
    Action::ListVms,
    Action::GetVm,
    Action::GetVmStats,
    Action::ListImages,
    Action::GetImage,
    Action::ListHosts,
    Action::GetHostMetrics,
    Action::ListNetworks,
    Action::ListOperations,
    Action::GetOperation,
    Action::ListAudit,
    Action::Check,
    Action::WatchEvents,
    Action::GetQuota,
    Action::GetMetrics,
    Action::ReadAgent,
    Action::GetRestored,
];

/// What is done after a restore of the Store alone.
const RESTORED: [Action; 3] = [Action::NoticeRestore, Action::ResumeOperation, Action::AbandonOperation];

pub(crate) async fn every_change_is_in_the_audit_at_both_ends(on: Db) {
    let Rig { limen, sim, world: _world, _postgres } = rig(on).await;
    // Users, sessions and tokens: one record, in the transaction of the change.
    let ann = add_user(&limen, &ctx(), "ann", Role::Operator).await;
    let id = ann.actor().user_id().expect("a user");
    let (old, new) = (Secret::new("a long password"), Secret::new("a longer password"));
    limen.change_password(&ann, &old, &new).await.expect("changed");
    let update = UpdateUser { role: Some(Role::User), ..UpdateUser::default() };
    limen.update_user(&ctx(), id, update).await.expect("updated");
    let token = CreateToken { name: "ci".to_owned(), role: None, vm: None, expires_at: None };
    let (token, _) = limen.create_token(&ann, token).await.expect("a token");
    limen.delete_token(&ann, token.id).await.expect("deleted");
    limen.logout(&ann).await.expect("logged out");
    limen.delete_user(&ctx(), id).await.expect("deleted");
    let resource = format!("user:{id}");
    let of_user: Vec<_> = audit(&limen, AuditQuery { resource: Some(resource), ..AuditQuery::default() }).await;
    let by_user = |record: &AuditRecord| (record.action, record.actor.label.clone());
    let expected = [
        (Action::CreateUser, "local"),
        (Action::Login, "user:ann"),
        (Action::ChangePassword, "user:ann"),
        (Action::UpdateUser, "local"),
        (Action::Logout, "user:ann"),
        (Action::DeleteUser, "local"),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(action, label)| (action, label.to_owned())).collect();
    assert_eq!(of_user.iter().map(by_user).collect::<Vec<_>>(), expected);
    let of_token = AuditQuery { resource: Some(format!("token:{}", token.id)), ..AuditQuery::default() };
    let of_token = audit(&limen, of_token).await;
    assert_eq!(
        of_token.iter().map(|record| record.action).collect::<Vec<_>>(),
        [Action::CreateToken, Action::DeleteToken]
    );
    assert!(of_user.iter().chain(&of_token).all(|record| record.outcome == Succeeded && record.count == 1));

    // Operations: one when it is recorded, one when it has ended.
    let vm = create(&limen, bare("one")).await;
    power(&limen, vm, PowerAction::Start).await;
    let eve = add_user(&limen, &ctx(), "eve", Role::Operator).await;
    limen.create_ticket(&eve, vm, ConsoleKind::Vnc).await.expect("a ticket");
    drop(limen.open_console(&eve, vm, ConsoleKind::Serial).await.expect("a console"));
    let update = UpdateVm { description: Some("two".to_owned()), ..UpdateVm::default() };
    let update = limen.update_vm(&ctx(), vm, update, None).await.expect("recorded");
    assert_eq!(ended(&limen, &update).await.state, OperationState::Succeeded);
    let delete = limen.delete_vm(&ctx(), vm, None).await.expect("recorded");
    assert_eq!(ended(&limen, &delete).await.state, OperationState::Succeeded);
    let image = add_image(&limen, "disk", ImageFormat::Raw).await.id;
    let delete = limen.delete_image(&ctx(), image).await.expect("recorded");
    assert_eq!(ended(&limen, &delete).await.state, OperationState::Succeeded);
    sim.inject(On::method(Method::CreateDefinition), Fault::Fails(ErrorKind::Invalid));
    let fails = limen.create_vm(&ctx(), bare("fails")).await.expect("recorded");
    assert_eq!(ended(&limen, &fails).await.state, OperationState::Failed);
    sim.inject(On::method(Method::CreateVolume), Fault::Hangs(None));
    let stopped = limen.create_vm(&ctx(), blank("stopped")).await.expect("recorded");
    eventually("it hangs", || async { sim.calls_of(Method::CreateVolume) == 1 }).await;
    limen.cancel_operation(&ctx(), stopped.id).await.expect("cancelled");
    sim.release();
    assert_eq!(ended(&limen, &stopped).await.state, OperationState::Cancelled);
    let asked = AuditQuery { resource: Some(format!("operation:{}", stopped.id)), ..AuditQuery::default() };
    assert_eq!(outcomes(&audit(&limen, asked).await), [Accepted]);

    let all = audit(&limen, AuditQuery::default()).await;
    for operation in limen.list_operations(&ctx(), None, PageRequest::default()).await.expect("a list").items {
        let of_it: Vec<_> = all.iter().filter(|record| record.operation == Some(operation.id)).collect();
        let end = match operation.state {
            OperationState::Succeeded => Succeeded,
            OperationState::Cancelled => Cancelled,
            _ => Failed,
        };
        let of_it = of_it.iter().map(|record| (record.action.as_str(), record.outcome)).collect::<Vec<_>>();
        let kind = operation.kind.as_str();
        assert_eq!(of_it, [(kind, Accepted), (kind, end)], "{operation:?}");
    }

    // No action is left out: a new one is done above, or changes nothing.
    let done: BTreeSet<&str> = all.iter().map(|record| record.action.as_str()).collect();
    for action in Action::ALL.iter().filter(|action| !RESTORED.contains(action)) {
        assert_eq!(done.contains(action.as_str()), !READING.contains(action), "{action}");
    }
}

fn sum(records: &[AuditRecord]) -> u64 {
    records.iter().map(|record| record.count).sum()
}

const REFUSED: AuditQuery = AuditQuery {
    actor: None,
    user: None,
    action: None,
    resource: None,
    outcome: Some(Refused),
    request_id: None,
    from: None,
    to: None,
};

pub(crate) async fn whoever_may_not_is_in_the_audit(on: Db) {
    let (limen, _sim, _postgres) = with_users(on).await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let id = limen.create_vm(&admin, bare("secret")).await.expect("recorded");
    let vm = ended(&limen, &id).await.vm_id.expect("a VM");
    let ann = add_user(&limen, &admin, "ann", Role::Operator).await.with_origin([192, 0, 2, 7].into());
    let ann = ann.with_request_id("probe-1");
    let bob = add_user(&limen, &admin, "bob", Role::User).await;
    let (me, root) = (bob.actor().user_id().expect("a user"), admin.actor().user_id().expect("a user"));
    let before = limen.event();

    // By policy, whether it is said or concealed; a thing that is not there is no refusal.
    assert_eq!(kind(limen.list_users(&ann, PageRequest::default()).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.delete_vm(&ann, vm, None).await), ErrorKind::Forbidden);
    assert_eq!(kind(limen.get_vm(&bob, vm).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.get_operation(&bob, id.id).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.get_vm(&bob, VmId::generate()).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.delete_token(&bob, TokenId::generate()).await), ErrorKind::NotFound);
    assert_eq!(kind(limen.get_user(&bob, root).await), ErrorKind::NotFound);
    // What makes more of oneself, and a wrong password of one's own.
    let above = CreateToken { name: "above".to_owned(), role: Some(Role::Admin), vm: None, expires_at: None };
    assert_eq!(kind(limen.create_token(&bob, above).await), ErrorKind::Invalid);
    let demote = UpdateUser { role: Some(Role::User), ..UpdateUser::default() };
    assert_eq!(kind(limen.update_user(&admin, root, demote).await), ErrorKind::Conflict);
    let (wrong, new) = (Secret::new("not that one 1"), Secret::new("a new password"));
    assert_eq!(kind(limen.change_password(&bob, &wrong, &new).await), ErrorKind::Invalid);

    let expected = [
        ("user:ann", Action::ListUsers, "user".to_owned(), "forbidden"),
        ("user:ann", Action::DeleteVm, format!("vm:{vm}"), "forbidden"),
        ("user:bob", Action::GetVm, format!("vm:{vm}"), "not_found"),
        ("user:bob", Action::GetOperation, format!("operation:{}", id.id), "not_found"),
        ("user:bob", Action::GetUser, format!("user:{root}"), "not_found"),
        ("user:bob", Action::CreateToken, format!("user:{me}"), "role_above_own"),
        ("user:admin", Action::UpdateUser, format!("user:{root}"), "own_role"),
        ("user:bob", Action::ChangePassword, format!("user:{me}"), "wrong_password"),
    ];
    let count = expected.len();
    eventually("they are written", || async { audit(&limen, REFUSED).await.len() >= count }).await;
    let written = audit(&limen, REFUSED).await;
    let told: Vec<_> = written
        .iter()
        .map(|record| {
            let detail = record.detail.as_deref().unwrap_or_default();
            (record.actor.label.as_str(), record.action, record.resource.clone(), detail)
        })
        .collect();
    assert_eq!(told, expected);
    assert!(written.iter().all(|record| record.count == 1 && record.last_at.is_none() && record.operation.is_none()));
    assert_eq!((written[0].origin, written[0].request_id.as_str()), (ann.origin(), "probe-1"));
    assert_eq!(limen.event(), before, "a refusal is no event");

    // Who is not known is counted alone.
    let known = limen.refusals();
    assert_eq!((known.known, known.records, known.dropped), (count as u64, count as u64, 0));
    let nobody = Context::new(Actor::Anonymous);
    assert_eq!(kind(limen.list_users(&nobody, PageRequest::default()).await), ErrorKind::Unauthenticated);
    assert_eq!(kind(log_in(&limen, "ann", "not that one 1").await), ErrorKind::Unauthenticated);
    assert_eq!(kind(log_in(&limen, "nobody", "not that one 1").await), ErrorKind::Unauthenticated);
    assert!(limen.authenticate_token(&Secret::new("limen_0")).await.is_err());
    assert!(limen.authenticate(SessionId::generate()).await.is_err());
    assert_eq!(limen.refusals(), Refusals { unknown: known.unknown + 5, ..known });
    assert_eq!(limen.event(), before);
}

pub(crate) async fn a_flood_of_refusals_is_folded_and_none_is_lost(on: Db) {
    const FLOOD: u64 = 20_000;
    let place = Place::new(on);
    let limen = place.limen().await;
    let admin = log_in(&limen, "admin", "correct horse 1").await.expect("a login");
    let ann = add_user(&limen, &admin, "ann", Role::User).await;
    let bob = add_user(&limen, &admin, "bob", Role::User).await;
    let root = admin.actor().user_id().expect("a user");
    for round in 0..FLOOD {
        // One thing again and again, and others that nobody has.
        let id = if round % 2 == 0 { root } else { UserId::generate() };
        assert_eq!(kind(limen.get_user(&ann, id).await), ErrorKind::NotFound);
    }
    assert_eq!(kind(limen.get_user(&bob, root).await), ErrorKind::NotFound);
    // What still waits is written when the process stops.
    limen.shutdown().await;
    let counted = limen.refusals();
    assert_eq!((counted.known, counted.dropped), (FLOOD + 1, 0));

    let limen = place.limen().await;
    let written = audit(&limen, REFUSED).await;
    assert_eq!(written.len() as u64, counted.records);
    assert!(written.len() <= 200, "{} records", written.len());
    let of = |label: &str| -> Vec<AuditRecord> {
        written.iter().filter(|record| record.actor.label == label).cloned().collect()
    };
    let (of_ann, of_bob) = (of("user:ann"), of("user:bob"));
    assert_eq!((sum(&of_ann), sum(&of_bob)), (FLOOD, 1));
    let again: Vec<AuditRecord> =
        of_ann.iter().filter(|record| record.resource == format!("user:{root}")).cloned().collect();
    assert_eq!(sum(&again), FLOOD / 2);
    for record in written.iter().filter(|record| record.count > 1) {
        assert!(record.last_at.is_some_and(|last| last >= record.at), "{record:?}");
    }
    limen.shutdown().await;
}

/// A Store that is still there when a process has ended.
struct Place {
    directory: tempfile::TempDir,
    postgres: Option<(PrivatePostgres, Secret)>,
}

impl Place {
    fn new(on: Db) -> Self {
        let postgres = (on == Db::Postgres).then(|| {
            let postgres = PrivatePostgres::start();
            let url = Secret::new(postgres.create_database());
            (postgres, url)
        });
        Self { directory: tempfile::tempdir().expect("a directory"), postgres }
    }

    async fn limen(&self) -> Limen {
        let settings = PoolSettings { max_open: 10, ..PoolSettings::default() };
        let store: Arc<dyn Store> = match &self.postgres {
            Some((_, url)) => Arc::new(PostgresStore::connect(url, &settings).await.expect("a Store")),
            None => {
                let file = self.directory.path().join("limen.db");
                Arc::new(SqliteStore::open(file, &settings).await.expect("a Store"))
            }
        };
        let admin = AdminSeed { name: "admin".to_owned(), password: Secret::new("correct horse 1") };
        let host = HostConfig::new("host", "sim:", Arc::new(SimHypervisor::new()));
        let builder = Limen::builder().store(store).authz(Arc::new(RoleAuthz)).host(host);
        builder.admin(admin).timings(QUICK).build().await.expect("build")
    }
}
