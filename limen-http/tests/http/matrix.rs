//! Who may call what: every operation of the OpenAPI document, by everybody, against a committed
//! table. A new operation without a row fails, and so does one that says whether a thing of
//! somebody else's is there.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use limen_core::Context;
use limen_core::model::ImageFormat;
use limen_core::service::AddImage;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::document::operations;
use crate::harness::{Answer, PASSWORD, Server};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/http/matrix.txt");

const HEAD: &str = "\
# The status of every operation, by who calls it: nobody; a user of another owner; a viewer, on what is the
# viewer's own; the owner; an operator; an admin. What has an id is the owner's. Written by
# LIMEN_UPDATE_SNAPSHOTS=1 cargo test -p limen-http matrix
";

/// Who calls, in the order of the columns.
const CALLERS: [&str; 6] = ["nobody", "other", "viewer", "owner", "operator", "admin"];

/// An operation of the document.
struct Operation {
    method: String,
    path: String,
    id: String,
    takes_body: bool,
}

/// A server with a user for each column, and things of theirs.
struct Stage {
    server: Server,
    /// The token of each caller; none for nobody.
    tokens: BTreeMap<&'static str, String>,
    users: BTreeMap<&'static str, String>,
    /// A VM of the owner's and the operation that made it, the same of the viewer's.
    made: BTreeMap<&'static str, (String, String)>,
    names: AtomicU32,
}

impl Stage {
    async fn new() -> Self {
        let server = Server::start(0).await;
        let admin = server.login("admin").await;
        let mut tokens = BTreeMap::from([("nobody", String::new()), ("admin", admin.clone())]);
        for (caller, role) in [("other", "user"), ("viewer", "user"), ("owner", "user"), ("operator", "operator")] {
            tokens.insert(caller, server.user(&admin, caller, role).await);
        }
        let mut users = BTreeMap::new();
        for (caller, token) in tokens.iter().filter(|(_, token)| !token.is_empty()) {
            users.insert(*caller, text(&server.get("/api/auth/me", token).await.expect(200).json(), "id"));
        }
        let mut made = BTreeMap::new();
        for caller in ["owner", "viewer"] {
            made.insert(caller, vm(&server, &tokens[caller], "first").await);
        }
        let path = format!("/api/users/{}", users["viewer"]);
        server.call("PATCH", &path, &admin, &json!({"role": "viewer"})).await.expect(200);
        Self { server, tokens, users, made, names: AtomicU32::new(0) }
    }

    /// A name that nothing has yet.
    fn name(&self) -> String {
        format!("n{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// What `caller` calls the operation on: a new one where the call may change it.
    async fn target(&self, operation: &Operation, caller: &str) -> String {
        let whose = if caller == "viewer" { "viewer" } else { "owner" };
        let is_changed = operation.method != "get" && ["owner", "operator", "admin"].contains(&caller);
        let mut segments = operation.path.split('/').skip(2);
        match segments.next().unwrap_or_default() {
            "vms" if is_changed => vm(&self.server, &self.tokens["owner"], &self.name()).await.0,
            "vms" => self.made[whose].0.clone(),
            "operations" => self.made[whose].1.clone(),
            "users" if ["owner", "viewer"].contains(&caller) => self.users[caller].clone(),
            "users" => {
                let body = json!({"username": self.name(), "password": PASSWORD, "role": "user"});
                text(
                    &self.server.call("POST", "/api/users", &self.tokens["admin"], &body).await.expect(201).json(),
                    "id",
                )
            }
            "tokens" => {
                let body = json!({"name": self.name()});
                text(
                    &self.server.call("POST", "/api/tokens", &self.tokens[whose], &body).await.expect(201).json(),
                    "id",
                )
            }
            "images" => {
                let add = AddImage { name: self.name(), format: ImageFormat::Raw };
                let bytes = Box::new(std::io::Cursor::new(vec![0_u8; 4096]));
                let context = Context::local();
                let operation = self.server.limen.add_image(&context, add, bytes).await.expect("recorded");
                let wait = std::time::Duration::from_secs(30);
                let operation = self.server.limen.wait_operation(&context, operation.id, wait).await.expect("waited");
                operation.image_id.expect("an image").to_string()
            }
            other => panic!("{}: what is {other} an operation of? Teach this test to make one.", operation.id),
        }
    }

    fn body(&self, operation: &Operation, caller: &str) -> Option<Value> {
        let body = match operation.id.as_str() {
            "login" => json!({"username": caller, "password": PASSWORD}),
            "change_password" => json!({"current_password": PASSWORD, "new_password": PASSWORD}),
            "create_user" => json!({"username": self.name(), "password": PASSWORD, "role": "user"}),
            "update_user" => json!({"disabled": false}),
            "create_token" => json!({"name": self.name()}),
            "create_vm" => json!({"name": self.name(), "vcpus": 1, "memory_mib": 64}),
            "update_vm" => json!({"description": "changed"}),
            "change_power" => json!({"action": "start"}),
            "create_ticket" => json!({"kind": "vnc"}),
            _ => return None,
        };
        Some(body)
    }

    /// One call of an operation on the thing of this id.
    async fn call(&self, operation: &Operation, caller: &str, id: &str) -> Answer {
        let body = self.body(operation, caller);
        assert_eq!(body.is_some(), operation.takes_body, "{}: a body or none? Teach this test.", operation.id);
        // One's own session ends: not the one that the next calls are made with.
        let token = match operation.id.as_str() {
            "logout" if caller != "nobody" => self.server.login(caller).await,
            _ => self.tokens[caller].clone(),
        };
        let path = operation.path.replace("{id}", id);
        let method = operation.method.to_uppercase();
        match body {
            Some(body) => self.server.call(&method, &path, &token, &body).await,
            None => self.server.send(&method, &path, &token, &[], Vec::new()).await,
        }
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field}: {value}")).to_owned()
}

/// Makes a VM; it, and the operation that made it.
async fn vm(server: &Server, token: &str, name: &str) -> (String, String) {
    let body = json!({"name": name, "vcpus": 1, "memory_mib": 64});
    let made = server.call_with("POST", "/api/vms", token, &[("prefer", "wait=30")], &body).await.expect(200).json();
    (text(&made, "vm_id"), text(&made, "id"))
}

fn all_operations() -> Vec<Operation> {
    let document = limen_http::document().expect("a document");
    let all = operations(&document).into_iter().map(|(path, method, operation)| Operation {
        id: text(&operation, "operationId"),
        takes_body: operation["requestBody"].is_object(),
        method,
        path,
    });
    all.collect()
}

/// Everything of an answer but the request's own id.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let id = answer.header("x-request-id").to_owned();
    let mut headers: Vec<(String, String)> = answer
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().expect("text").replace(&id, "ID")))
        .collect();
    headers.sort();
    (answer.status.as_u16(), headers, String::from_utf8_lossy(&answer.bytes).replace(&id, "ID"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_of_the_document_is_the_committed_one() {
    let stage = Stage::new().await;
    let mut table = format!("{HEAD}{:<40}", "");
    for caller in CALLERS {
        _ = write!(table, "{caller:<10}");
    }
    for operation in all_operations() {
        _ = write!(table, "\n{:<40}", format!("{} {}", operation.method.to_uppercase(), operation.path));
        for caller in CALLERS {
            let id =
                if operation.path.contains("{id}") { stage.target(&operation, caller).await } else { String::new() };
            let status = stage.call(&operation, caller, &id).await.status;
            _ = write!(table, "{:<10}", status.as_u16());
        }
    }
    let table: String = table.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    if std::env::var_os("LIMEN_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(TABLE, &table).expect("written");
    }
    let committed = std::fs::read_to_string(TABLE).expect("tests/http/matrix.txt");
    assert!(committed == table, "who may call what is not what tests/http/matrix.txt says:\n{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_somebody_elses_is_answered_as_what_is_not_there() {
    let stage = Stage::new().await;
    let mut concealed = Vec::new();
    for operation in all_operations().iter().filter(|operation| operation.path.contains("{id}")) {
        let absent = Uuid::now_v7().to_string();
        let of_admin = stage.call(operation, "admin", &absent).await;
        assert_eq!(of_admin.status, 404, "{} of what is not there: {of_admin:?}", operation.id);
        for caller in ["nobody", "other"] {
            let foreign = stage.target(operation, caller).await;
            let foreign = stage.call(operation, caller, &foreign).await;
            let absent = stage.call(operation, caller, &absent).await;
            // Images are everybody's to see, and so no secret.
            if caller == "other" && operation.path.starts_with("/api/images/") {
                continue;
            }
            assert_eq!(told(&foreign), told(&absent), "{} by {caller}", operation.id);
            if foreign.status == 404 {
                concealed.push(operation.id.clone());
            }
        }
    }
    for id in [
        "get_vm",
        "update_vm",
        "delete_vm",
        "change_power",
        "create_ticket",
        "get_operation",
        "cancel_operation",
        "delete_token",
    ] {
        assert!(concealed.iter().any(|concealed| concealed == id), "{id} conceals nothing: {concealed:?}");
    }
}
