//! The OpenAPI document: committed, complete, and true.

use limen_core::Action;
use serde_json::Value;

use crate::harness::Server;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");

pub(crate) fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.iter().flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations").clone();
        operations.into_iter().map(move |(method, operation)| (path.clone(), method, operation))
    });
    all.collect()
}

#[test]
fn it_is_the_committed_one() {
    let document = limen_http::document().expect("a document");
    let text = format!("{document:#}\n");
    if std::env::var_os("LIMEN_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(SNAPSHOT, &text).expect("written");
    }
    let committed = std::fs::read_to_string(SNAPSHOT).expect("docs/openapi.json");
    assert!(
        committed == text,
        "docs/openapi.json is not what the routes say; LIMEN_UPDATE_SNAPSHOTS=1 cargo test -p limen-http writes it"
    );
}

#[test]
fn every_operation_is_named_as_its_method_and_says_what_it_may_answer() {
    let document = limen_http::document().expect("a document");
    let not_actions = ["health", "health_live", "health_ready"];
    // Not over HTTP: opened as a WebSocket, added at the command line, and a proxy for what others describe.
    // And one that only LIMEN itself does.
    let not_routes = ["open_console", "add_image", "read_agent", "notice_restore"];
    let mut named = Vec::new();
    for (path, method, operation) in operations(&document) {
        let id = operation["operationId"].as_str().expect("an operationId").to_owned();
        assert!(
            not_actions.contains(&id.as_str()) || Action::ALL.iter().any(|action| action.as_str() == id),
            "{method} {path}: {id} is no action"
        );
        let responses = operation["responses"].as_object().expect("responses");
        assert!(responses.contains_key("400") && responses.contains_key("500"), "{id}");
        if operation["security"].is_array() {
            assert!(responses.contains_key("401") && responses.contains_key("403"), "{id}");
        }
        named.push(id);
    }
    for action in Action::ALL.iter().map(|action| action.as_str()).filter(|action| !not_routes.contains(action)) {
        assert!(named.iter().any(|id| id == action), "no route for {action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_in_it_is_there_and_wants_a_token_where_it_says_so() {
    let server = Server::start(0).await;
    let document = limen_http::document().expect("a document");
    for (path, method, operation) in operations(&document) {
        let path = path.replace("{id}", "01900000-0000-7000-8000-000000000000");
        let answer = server.send(&method.to_uppercase(), &path, "", &[], Vec::new()).await;
        let security = operation["security"].as_array().map_or(&[][..], Vec::as_slice);
        if !security.is_empty() && security.iter().all(|way| way != &serde_json::json!({})) {
            assert_eq!(answer.status, 401, "{method} {path}");
        } else {
            assert!(answer.status != 404 && answer.status != 405, "{method} {path}: {answer:?}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_by_the_schemas_too() {
    let document = limen_http::document().expect("a document");
    for (name, schema) in document["components"]["schemas"].as_object().expect("schemas") {
        if schema["properties"].is_object() {
            assert_eq!(schema["additionalProperties"], false, "{name}");
        }
    }
}
