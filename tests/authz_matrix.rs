//! The server's policy is the committed table, and the suite holds for the policies that ship.

use limen_core::Authz;
use limen_core::authz::{AllowAll, DenyAll, RoleAuthz};
use limen_core::testing::authz;

#[test]
fn the_policy_is_the_committed_table() {
    let now = authz::matrix(&RoleAuthz);
    assert!(now == include_str!("authz_matrix.txt"), "tests/authz_matrix.txt should be, where this is meant:\n{now}");
}

#[test]
fn every_policy_is_of_one_piece() {
    for policy in [&RoleAuthz as &dyn Authz, &AllowAll, &DenyAll] {
        authz::lists_and_looks_agree(policy);
        authz::what_is_concealed_is_concealed_from_every_action(policy);
    }
}
