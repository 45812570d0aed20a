//! A policy of your own: while changes are frozen, users may look and nothing else.
//!
//! `cargo run --example custom_authz`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use limen_core::authz::{Decision, Resource, RoleAuthz, Scope};
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::model::{CreateVm, PageRequest, Quota};
use limen_core::service::{CreateUser, HostConfig, VmQuery};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Action, Actor, Authz, Context, Limen, Result, Role, Secret};

/// The roles that LIMEN has, and a switch over them.
#[derive(Debug, Default)]
struct Freeze {
    roles: RoleAuthz,
    frozen: AtomicBool,
}

impl Authz for Freeze {
    fn decide(&self, actor: &Actor, action: Action, resource: Resource) -> Decision {
        let decision = self.roles.decide(actor, action, resource);
        let changes_vms = matches!(
            action,
            Action::CreateVm
                | Action::UpdateVm
                | Action::DeleteVm
                | Action::ChangePower
                | Action::CreateTicket
                | Action::OpenConsole
        );
        match (actor, decision) {
            // What the roles conceal stays concealed, whatever the switch says.
            (Actor::User { .. } | Actor::Token { .. }, Decision::Allow)
                if changes_vms && self.frozen.load(Ordering::Relaxed) =>
            {
                Decision::Deny
            }
            (_, decision) => decision,
        }
    }

    fn list_scope(&self, actor: &Actor) -> Scope {
        self.roles.list_scope(actor)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let policy = Arc::new(Freeze::default());
    let authz: Arc<dyn Authz> = Arc::<Freeze>::clone(&policy);
    let limen = Limen::builder()
        .store(Arc::new(SqliteStore::in_memory().await?))
        .authz(authz)
        .host(HostConfig::new("host-1", "sim:///", Arc::new(SimHypervisor::new())))
        .build()
        .await?;

    // The owner of the machine makes a user; the user logs in, as over HTTP.
    let password = Secret::new("correct horse battery staple");
    let alice = CreateUser {
        name: "alice".to_owned(),
        password: password.clone(),
        role: Role::User,
        disabled: false,
        quota: Quota::default(),
    };
    limen.create_user(&Context::local(), alice).await?;
    let (_, session) = limen.login(&Context::new(Actor::Anonymous), "alice", &password).await?;
    let alice = Context::new(limen.authenticate(session.id).await?);

    limen.create_vm(&alice, CreateVm::new("before", 1, 512)).await?;
    println!("open:   alice made a VM");

    policy.frozen.store(true, Ordering::Relaxed);
    let refused = limen.create_vm(&alice, CreateVm::new("meanwhile", 1, 512)).await;
    let error = refused.expect_err("the policy refuses it");
    println!("frozen: {} ({error})", error.kind().code());
    let seen = limen.list_vms(&alice, &VmQuery::default(), PageRequest::default()).await?;
    println!("frozen: alice still sees {}", seen.vms[0].vm.name);

    limen.create_vm(&Context::local(), CreateVm::new("by-the-owner", 1, 512)).await?;
    println!("frozen: the owner of the machine is no user, and made a VM");
    limen.shutdown().await;
    Ok(())
}
