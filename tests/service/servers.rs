//! Several processes on one Store, each with connections of its own, as servers have: what a client
//! holds works at each of them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::{Method, SimHypervisor};
use limen_core::model::{OperationId, PowerAction, SessionId, VmState};
use limen_core::service::{AdminSeed, CreateToken, HostConfig};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Actor, Context, ErrorKind, Limen, Secret};
use limen_support::postgres::{PrivatePostgres, psql};
use limen_support::world::{QUICK, bare, succeeded};
use tempfile::TempDir;

use crate::users::log_in;
use crate::{Db, eventually, kind};

const PASSWORD: &str = "correct horse 1";

/// Processes on one Store and one simulated host.
struct Servers {
    sim: SimHypervisor,
    all: Vec<Limen>,
    /// Where the Store is, for SQL.
    url: String,
    _postgres: Option<PrivatePostgres>,
    _directory: TempDir,
}

impl Servers {
    async fn start(on: Db, count: usize) -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let postgres = (on == Db::Postgres).then(PrivatePostgres::start);
        let url = postgres.as_ref().map(PrivatePostgres::create_database).unwrap_or_default();
        let settings = PoolSettings { max_open: 20, ..PoolSettings::default() };
        let sim = SimHypervisor::new();
        let mut all = Vec::new();
        for _ in 0..count {
            let store: Arc<dyn Store> = match on {
                Db::Sqlite => {
                    Arc::new(SqliteStore::open(directory.path().join("limen.db"), &settings).await.expect("a Store"))
                }
                Db::Postgres => {
                    Arc::new(PostgresStore::connect(&Secret::new(url.clone()), &settings).await.expect("a Store"))
                }
            };
            let builder = Limen::builder().store(store).authz(Arc::new(RoleAuthz)).timings(QUICK);
            let host = HostConfig::new("host", "sim:", Arc::new(sim.clone()));
            let admin = AdminSeed { name: "admin".to_owned(), password: Secret::new(PASSWORD) };
            all.push(builder.host(host).admin(admin).build().await.expect("build"));
        }
        let servers = Self { sim, all, url, _postgres: postgres, _directory: directory };
        for limen in &servers.all {
            eventually("the host is up", || async {
                limen.list_hosts(&Context::local()).await.expect("hosts")[0].info.is_some()
            })
            .await;
        }
        servers
    }
}

fn is_full() -> bool {
    std::env::var_os("LIMEN_CAMPAIGN").is_some_and(|form| form == "full")
}

/// The one operation that all of these are.
fn one(answers: Vec<limen_core::Result<limen_core::model::Operation>>) -> OperationId {
    let ids: BTreeSet<_> =
        answers.into_iter().map(|answer| answer.expect("every answer is the operation").id).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    *ids.first().expect("one")
}

pub(crate) async fn campaign_of_one_key_at_two_processes(on: Db) {
    let servers = Servers::start(on, 2).await;
    let (here, there) = (&servers.all[0], &servers.all[1]);
    let admin = log_in(here, "admin", PASSWORD).await.expect("a login");
    let rounds = if is_full() { 100 } else { 10 };
    for round in 0..rounds {
        let keyed = |what: &str| admin.clone().with_idempotency_key(format!("{what}-{round}"));
        let (make, name) = (keyed("make"), format!("vm-{round}"));
        let racing = (0..100).map(|index| servers.all[index % 2].create_vm(&make, bare(&name)));
        let made = one(join_all(racing).await);
        for limen in &servers.all {
            // What shows the operation shows the VM.
            let operation = limen.create_vm(&make, bare(&name)).await.expect("the same again");
            assert_eq!(operation.id, made);
            assert!(limen.get_vm(&admin, operation.vm_id.expect("a VM")).await.is_ok(), "not shown yet");
        }
        let operation = here.get_operation(&admin, made).await;
        let vm = succeeded(here, operation).await.vm_id.expect("a VM");
        // The second pause, were there one, would be refused: it has no meaning for a paused VM.
        let (start, pause) = (keyed("start"), keyed("pause"));
        let operation = here.change_power(&start, vm, PowerAction::Start, None).await;
        succeeded(there, operation).await;
        let racing = (0..100).map(|index| servers.all[index % 2].change_power(&pause, vm, PowerAction::Pause, None));
        let paused = one(join_all(racing).await);
        let operation = there.get_operation(&admin, paused).await;
        succeeded(there, operation).await;
        assert_eq!(there.get_vm(&admin, vm).await.expect("it is there").vm.status.state, VmState::Paused);
        let other = there.create_vm(&make, bare("other")).await;
        assert_eq!(kind(other), ErrorKind::Conflict, "another request under the same key");
    }
    let calls = |method| servers.sim.calls_of(method);
    assert_eq!((calls(Method::CreateDefinition), calls(Method::ChangePower)), (rounds, 2 * rounds));
}

pub(crate) async fn campaign_of_one_name_at_two_processes(on: Db) {
    let servers = Servers::start(on, 2).await;
    let admin = log_in(&servers.all[0], "admin", PASSWORD).await.expect("a login");
    let rounds = if is_full() { 100 } else { 5 };
    for round in 0..rounds {
        let name = format!("vm-{round}");
        let racing = (0..100).map(|index| servers.all[index % 2].create_vm(&admin, bare(&name)));
        let (made, refused): (Vec<_>, Vec<_>) = join_all(racing).await.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 99));
        assert!(refused.into_iter().all(|refusal| kind(refusal) == ErrorKind::AlreadyExists));
        let token = || CreateToken { name: name.clone(), role: None, vm: None, expires_at: None };
        let racing = (0..20).map(|index| servers.all[index % 2].create_token(&admin, token()));
        let (made, refused): (Vec<_>, Vec<_>) = join_all(racing).await.into_iter().partition(Result::is_ok);
        assert_eq!((made.len(), refused.len()), (1, 19));
        assert!(refused.into_iter().all(|refusal| kind(refusal) == ErrorKind::AlreadyExists));
    }
}

pub(crate) async fn who_is_new_at_one_process_is_known_at_the_other(on: Db) {
    let servers = Servers::start(on, 2).await;
    let anonymous = Context::new(Actor::Anonymous);
    for round in 0..20 {
        let (here, there) = (&servers.all[round % 2], &servers.all[(round + 1) % 2]);
        let (_, session) = here.login(&anonymous, "admin", &Secret::new(PASSWORD)).await.expect("a login");
        let admin = Context::new(there.authenticate(session.id).await.expect("the session is known"));
        let token = CreateToken { name: format!("t-{round}"), role: None, vm: None, expires_at: None };
        let (_, secret) = there.create_token(&admin, token).await.expect("a token");
        here.authenticate_token(&secret).await.expect("the token is known");
        let operation = here.create_vm(&admin, bare(&format!("vm-{round}"))).await.expect("a VM");
        // Whoever reads the operation anywhere finds there what it did.
        let ended = async || loop {
            let operation = there.get_operation(&admin, operation.id).await.expect("it is known");
            if operation.state.is_finished() {
                return operation;
            }
        };
        let ended = tokio::time::timeout(Duration::from_secs(20), ended()).await.expect("it ends");
        let vm = there.get_vm(&admin, ended.vm_id.expect("a VM")).await.expect("it is shown").vm;
        assert_eq!((vm.status.state, vm.operation), (VmState::ShutOff, None));
        there.logout(&admin).await.expect("a logout");
        let begun = Instant::now();
        while here.authenticate(session.id).await.is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(1), "the session goes on");
        }
    }
    assert_eq!(kind(servers.all[0].authenticate(SessionId::generate()).await), ErrorKind::Unauthenticated);
}

pub(crate) async fn every_process_tells_who_owns_a_host(on: Db) {
    let servers = Servers::start(on, 3).await;
    let owner = async |limen: &Limen| limen.list_hosts(&Context::local()).await.expect("hosts")[0].owner.clone();
    let agree = async || {
        let first = owner(&servers.all[1]).await;
        first.is_some() && first == owner(&servers.all[2]).await
    };
    eventually("they tell the same", agree).await;
    let before = owner(&servers.all[1]).await;
    servers.all[0].shutdown().await;
    eventually("the others tell the new one", async || {
        let now = owner(&servers.all[1]).await;
        now.is_some() && now != before && now == owner(&servers.all[2]).await
    })
    .await;
}

/// However many strangers come with tokens that nobody has made, and sessions that nobody has: the
/// log is read for all of them together, and the known are served meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_make_the_store_work() {
    let servers = Servers::start(Db::Postgres, 1).await;
    let limen = &servers.all[0];
    let admin = log_in(limen, "admin", PASSWORD).await.expect("a login");
    let Actor::User { session, .. } = admin.actor() else { panic!("a user") };
    let transactions = || {
        let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        psql(&servers.url, sql).expect_success().trim().parse::<u64>().expect("a number")
    };
    // What this process does by itself, in three seconds; the figures are told once a second.
    let idle = transactions();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let idle = transactions() - idle;
    let before = transactions();
    let begun = Instant::now();
    let strangers = (0..200).map(async |index| {
        let mut refused = 0_u64;
        while begun.elapsed() < Duration::from_secs(3) {
            let refusal = if index % 2 == 0 {
                limen.authenticate(SessionId::generate()).await
            } else {
                let digits = uuid::Uuid::new_v4().simple();
                limen.authenticate_token(&Secret::new(format!("limen_{digits}{digits}"))).await
            };
            assert_eq!(kind(refusal), ErrorKind::Unauthenticated);
            refused += 1;
        }
        refused
    });
    let known = async {
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(3) {
            let asked = Instant::now();
            limen.authenticate(*session).await.expect("known");
            slowest = slowest.max(asked.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        slowest
    };
    let (refused, slowest) = tokio::join!(join_all(strangers), known);
    let refused: u64 = refused.into_iter().sum();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let more = (transactions() - before).saturating_sub(idle * 3 / 2);
    eprintln!(
        "{refused} strangers cost {more} transactions beside {idle}; one who is known waited {slowest:?} at most"
    );
    assert!(refused > 2000, "{refused} strangers are no flood");
    assert!(more * 10 < refused, "{more} transactions for {refused} strangers");
}
