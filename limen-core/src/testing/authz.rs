//! What every [`Authz`] must do, and a policy as one table to read and to compare.

use std::fmt::Write;

use uuid::Uuid;

use crate::authz::{Authz, Decision, Resource};
use crate::context::{Action, Actor, Role};
use crate::model::{OwnerId, SessionId, TokenId, UserId, VmId};

const OWN: OwnerId = OwnerId(Uuid::from_u128(1));
const OTHER: OwnerId = OwnerId(Uuid::from_u128(2));
const ME: UserId = UserId(Uuid::from_u128(3));
const SOMEBODY: UserId = UserId(Uuid::from_u128(4));
const VM: VmId = VmId(Uuid::from_u128(5));
const OTHER_VM: VmId = VmId(Uuid::from_u128(8));

const ROLES: [Role; 4] = [Role::Admin, Role::Operator, Role::User, Role::Viewer];

fn user(role: Role) -> Actor {
    let session = SessionId(Uuid::from_u128(6));
    Actor::User { id: ME, name: "me".to_owned(), role, owner: OWN, session }
}

/// An API token of the same user.
fn token(role: Role, vm: Option<VmId>) -> Actor {
    let id = TokenId(Uuid::from_u128(7));
    Actor::Token { id, name: "ci".to_owned(), user: ME, user_name: "me".to_owned(), role, owner: OWN, vm }
}

/// What the service asks about for an action: each case by name, then the object.
fn resources(action: Action) -> Vec<(&'static str, Resource)> {
    match action {
        Action::GetVm
        | Action::GetVmStats
        | Action::UpdateVm
        | Action::DeleteVm
        | Action::ChangePower
        | Action::CreateTicket
        | Action::OpenConsole => vec![
            ("own", Resource::Vm { id: VM, owner: Some(OWN) }),
            ("other's", Resource::Vm { id: VM, owner: Some(OTHER) }),
            ("unmanaged", Resource::Vm { id: VM, owner: None }),
        ],
        Action::GetOperation | Action::CancelOperation | Action::ResumeOperation | Action::AbandonOperation => vec![
            ("own", Resource::Operation { owner: Some(OWN), vm: Some(VM) }),
            ("other's", Resource::Operation { owner: Some(OTHER), vm: Some(VM) }),
            ("nobody's", Resource::Operation { owner: None, vm: None }),
        ],
        Action::GetUser | Action::UpdateUser | Action::DeleteUser => {
            vec![("oneself", Resource::User(ME)), ("another", Resource::User(SOMEBODY))]
        }
        Action::DeleteToken => vec![("own", Resource::Token(ME)), ("other's", Resource::Token(SOMEBODY))],
        Action::ListImages
        | Action::GetImage
        | Action::AddImage
        | Action::DeleteImage
        | Action::ListHosts
        | Action::GetHostMetrics
        | Action::ReadAgent
        | Action::ListNetworks => vec![("", Resource::Shared)],
        _ => vec![("", Resource::Any)],
    }
}

/// The whole policy as text: a line for each action and object, a column for each actor: nobody,
/// the roles, the owner of the machine, an admin's API token, and a user's that is for one VM, the
/// one in the lines, or for another one. Keep it
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
    let mut table = line(
        "action",
        "object",
        ["anonymous", "admin", "operator", "user", "viewer", "local", "token", "vm token", "other vm"],
    );
    for action in Action::ALL {
        for (case, resource) in resources(*action) {
            let decide = |actor: &Actor| match policy.decide(actor, *action, resource) {
                Decision::Allow => "allow",
                Decision::Deny => "deny",
                Decision::Conceal => "conceal",
            };
            let [admin, operator, user, viewer] = ROLES.map(|role| decide(&user(role)));
            let [anonymous, local] = [Actor::Anonymous, Actor::Local].map(|actor| decide(&actor));
            let token = |role, vm| decide(&self::token(role, vm));
            let tokens = [token(Role::Admin, None), token(Role::User, Some(VM)), token(Role::User, Some(OTHER_VM))];
            let [all, bound, elsewhere] = tokens;
            let cells = [anonymous, admin, operator, user, viewer, local, all, bound, elsewhere];
            table += &line(action.as_str(), case, cells);
        }
    }
    table
}

fn line(action: &str, object: &str, cells: [&str; 9]) -> String {
    let mut line = format!("{action:<18}{object:<11}");
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
    let tokens = ROLES.iter().flat_map(|role| [None, Some(VM), Some(OTHER_VM)].map(|vm| token(*role, vm)));
    for actor in ROLES.map(user).into_iter().chain([Actor::Anonymous, Actor::Local]).chain(tokens) {
        let scope = policy.list_scope(&actor);
        for owner in [Some(OWN), Some(OTHER)] {
            let listed = scope.contains(owner, Some(VM));
            for (action, resource) in [
                (Action::GetVm, Resource::Vm { id: VM, owner }),
                (Action::GetOperation, Resource::Operation { owner, vm: Some(VM) }),
            ] {
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
    for actor in ROLES.map(user).into_iter().chain(ROLES.map(|role| token(role, Some(OTHER_VM)))) {
        for owner in [Some(OTHER), None] {
            let resource = Resource::Vm { id: VM, owner };
            if policy.decide(&actor, Action::GetVm, resource) != Decision::Conceal {
                continue;
            }
            for action in
                [Action::UpdateVm, Action::DeleteVm, Action::ChangePower, Action::CreateTicket, Action::OpenConsole]
            {
                let decision = policy.decide(&actor, action, resource);
                assert_eq!(decision, Decision::Conceal, "{action} of {owner:?} by {}", actor.label());
            }
        }
    }
}
