//! What handlers get: who calls, the body, the query. Each refuses what it does not understand.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::time::Duration;

use limen_core::model::{EventNumber, Operation, SessionRecord, UserId};
use limen_core::{Actor, Context, Error, ErrorKind, Limen, Secret};
use poem::http::{HeaderMap, HeaderName, Method, header};
use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, MetaSecurityScheme, Registry};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions, types};
use serde::de::DeserializeOwned;

pub(crate) use self::conditions::Conditions;
pub(crate) use self::query::{Plain, Query, page, parse_query};
pub(crate) use self::visitor::Visitor;
use crate::answer::{Accepted, X_LIMEN_EVENT};
use crate::app::App;
use crate::auth;
use crate::dto::Described;
use crate::edge::Arrival;
use crate::edge::rate::{self, Sender};
use crate::error::{self, Problem, Result};
use crate::line::Line;

mod conditions;
mod query;
mod visitor;

/// The most that a JSON body may have.
const BODY_LIMIT: usize = 1 << 20;
/// The largest event number that is read: every client's language has it exactly.
pub(crate) const LARGEST_EVENT: EventNumber = (1 << 53) - 1;
/// How long a request that names an event waits for it.
const EVENT_WAIT: Duration = Duration::from_secs(1);
/// The longest that `Prefer: wait` waits: below what proxies in common use wait for an answer.
const LONGEST_WAIT: Duration = Duration::from_secs(50);

/// Anybody: no token is asked for.
#[derive(Debug)]
pub(crate) struct Anybody {
    arrival: Arrival,
    context: Context,
}

/// A user with a live session, or a program with an API token. Dereferences to the context of the call.
#[derive(Debug)]
pub(crate) struct Caller {
    arrival: Arrival,
    context: Context,
    gzip: bool,
}

/// A [`Caller`] whose request starts an operation: it may wait for it, and repeat a POST safely.
#[derive(Debug)]
pub(crate) struct Starter {
    caller: Caller,
    wait: Option<Duration>,
    line: Line,
}

impl Anybody {
    pub(crate) fn app(&self) -> &App {
        &self.arrival.app
    }

    pub(crate) fn limen(&self) -> &Limen {
        &self.arrival.app.limen
    }

    /// Exchanges name and password for a session, where there were not too many tries before.
    pub(crate) async fn login(&self, username: &str, password: &Secret) -> Result<SessionRecord> {
        let from = self.arrival.origin.map(Sender::from);
        let limit = self.app().logins.as_ref().zip(from);
        if let Some((logins, from)) = &limit {
            logins.admit(username, *from).map_err(|wait| rate::refusal("Too many logins", wait))?;
        }
        let login = self.limen().login(self, username, password).await;
        if let Some((logins, from)) = limit
            && !login.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unauthenticated)
        {
            logins.forgive(username, from);
        }
        Ok(login?.1)
    }
}

impl Deref for Anybody {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Caller {
    pub(crate) fn app(&self) -> &App {
        &self.arrival.app
    }

    pub(crate) fn limen(&self) -> &Limen {
        &self.arrival.app.limen
    }

    /// The caller's own password was changed.
    pub(crate) async fn password_changed(&self) {
        if let Actor::User { name, .. } = self.actor() {
            self.app().password_changed(name).await;
        }
    }

    /// Whether the client takes gzip (RFC 9110, 12.5.3). A weight of 0 refuses it.
    pub(crate) fn accepts_gzip(&self) -> bool {
        self.gzip
    }

    /// The newest event that this server shows, for the answer to a change.
    pub(crate) fn event(&self) -> EventNumber {
        self.limen().event()
    }
}

impl Deref for Caller {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

impl Deref for Starter {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Starter {
    /// Answers with the operation: as it is, or once it is finished where the caller wants to wait.
    pub(crate) async fn answer(&self, operation: Operation) -> Result<Accepted> {
        let operation = match self.wait {
            Some(wait) if !operation.state.is_finished() => {
                let mut line = self.line.clone();
                tokio::select! {
                    ended = self.limen().wait_operation(self, operation.id, wait) => ended?,
                    // The answer of a server that stops is the operation as it is: it goes on later.
                    () = line.stopping() => self.limen().get_operation(self, operation.id).await?,
                }
            }
            _ => operation,
        };
        match operation.error {
            Some(error) if self.wait.is_some() && operation.state.is_finished() => {
                Err(Problem::Operation(operation.id, error))
            }
            _ => Accepted::new(&operation, self.event()),
        }
    }
}

pub(crate) fn arrival(request: &Request) -> Result<&Arrival> {
    request
        .extensions()
        .get::<Arrival>()
        .ok_or_else(|| Problem::Core(Error::internal("a request that did not come through the edge")))
}

fn context(actor: Actor, request_id: &str, origin: Option<IpAddr>) -> Context {
    let context = Context::of_request(actor, request_id);
    match origin {
        Some(origin) => context.with_origin(origin),
        None => context,
    }
}

/// Who the request's token is of, as they are once this server shows the event that the request
/// names.
async fn authenticate(app: &App, headers: &HeaderMap) -> Result<Actor> {
    if app.local {
        return Ok(Actor::Local);
    }
    let bearer = auth::bearer(headers).inspect_err(|_| app.limen.count_unknown())?;
    if Limen::is_token(bearer) {
        await_event(app, headers).await?;
        return Ok(app.limen.authenticate_token(&Secret::new(bearer)).await?);
    }
    let (session, user) = app.tokens.verify(bearer).inspect_err(|_| app.limen.count_unknown())?;
    await_event(app, headers).await?;
    let actor = app.limen.authenticate(session).await?;
    if actor.user_id() == Some(user) {
        return Ok(actor);
    }
    app.limen.count_unknown();
    Err(auth::refused())
}

/// The user that a request's token is of, where it is good now. Lets nobody in: it tells clients apart.
pub(crate) fn user_of(app: &App, headers: &HeaderMap) -> Option<UserId> {
    let bearer = auth::bearer(headers).ok()?;
    if Limen::is_token(bearer) {
        return app.limen.user_of_token(&Secret::new(bearer));
    }
    let (session, user) = app.tokens.verify(bearer).ok()?;
    app.limen.user_of_session(session).filter(|of| *of == user)
}

/// A request that brings an event number is answered once this server shows that event.
async fn await_event(app: &App, headers: &HeaderMap) -> Result<()> {
    let Some(value) = headers.get(&X_LIMEN_EVENT) else { return Ok(()) };
    let number = value
        .to_str()
        .ok()
        .and_then(|text| text.parse::<EventNumber>().ok())
        .filter(|number| (0..=LARGEST_EVENT).contains(number));
    let Some(number) = number else {
        return Err(Problem::invalid(X_LIMEN_EVENT.as_str(), "X-Limen-Event must be a number that an answer carried."));
    };
    Ok(app.limen.wait_for_event(number, EVENT_WAIT).await?)
}

fn refuse_idempotency_key(headers: &HeaderMap) -> Result<()> {
    if headers.contains_key("idempotency-key") {
        return Err(Problem::invalid("idempotency-key", "Idempotency-Key goes with a POST that starts an operation."));
    }
    Ok(())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().ok().filter(|key| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) && values.next().is_none()
    });
    match key {
        Some(key) => Ok(Some(key.to_owned())),
        None => Err(Problem::invalid("idempotency-key", "Idempotency-Key must be 1 to 255 visible ASCII characters.")),
    }
}

/// `Prefer: wait=N` in seconds (RFC 7240); what is not understood is no preference.
fn preferred_wait(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split([',', ';']));
    let seconds = preferences.find_map(|preference| {
        let (name, value) = preference.split_once('=')?;
        if !name.trim().eq_ignore_ascii_case("wait") {
            return None;
        }
        value.trim().trim_matches('"').parse::<u32>().ok()
    })?;
    Some(Duration::from_secs(seconds.into()).min(LONGEST_WAIT))
}

impl<'a> ApiExtractor<'a> for Anybody {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];
    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let arrival = arrival(request)?.clone();
        refuse_idempotency_key(request.headers())?;
        let context = stranger(&arrival);
        Ok(Self { arrival, context })
    }
}

/// The context of a request that nobody who is known makes.
pub(crate) fn stranger(arrival: &Arrival) -> Context {
    context(Actor::Anonymous, &arrival.request_id, arrival.origin)
}

/// Who calls, by the token of the request.
pub(crate) async fn caller(request: &Request) -> Result<Caller> {
    let arrival = arrival(request)?.clone();
    let actor = authenticate(&arrival.app, request.headers()).await?;
    arrival.known.store(true, Ordering::Relaxed);
    let context = context(actor, &arrival.request_id, arrival.origin);
    Ok(Caller { arrival, context, gzip: accepts_gzip(request.headers()) })
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    accepts(headers, header::ACCEPT_ENCODING, "gzip")
}

/// Whether a header of choices names `wanted` (RFC 9110, 12.4.2). A weight of 0 refuses it.
fn accepts(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|choice| {
        let mut parts = choice.split(';').map(str::trim);
        let is_wanted = parts.next().is_some_and(|named| named.eq_ignore_ascii_case(wanted));
        let refused = |part: &str| {
            let weight = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
            // A weight that is none counts as a refusal: plain is always understood.
            weight.is_some_and(|(_, q)| !q.trim().parse::<f32>().is_ok_and(|q| q > 0.0))
        };
        is_wanted && !parts.any(refused)
    })
}

/// How the document calls the way in.
pub(crate) const SECURITY_SCHEME: &str = "bearer";

fn register_security(registry: &mut Registry) {
    registry.create_security_scheme(
        SECURITY_SCHEME,
        MetaSecurityScheme {
            ty: "http",
            description: Some("The `access_token` that `POST /api/auth/login` answers, or an API token."),
            name: None,
            key_in: None,
            scheme: Some("bearer"),
            bearer_format: None,
            flows: None,
            openid_connect_url: None,
        },
    );
}

impl<'a> ApiExtractor<'a> for Caller {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_security(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SECURITY_SCHEME]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let caller = caller(request).await?;
        refuse_idempotency_key(request.headers())?;
        Ok(caller)
    }
}

impl<'a> ApiExtractor<'a> for Starter {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        register_security(registry);
    }

    fn security_schemes() -> Vec<&'static str> {
        vec![SECURITY_SCHEME]
    }

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let mut caller = caller(request).await?;
        if request.method() == Method::POST {
            if let Some(key) = idempotency_key(request.headers())? {
                caller.context = caller.context.with_idempotency_key(key);
            }
        } else {
            refuse_idempotency_key(request.headers())?;
        }
        let line = request.extensions().get::<Line>().cloned().unwrap_or_default();
        Ok(Self { caller, wait: preferred_wait(request.headers()), line })
    }
}

/// A `Last-Event-ID` header: the number of the event that the client saw last.
#[derive(Debug)]
pub(crate) struct LastEvent(pub(crate) Option<EventNumber>);

impl<'a> ApiExtractor<'a> for LastEvent {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];
    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        let Some(value) = request.headers().get("last-event-id") else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default();
        let number = text.parse().ok().filter(|number| (0..=LARGEST_EVENT).contains(number));
        if number.is_none() {
            return Err(Problem::invalid("last-event-id", "Last-Event-ID must be the number of an event.").into());
        }
        Ok(Self(number))
    }
}

/// A JSON body, read by serde alone: unknown and repeated fields are refused.
#[derive(Debug)]
pub(crate) struct Body<T>(pub(crate) T);

impl<'a, T: Described + DeserializeOwned + Send> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        <T::Schema as types::Type>::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content =
            MetaMediaType { content_type: "application/json", schema: <T::Schema as types::Type>::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let headers = request.headers();
        if !is_json(headers) || headers.contains_key(header::CONTENT_ENCODING) {
            return Err(Problem::UnsupportedMediaType.into());
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > BODY_LIMIT) {
            return Err(error::too_large().into());
        }
        let bytes = body.take()?.into_bytes_limit(BODY_LIMIT).await.map_err(|e| error::unreadable(&e))?;
        Ok(Self(parse(&bytes)?))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return false };
    let Ok(text) = value.to_str() else { return false };
    let mut parts = text.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"));
    is_json && parts.all(|parameter| parameter.is_empty() || parameter.eq_ignore_ascii_case("charset=utf-8"))
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // serde would take an array for an object, its fields in their order.
    if bytes.trim_ascii_start().first().is_some_and(|first| *first == b'[') {
        return Err(Problem::invalid("body", "The body must be a JSON object, not an array."));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = match error.path().to_string().as_str() {
            "." => String::new(),
            path => path.trim_start_matches('.').to_owned(),
        };
        let cause = error.inner();
        if cause.is_data() { bad_field(path, &cause.to_string()) } else { bad_json(cause) }
    })?;
    reader.end().map_err(|error| bad_json(&error))?;
    Ok(value)
}

fn bad_json(error: &serde_json::Error) -> Problem {
    Problem::invalid("body", format!("The body is not JSON that LIMEN reads: {error}."))
}

/// serde names an unknown or missing field in its sentence, and its parent in the path.
fn bad_field(path: String, sentence: &str) -> Problem {
    let sentence = sentence.split(" at line ").next().unwrap_or(sentence);
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|start| sentence.strip_prefix(start)?.split('`').next());
    let field = match named {
        Some(name) if path.is_empty() || path == name || path.ends_with(&format!(".{name}")) => {
            if path.is_empty() {
                name.to_owned()
            } else {
                path
            }
        }
        Some(name) => format!("{path}.{name}"),
        None if path.is_empty() => "body".to_owned(),
        None => path,
    };
    let mut detail = sentence.to_owned();
    if let Some(first) = detail.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    detail.push('.');
    Problem::invalid(field, detail)
}
