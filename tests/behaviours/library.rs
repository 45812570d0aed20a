//! The library, as a program of Rust calls it.

use std::sync::Arc;

use limen_core::authz::RoleAuthz;
use limen_core::hypervisor::sim::SimHypervisor;
use limen_core::metrics::LocalMetrics;
use limen_core::model::SessionId;
use limen_core::service::{AdminSeed, HostConfig};
use limen_core::store::sqlite::SqliteStore;
use limen_core::{Context, Error, Limen, Result, Secret};
use serde_json::{Map, Value};

use super::operations::{Args, operate, shown};
use super::{ADMIN, Door, Refused};

/// A `Limen` on a simulated host, and the session of its admin.
pub(crate) struct Library {
    limen: Limen,
    session: SessionId,
}

impl Library {
    pub(crate) async fn open() -> Self {
        let sim = SimHypervisor::from_uri("sim:///").expect("a simulated host");
        let host = HostConfig::new("local", "sim:///", Arc::new(sim));
        let host = host.with_metrics(Arc::new(LocalMetrics::new().expect("figures")));
        let store = SqliteStore::in_memory().await.expect("a Store");
        let admin = AdminSeed { name: ADMIN.0.to_owned(), password: Secret::new(ADMIN.1) };
        let builder = Limen::builder().host(host).store(Arc::new(store)).authz(Arc::new(RoleAuthz)).admin(admin);
        let limen = builder.build().await.expect("a Limen");
        let (_, session) = limen.login(&Context::local(), ADMIN.0, &Secret::new(ADMIN.1)).await.expect("a session");
        Self { limen, session: session.id }
    }

    async fn ask(&self, operation: &str, mut args: Args) -> Result<Value> {
        let limen = &self.limen;
        match operation {
            "health" => return shown(&limen.health().await),
            "ping_store" => return shown(&limen.ping_store().await?),
            "refusals" => return shown(&limen.refusals()),
            "login" => {
                let (name, password): (String, Secret) = (args.take("name")?, args.take("password")?);
                return shown(&limen.login(&Context::local(), &name, &password).await?.0);
            }
            _ => {}
        }
        let mut ctx = Context::new(limen.authenticate(self.session).await?);
        if let Some(key) = args.take::<Option<String>>("idempotency_key")? {
            ctx = ctx.with_idempotency_key(key);
        }
        let ctx = &ctx;
        operate!(limen.operation[ctx](args))
    }
}

/// Why a call of Rust's was refused.
pub(crate) fn refused(error: &Error) -> Refused {
    // Here an argument has its whole name.
    let field = error.field().map(|field| field.trim_end_matches("_password").to_owned());
    Refused { kind: error.kind().code().to_owned(), field }
}

impl Door for Library {
    async fn call(&mut self, operation: &str, args: Map<String, Value>) -> std::result::Result<Value, Refused> {
        self.ask(operation, Args(args)).await.map_err(|error| refused(&error))
    }
}
