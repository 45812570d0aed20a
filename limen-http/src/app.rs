//! The server as one endpoint: the routes, and what is around them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use limen_core::{Error, Limen, Result, Secret};
use poem::{Endpoint, EndpointExt, Response, endpoint::make_sync};
use serde_json::Value;

use crate::agent::{Agent, AgentDoor};
use crate::api;
use crate::auth::Tokens;
use crate::config::{Origins, Proxies};
use crate::console::{self, Consoles};
use crate::docs::Docs;
use crate::edge::Edge;
use crate::edge::logins::Logins;
use crate::edge::rate::Buckets;
use crate::metrics::{Domains, Requests};
use crate::openapi;
use crate::routes::Routes;
use crate::start;

/// What all requests share.
#[derive(Debug)]
pub struct App {
    pub(crate) limen: Limen,
    pub(crate) tokens: Tokens,
    /// Where `/agent/*` leads.
    pub(crate) agent: Agent,
    /// What was answered so far.
    pub(crate) requests: Requests,
    /// The series of VMs, as last written.
    pub(crate) domains: Arc<Domains>,
    /// Every request is the machine's owner's: set for the command line's own calls alone.
    pub(crate) local: bool,
    /// Web pages of other origins that may use the API.
    pub(crate) origins: Origins,
    /// Peers that speak for others.
    pub(crate) proxies: Proxies,
    /// How many requests a client may send; any number where there are none.
    pub(crate) buckets: Option<Buckets>,
    /// How many logins may be tried, likewise.
    pub(crate) logins: Option<Logins>,
    initial_password: Option<InitialPassword>,
    /// The directory in which a backup's success is noted.
    data_dir: Option<PathBuf>,
}

/// The file that holds a password that LIMEN made, until it is changed.
#[derive(Debug, Clone)]
pub(crate) struct InitialPassword {
    pub(crate) user: String,
    pub(crate) file: PathBuf,
}

impl InitialPassword {
    /// Removes the file once the password of its user is another. No such file is fine.
    pub(crate) async fn forget(&self, changed: &str) {
        if changed != self.user {
            return;
        }
        match tokio::fs::remove_file(&self.file).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(target: "limen", %error, "initial-admin-password could not be removed");
            }
            _ => {}
        }
    }
}

impl App {
    /// Serves `limen`; tokens are signed with `jwt_secret`.
    #[must_use]
    pub fn new(limen: Limen, jwt_secret: &Secret) -> Self {
        Self {
            limen,
            tokens: Tokens::new(jwt_secret),
            agent: Agent::default(),
            requests: Requests::default(),
            domains: Arc::default(),
            local: false,
            origins: Origins::default(),
            proxies: Proxies::default(),
            buckets: None,
            logins: None,
            initial_password: None,
            data_dir: None,
        }
    }

    /// Answers the command line in its own process, as the owner of the machine. Never served.
    pub(crate) fn local(limen: Limen) -> Self {
        Self { local: true, ..Self::new(limen, &Secret::new("")) }
    }

    /// Also takes tokens that `previous` signed, for as long as they are good; signs none with it.
    #[must_use]
    pub fn with_previous_secret(mut self, previous: &Secret) -> Self {
        self.tokens.also_verify(previous);
        self
    }

    /// Lets web pages of these origins use the API, as `ALLOWED_ORIGINS` does; else none may.
    ///
    /// # Errors
    /// [`Invalid`](limen_core::ErrorKind::Invalid) `allowed_origins`: one is no origin.
    pub fn with_allowed_origins(self, origins: &str) -> Result<Self> {
        let origins = Origins::parse("allowed_origins", origins)
            .map_err(|error| Error::invalid("allowed_origins", error.to_string()))?;
        Ok(self.with_origins(origins))
    }

    /// Believes what these peers say of their clients, as `TRUSTED_PROXIES` does; else this machine
    /// is believed.
    ///
    /// # Errors
    /// [`Invalid`](limen_core::ErrorKind::Invalid) `trusted_proxies`: one is no address and no net.
    pub fn with_trusted_proxies(self, proxies: &str) -> Result<Self> {
        let proxies = Proxies::parse("trusted_proxies", proxies)
            .map_err(|error| Error::invalid("trusted_proxies", error.to_string()))?;
        Ok(self.with_proxies(proxies))
    }

    /// Refuses clients that send more than `per_second` requests (above 0) and, after a pause,
    /// `burst` at once (1 at least); else any number is taken.
    #[must_use]
    pub fn with_rate_limit(mut self, per_second: f64, burst: u32) -> Self {
        self.buckets = Some(Buckets::new(per_second, burst));
        self.logins = Some(Logins::new());
        self
    }

    pub(crate) fn with_origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    pub(crate) fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Passes `/agent/*` on to the agent at `url`, `http://HOST:PORT`: by default to port 9000 of
    /// this machine.
    ///
    /// # Errors
    /// [`Invalid`](limen_core::ErrorKind::Invalid), field `agent_url`: it is another kind of URL.
    pub fn with_agent(self, url: &str) -> Result<Self> {
        Ok(self.at_agent(Agent::at(url)?))
    }

    pub(crate) fn at_agent(self, agent: Agent) -> Self {
        Self { agent, ..self }
    }

    pub(crate) fn with_data_dir(mut self, data_dir: &Path) -> Self {
        self.data_dir = Some(data_dir.to_owned());
        self
    }

    /// When the last backup succeeded, in seconds since 1970; none where there was none.
    pub(crate) async fn last_backup(&self) -> Option<f64> {
        start::last_backup(self.data_dir.as_deref()?).await
    }

    pub(crate) fn with_initial_password(mut self, initial: InitialPassword) -> Self {
        self.initial_password = Some(initial);
        self
    }

    /// The password of user `name` was changed.
    pub(crate) async fn password_changed(&self, name: &str) {
        if let Some(initial) = &self.initial_password {
            initial.forget(name).await;
        }
    }
}

/// The OpenAPI document.
///
/// # Errors
/// [`Internal`](limen_core::ErrorKind::Internal): a defect of the routes' descriptions.
pub fn document() -> Result<Value> {
    openapi::complete(&api::service().spec()).map_err(Error::internal)
}

/// Everything that the server answers, with every layer around it (`edge.rs` lists them).
///
/// # Errors
/// [`Internal`](limen_core::ErrorKind::Internal): a defect of the routes' descriptions.
pub fn endpoint(app: Arc<App>) -> Result<impl Endpoint<Output = Response>> {
    let document = document()?;
    let text = serde_json::to_vec_pretty(&document).map_err(Error::internal)?;
    let docs = Arc::new(Docs::new(page(&document), text));
    let consoles = console::PATHS.map(|(path, kind)| (path.replace(":id", "{id}"), path, kind));
    let others = DOCS.into_iter().chain(["/agent", "/agent/*"]);
    let others: Vec<&str> = others.chain(consoles.iter().map(|(template, ..)| template.as_str())).collect();
    let table = Routes::new(&document, &others);

    let mut routes = api::routes();
    for path in DOCS {
        let docs = Arc::clone(&docs);
        let is_page = path != DOCUMENT;
        let answer = move |_| if is_page { docs.page() } else { docs.document() };
        routes = routes.at(path, poem::get(make_sync(answer)));
    }
    for path in ["/agent", "/agent/", "/agent/*path"] {
        routes = routes.at(path, poem::get(AgentDoor));
    }
    for (path, kind) in console::PATHS {
        routes = routes.at(path, poem::get(Consoles(kind)));
    }
    Ok(Edge::new(routes.map_to_response(), table, app))
}

const DOCUMENT: &str = "/api/swagger.json";
/// The paths that describe the others.
const DOCS: [&str; 3] = ["/docs", "/swagger", DOCUMENT];

/// The user interface with `document` in it: one page that loads nothing.
fn page(document: &Value) -> String {
    // The page holds the document in a script: nothing in it may end that script.
    let document = document.to_string().replace('<', "\\u003c");
    let empty = api::service().swagger_ui_html();
    let start = "let spec = ";
    let end = "let oauth2RedirectUrl;";
    match (empty.rfind(start), empty.rfind(end)) {
        (Some(from), Some(to)) if from < to => {
            let (head, tail) = (&empty[..from], &empty[to..]);
            format!("{head}{start}{document};\n    {tail}")
        }
        _ => empty,
    }
}
