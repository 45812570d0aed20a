//! What callers of [`Limen`] rely on, on the simulator: each behaviour on SQLite and on PostgreSQL.

mod audit;
mod check;
mod consoles;
mod events;
mod panics;
mod processes;
mod quotas;
mod servers;
mod tickets;
mod tokens;
mod users;
mod vms;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{CreateVm, Operation, PowerAction, VmId, VmState};
use limen_core::store::postgres::PostgresStore;
use limen_core::store::sqlite::SqliteStore;
use limen_core::store::{PoolSettings, Store};
use limen_core::{Context, ErrorKind, Limen, Secret};
use limen_support::postgres::PrivatePostgres;
use limen_support::world::{Script, World, succeeded};

use audit::*;
use check::*;
use consoles::*;
use events::*;
use panics::*;
use processes::*;
use quotas::*;
use servers::*;
use tickets::*;
use tokens::*;
use users::*;
use vms::*;

/// A simulated host, a Store and one process on them.
struct Rig {
    sim: SimHypervisor,
    world: World,
    limen: Limen,
    _postgres: Option<PrivatePostgres>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Db {
    Sqlite,
    Postgres,
}

async fn store(on: Db) -> (Arc<dyn Store>, Option<PrivatePostgres>) {
    match on {
        Db::Sqlite => (Arc::new(SqliteStore::in_memory().await.expect("a Store")), None),
        Db::Postgres => {
            let postgres = PrivatePostgres::start();
            let url = Secret::new(postgres.create_database());
            let settings = PoolSettings { max_open: 10, ..PoolSettings::default() };
            (Arc::new(PostgresStore::connect(&url, &settings).await.expect("a Store")), Some(postgres))
        }
    }
}

async fn rig(on: Db) -> Rig {
    let (store, postgres) = store(on).await;
    let sim = SimHypervisor::new();
    let world = World::new(Arc::new(sim.clone()), store);
    let limen = world.limen(Script::new(Vec::new())).await;
    // The first look at the host has to be over, or nothing is known of its networks and space.
    eventually("the host is up", || async { limen.list_hosts(&ctx()).await.expect("hosts")[0].info.is_some() }).await;
    Rig { sim, world, limen, _postgres: postgres }
}

fn ctx() -> Context {
    Context::local()
}

async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _ in 0..500 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

async fn state(limen: &Limen, id: VmId) -> VmState {
    limen.get_vm(&ctx(), id).await.expect("the VM is there").vm.status.state
}

async fn create(limen: &Limen, create: CreateVm) -> VmId {
    succeeded(limen, limen.create_vm(&ctx(), create).await).await.vm_id.expect("a VM")
}

async fn power(limen: &Limen, id: VmId, action: PowerAction) -> Operation {
    succeeded(limen, limen.change_power(&ctx(), id, action, Some(30)).await).await
}

fn kind<T: Debug>(result: limen_core::Result<T>) -> ErrorKind {
    result.expect_err("it is refused").kind()
}

macro_rules! behaviours {
    ($($name:ident)+) => {
        mod on_sqlite { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Db::Sqlite).await }
        )+ }
        mod on_postgres { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Db::Postgres).await }
        )+ }
    };
}

behaviours! {
    a_vm_goes_through_every_power_state_and_away
    what_is_written_is_read_at_once
    an_old_look_never_hides_a_new_one
    a_name_is_taken_once_per_owner
    the_same_key_is_the_same_operation
    two_actions_at_once_are_refused_or_done
    a_forced_action_takes_the_place_of_a_waiting_one
    a_guest_that_ignores_a_shutdown_is_left_as_it_is
    what_happens_outside_is_seen
    an_outside_edit_survives_an_update
    foreign_vms_are_seen_and_never_changed
    a_lost_host_is_stale_and_comes_back
    a_create_can_be_cancelled
    a_definition_that_lands_late_is_swept
    a_volume_that_lands_late_is_swept
    no_space_at_any_step_leaves_nothing
    an_image_in_use_stays
    a_second_process_takes_over
    a_passive_process_enqueues_and_reads
    a_predecessor_of_the_same_name_is_followed_at_once
    a_guests_time_counts_across_processes
    campaign_of_one_key_at_two_processes
    campaign_of_one_name_at_two_processes
    who_is_new_at_one_process_is_known_at_the_other
    every_process_tells_who_owns_a_host
    users_see_their_own
    the_last_admin_stays
    sessions_end_at_once
    campaign_of_parallel_creates_never_passes_a_quota
    campaign_of_deletes_and_failures_leaves_a_quota_exact
    an_update_reserves_what_it_raises_a_vm_to
    a_limit_is_changed_alone_and_shown
    a_host_keeps_its_reserve
    campaign_of_parallel_creates_never_passes_the_space_of_a_host
    nobody_knows_what_an_unreached_host_has_room_for
    a_panic_ends_no_work
    a_panic_ends_no_task
    whoever_is_gone_changes_nothing_any_more
    a_token_may_what_it_says_and_its_user_may
    a_token_for_one_vm_sees_that_vm
    whatever_ends_a_token_ends_it_at_once_everywhere
    the_audit_names_the_token
    every_change_is_in_the_audit_at_both_ends
    whoever_may_not_is_in_the_audit
    a_flood_of_refusals_is_folded_and_none_is_lost
    consoles_end_with_the_vm
    consoles_end_with_the_right
    consoles_are_in_the_audit_at_both_ends
    a_ticket_is_good_everywhere_and_once
    an_admin_is_told_every_number_and_no_secret
    others_are_told_of_what_they_see
    a_list_and_the_events_after_it_have_no_gap
    a_stream_ends_with_its_right
    what_is_kept_no_longer_is_said_to_be_gone
    so_many_streams_are_enough
    pages_hold_every_vm_once
    a_check_finds_what_happened_on_the_host
    a_check_finds_rows_that_nothing_holds
    a_check_finds_files_of_no_image
    a_check_finds_operations_that_stand_still
    a_check_finds_what_memory_shows_otherwise
    a_check_finds_quotas_that_do_not_add_up
    a_check_changes_nothing
    what_is_at_work_is_no_finding
}
