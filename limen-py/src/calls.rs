//! The table of methods: every operation of `Limen` under its own name, with its arguments.
//!
//! A test compares the names with `Limen`'s own and with those of `limen.Client` and
//! `limen.AsyncClient`.

use std::path::PathBuf;
use std::time::Duration;

use limen_core::hypervisor::ByteSource;
use limen_core::model::{
    AuditQuery, ConsoleKind, CreateVm, EventNumber, ImageId, OperationId, PageRequest, PowerAction, SessionId, Token,
    TokenId, UpdateVm, User, UserId, VmId,
};
use limen_core::remote::Remote;
use limen_core::service::{AddImage, CreateToken, CreateUser, UpdateUser, VmQuery};
use limen_core::{Context, Error, ErrorKind, Limen, Result, Secret};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::answer::{Failure, Reply, json_of};
use crate::open::{Embedded, Opened, Way};
use crate::sim;
use crate::streams::{self, Streams};

/// What comes with a call.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    #[serde(default, rename = "as")]
    asker: Asker,
    /// The idempotency key.
    #[serde(default)]
    key: Option<String>,
    #[serde(borrow)]
    args: &'a RawValue,
}

/// Who asks: the owner of the process, unless the client says otherwise; nobody, of a server.
#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Asker {
    #[default]
    Local,
    /// What [`login`](Limen::login) answered: a session's id, or a server's token for it.
    Session(Secret),
    Token(Secret),
}

/// What a method is answered from.
struct Call<'a> {
    embedded: &'a Embedded,
    limen: &'a Limen,
    streams: &'a Streams,
    ctx: &'a Context,
    body: Option<Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Paging {
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Paging {
    fn request(&self) -> Result<PageRequest> {
        let first = self.limit.map_or_else(|| Ok(PageRequest::default()), PageRequest::first)?;
        self.cursor.as_deref().map_or(Ok(first), |cursor| first.with_cursor(cursor))
    }
}

/// Reads JSON; a refusal names the field.
pub(crate) fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(json)).map_err(|error| {
        let path = error.path().to_string();
        // The struct is an argument of the core's alone: to a caller its fields are arguments.
        let field = match path.split_once('.') {
            Some(("add" | "connect" | "create" | "embed" | "page" | "query" | "update", field)) => field,
            _ => &path,
        };
        let text = error.inner().to_string();
        let text = text.split(" at line ").next().unwrap_or(&text);
        Error::invalid(field, format!("{field}: {text}."))
    })
}

pub(crate) fn seconds(field: &str, seconds: f64) -> Result<Duration> {
    let text = "The time must be a number of seconds, 0 or more.";
    Duration::try_from_secs_f64(seconds).map_err(|_| Error::invalid(field, text))
}

/// The version of a VM's record, of its entity tag.
pub(crate) fn version(etag: Option<&str>) -> Result<Option<i64>> {
    let wrong = || Error::invalid("expected", "expected must be the etag of a VM.");
    let record = |etag: &str| etag.split('.').next().and_then(|version| version.parse().ok()).ok_or_else(wrong);
    etag.map(record).transpose()
}

#[derive(Serialize)]
struct Shown<'a> {
    secret: &'a str,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

#[derive(Serialize)]
struct MadeToken<'a> {
    token: &'a Token,
    secret: &'a str,
}

#[derive(Serialize)]
struct LoggedIn<'a> {
    user: &'a User,
    session: SessionId,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// An image's bytes: of a file, or as they came.
async fn source(path: Option<PathBuf>, body: Option<Vec<u8>>) -> Result<ByteSource> {
    match (path, body) {
        (Some(path), None) => {
            let file = tokio::fs::File::open(path).await;
            Ok(Box::new(
                file.map_err(|error| Error::invalid("source", format!("The file cannot be read: {}.", error.kind())))?,
            ))
        }
        (None, Some(bytes)) => Ok(Box::new(std::io::Cursor::new(bytes))),
        _ => Err(Error::invalid("source", "source must be the path of a file, or bytes.")),
    }
}

macro_rules! calls {
    (|$call:ident| $($method:ident($($arg:ident: $type:ty),*) => $answer:expr;)+) => {
        /// The name of every method that is a call of `Limen`'s.
        const METHODS: &[&str] = &[$(stringify!($method),)+];

        async fn dispatch($call: Call<'_>, method: &str, args: &[u8]) -> Result<Reply, Failure> {
            match method {
                $(stringify!($method) => {
                    #[derive(Deserialize)]
                    #[serde(deny_unknown_fields)]
                    struct Args { $($arg: $type,)* }
                    let Args { $($arg,)* } = parse(args)?;
                    let answer: Result<_, Failure> = $answer;
                    answer.map(Reply::from)
                })+
                _ => Err(Failure::new(ErrorKind::Unsupported, "There is no such method.")),
            }
        }
    };
}

/// The name of every method.
pub(crate) fn methods() -> Vec<&'static str> {
    METHODS.iter().copied().chain(streams::METHODS).collect()
}

/// Answers one call.
pub(crate) async fn answer_call(
    opened: &Opened,
    method: &str,
    message: &[u8],
    body: Option<Vec<u8>>,
) -> Result<Reply, Failure> {
    let Message { asker, key, args } = serde_json::from_slice(message).map_err(Error::internal)?;
    let (args, streams) = (args.get().as_bytes(), &opened.streams);
    if streams::METHODS.contains(&method) {
        return streams.answer(method, args, body).await.map(Reply::from);
    }
    let embedded = match &opened.way {
        Way::Embedded(embedded) => embedded,
        Way::Server(server) => {
            let mut server = match asker {
                Asker::Local => server.clone(),
                Asker::Session(secret) | Asker::Token(secret) => server.with_token(secret),
            };
            if let Some(key) = key {
                server = server.with_idempotency_key(key);
            }
            return ask(&server, streams, method, args).await.map(Reply::from);
        }
    };
    let limen = &embedded.limen;
    let mut ctx = match &asker {
        Asker::Local => Context::local(),
        Asker::Session(id) => Context::new(limen.authenticate(session(id)?).await?),
        Asker::Token(secret) => Context::new(limen.authenticate_token(secret).await?),
    };
    if let Some(key) = key {
        ctx = ctx.with_idempotency_key(key);
    }
    dispatch(Call { embedded, limen, streams, ctx: &ctx, body }, method, args).await
}

/// Answers one call from a server.
async fn ask(server: &Remote, streams: &Streams, method: &str, args: &[u8]) -> Result<Vec<u8>, Failure> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Watched {
        after: EventNumber,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Looked {
        id: VmId,
        kind: ConsoleKind,
    }
    match method {
        "open" => {
            server.health().await?;
            Ok(b"null".to_vec())
        }
        "watch_events" => {
            let Watched { after } = parse(args)?;
            json_of(&streams.add_events(server.watch_events(after).await?))
        }
        "open_console" => {
            let Looked { id, kind } = parse(args)?;
            json_of(&streams.add_console(server.open_console(id, kind).await?))
        }
        "simulate" => Err(Failure::new(ErrorKind::Unsupported, "A server's simulated hosts are its own.")),
        _ => Ok(server.call(method, parse(args)?).await?),
    }
}

fn session(id: &Secret) -> Result<SessionId> {
    id.expose().parse().map_err(|_| Error::new(ErrorKind::Unauthenticated, "There is no such session."))
}

calls! { |call|
    open() => Ok(b"null".to_vec());
    event() => json_of(&call.limen.event());
    wait_for_event(number: EventNumber, timeout: f64) => {
        call.limen.wait_for_event(number, seconds("timeout", timeout)?).await?;
        Ok(b"null".to_vec())
    };
    health() => json_of(&call.limen.health().await);
    ping_store() => json_of(&call.limen.ping_store().await?);
    refusals() => json_of(&call.limen.refusals());

    login(name: String, password: Secret) => {
        let (user, session) = call.limen.login(call.ctx, &name, &password).await?;
        json_of(&LoggedIn { user: &user, session: session.id, expires_at: session.expires_at })
    };
    logout() => json_of(&call.limen.logout(call.ctx).await?);
    get_me() => json_of(&call.limen.get_me(call.ctx).await?);
    change_password(current: Secret, new: Secret) => {
        json_of(&call.limen.change_password(call.ctx, &current, &new).await?)
    };
    list_users(page: Paging) => json_of(&call.limen.list_users(call.ctx, page.request()?).await?);
    get_user(id: UserId) => json_of(&call.limen.get_user(call.ctx, id).await?);
    create_user(create: CreateUser) => json_of(&call.limen.create_user(call.ctx, create).await?);
    update_user(id: UserId, update: UpdateUser) => json_of(&call.limen.update_user(call.ctx, id, update).await?);
    delete_user(id: UserId) => json_of(&call.limen.delete_user(call.ctx, id).await?);
    create_token(create: CreateToken) => {
        let (token, secret) = call.limen.create_token(call.ctx, create).await?;
        json_of(&MadeToken { token: &token, secret: secret.expose() })
    };
    list_tokens(page: Paging) => json_of(&call.limen.list_tokens(call.ctx, page.request()?).await?);
    delete_token(id: TokenId) => json_of(&call.limen.delete_token(call.ctx, id).await?);
    get_quota() => json_of(&call.limen.get_quota(call.ctx).await?);

    list_vms(query: VmQuery, page: Paging) => {
        Ok(call.limen.list_vms(call.ctx, &query, page.request()?).await?)
    };
    get_vm(id: VmId) => {
        let view = call.limen.get_vm(call.ctx, id).await?;
        let mut told: Value = serde_json::from_slice(&view.json).map_err(Error::internal)?;
        told["etag"] = json!(view.etag);
        told["event"] = json!(view.event);
        json_of(&told)
    };
    create_vm(create: CreateVm) => json_of(&call.limen.create_vm(call.ctx, create).await?);
    update_vm(id: VmId, update: UpdateVm, expected: Option<String>) => {
        json_of(&call.limen.update_vm(call.ctx, id, update, version(expected.as_deref())?).await?)
    };
    delete_vm(id: VmId, expected: Option<String>) => {
        json_of(&call.limen.delete_vm(call.ctx, id, version(expected.as_deref())?).await?)
    };
    change_power(id: VmId, action: PowerAction, timeout_s: Option<u32>) => {
        json_of(&call.limen.change_power(call.ctx, id, action, timeout_s).await?)
    };
    create_ticket(id: VmId, kind: ConsoleKind) => {
        let ticket = call.limen.create_ticket(call.ctx, id, kind).await?;
        json_of(&Shown { secret: ticket.secret.expose(), expires_at: ticket.expires_at })
    };
    open_console(id: VmId, kind: ConsoleKind) => {
        let console = call.limen.open_console(call.ctx, id, kind).await?;
        json_of(&call.streams.add_console(console))
    };
    vm_stats(id: VmId) => json_of(&call.limen.vm_stats(call.ctx, id).await?);

    list_images(page: Paging) => json_of(&call.limen.list_images(call.ctx, page.request()?).await?);
    get_image(id: ImageId) => json_of(&call.limen.get_image(call.ctx, id).await?);
    add_image(add: AddImage, path: Option<PathBuf>) => {
        json_of(&call.limen.add_image(call.ctx, add, source(path, call.body).await?).await?)
    };
    delete_image(id: ImageId) => json_of(&call.limen.delete_image(call.ctx, id).await?);

    list_hosts() => json_of(&call.limen.list_hosts(call.ctx).await?);
    host_metrics(name: String) => json_of(&call.limen.host_metrics(call.ctx, &name).await?);
    list_networks() => json_of(&call.limen.list_networks(call.ctx).await?);

    list_operations(vm: Option<VmId>, page: Paging) => {
        json_of(&call.limen.list_operations(call.ctx, vm, page.request()?).await?)
    };
    get_operation(id: OperationId) => json_of(&call.limen.get_operation(call.ctx, id).await?);
    wait_operation(id: OperationId, timeout: f64) => {
        json_of(&call.limen.wait_operation(call.ctx, id, seconds("timeout", timeout)?).await?)
    };
    cancel_operation(id: OperationId) => json_of(&call.limen.cancel_operation(call.ctx, id).await?);
    resume_operation(id: OperationId) => json_of(&call.limen.resume_operation(call.ctx, id).await?);
    abandon_operation(id: OperationId) => json_of(&call.limen.abandon_operation(call.ctx, id).await?);

    watch_events(after: EventNumber) => {
        let events = call.limen.watch_events(call.ctx, after).await?;
        json_of(&call.streams.add_events(events))
    };

    list_audit(query: AuditQuery, page: Paging) => {
        json_of(&call.limen.list_audit(call.ctx, &query, page.request()?).await?)
    };
    get_metrics() => json_of(&call.limen.get_metrics(call.ctx).await?);
    check() => json_of(&call.limen.check(call.ctx).await?);
    get_restored() => json_of(&call.limen.get_restored(call.ctx).await?);

    simulate(host: Option<String>, order: sim::Order) => {
        let sim = match &host {
            Some(name) => call.embedded.sims.get(name),
            None => call.embedded.sims.values().next(),
        };
        let none = || Error::new(ErrorKind::Unsupported, "There is no simulated host of this name.");
        json_of(&sim::obey(sim.ok_or_else(none)?, order)?)
    };
}
