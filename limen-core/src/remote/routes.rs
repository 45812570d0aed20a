//! Which request a method is, and what its answer is to become: the one table of `docs/openapi.json`'s
//! operations, with the names that differ on the wire (a user's `name` is `username` there).

use std::fmt::Display;
use std::time::Duration;

use form_urlencoded::Serializer;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue, IF_MATCH};
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::wire::{Answer, strange};
use crate::error::{Error, ErrorKind, Result};

/// What is sent.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    /// With its query.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Value>,
}

/// A request, and how its answer is read.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) request: Request,
    pub(super) answer: Reader,
}

/// What an answer's JSON is to become.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reader {
    /// It is what the embedded one answers.
    Same,
    Nothing,
    /// The items of a list that is never in parts.
    Items,
    User,
    Users,
    Tokens,
    NewToken,
    Ticket,
    Session,
    /// One VM, with its tag and event.
    Vm,
    /// A page of VMs, with its event.
    Vms,
    /// A member of the figures.
    Part(&'static str),
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: HeaderMap::new(), body: None }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    fn with_body(mut self, body: impl Into<Value>) -> Self {
        self.body = Some(body.into());
        self
    }

    fn with_query(mut self, query: &[(String, String)]) -> Self {
        if !query.is_empty() {
            let query = Serializer::new(String::new()).extend_pairs(query).finish();
            self.path = format!("{}?{query}", self.path);
        }
        self
    }

    fn accepting_json(mut self) -> Self {
        self.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        self
    }

    /// Only where the VM's record is still that of this tag.
    fn expecting(mut self, etag: Option<&str>) -> Result<Self> {
        if let Some(etag) = etag {
            let wrong = || Error::invalid("expected", "expected must be the etag of a VM.");
            etag.split('.').next().and_then(|version| version.parse::<i64>().ok()).ok_or_else(wrong)?;
            let tag = HeaderValue::from_str(&format!("\"{etag}\"")).map_err(|_| wrong())?;
            self.headers.insert(IF_MATCH, tag);
        }
        Ok(self)
    }

    /// With an idempotency key.
    pub(super) fn keyed(mut self, key: Option<&str>) -> Result<Self> {
        if let Some(key) = key {
            let text = "idempotency_key must be 1 to 255 visible ASCII characters.";
            let key = HeaderValue::from_str(key).map_err(|_| Error::invalid("idempotency_key", text))?;
            self.headers.insert(HeaderName::from_static("idempotency-key"), key);
        }
        Ok(self)
    }

    fn read_as(self, answer: Reader) -> Route {
        Route { request: self, answer }
    }
}

/// The arguments of a call, taken one by one.
pub(super) struct Args(pub(super) Map<String, Value>);

fn wrong(name: &str, what: impl Display) -> Error {
    Error::invalid(name, format!("{name}: it must be {what}."))
}

impl Args {
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &'static str) -> Result<String> {
        match self.take(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(wrong(name, "a text")),
        }
    }

    fn optional(&mut self, name: &'static str) -> Result<Option<String>> {
        if self.0.get(name).is_none_or(Value::is_null) { Ok(None) } else { self.text(name).map(Some) }
    }

    /// The id of a thing: no other text comes into a path.
    pub(super) fn id(&mut self) -> Result<Uuid> {
        self.text("id")?.parse().map_err(|_| wrong("id", "a UUID"))
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<i64> {
        self.take(name).and_then(|value| value.as_i64()).ok_or_else(|| wrong(name, "a number"))
    }

    pub(super) fn seconds(&mut self, name: &'static str) -> Result<Duration> {
        let seconds = self.take(name).and_then(|value| value.as_f64());
        let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        seconds.ok_or_else(|| Error::invalid(name, "The time must be a number of seconds, 0 or more."))
    }

    fn object(&mut self, name: &'static str) -> Result<Map<String, Value>> {
        match self.take(name) {
            Some(Value::Object(object)) => Ok(object),
            None => Ok(Map::new()),
            Some(_) => Err(wrong(name, "an object")),
        }
    }

    /// The members of `query` and `page` as a query string's; the server refuses what it does not know.
    fn query(&mut self) -> Result<Vec<(String, String)>> {
        let mut members = self.object("query")?;
        members.extend(self.object("page")?);
        rename(&mut members, "user", "user_id");
        let mut query = Vec::new();
        for (name, value) in members {
            let value = match value {
                Value::Null => continue,
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                _ => return Err(wrong(&name, "a text")),
            };
            query.push((name, value));
        }
        Ok(query)
    }
}

/// Gives a member the name that it has on the wire, or takes it back.
fn rename(object: &mut Map<String, Value>, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.insert(to.to_owned(), value);
    }
}

/// The request that a method is.
pub(super) fn of(method: &str, mut args: Args) -> Result<Route> {
    let route = match method {
        "login" => {
            let body = json!({ "username": args.text("name")?, "password": args.text("password")? });
            Request::new(Method::POST, "/api/auth/login").with_body(body).read_as(Reader::Session)
        }
        "logout" => Request::new(Method::POST, "/api/auth/logout").read_as(Reader::Nothing),
        "get_me" => Request::get("/api/auth/me").read_as(Reader::User),
        "change_password" => {
            let body = json!({ "current_password": args.text("current")?, "new_password": args.text("new")? });
            Request::new(Method::POST, "/api/auth/password").with_body(body).read_as(Reader::Nothing)
        }
        "list_users" => Request::get("/api/users").with_query(&args.query()?).read_as(Reader::Users),
        "get_user" => Request::get(format!("/api/users/{}", args.id()?)).read_as(Reader::User),
        "create_user" => {
            let mut body = args.object("create")?;
            rename(&mut body, "name", "username");
            Request::new(Method::POST, "/api/users").with_body(body).read_as(Reader::User)
        }
        "update_user" => {
            let path = format!("/api/users/{}", args.id()?);
            Request::new(Method::PATCH, path).with_body(args.object("update")?).read_as(Reader::User)
        }
        "delete_user" => Request::new(Method::DELETE, format!("/api/users/{}", args.id()?)).read_as(Reader::Nothing),
        "create_token" => {
            let mut body = args.object("create")?;
            rename(&mut body, "vm", "vm_id");
            Request::new(Method::POST, "/api/tokens").with_body(body).read_as(Reader::NewToken)
        }
        "list_tokens" => Request::get("/api/tokens").with_query(&args.query()?).read_as(Reader::Tokens),
        "delete_token" => Request::new(Method::DELETE, format!("/api/tokens/{}", args.id()?)).read_as(Reader::Nothing),
        "get_quota" => Request::get("/api/quota").read_as(Reader::Same),

        "list_vms" => Request::get("/api/vms").with_query(&args.query()?).read_as(Reader::Vms),
        "get_vm" => Request::get(format!("/api/vms/{}", args.id()?)).read_as(Reader::Vm),
        "create_vm" => Request::new(Method::POST, "/api/vms").with_body(args.object("create")?).read_as(Reader::Same),
        "update_vm" => {
            let request = Request::new(Method::PATCH, format!("/api/vms/{}", args.id()?));
            let request = request.with_body(args.object("update")?);
            request.expecting(args.optional("expected")?.as_deref())?.read_as(Reader::Same)
        }
        "delete_vm" => {
            let request = Request::new(Method::DELETE, format!("/api/vms/{}", args.id()?));
            request.expecting(args.optional("expected")?.as_deref())?.read_as(Reader::Same)
        }
        "change_power" => {
            let path = format!("/api/vms/{}/power", args.id()?);
            Request::new(Method::POST, path).with_body(args.0.clone()).read_as(Reader::Same)
        }
        "create_ticket" => {
            let path = format!("/api/vms/{}/console", args.id()?);
            Request::new(Method::POST, path).with_body(args.0.clone()).read_as(Reader::Ticket)
        }
        "vm_stats" => Request::get(format!("/api/vms/{}/stats", args.id()?)).read_as(Reader::Same),

        "list_images" => Request::get("/api/images").with_query(&args.query()?).read_as(Reader::Same),
        "get_image" => Request::get(format!("/api/images/{}", args.id()?)).read_as(Reader::Same),
        "add_image" => {
            let text = "A server takes no images over HTTP: add it on the server's machine, with `limen image add`.";
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        "delete_image" => Request::new(Method::DELETE, format!("/api/images/{}", args.id()?)).read_as(Reader::Same),

        "list_hosts" => Request::get("/api/hosts").read_as(Reader::Items),
        "host_metrics" => {
            let name = args.text("name")?;
            if ["", ".", ".."].contains(&&*name) {
                return Err(Error::not_found("host"));
            }
            let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
            Request::get(format!("/api/hosts/{name}/metrics")).read_as(Reader::Same)
        }
        "list_networks" => Request::get("/api/networks").read_as(Reader::Items),

        "list_operations" => {
            let mut query = args.query()?;
            query.extend(args.optional("vm")?.map(|vm| ("vm_id".to_owned(), vm)));
            Request::get("/api/operations").with_query(&query).read_as(Reader::Same)
        }
        "get_operation" => Request::get(format!("/api/operations/{}", args.id()?)).read_as(Reader::Same),
        "cancel_operation" | "resume_operation" | "abandon_operation" => {
            let verb = method.trim_end_matches("_operation");
            Request::new(Method::POST, format!("/api/operations/{}/{verb}", args.id()?)).read_as(Reader::Same)
        }

        "list_audit" => Request::get("/api/audit").with_query(&args.query()?).read_as(Reader::Same),
        "get_metrics" => Request::get("/api/metrics").accepting_json().read_as(Reader::Same),
        "refusals" => Request::get("/api/metrics").accepting_json().read_as(Reader::Part("refusals")),
        "check" => Request::get("/api/check").read_as(Reader::Same),
        "get_restored" => Request::get("/api/restored").read_as(Reader::Same),
        _ => return Err(Error::new(ErrorKind::Unsupported, "There is no such method.")),
    };
    Ok(route)
}

pub(super) fn json_of(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(Error::internal)
}

/// The JSON of an object, `object`, and more members behind its own.
fn with_members(object: &[u8], more: &Value) -> Vec<u8> {
    let more = more.to_string();
    let mut json = Vec::with_capacity(object.len() + more.len());
    json.extend_from_slice(object.strip_suffix(b"}").unwrap_or(object));
    json.push(b',');
    json.extend_from_slice(more.strip_prefix('{').unwrap_or(&more).as_bytes());
    json
}

fn user(object: &mut Map<String, Value>) {
    rename(object, "username", "name");
}

fn token(object: &mut Map<String, Value>) {
    rename(object, "user_id", "user");
    rename(object, "vm_id", "vm");
}

impl Reader {
    /// The answer as the embedded one gives it.
    pub(super) fn read(self, answer: Answer) -> Result<Vec<u8>> {
        let Answer { body, event, etag } = answer;
        let parsed = || serde_json::from_slice::<Map<String, Value>>(&body).map_err(strange);
        match self {
            Reader::Same => Ok(body.to_vec()),
            Reader::Nothing => Ok(b"null".to_vec()),
            Reader::Vm => Ok(with_members(&body, &json!({ "etag": etag, "event": event }))),
            Reader::Vms => Ok(with_members(&body, &json!({ "event": event }))),
            Reader::Items => json_of(&parsed()?.remove("items")),
            Reader::Part(name) => json_of(&parsed()?.remove(name)),
            Reader::User => {
                let mut object = parsed()?;
                user(&mut object);
                json_of(&object)
            }
            Reader::Users => each(parsed()?, user),
            Reader::Tokens => each(parsed()?, token),
            Reader::NewToken => {
                let mut object = parsed()?;
                let secret = object.remove("token");
                token(&mut object);
                json_of(&json!({ "token": object, "secret": secret }))
            }
            Reader::Ticket => {
                let mut object = parsed()?;
                json_of(&json!({ "secret": object.remove("ticket"), "expires_at": object.remove("expires_at") }))
            }
            Reader::Session => json_of(&json!({ "session": parsed()?.remove("access_token") })),
        }
    }
}

fn each(mut page: Map<String, Value>, change: fn(&mut Map<String, Value>)) -> Result<Vec<u8>> {
    let items = page.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten();
    items.filter_map(Value::as_object_mut).for_each(change);
    json_of(&page)
}
