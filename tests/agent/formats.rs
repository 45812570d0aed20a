//! What is answered on each path, and that it is what the documents say.

use std::io::Write;
use std::process::{Command, Stdio};

use hyper::Method;
use limen_support::{debian, project_dir};
use serde_json::Value;

use crate::{agent, figures, text};

/// Names that Prometheus' own check finds ugly, and dashboards want.
const KERNELS_NAMES: &str = "node_memory_";

/// Holds `value` to a schema of the agent's document: types, names, what is required, what may be null.
#[track_caller]
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        return fits(document, document.pointer(&name[1..]).expect("a schema"), value, at);
    }
    if value.is_null() {
        return assert_eq!(schema["nullable"], true, "{at} is null");
    }
    match schema["type"].as_str() {
        Some("object") => {
            let properties = schema["properties"].as_object().expect("properties");
            let told = value.as_object().unwrap_or_else(|| panic!("{at} is no object: {value}"));
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            let (mut documented, mut there) = (names(properties), names(told));
            documented.sort();
            there.sort();
            assert_eq!(documented, there, "{at}");
            told.iter().for_each(|(name, value)| fits(document, &properties[name], value, &format!("{at}.{name}")));
        }
        Some("array") => {
            let items = value.as_array().unwrap_or_else(|| panic!("{at} is no array: {value}"));
            items.iter().for_each(|item| fits(document, &schema["items"], item, &format!("{at}[]")));
        }
        Some("integer") => assert!(value.is_u64(), "{at}: {value}"),
        Some("number") => assert!(value.is_number(), "{at}: {value}"),
        Some("string") => assert!(value.is_string(), "{at}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
        other => panic!("{at}: {other:?} in the document"),
    }
}

/// The names of all figures in a schema, as the documents write them: `disks[].mount`.
fn names(schema: &Value, prefix: &str) -> Vec<String> {
    let properties = schema["properties"].as_object().expect("properties");
    let below = |(name, schema): (&String, &Value)| match schema["type"].as_str() {
        Some("object") => names(schema, &format!("{prefix}{name}.")),
        Some("array") => names(&schema["items"], &format!("{prefix}{name}[].")),
        _ => vec![format!("{prefix}{name}")],
    };
    properties.iter().flat_map(below).collect()
}

#[tokio::test]
async fn json_is_as_the_document_has_it_and_the_pages_name_every_figure() {
    let agent = agent();
    let client = agent.client();
    let document = client.get("/openapi.json").await.expect(200).json();
    let schema = &document["components"]["schemas"]["Figures"];
    let told = figures(&client).await;
    fits(&document, schema, &told, "metrics");
    assert!(!told["disks"].as_array().expect("disks").is_empty(), "{told}");
    fits(
        &document,
        &document["components"]["schemas"]["Health"],
        &client.get("/health").await.expect(200).json(),
        "health",
    );

    let page = client.get("/docs").await.expect(200);
    assert!(page.header("content-type").expect("a type").starts_with("text/html"));
    let page = String::from_utf8(page.body.to_vec()).expect("UTF-8");
    let manual = std::fs::read_to_string(project_dir().join("docs/agent.md")).expect("docs/agent.md");
    let names = names(schema, "");
    assert!(names.len() > 40, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("<code>{name}</code>")), "/docs lacks {name}");
        assert!(manual.contains(&format!("| `{name}` |")), "docs/agent.md lacks {name}");
    }
    for path in document["paths"].as_object().expect("paths").keys() {
        client.get(path).await.expect(200);
    }
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn prometheus_gets_its_text_where_it_asks_and_its_own_check_finds_it_sound() {
    let agent = agent();
    let client = agent.client();
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let answer = client.with_header("Accept", prometheus).get("/metrics").await.expect(200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(answer.header("vary"), Some("Accept"));
    assert_eq!(client.get("/metrics").await.expect(200).header("content-type"), Some("application/json"));
    let text = text(&client).await;
    for name in [
        "node_cpu_seconds_total{cpu=\"0\",mode=\"idle\"}",
        "node_memory_MemAvailable_bytes",
        "node_filesystem_avail_bytes{device=",
        "node_disk_read_bytes_total{device=",
        "node_network_receive_bytes_total{device=\"lo\"}",
        "node_load1",
        "node_pressure_cpu_waiting_seconds_total",
        "node_boot_time_seconds",
    ] {
        assert!(text.contains(&format!("\n{name}")), "no {name} in {text}");
    }

    let mut check = Command::new(debian::program("prometheus", "/usr/bin/promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    check.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("written");
    let output = check.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    // It ends with 3 for names alone, and with 1 for a text that it cannot read.
    assert!([Some(0), Some(3)].contains(&output.status.code()), "{said}");
    let of_ours: Vec<&str> = said.lines().filter(|line| !line.starts_with(KERNELS_NAMES)).collect();
    assert!(of_ours.is_empty(), "{of_ours:?}");
    assert!(said.contains(KERNELS_NAMES), "it has read nothing: {said}");
}

#[tokio::test]
async fn the_shared_series_are_named_as_node_exporter_names_them() {
    let exporter = limen_support::agent::NodeExporter::start();
    let agent = agent();
    let theirs = text_of(&exporter.client().get("/metrics").await.expect(200).body);
    let ours = text(&agent.client()).await;
    let (theirs, ours) = (label_sets(&theirs), label_sets(&ours));
    let all = |sets: &[(String, Vec<String>)]| {
        sets.iter().map(|(name, _)| name.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    // What only one of the two tells.
    let more = ["limen_agent_", "node_uname_info"];
    let unknown: Vec<String> = all(&ours)
        .difference(&all(&theirs))
        .filter(|name| !more.iter().any(|own| name.starts_with(own)))
        .cloned()
        .collect();
    assert!(unknown.is_empty(), "node_exporter has no {unknown:?}");
    let less = [
        "go_",
        "process_",
        "promhttp_",
        "node_scrape_",
        "node_exporter_",
        "node_network_receive_nohandler",
        "node_disk_info",
        "node_disk_filesystem_info",
        "node_disk_device_mapper_info",
        "node_disk_ata",
        "node_softirqs",
        "node_time_clocksource",
        "node_time_zone",
        "node_schedstat",
    ];
    let missing: Vec<String> = all(&theirs)
        .difference(&all(&ours))
        .filter(|name| !less.iter().any(|own| name.starts_with(own)))
        .cloned()
        .collect();
    assert!(missing.is_empty(), "the agent has no {missing:?}");
    for (name, labels) in &ours {
        if let Some((_, theirs)) = theirs.iter().find(|(other, _)| other == name) {
            assert_eq!(labels, theirs, "labels of {name}");
        }
    }
}

fn text_of(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

/// Each name of a text once, with the names of its labels.
fn label_sets(text: &str) -> Vec<(String, Vec<String>)> {
    let mut sets: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let mut labels: Vec<String> =
            labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
        labels.sort();
        if !sets.iter().any(|(known, _)| known == name) {
            sets.push((name.to_owned(), labels));
        }
    }
    sets
}

#[tokio::test]
async fn what_is_not_there_is_told_so() {
    let agent = agent();
    let client = agent.client();
    for (method, path, status) in [
        (Method::GET, "/nothing", 404),
        (Method::GET, "/metrics/", 404),
        (Method::POST, "/metrics", 405),
        (Method::DELETE, "/health", 405),
    ] {
        let refused = client.request(method, path, None).await.expect(status);
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{path}");
        assert_eq!(refused.json()["status"], status);
        assert_eq!(refused.header("allow").is_some(), status == 405);
    }
    let head = client.request(Method::HEAD, "/metrics", None).await.expect(200);
    assert!(head.body.is_empty());
    assert!(head.header("content-length").is_some_and(|length| length.len() > 2));
}
