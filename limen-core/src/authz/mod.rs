//! May they do it? The one place of policy; the service asks it before every call.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crate::context::{Action, Actor, Role};
use crate::model::{OwnerId, UserId, VmId};

/// What an action is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// No single object: a list, or something new of the actor's own.
    Any,
    /// A VM and whose it is; none for one that LIMEN did not make.
    Vm {
        /// The VM.
        id: VmId,
        /// Its owner.
        owner: Option<OwnerId>,
    },
    /// An operation: whose object it is about, and about which VM.
    Operation {
        /// The owner; none for an object of the installation's.
        owner: Option<OwnerId>,
        /// The VM; none for another object.
        vm: Option<VmId>,
    },
    /// A user.
    User(UserId),
    /// An API token of this user.
    Token(UserId),
    /// Something of the installation's: an image, a host.
    Shared,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// No, and the actor may not learn that the object exists: answer "not found".
    Conceal,
}

/// What a list may show.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Objects of these owners; `None` is all, also of no owner but for VMs.
    pub owners: Option<BTreeSet<OwnerId>>,
    /// Among them, only these VMs; `None` is all.
    pub vms: Option<BTreeSet<VmId>>,
    /// Also the VMs of no owner: those that LIMEN did not make.
    pub unmanaged: bool,
}

impl Scope {
    /// Everything.
    pub const ALL: Scope = Scope { owners: None, vms: None, unmanaged: true };

    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self { owners: Some(BTreeSet::new()), vms: None, unmanaged: false }
    }

    /// Whether a thing of `owner`, about `vm`, is in it.
    #[must_use]
    pub fn contains(&self, owner: Option<OwnerId>, vm: Option<VmId>) -> bool {
        let owner_fits = match (owner, &self.owners) {
            (None, _) if vm.is_some() => self.unmanaged,
            (_, None) => true,
            (owner, Some(owners)) => owner.is_some_and(|owner| owners.contains(&owner)),
        };
        let vm_fits = match &self.vms {
            None => true,
            Some(vms) => vm.is_some_and(|vm| vms.contains(&vm)),
        };
        owner_fits && vm_fits
    }
}

/// A policy. It decides from what it is given, at once and without I/O.
pub trait Authz: Debug + Send + Sync + 'static {
    /// May `actor` do `action` on `resource`?
    fn decide(&self, actor: &Actor, action: Action, resource: Resource) -> Decision;

    /// What lists may show to `actor`.
    fn list_scope(&self, actor: &Actor) -> Scope;
}

/// Allows everything: for a program that is its only user.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAll;

impl Authz for AllowAll {
    fn decide(&self, _: &Actor, _: Action, _: Resource) -> Decision {
        Decision::Allow
    }

    fn list_scope(&self, _: &Actor) -> Scope {
        Scope::ALL
    }
}

/// Allows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Authz for DenyAll {
    fn decide(&self, _: &Actor, _: Action, _: Resource) -> Decision {
        Decision::Deny
    }

    fn list_scope(&self, _: &Actor) -> Scope {
        Scope::nothing()
    }
}

/// The policy of the server: roles, and owners who see their own.
///
/// | | admin | operator | user | viewer |
/// |---|---|---|---|---|
/// | users, audit, check, what is to be seen to after a restore | yes | | | |
/// | add and delete images | yes | yes | | |
/// | read images, hosts, networks, the agent, one's own quota | yes | yes | yes | yes |
/// | read metrics, which anybody may | yes | yes | yes | yes |
/// | see VMs, operations and their events | all | all | own | own |
/// | power, console, cancel | all | all | own | |
/// | create VMs | yes | yes | yes | |
/// | change and delete VMs | all | own | own | |
/// | one's own API tokens | yes | yes | yes | yes |
/// | others' API tokens | list, delete | | | |
///
/// VMs that LIMEN did not make are seen by admins alone and changed by nobody.
///
/// An API token may what its role may, but for this: users, passwords, sessions and tokens are
/// changed in a session and never with a token. One that is for one VM sees that VM, its operations
/// and its own user, and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct RoleAuthz;

impl Authz for RoleAuthz {
    fn decide(&self, actor: &Actor, action: Action, resource: Resource) -> Decision {
        let (role, own_owner, own_user) = match actor {
            Actor::Anonymous if matches!(action, Action::Login | Action::GetMetrics) => return Decision::Allow,
            Actor::Anonymous => return Decision::Deny,
            Actor::Local | Actor::System(_) => return Decision::Allow,
            Actor::User { id, role, owner, .. } => (*role, *owner, *id),
            Actor::Token { user, role, owner, vm, .. } => match token_refusal(*vm, action, resource) {
                Some(refusal) => return refusal,
                None => (*role, *owner, *user),
            },
        };
        if role == Role::Admin {
            return Decision::Allow;
        }
        let own = match resource {
            Resource::Any | Resource::Shared => true,
            Resource::Vm { owner, .. } | Resource::Operation { owner, .. } => owner == Some(own_owner),
            Resource::User(user) | Resource::Token(user) => user == own_user,
        };
        let unmanaged = matches!(resource, Resource::Vm { owner: None, .. });
        let sees_all = role == Role::Operator && !matches!(resource, Resource::Token(_));
        if unmanaged || (!own && !sees_all) {
            return Decision::Conceal;
        }
        let allowed = match action {
            Action::Login | Action::Logout | Action::GetMe | Action::ChangePassword => true,
            Action::CreateToken | Action::ListTokens | Action::DeleteToken => true,
            Action::ListVms
            | Action::GetVm
            | Action::GetVmStats
            | Action::ListImages
            | Action::GetImage
            | Action::ListHosts
            | Action::GetHostMetrics
            | Action::ListNetworks
            | Action::ListOperations
            | Action::GetOperation
            | Action::WatchEvents
            | Action::GetQuota
            | Action::ReadAgent
            | Action::GetMetrics => true,
            Action::ChangePower | Action::CreateTicket | Action::OpenConsole | Action::CancelOperation => {
                role != Role::Viewer
            }
            Action::CreateVm | Action::UpdateVm | Action::DeleteVm => own && role != Role::Viewer,
            Action::AddImage | Action::DeleteImage => role == Role::Operator,
            Action::ListUsers
            | Action::GetUser
            | Action::CreateUser
            | Action::UpdateUser
            | Action::DeleteUser
            | Action::ListAudit
            | Action::ResumeOperation
            | Action::AbandonOperation
            | Action::GetRestored
            | Action::NoticeRestore
            | Action::Check => false,
        };
        if allowed { Decision::Allow } else { Decision::Deny }
    }

    fn list_scope(&self, actor: &Actor) -> Scope {
        let (role, owner, vm) = match actor {
            Actor::Anonymous => return Scope::nothing(),
            Actor::Local | Actor::System(_) => return Scope::ALL,
            Actor::User { role, owner, .. } => (*role, *owner, None),
            Actor::Token { role, owner, vm, .. } => (*role, *owner, *vm),
        };
        let owners = match role {
            Role::Admin | Role::Operator => None,
            Role::User | Role::Viewer => Some(BTreeSet::from([owner])),
        };
        Scope { owners, vms: vm.map(|vm| BTreeSet::from([vm])), unmanaged: role == Role::Admin }
    }
}

/// What no token may, whatever its role: change who gets in and, where it is for one VM, reach
/// beyond it.
fn token_refusal(bound: Option<VmId>, action: Action, resource: Resource) -> Option<Decision> {
    let in_sessions_only = matches!(
        action,
        Action::Logout
            | Action::ChangePassword
            | Action::CreateUser
            | Action::UpdateUser
            | Action::DeleteUser
            | Action::CreateToken
            | Action::ListTokens
            | Action::DeleteToken
    );
    if in_sessions_only {
        return Some(Decision::Deny);
    }
    let bound = bound?;
    match resource {
        Resource::Vm { id, .. } => (id != bound).then_some(Decision::Conceal),
        Resource::Operation { vm, .. } => (vm != Some(bound)).then_some(Decision::Conceal),
        Resource::Any
            if matches!(
                action,
                Action::GetMe | Action::ListVms | Action::ListOperations | Action::WatchEvents | Action::GetMetrics
            ) =>
        {
            None
        }
        _ => Some(Decision::Deny),
    }
}
