//! The behaviours that every door of LIMEN has in common, on the library, on its client of a server, and on
//! plain HTTP. The steps are in `steps.json`; `limen-py/tests/test_shared.py` runs the same ones on each client of Python.
//!
//! A step calls an operation by its name with its arguments, and says what its answer has, or the kind
//! and field of its error. `$name` is what an earlier step saved.

mod http;
mod library;
mod operations;
mod remote;

use std::collections::BTreeSet;

use limen_support::project_dir;
use serde_json::{Map, Value};

const ADMIN: (&str, &str) = ("admin", "correct horse battery staple");

/// What went wrong: the kind, and the argument.
#[derive(Debug)]
struct Refused {
    kind: String,
    field: Option<String>,
}

/// One door.
trait Door {
    async fn call(&mut self, operation: &str, args: Map<String, Value>) -> Result<Value, Refused>;
}

fn scenarios() -> Vec<Value> {
    let text = std::fs::read_to_string(project_dir().join("tests/behaviours/steps.json")).expect("the steps");
    serde_json::from_str(&text).expect("JSON")
}

/// With what was saved in the place of `$name`.
fn filled(value: &Value, saved: &Map<String, Value>) -> Value {
    match value {
        Value::Object(object) => object.iter().map(|(name, one)| (name.clone(), filled(one, saved))).collect(),
        Value::Array(items) => items.iter().map(|one| filled(one, saved)).collect(),
        Value::String(text) => match text.strip_prefix('$') {
            Some(name) => saved[name].clone(),
            None => value.clone(),
        },
        _ => value.clone(),
    }
}

/// Whether all that is wanted is shown; a list has neither more nor fewer items.
fn fits(shown: &Value, wanted: &Value) -> bool {
    match (shown, wanted) {
        (Value::Object(shown), Value::Object(wanted)) => {
            wanted.iter().all(|(name, one)| shown.get(name).is_some_and(|shown| fits(shown, one)))
        }
        (Value::Array(shown), Value::Array(wanted)) => {
            shown.len() == wanted.len() && shown.iter().zip(wanted).all(|(shown, one)| fits(shown, one))
        }
        _ => shown == wanted,
    }
}

async fn run(scenario: &Value, door: &mut impl Door) {
    let mut saved = Map::new();
    for (number, step) in scenario["steps"].as_array().expect("steps").iter().enumerate() {
        let operation = step["call"].as_str().expect("an operation");
        let place = format!("{}, step {number}, {operation}", scenario["name"]);
        let Value::Object(args) = filled(&step["args"], &saved) else { panic!("{place}: no arguments") };
        match (door.call(operation, args).await, step["error"].as_str()) {
            (Err(refused), Some(kind)) => {
                assert_eq!(refused.kind, kind, "{place}: {refused:?}");
                if let Some(field) = step["field"].as_str() {
                    assert_eq!(refused.field.as_deref(), Some(field), "{place}");
                }
            }
            (Ok(shown), None) => {
                let wanted = filled(&step["expect"], &saved);
                assert!(wanted.is_null() || fits(&shown, &wanted), "{place}: {shown} is not {wanted}");
                for (name, pointer) in step["save"].as_object().into_iter().flatten() {
                    let found = shown.pointer(pointer.as_str().expect("a pointer")).expect("what is saved").clone();
                    saved.insert(name.clone(), found);
                }
            }
            (answer, wanted) => panic!("{place}: {answer:?}, not {wanted:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_behaves() {
    for scenario in scenarios() {
        run(&scenario, &mut library::Library::open().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_of_a_server_behaves() {
    for scenario in scenarios() {
        run(&scenario, &mut remote::Served::open().await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_behaves() {
    for scenario in scenarios() {
        run(&scenario, &mut http::Plain::open().await).await;
    }
}

#[test]
fn a_step_that_is_not_as_it_says_fails() {
    let shown = serde_json::json!({ "a": [1, { "b": null }], "c": "d" });
    for wanted in [r#"{"a": [1, {}]}"#, r#"{"a": [1, {"b": null}], "c": "d"}"#, "{}"] {
        assert!(fits(&shown, &serde_json::from_str(wanted).expect("JSON")), "{wanted}");
    }
    for wanted in [r#"{"a": [1]}"#, r#"{"a": [1, {"b": 1}]}"#, r#"{"e": null}"#, r#"{"c": "e"}"#, "[]"] {
        assert!(!fits(&shown, &serde_json::from_str(wanted).expect("JSON")), "{wanted}");
    }
    let called: BTreeSet<String> = scenarios()
        .iter()
        .flat_map(|scenario| scenario["steps"].as_array().cloned())
        .flatten()
        .map(|step| step["call"].to_string())
        .collect();
    assert!(called.len() > 35, "{called:?}");
}
