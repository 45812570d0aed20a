//! What every [`Store`] must do.
//!
//! Each behaviour is a function that takes a fresh Store, and panics when the Store does not behave
//! so. A back end of your own is put through all of them by a loop over [`ALL`].

mod audit;
mod fixture;
mod lease;
mod log;
mod operations;
mod quota;
mod restore;
mod rows;
mod tickets;
mod users;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use self::audit::*;
pub use self::fixture::{Fixture, refused};
pub use self::lease::*;
pub use self::log::*;
pub use self::operations::*;
pub use self::quota::*;
pub use self::restore::*;
pub use self::rows::*;
pub use self::tickets::*;
pub use self::users::*;
use crate::store::Store;

/// A behaviour: its name, and the function that looks for it in a fresh Store.
pub type Behaviour = (&'static str, fn(Arc<dyn Store>) -> BoxFuture<'static, ()>);

macro_rules! behaviours {
    ($($name:ident,)+) => { &[$((stringify!($name), |store| Box::pin($name(store)))),+] };
}

/// Every behaviour.
pub const ALL: &[Behaviour] = behaviours![
    a_fresh_store_is_empty_and_knows_its_installation,
    records_are_read_back_as_written,
    text_with_nul_is_refused,
    a_vm_name_is_unique_per_owner,
    a_mac_is_unique_in_the_store,
    a_version_guards_a_row,
    a_change_is_all_or_nothing,
    what_is_gone_may_go_again,
    a_vm_needs_its_owner_and_host,
    a_status_is_written_when_it_differs,
    events_of_a_vm_tell_its_owner,
    volumes_are_kept_without_events,
    an_image_must_be_ready_for_what_needs_it,
    a_linked_disk_guards_its_image,
    an_image_is_not_lost_to_a_race,
    names_of_images_and_hosts_are_unique,
    the_audit_is_read_newest_first,
    the_audit_is_filtered,
    the_audit_stays_for_its_time,
    names_of_users_and_owners_are_unique,
    a_password_hash_is_kept_until_a_new_one_comes,
    a_user_goes_with_the_sessions,
    an_owner_of_a_vm_stays,
    sessions_end_alone_or_together,
    a_disabled_user_gets_no_session,
    names_and_hashes_of_tokens_are_unique,
    tokens_go_alone_or_with_their_user,
    the_last_enabled_admin_stays,
    a_ticket_is_used_once,
    a_ticket_is_used_once_in_parallel,
    tickets_go_with_their_user_or_their_time,
    what_vms_come_to_is_counted,
    a_limit_refuses_what_rises_past_it,
    a_limit_holds_in_parallel,
    a_host_has_only_so_much_memory,
    a_host_has_only_so_much_space,
    an_operation_is_kept_with_its_journal,
    a_lock_is_busy_until_its_operation_is_finished,
    the_locks_that_are_held_are_listed,
    one_of_many_parallel_operations_gets_the_lock,
    a_waiting_operation_can_be_preempted,
    a_request_to_cancel_is_kept,
    a_finished_operation_only_goes_back_to_undoing,
    unfinished_operations_are_listed_oldest_first,
    the_history_is_paged_newest_first,
    an_idempotency_key_stands_for_one_operation,
    an_idempotency_key_holds_in_parallel,
    a_reader_sees_all_of_a_change_or_nothing,
    a_lease_is_taken_by_compare_and_set,
    one_of_many_gets_the_lease,
    a_renewed_lease_is_not_the_one_seen_before,
    a_released_lease_is_free,
    every_lease_is_listed,
    an_old_fence_writes_nothing,
    a_take_over_waits_for_a_change_under_the_fence,
    event_numbers_are_dense_under_parallel_writers,
    a_follower_never_sees_a_gap,
    a_snapshot_and_the_events_after_it_have_no_gap,
    the_log_is_read_in_parts,
    everybody_who_waits_is_woken_by_a_commit,
    a_store_knows_how_far_it_has_got,
    a_restored_store_begins_a_new_epoch,
    another_history_is_a_restored_store,
    one_of_many_notices_a_restore,
    a_held_operation_is_settled_once,
    what_is_old_is_taken_away_in_bounded_parts,
    a_closed_store_is_unavailable,
];
