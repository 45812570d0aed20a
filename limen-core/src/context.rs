//! Who asks, from where, and what for.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{OwnerId, SessionId, TokenId, UserId, VmId};

/// What a user may do, from most to least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, on every object.
    Admin,
    /// Sees and operates every VM (power, console); creates and deletes none but their own.
    Operator,
    /// Creates, changes and deletes their own VMs.
    User,
    /// Reads their own VMs.
    Viewer,
}

impl Role {
    /// The role's name on every surface.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Operator => "operator",
            Role::User => "user",
            Role::Viewer => "viewer",
        }
    }

    /// The lesser of two roles.
    #[must_use]
    pub fn at_most(self, most: Role) -> Role {
        if self as u8 > most as u8 { self } else { most }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Actor {
    /// Nobody that is known.
    Anonymous,
    /// A user with a live session.
    User {
        /// The user.
        id: UserId,
        /// The user's name, for the audit.
        name: String,
        /// The user's role now.
        role: Role,
        /// The owner whose objects are the user's own.
        owner: OwnerId,
        /// The session that the request came with.
        session: SessionId,
    },
    /// A program with an API token of a user.
    Token {
        /// The token.
        id: TokenId,
        /// The token's name, for the audit.
        name: String,
        /// Whose it is.
        user: UserId,
        /// The user's name, for the audit.
        user_name: String,
        /// What it may do now: the lesser of its own role and its user's.
        role: Role,
        /// The owner whose objects are the user's own.
        owner: OwnerId,
        /// The one VM that it is for; none for all that its user sees.
        vm: Option<VmId>,
    },
    /// The owner of the data directory, at the command line of the machine itself.
    Local,
    /// LIMEN itself: recovery, observer. No door can build it.
    System(System),
}

/// A part of LIMEN that acts on its own. It cannot be built outside the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System(pub(crate) &'static str);

impl Actor {
    /// A short name for logs and audit records: `user:admin`, `token:admin/backup`, `local`,
    /// `system:recovery`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Actor::Anonymous => "anonymous".to_owned(),
            Actor::User { name, .. } => format!("user:{name}"),
            Actor::Token { name, user_name, .. } => format!("token:{user_name}/{name}"),
            Actor::Local => "local".to_owned(),
            Actor::System(System(part)) => format!("system:{part}"),
        }
    }

    /// The user behind the actor.
    #[must_use]
    pub fn user_id(&self) -> Option<UserId> {
        match self {
            Actor::User { id, .. } => Some(*id),
            Actor::Token { user, .. } => Some(*user),
            _ => None,
        }
    }
}

/// Comes first in every call of [`Limen`](crate::Limen): who asks, from where, under which request id.
#[derive(Debug, Clone)]
pub struct Context {
    actor: Actor,
    origin: Option<IpAddr>,
    request_id: String,
    idempotency_key: Option<String>,
}

impl Context {
    /// A context for `actor` with a fresh request id.
    #[must_use]
    pub fn new(actor: Actor) -> Self {
        Self::of_request(actor, Uuid::now_v7().to_string())
    }

    /// A context for `actor` under the id that its request has already; it names the request in
    /// logs, audit and problem documents.
    #[must_use]
    pub fn of_request(actor: Actor, request_id: impl Into<String>) -> Self {
        Self { actor, origin: None, request_id: request_id.into(), idempotency_key: None }
    }

    /// A context for the owner of the machine: the command line, an embedding program.
    #[must_use]
    pub fn local() -> Self {
        Self::new(Actor::Local)
    }

    pub(crate) fn system(part: &'static str) -> Self {
        Self::new(Actor::System(System(part)))
    }

    /// The same request, by `actor`.
    #[must_use]
    pub fn with_actor(mut self, actor: Actor) -> Self {
        self.actor = actor;
        self
    }

    /// Sets the address that the request came from.
    #[must_use]
    pub fn with_origin(mut self, origin: IpAddr) -> Self {
        self.origin = Some(origin);
        self
    }

    /// Sets the request id; it names the request in logs, audit and problem documents.
    #[must_use]
    pub fn with_request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = id.into();
        self
    }

    /// Makes the next mutation that starts an operation repeatable: the same key with the same
    /// request answers with the same operation for 24 hours; with another request it is a
    /// [`Conflict`](crate::ErrorKind::Conflict). 1 to 255 visible ASCII characters.
    #[must_use]
    pub fn with_idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Who asks.
    #[must_use]
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The address that the request came from.
    #[must_use]
    pub fn origin(&self) -> Option<IpAddr> {
        self.origin
    }

    /// The request id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The idempotency key.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }
}

macro_rules! actions {
    ($($(#[$doc:meta])+ $action:ident = $name:literal;)+) => {
        /// What is asked for. The name is the same everywhere: Rust method, OpenAPI `operationId`,
        /// Python method, audit action.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Action { $($(#[$doc])+ $action,)+ }

        impl Action {
            /// Every action.
            pub const ALL: &'static [Action] = &[$(Action::$action,)+];

            /// The action's name on every surface.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Action::$action => $name,)+ }
            }
        }
    };
}

actions! {
    /// Exchange name and password for a session.
    Login = "login";
    /// End one's own session.
    Logout = "logout";
    /// Read one's own user.
    GetMe = "get_me";
    /// Change one's own password.
    ChangePassword = "change_password";
    /// List users.
    ListUsers = "list_users";
    /// Read a user.
    GetUser = "get_user";
    /// Create a user.
    CreateUser = "create_user";
    /// Change a user's role, password, disabled flag or limits.
    UpdateUser = "update_user";
    /// Delete a user.
    DeleteUser = "delete_user";
    /// Make an API token of one's own.
    CreateToken = "create_token";
    /// List API tokens.
    ListTokens = "list_tokens";
    /// Delete an API token.
    DeleteToken = "delete_token";
    /// List VMs.
    ListVms = "list_vms";
    /// Read a VM.
    GetVm = "get_vm";
    /// Read a running VM's figures.
    GetVmStats = "get_vm_stats";
    /// Create a VM.
    CreateVm = "create_vm";
    /// Change a VM's name, description, labels, autostart, vCPUs or memory.
    UpdateVm = "update_vm";
    /// Delete a VM and the volumes it owns.
    DeleteVm = "delete_vm";
    /// Start, shut down, power off, reboot, reset, pause, resume or save a VM.
    ChangePower = "change_power";
    /// Make a ticket that opens a VM's console, once.
    CreateTicket = "create_ticket";
    /// Open a VM's VNC or serial console.
    OpenConsole = "open_console";
    /// List images.
    ListImages = "list_images";
    /// Read an image.
    GetImage = "get_image";
    /// Add an image.
    AddImage = "add_image";
    /// Delete an image.
    DeleteImage = "delete_image";
    /// List hosts.
    ListHosts = "list_hosts";
    /// Read a host's figures.
    GetHostMetrics = "get_host_metrics";
    /// List a host's networks.
    ListNetworks = "list_networks";
    /// List operations.
    ListOperations = "list_operations";
    /// Read an operation.
    GetOperation = "get_operation";
    /// Cancel an operation.
    CancelOperation = "cancel_operation";
    /// Let a held operation go on.
    ResumeOperation = "resume_operation";
    /// Give a held operation up.
    AbandonOperation = "abandon_operation";
    /// Follow the numbered events.
    WatchEvents = "watch_events";
    /// Read one's own quota and what is in use.
    GetQuota = "get_quota";
    /// Read what the host's agent tells, but for its figures, which anybody may.
    ReadAgent = "read_agent";
    /// Read the figures for monitoring.
    GetMetrics = "get_metrics";
    /// Read the audit.
    ListAudit = "list_audit";
    /// Compare Store, hosts, files and memory.
    Check = "check";
    /// Read what is to be seen to after a restore of the Store.
    GetRestored = "get_restored";
    /// Notice that the Store was restored: LIMEN itself, in the audit.
    NoticeRestore = "notice_restore";
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
