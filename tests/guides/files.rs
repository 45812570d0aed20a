//! What the guides bring along: files for containers and for Prometheus name what there is.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use limen_support::agent::Agent;
use limen_support::{debian, project_dir};
use serde_json::Value;

use super::markdown::Document;

fn read(path: &str) -> String {
    fs::read_to_string(project_dir().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the first column of a document's tables has between backquotes.
fn first_column(path: &str) -> BTreeSet<String> {
    let document = Document::read(path);
    let rows = document.prose.iter().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn the_container_files_name_what_there_is() {
    let image = read("scripts/container/Containerfile");
    let mut copied = 0;
    for line in image.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        if line.starts_with("--from=build ") {
            assert!(line.contains("/src/target/release/limen "), "what cargo builds: {line}");
            continue;
        }
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop();
        for word in words {
            copied += 1;
            assert!(project_dir().join(word).exists(), "{word} is not there");
        }
    }
    assert!(copied > 3);
    let rust = read("Cargo.toml").lines().find_map(|line| line.strip_prefix("rust-version = ").map(str::to_owned));
    assert!(image.contains(&format!("rust:{}-bookworm", rust.expect("a version").trim_matches('"'))));

    let compose = read("scripts/container/compose.yml");
    let settings = first_column("docs/configuration.md");
    let under = |start: &str| {
        let lines = compose.lines().skip_while(move |line| line.trim_end() != start).skip(1);
        lines.take_while(|line| line.starts_with("      ")).map(str::trim).collect::<Vec<_>>()
    };
    let environment = under("    environment:");
    assert!(environment.len() > 5, "{environment:?}");
    for line in environment {
        let (name, _) = line.split_once(':').expect("a setting");
        assert!(settings.contains(name), "{name} is no setting");
    }
    let user = "64055";
    for text in [&image, &read("docs/en/containers.md")] {
        assert!(text.contains(user));
    }
}

/// Words that can be the name of a series.
fn series(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = words
        .filter(|word| ["limen_", "http_", "vm_", "libvirt_", "node_"].iter().any(|start| word.starts_with(start)));
    named.filter(|word| *word != "vm_id").map(str::to_owned).collect()
}

#[test]
fn rules_and_guides_name_series_that_are_served() {
    let served = first_column("docs/metrics.md");
    let mut count = 0;
    for path in
        ["docs/monitoring/alerts.yml", "docs/en/monitoring.md", "docs/en/alerting.md", "docs/ko/operations-guide.md"]
    {
        let text = if path.ends_with(".md") { Document::read(path).code().join("\n") } else { read(path) };
        for name in series(&text) {
            count += 1;
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(served.contains(base), "{path}: {name} is not served");
        }
    }
    assert!(count > 10, "series are missed: {count}");
    assert!(series("rate(limen_nothing_total[5m])").contains("limen_nothing_total"));
}

/// Every query of a dashboard: of its panels, and of its variables.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        Value::Object(fields) => {
            let named = ["expr", "query"].iter().filter_map(|name| fields.get(*name)?.as_str());
            found.extend(named.map(str::to_owned));
            fields.values().for_each(|field| queries(field, found));
        }
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_names_series_that_are_served() {
    let mut served = first_column("docs/metrics.md");
    let agent = Agent::start(&[]);
    let told = agent.client().get("/metrics/prometheus").await.expect(200);
    let told = String::from_utf8(told.body.to_vec()).expect("text");
    served.extend(told.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())));
    let dashboard: Value = serde_json::from_str(&read("docs/monitoring/grafana.json")).expect("JSON");
    let mut found = Vec::new();
    queries(&dashboard, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for query in &found {
        for name in series(query) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(served.contains(base), "{query}: {name} is not served");
        }
    }
    assert!(found.iter().flat_map(|query| series(query)).count() > 20, "series are missed: {found:?}");
}

#[test]
fn every_alert_is_explained() {
    let rules = read("docs/monitoring/alerts.yml");
    let rules: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).map(str::to_owned).collect();
    assert!(rules.len() > 5);
    assert_eq!(first_column("docs/en/alerting.md"), rules);
}

#[test]
fn prometheus_takes_its_files() {
    let place = tempfile::TempDir::new().expect("a directory");
    for file in ["prometheus.yml", "alerts.yml"] {
        // promtool wants the token's file to be there.
        let token = place.path().join("token").display().to_string();
        let text = read(&format!("docs/monitoring/{file}")).replace("/etc/prometheus/limen-token", &token);
        fs::write(place.path().join(file), text).expect("written");
    }
    let check = |token: bool| {
        if token {
            fs::write(place.path().join("token"), "a token").expect("written");
        }
        let mut promtool = Command::new(debian::program("prometheus", "/usr/bin/promtool"));
        promtool.args(["check", "config", "prometheus.yml"]).current_dir(place.path());
        promtool.output().expect("promtool")
    };
    assert!(!check(false).status.success(), "what is missing is said");
    let checked = check(true);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("rules found"), "{said}{checked:?}");
}
