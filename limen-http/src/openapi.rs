//! The OpenAPI document: what poem-openapi gathers from the routes, completed by rule.
//!
//! The rules hold for all operations alike, so no route can forget them: which errors each may
//! answer, which headers it understands and sends, that unknown fields and parameters are refused,
//! and where null may stand.

use poem_openapi::registry::Registry;
use poem_openapi::types::Type;
use serde_json::{Map, Value, json};

use crate::dto::ProblemSchema;
use crate::error::PROBLEM_JSON;
use crate::extract::{LARGEST_EVENT, SECURITY_SCHEME};

/// Where a token may be brought, and need not be.
const TOKEN_OPTIONAL: [&str; 1] = ["/api/metrics"];

/// Completes the document that the routes make.
pub(crate) fn complete(gathered: &str) -> Result<Value, serde_json::Error> {
    let mut document: Value = serde_json::from_str(gathered)?;
    add_problem_schema(&mut document)?;
    spread_queries(&mut document);
    close_objects(&mut document);
    for (path, operations) in entries(&mut document["paths"]) {
        for (method, operation) in entries(operations) {
            add_headers(path, method, operation);
            add_problems(path, method, operation);
            if TOKEN_OPTIONAL.contains(&path.as_str()) {
                operation["security"] = json!([{}, {SECURITY_SCHEME: []}]);
            }
        }
    }
    Ok(document)
}

fn entries(value: &mut Value) -> impl Iterator<Item = (&String, &mut Value)> {
    value.as_object_mut().into_iter().flatten()
}

fn add_problem_schema(document: &mut Value) -> Result<(), serde_json::Error> {
    let mut registry = Registry::new();
    ProblemSchema::register(&mut registry);
    for (name, schema) in registry.schemas {
        document["components"]["schemas"][name] = serde_json::to_value(schema)?;
    }
    Ok(())
}

/// A query that a route takes as one object becomes one parameter per field.
fn spread_queries(document: &mut Value) {
    let schemas = document["components"]["schemas"].clone();
    let mut spread = Vec::new();
    for (_, operations) in entries(&mut document["paths"]) {
        for (_, operation) in entries(operations) {
            let Some(Value::Array(parameters)) = operation.get_mut("parameters") else { continue };
            let mut all = Vec::new();
            for parameter in parameters.drain(..) {
                let reference = parameter["schema"]["$ref"].as_str().and_then(|path| path.rsplit('/').next());
                match reference {
                    Some(name) if parameter["in"] == "query" => {
                        all.extend(fields_as_parameters(&schemas[name]));
                        spread.push(name.to_owned());
                    }
                    _ => all.push(parameter),
                }
            }
            *parameters = all;
        }
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| !spread.contains(name));
    }
}

fn fields_as_parameters(schema: &Value) -> Vec<Value> {
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    properties
        .into_iter()
        .map(|(name, mut field)| {
            // A parameter says what it is itself; a reference beside other words would be lost.
            let description = field.as_object_mut().and_then(|field| field.remove("description"));
            json!({"name": name, "in": "query", "required": false, "description": description, "schema": field})
        })
        .collect()
}

/// Unknown fields are refused, and a field that may be missing may be null: but for one with a
/// default, which has a type of its own.
fn close_objects(document: &mut Value) {
    for (_, schema) in entries(&mut document["components"]["schemas"]) {
        let required: Vec<String> = schema["required"]
            .as_array()
            .map(|names| names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        if !schema["properties"].is_object() {
            continue;
        }
        schema["additionalProperties"] = json!(false);
        for (name, property) in entries(&mut schema["properties"]) {
            if required.contains(name) || property.get("default").is_some() {
                continue;
            }
            if let Some(reference) = property.as_object_mut().and_then(|property| property.remove("$ref")) {
                property["allOf"] = json!([{"$ref": reference}]);
            }
            property["nullable"] = json!(true);
        }
    }
}

/// What an operation is, as far as the rules ask.
struct Traits {
    authenticated: bool,
    has_id: bool,
    has_body: bool,
    starts_operation: bool,
    is_vm: bool,
    is_stream: bool,
}

fn traits(path: &str, operation: &Value) -> Traits {
    Traits {
        authenticated: operation["security"].as_array().is_some_and(|schemes| !schemes.is_empty()),
        has_id: path.contains("{id}") || path.contains("{name}"),
        has_body: operation["requestBody"].is_object(),
        // Not those that are about one which was started before.
        starts_operation: operation["responses"]["202"].is_object() && !path.starts_with("/api/operations/"),
        is_vm: path == "/api/vms/{id}",
        is_stream: operation["responses"]["200"]["content"]["text/event-stream"].is_object(),
    }
}

/// What `If-Match` and `If-None-Match` hold.
fn tags() -> Value {
    json!({"type": "string", "pattern": "^(\\*|(W/)?\"[0-9.]{1,40}\"(, (W/)?\"[0-9.]{1,40}\")*)?$"})
}

fn add_headers(path: &str, method: &str, operation: &mut Value) {
    let traits = traits(path, operation);
    let mut parameters: Vec<Value> = Vec::new();
    let mut add = |name: &str, schema: Value, description: &str| {
        parameters.push(
            json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema}),
        );
    };
    if traits.authenticated {
        add(
            "X-Limen-Event",
            json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": LARGEST_EVENT}),
            "Answer once this server shows the event of this number, at most 1 s later, else 503.",
        );
    }
    if traits.starts_operation {
        add(
            "Prefer",
            json!({"type": "string"}),
            "`wait=N`: answer when the operation is finished, at most N seconds (50 at most) later.",
        );
    }
    if traits.starts_operation && method == "post" {
        add(
            "Idempotency-Key",
            json!({"type": "string", "pattern": "^[!-~]{1,255}$"}),
            "The same key with the same request answers the same operation for 24 hours.",
        );
    }
    if traits.is_stream {
        add(
            "Last-Event-ID",
            json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": LARGEST_EVENT}),
            "The `id` that came last: goes on from there, whatever `after` says.",
        );
    }
    if traits.is_vm && method == "get" {
        add("If-None-Match", tags(), "An `ETag` of this VM: answers 304 while it is still so.");
    }
    if traits.is_vm && method != "get" {
        add("If-Match", tags(), "An `ETag` of this VM: answers 412 when its record changed since.");
    }
    if let Some(object) = operation.as_object_mut() {
        let all = object.entry("parameters").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.extend(parameters);
        }
    }

    let has_event = traits.authenticated;
    for (status, response) in entries(&mut operation["responses"]) {
        let mut headers = Map::new();
        let mut send = |name: &str, description: &str| {
            headers.insert(name.to_owned(), json!({"description": description, "schema": {"type": "string"}}));
        };
        send("X-Request-Id", "Names the request in the server's log.");
        if has_event && (path.starts_with("/api/vms") || method != "get" || traits.is_stream) {
            send("X-Limen-Event", "The number of the event that the answer shows.");
        }
        if traits.is_vm && method == "get" {
            send("ETag", "Version of the record and revision of the status.");
        }
        if status == "201" || traits.starts_operation {
            send("Location", "Where the new object is.");
        }
        response["headers"] = Value::Object(headers);
    }
}

/// Which errors an operation may answer.
fn add_problems(path: &str, method: &str, operation: &mut Value) {
    let traits = traits(path, operation);
    let changes = method != "get";
    let mut add = |status: &str, description: &str| {
        operation["responses"][status] = json!({
            "description": description,
            "headers": {"X-Request-Id": {"description": "Names the request in the server's log.", "schema": {"type": "string"}}},
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        });
    };
    let is_public = path.starts_with("/api/health");
    if is_public {
        add("400", "`invalid`: the request is not what it must be; `field` names what is wrong");
        add("500", "`internal`: a defect; the log has it under the request id");
        if path.ends_with("/ready") {
            add("503", "`unavailable`: the Store or every host cannot be reached now");
        }
        return;
    }
    add("400", "`invalid`: the request is not what it must be; `field` names what is wrong");
    add("401", "`unauthenticated`: the token, or the name and password, are not good");
    if traits.authenticated {
        add("403", "`forbidden`: this user may not do this");
    }
    if traits.has_id {
        add("404", "`not_found`: there is no such object, or this user may not know of it");
    }
    if changes {
        add("409", "`already_exists`, `conflict`, `busy`, `quota_exceeded` or `cancelled`: not possible in this state");
    }
    if path.ends_with("/stats") {
        add("409", "`conflict`: the VM does not run");
        add("501", "`unsupported`: the host has no figures of VMs, or none are read");
    }
    if traits.is_stream {
        add(
            "410",
            "`gone`: the log does not reach back to this event, or ends before it; `oldest` is the first that it has",
        );
    }
    let limited = if traits.is_stream {
        "`rate_limited`: too many requests, or this user has too many streams open; wait as long as `Retry-After` says"
    } else if path == "/api/auth/login" {
        "`rate_limited`: too many requests, or too many logins; wait as long as `Retry-After` says"
    } else {
        "`rate_limited`: too many requests; wait as long as `Retry-After` says"
    };
    add("429", limited);
    if traits.is_vm && changes {
        add("412", "`precondition_failed`: the record changed since it was read");
    }
    if traits.has_body {
        add("408", "`request_timeout`: the body did not come in time");
        add("413", "`too_large`: the body is larger than 1 MiB");
        add("415", "`unsupported_media_type`: the body is not `application/json`");
    }
    if traits.starts_operation {
        add("501", "`unsupported`: the host cannot do it");
        add("504", "`timeout` or `interrupted`: not finished in time; the operation may go on");
        add("507", "`no_space`: the host has no space left for it");
    }
    add("500", "`internal`: a defect; the log has it under the request id");
    add("503", "`unavailable`: the Store or the host cannot be reached now");
}
