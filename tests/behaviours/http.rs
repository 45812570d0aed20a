//! Plain HTTP, by the document that the server gives of itself: an operation's path, and where each of
//! its arguments goes, are read there.

use std::time::{Duration, Instant};

use hyper::Method;
use limen_support::http::{Client, Response};
use limen_support::server::Server;
use serde_json::{Map, Value, json};

use super::{ADMIN, Door, Refused};

/// A server on a simulated host, its document, and a client in a session of its admin.
pub(crate) struct Plain {
    _server: Server,
    document: Value,
    client: Client,
}

/// Names that are others on the wire, there and in the library.
const NAMES: [(&str, &str); 6] = [
    ("username", "name"),
    ("current_password", "current"),
    ("new_password", "new"),
    ("user_id", "user"),
    ("vm_id", "vm"),
    ("access_token", "session"),
];

/// Operations whose answers and arguments have such names.
const RENAMED: [&str; 11] = [
    "login",
    "change_password",
    "get_me",
    "list_users",
    "get_user",
    "create_user",
    "update_user",
    "create_token",
    "list_tokens",
    "list_audit",
    "list_operations",
];

/// A server on a simulated host.
pub(crate) fn server() -> Server {
    let settings = [("HYPERVISOR_URI", "sim:///"), ("ADMIN_PASSWORD", ADMIN.1), ("RATE_LIMIT_ENABLED", "false")];
    settings.into_iter().fold(Server::options(), |options, (name, value)| options.env(name, value)).start()
}

impl Plain {
    pub(crate) async fn open() -> Self {
        let server = server();
        let client = Client::new(server.port());
        let document = client.get("/api/swagger.json").await.expect(200).json();
        let client = client.login(ADMIN.0, ADMIN.1).await;
        Self { _server: server, document, client }
    }

    /// The method, path and parameters of an operation.
    fn route(&self, operation: &str) -> (Method, String, Vec<(String, String)>) {
        let paths = self.document["paths"].as_object().expect("paths");
        for (path, methods) in paths {
            for (method, described) in methods.as_object().expect("methods") {
                if described["operationId"] == operation {
                    let text = |value: &Value| value.as_str().expect("a text").to_owned();
                    let parameters = described["parameters"].as_array().into_iter().flatten();
                    let parameters = parameters.map(|one| (text(&one["name"]), text(&one["in"]))).collect();
                    let method = method.to_uppercase().parse().expect("a method");
                    return (method, path.clone(), parameters);
                }
            }
        }
        panic!("the document has no {operation}");
    }

    async fn send(&self, operation: &str, mut args: Map<String, Value>) -> Response {
        let mut client = self.client.clone();
        if let Some(key) = args.remove("idempotency_key") {
            client = client.with_header("Idempotency-Key", key.as_str().expect("a key"));
        }
        if let Some(etag) = args.remove("expected") {
            client = client.with_header("If-Match", &format!("\"{}\"", etag.as_str().expect("an etag")));
        }
        if operation == "get_metrics" {
            client = client.with_header("Accept", "application/json");
        }
        if RENAMED.contains(&operation) {
            let is_users = !["create_token", "list_tokens"].contains(&operation);
            for (there, here) in NAMES.iter().filter(|(there, _)| is_users || *there != "username") {
                if let Some(value) = args.remove(*here) {
                    args.insert((*there).to_owned(), value);
                }
            }
        }
        let (method, mut path, parameters) = self.route(operation);
        let mut query = Vec::new();
        for (name, place) in parameters {
            let Some(value) = args.get(&name).cloned() else { continue };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match &*place {
                "path" => path = path.replace(&format!("{{{name}}}"), &value),
                "query" => query.push(format!("{name}={}", value.replace('=', "%3D"))),
                _ => continue,
            }
            args.remove(&name);
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let body = (method == Method::POST || method == Method::PATCH).then_some(Value::Object(args));
        client.request(method, &path, body.as_ref()).await
    }
}

/// Gives the members of an answer the names that they have in the library.
fn renamed(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (there, here) in NAMES {
                if let Some(value) = object.remove(there) {
                    object.insert(here.to_owned(), value);
                }
            }
            object.values_mut().for_each(renamed);
        }
        Value::Array(items) => items.iter_mut().for_each(renamed),
        _ => {}
    }
}

impl Door for Plain {
    async fn call(&mut self, operation: &str, mut args: Map<String, Value>) -> Result<Value, Refused> {
        let timeout = args.remove("timeout").and_then(|timeout| timeout.as_f64()).unwrap_or_default();
        let route = match operation {
            "wait_operation" => "get_operation",
            "ping_store" => "health",
            "refusals" => "get_metrics",
            "vm_stats" => "get_vm_stats",
            "host_metrics" => "get_host_metrics",
            other => other,
        };
        let deadline = Instant::now() + Duration::from_secs_f64(timeout);
        let answer = loop {
            let answer = self.send(route, args.clone()).await;
            if operation != "wait_operation" || !answer.json()["finished_at"].is_null() || Instant::now() > deadline {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let mut shown = answer.json();
        if answer.status >= 400 {
            let field = shown["field"].as_str().map(|field| {
                NAMES.iter().find(|(there, _)| *there == field).map_or(field, |(_, here)| here).to_owned()
            });
            return Err(Refused { kind: shown["code"].as_str().expect("a problem").to_owned(), field });
        }
        if RENAMED.contains(&operation) && !operation.starts_with("list_operations") {
            renamed(&mut shown);
        }
        match operation {
            "get_vm" => shown["etag"] = json!(answer.header("etag").expect("a tag").trim_matches('"')),
            "list_hosts" | "list_networks" => shown = shown["items"].take(),
            "refusals" => shown = shown["refusals"].take(),
            "health" => shown["store"] = json!(shown["store"] == "ok"),
            "create_token" => shown = json!({ "token": shown }),
            _ => {}
        }
        Ok(shown)
    }
}
