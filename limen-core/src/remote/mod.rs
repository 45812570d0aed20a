//! The client of a server: the operations of [`Limen`](crate::Limen) over HTTP, with the same names,
//! arguments, answers and errors.
//!
//! `routes` turns an operation and its arguments into a request, and the answer into what `Limen`
//! answers; `wire` carries it; `events` and `console` are what is open for long; `typed` are the
//! operations with their types. [`Remote::call`] is the same with names and JSON, for programs in other
//! languages.
//!
//! Invariant: a request that may have changed something is sent once. It is sent again only when the
//! server said that it did nothing for it (429).

mod console;
mod events;
mod routes;
mod typed;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

pub use self::console::RemoteConsole;
pub use self::events::RemoteEvents;
use self::routes::{Args, Request, json_of};
use self::wire::{Answer, Wire, strange};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{EventNumber, OperationState};
use crate::secret::Secret;

/// The first and the longest pause between two looks at what is waited for.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A server of LIMEN's, and who asks it. Cheap to clone; clones share their connections.
///
/// Every operation has the name that it has of [`Limen`](crate::Limen), and its errors. Those that every
/// one may have besides: [`Unavailable`](ErrorKind::Unavailable) where no LIMEN answers,
/// [`Unauthenticated`](ErrorKind::Unauthenticated) where the token is no longer good, and
/// [`Interrupted`](ErrorKind::Interrupted) where a change was sent and no answer came: it may be done or
/// not. A server that takes no more requests for now is asked again after the time that it names, five
/// times at most.
///
/// ```no_run
/// # async fn run(token: limen_core::Secret) -> limen_core::Result<()> {
/// use std::time::Duration;
///
/// use limen_core::model::{CreateVm, PageRequest};
/// use limen_core::remote::Remote;
/// use limen_core::service::VmQuery;
///
/// // `token` is the secret of an API token.
/// let limen = Remote::connect("https://limen.example")?.with_token(token);
/// let operation = limen.create_vm(CreateVm::new("web-1", 2, 1024)).await?;
/// limen.wait_operation(operation.id, Duration::from_secs(60)).await?;
/// for listed in limen.list_vms(&VmQuery::default(), PageRequest::default()).await?.vms.iter() {
///     println!("{} is {}", listed.vm.name, listed.vm.status.state.as_str());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Remote {
    wire: Arc<Wire>,
    who: Option<Secret>,
    key: Option<String>,
}

impl Remote {
    /// The server at `url`: `http://HOST:PORT` or `https://HOST:PORT`. Nothing is asked of it yet. Its
    /// certificate must be one that this machine trusts.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) `url`: it is another kind of URL.
    pub fn connect(url: &str) -> Result<Self> {
        Self::to(url, None)
    }

    /// The same, with the certificates of the file `ca_file` (PEM) trusted besides the machine's own.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) `url` or `ca_file`.
    pub fn connect_trusting(url: &str, ca_file: &Path) -> Result<Self> {
        Self::to(url, Some(ca_file))
    }

    fn to(url: &str, ca_file: Option<&Path>) -> Result<Self> {
        Ok(Self { wire: Arc::new(Wire::to(url, ca_file)?), who: None, key: None })
    }

    /// A client that asks as whom this token is of: an API token, or a session's. It is sent to this
    /// server alone.
    #[must_use]
    pub fn with_token(&self, token: Secret) -> Self {
        Self { who: Some(token), ..self.clone() }
    }

    /// A client whose changes bear this idempotency key: the same key with the same request is answered
    /// with the same operation. `create_vm` and `change_power` take one.
    #[must_use]
    pub fn with_idempotency_key(&self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self.clone() }
    }

    /// Does one operation by its name; arguments and answer are JSON: an argument's member bears the
    /// name of the operation's parameter, and structs are objects. For bindings of other languages.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid): an argument is missing, or of another type.
    /// [`Unsupported`](ErrorKind::Unsupported): there is no operation of this name, or not over HTTP
    /// (`add_image`). Else those of the operation.
    pub async fn call(&self, operation: &str, args: Map<String, Value>) -> Result<Vec<u8>> {
        let mut args = Args(args);
        match operation {
            "health" => json_of(&self.look_at_health().await?),
            "ping_store" => match self.look_at_health().await?["store"] {
                Value::Bool(true) => Ok(b"null".to_vec()),
                _ => Err(Error::unavailable("The store")),
            },
            "event" => json_of(&self.shown(None).await?),
            "wait_for_event" => {
                self.wait_shown(args.number("number")?, args.seconds("timeout")?).await?;
                Ok(b"null".to_vec())
            }
            "wait_operation" => self.wait_finished(&args.id()?.to_string(), args.seconds("timeout")?).await,
            _ => {
                let route = routes::of(operation, args)?;
                let answer = self.ask(route.request.keyed(self.key.as_deref())?, None).await?;
                route.answer.read(answer)
            }
        }
    }

    async fn ask(&self, request: Request, at_least: Option<EventNumber>) -> Result<Answer> {
        self.wire.ask(request, self.who.as_ref(), at_least).await
    }

    /// How LIMEN at the address is.
    async fn look_at_health(&self) -> Result<Value> {
        let answer = self.wire.ask(Request::get("/api/health"), None, None).await;
        let answer = answer.map(|answer| serde_json::from_slice(&answer.body).unwrap_or_default());
        let told: Value = match answer {
            Err(error) if error.kind() != ErrorKind::Internal => return Err(error),
            answer => answer.unwrap_or_default(),
        };
        match (told["store"].as_str(), told["hosts"].as_array()) {
            (Some(store), Some(hosts)) => Ok(json!({ "store": store == "ok", "hosts": hosts })),
            _ => {
                let text = format!("What answers at {} is not LIMEN.", self.wire.url());
                Err(Error::new(ErrorKind::Unavailable, text))
            }
        }
    }

    /// The number of the last event that the server shows, once that is `at_least`.
    async fn shown(&self, at_least: Option<EventNumber>) -> Result<EventNumber> {
        let answer = self.ask(Request::get("/api/vms?limit=1"), at_least).await?;
        answer.event.ok_or_else(|| Error::internal("the answer bears no event number"))
    }

    async fn wait_shown(&self, number: EventNumber, at_most: Duration) -> Result<()> {
        let waiting = async {
            loop {
                match self.shown(Some(number)).await {
                    Err(error) if error.kind() == ErrorKind::Unavailable => tokio::time::sleep(PAUSES.0).await,
                    told => return told,
                }
            }
        };
        match tokio::time::timeout(at_most, waiting).await {
            Ok(told) => told.map(drop),
            Err(_) => Err(Error::new(ErrorKind::Unavailable, "The server does not show this event yet.")),
        }
    }

    async fn wait_finished(&self, operation: &str, at_most: Duration) -> Result<Vec<u8>> {
        #[derive(Deserialize)]
        struct Seen {
            state: OperationState,
        }
        let started = Instant::now();
        let mut pause = PAUSES.0;
        loop {
            let answer = self.ask(Request::get(format!("/api/operations/{operation}")), None).await?;
            let Seen { state } = serde_json::from_slice(&answer.body).map_err(strange)?;
            let rest = at_most.saturating_sub(started.elapsed());
            if state.is_finished() || rest.is_zero() {
                return Ok(answer.body.to_vec());
            }
            tokio::time::sleep(pause.min(rest)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}
