//! What every [`Authz`] must do, and a policy as one table to read and to compare.

use std::fmt::Write;

use uuid::Uuid;

use crate::authz::{Authz, Decision, Resource};
use crate::context::{Action, Actor, Role};
use crate::model::{OwnerId, SessionId, UserId, VmId};

const OWN: OwnerId = OwnerId(Uuid::from_u128(1));
const OTHER: OwnerId = OwnerId(Uuid::from_u128(2));
const ME: UserId = UserId(Uuid::from_u128(3));
const SOMEBODY: UserId = UserId(Uuid::from_u128(4));
const VM: VmId = VmId(Uuid::from_u128(5));

const ROLES: [Role; 4] = [Role::Admin, Role::Operator, Role::User, Role::Viewer];

fn user(role: Role) -> Actor {
    let session = SessionId(Uuid::from_u128(6));
    Actor::User { id: ME, name: "me".to_owned(), role, owner: OWN, session }
}

/// What the service asks about for an action: each case by name, then the object.
fn resources(action: Action) -> Vec<(&'static str, Resource)> {
    match action {
        Action::GetVm | Action::UpdateVm | Action::DeleteVm | Action::ChangePower | Action::OpenConsole => vec![
            ("own", Resource::Vm { id: VM, owner: Some(OWN) }),
            ("other's", Resource::Vm { id: VM, owner: Some(OTHER) }),
            ("unmanaged", Resource::Vm { id: VM, owner: None }),
        ],
        Action::GetOperation | Action::CancelOperation => vec![
            ("own", Resource::Owned(Some(OWN))),
            ("other's", Resource::Owned(Some(OTHER))),
            ("nobody's", Resource::Owned(None)),
        ],
        Action::GetUser | Action::UpdateUser | Action::DeleteUser => {
            vec![("oneself", Resource::User(ME)), ("another", Resource::User(SOMEBODY))]
        }
        Action::ListImages
        | Action::GetImage
        | Action::AddImage
        | Action::DeleteImage
        | Action::ListHosts
        | Action::ListNetworks => vec![("", Resource::Shared)],
        _ => vec![("", Resource::Any)],
    }
}

/// The whole policy as text: a line for each action and object, a column for each actor. Keep it
/// beside your test, and a change of the policy is a change that a reader sees.
///
/// ```
/// use limen_core::authz::RoleAuthz;
///
/// let table = limen_core::testing::authz::matrix(&RoleAuthz);
/// assert!(table.contains("delete_vm"));
/// ```
#[must_use]
pub fn matrix(policy: &dyn Authz) -> String {
    let mut table = line("action", "object", ["anonymous", "admin", "operator", "user", "viewer", "local"]);
    for action in Action::ALL {
        for (case, resource) in resources(*action) {
            let decide = |actor: &Actor| match policy.decide(actor, *action, resource) {
                Decision::Allow => "allow",
                Decision::Deny => "deny",
                Decision::Conceal => "conceal",
            };
            let [admin, operator, user, viewer] = ROLES.map(|role| decide(&user(role)));
            let cells = [decide(&Actor::Anonymous), admin, operator, user, viewer, decide(&Actor::Local)];
            table += &line(action.as_str(), case, cells);
        }
    }
    table
}

fn line(action: &str, object: &str, cells: [&str; 6]) -> String {
    let mut line = format!("{action:<17}{object:<11}");
    for cell in cells {
        // Writing into a string cannot fail.
        let _ = write!(line, "{cell:<10}");
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

/// What a list shows can be looked at, and what it does not show is concealed or denied.
///
/// # Panics
/// When lists and looks disagree.
pub fn lists_and_looks_agree(policy: &dyn Authz) {
    for actor in ROLES.map(user).into_iter().chain([Actor::Anonymous, Actor::Local]) {
        let scope = policy.list_scope(&actor);
        for owner in [Some(OWN), Some(OTHER)] {
            let listed = scope.contains(owner, Some(VM));
            for (action, resource) in
                [(Action::GetVm, Resource::Vm { id: VM, owner }), (Action::GetOperation, Resource::Owned(owner))]
            {
                let looked = policy.decide(&actor, action, resource) == Decision::Allow;
                assert_eq!(listed, looked, "{action} of {owner:?} by {}", actor.label());
            }
        }
    }
}

/// What an actor may not see, no action on it is allowed, and none betrays that it is there.
///
/// # Panics
/// When an action does.
pub fn what_is_concealed_is_concealed_from_every_action(policy: &dyn Authz) {
    for actor in ROLES.map(user) {
        for owner in [Some(OTHER), None] {
            let resource = Resource::Vm { id: VM, owner };
            if policy.decide(&actor, Action::GetVm, resource) != Decision::Conceal {
                continue;
            }
            for action in [Action::UpdateVm, Action::DeleteVm, Action::ChangePower, Action::OpenConsole] {
                let decision = policy.decide(&actor, action, resource);
                assert_eq!(decision, Decision::Conceal, "{action} of {owner:?} by {}", actor.label());
            }
        }
    }
}
