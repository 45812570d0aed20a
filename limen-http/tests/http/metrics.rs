//! What Prometheus scrapes: whole, true, bounded, and telling nobody's name to a stranger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use limen_core::authz::{Decision, Resource, Scope};
use limen_core::hypervisor::sim::Method;
use limen_core::{Action, Actor, Authz};
use serde_json::json;

use crate::harness::{SAMPLE, Server};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// What one scrape told, read as strictly as the format is defined.
#[derive(Debug, Default)]
struct Scrape {
    /// The type of each family.
    families: BTreeMap<String, String>,
    /// The labels that a family's series bear, but for `le`.
    labels: BTreeMap<String, BTreeSet<String>>,
    /// Every series, name and labels as they stand, and its value.
    values: BTreeMap<String, f64>,
}

impl Scrape {
    #[track_caller]
    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
        let mut scrape = Scrape::default();
        let mut lines = text.lines();
        let mut family = String::new();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect("a sentence");
                assert!(help.ends_with('.'), "{line}");
                let kind = lines.next().and_then(|line| line.strip_prefix(&format!("# TYPE {name} ")));
                let kind = kind.unwrap_or_else(|| panic!("no type after {line}"));
                family = name.to_owned();
                assert!(scrape.families.insert(family.clone(), kind.to_owned()).is_none(), "{name} begins twice");
                continue;
            }
            scrape.series(&family, line);
        }
        scrape.histograms_are_whole();
        scrape
    }

    #[track_caller]
    fn series(&mut self, family: &str, line: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let (name, labels) = series.split_once('{').map_or((series, ""), |(name, rest)| {
            (name, rest.strip_suffix('}').unwrap_or_else(|| panic!("not closed: {line}")))
        });
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} stands under {family}"));
        match self.families[family].as_str() {
            "counter" => assert!(suffix.is_empty() && name.ends_with("_total"), "{line}"),
            // The one gauge with a counter's ending is the operations guide's.
            "gauge" => assert!(suffix.is_empty() && (name == "vm_total" || !name.ends_with("_total")), "{line}"),
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            other => panic!("{other}: {line}"),
        }
        let names = labels.split("\",").filter(|label| !label.is_empty()).map(|label| {
            let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
            assert!(!value.is_empty(), "{line}");
            name.to_owned()
        });
        self.labels.entry(family.to_owned()).or_default().extend(names.filter(|name| name != "le"));
        assert!(self.values.insert(series.to_owned(), value).is_none(), "twice: {line}");
    }

    #[track_caller]
    fn histograms_are_whole(&self) {
        for (series, count) in self.values.iter().filter(|(series, _)| series.contains("_count")) {
            let (name, labels) = series.split_once("_count").expect("a count");
            let labels = labels.trim_start_matches('{').trim_end_matches('}');
            let comma = if labels.is_empty() { "" } else { "," };
            let start = format!("{name}_bucket{{{labels}{comma}le=\"");
            let mut buckets: Vec<(f64, f64)> = self
                .values
                .iter()
                .filter_map(|(series, value)| {
                    let bound = series.strip_prefix(&start)?.trim_end_matches("\"}");
                    Some((bound.replace("+Inf", "inf").parse().expect("a bound"), *value))
                })
                .collect();
            buckets.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
            assert!(buckets.len() > 5 && buckets.is_sorted_by(|a, b| a.1 <= b.1), "{series}: {buckets:?}");
            assert_eq!(buckets.last(), Some(&(f64::INFINITY, *count)), "{series}");
            let sum = self.values[&series.replace("_count", "_sum")];
            assert_eq!(sum > 0.0, *count > 0.0, "{series}");
        }
    }

    fn get(&self, series: &str) -> f64 {
        self.values.get(series).copied().unwrap_or_default()
    }
}

async fn scrape(server: &Server, token: &str) -> Scrape {
    let answer = server.get("/api/metrics", token).await.expect(200);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    Scrape::read(std::str::from_utf8(&answer.bytes).expect("text"))
}

/// A running VM whose counters were read, with disks and NICs.
async fn sampled(server: &Server, admin: &str) -> String {
    let body = json!({"name": "busy", "vcpus": 1, "memory_mib": 64, "start": true,
        "disks": [{"size_gib": 1}], "networks": ["default"]});
    let made = server.call_with("POST", "/api/vms", admin, &[("prefer", "wait=30")], &body).await.expect(200);
    let id = made.json()["vm_id"].as_str().expect("an id").to_owned();
    server.get(&format!("/api/vms/{id}/stats"), admin).await.expect(200);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_documented_and_every_documented_one_is_served() {
    let server = Server::start(2).await;
    let admin = server.login("admin").await;
    let limited =
        json!({"username": "limited", "password": crate::harness::PASSWORD, "role": "user", "quota": {"vms": 3}});
    server.call("POST", "/api/users", &admin, &limited).await.expect(201);
    server.vm(&admin, "web").await;
    sampled(&server, &admin).await;
    let scrape = scrape(&server, &admin).await;

    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<String>>();
    let table = DOCUMENT.lines().skip_while(|line| !line.starts_with("| series | type | labels |")).skip(2);
    let mut documented = BTreeMap::new();
    for line in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = code(cells[0]).pop_first().unwrap_or_else(|| panic!("no series: {line}"));
        documented.insert(name, (cells[1].to_owned(), code(cells[2])));
    }
    let labels = |name: &String| scrape.labels.get(name).cloned().unwrap_or_default();
    let served: BTreeMap<String, (String, BTreeSet<String>)> =
        scrape.families.iter().map(|(name, kind)| (name.clone(), (kind.clone(), labels(name)))).collect();
    assert_eq!(served, documented);
    for name in served.keys() {
        assert!(scrape.labels.contains_key(name), "{name} has no series");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_what_was_done() {
    let server = Server::start(3).await;
    let admin = server.login("admin").await;
    let before = scrape(&server, "").await;
    assert_eq!(before.get("limen_host_up{host=\"here\"}"), 1.0);
    assert!(before.values.contains_key("limen_observation_age_seconds{host=\"here\"}"));
    assert!(before.get("limen_event_lag_seconds") < 60.0);

    let id = server.vm(&admin, "web").await;
    let power = format!("/api/vms/{id}/power");
    let wait = [("prefer", "wait=30")];
    let start = json!({"action": "start"});
    server.call_with("POST", &power, &admin, &wait, &start).await.expect(200);
    let running = scrape(&server, "").await;
    server.call_with("POST", &power, &admin, &wait, &json!({"action": "power_off"})).await.expect(200);
    let after = scrape(&server, "").await;
    assert_eq!(after.get("vm_total"), before.get("vm_total") + 1.0);
    assert_eq!(running.get("vm_running"), before.get("vm_running") + 1.0);
    assert_eq!(after.get("vm_running"), before.get("vm_running"));
    assert_eq!(running.get("vm_running"), running.get("limen_vms{state=\"running\"}"));
    let states: f64 = after.values.iter().filter(|(name, _)| name.starts_with("limen_vms{")).map(|(_, n)| n).sum();
    assert_eq!(states, after.get("vm_total"));

    let rise = |series: &str| after.get(series) - before.get(series);
    for (kind, count) in [("create_vm", 1.0), ("change_power", 2.0), ("delete_vm", 0.0)] {
        assert_eq!(rise(&format!("limen_operation_started_total{{kind=\"{kind}\"}}")), count, "{kind}");
        let finished = format!("limen_operation_finished_total{{kind=\"{kind}\",outcome=\"succeeded\"}}");
        assert_eq!(rise(&finished), count, "{kind}");
        assert_eq!(rise(&format!("limen_operation_duration_seconds_count{{kind=\"{kind}\"}}")), count, "{kind}");
        let unfinished =
            after.values.iter().filter(|(series, _)| series.contains(&format!("unfinished{{kind=\"{kind}")));
        assert_eq!(unfinished.map(|(_, count)| count).sum::<f64>(), 0.0, "{kind}");
    }
    let route = "method=\"POST\",route=\"/api/vms/{id}/power\",status=\"200\"";
    assert_eq!(rise(&format!("http_requests_total{{{route}}}")), 2.0);
    assert_eq!(rise(&format!("http_request_duration_seconds_count{{{route}}}")), 2.0);
    assert!(after.values.keys().all(|series| !series.contains(&id)), "a path is a label");

    server.get("/api/vms", "").await.expect(401);
    let viewer = server.user(&admin, "viewer", "viewer").await;
    server.get("/api/audit", &viewer).await.expect(403);
    let refused = scrape(&server, "").await;
    for actor in ["known", "unknown"] {
        let series = format!("limen_refusals_total{{actor=\"{actor}\"}}");
        assert_eq!(refused.get(&series) - after.get(&series), 1.0, "{actor}");
    }
    let told = server.send("GET", "/api/metrics", "", &[("accept", "application/json")], vec![]).await.expect(200);
    assert_eq!((told.header("content-type"), told.header("vary")), ("application/json", "accept, accept-encoding"));
    let told = told.json();
    assert!(told["vms"].as_array().is_some_and(|states| !states.is_empty()), "{told}");
    assert_eq!((&told["refusals"]["known"], &told["owners"]), (&json!(1), &json!([])), "{told}");
    let any = server.send("GET", "/api/metrics", "", &[("accept", "text/plain, */*")], vec![]).await.expect(200);
    assert_eq!(any.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");

    let head = server.send("HEAD", "/api/metrics", "", &[], vec![]).await.expect(200);
    assert_eq!(head.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    assert_eq!(server.get("/api/metrics?name=x", "").await.expect(400).json()["field"], "name");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_clients_send_there_are_no_more_series() {
    let server = Server::start(0).await;
    let strange = ["BREW", "PROPFIND", "PUT", "POST", "DELETE"];
    let storm = async |round: u32| {
        for number in 0..50 {
            let path = format!("/{round}/{number}?x={number}");
            server.get(&path, "").await.expect(404);
            server.get(&format!("/api/vms/{round}-{number}"), "").await.expect(401);
            for method in strange {
                server.send(method, &path, "", &[], vec![]).await.expect(404);
                server.send(method, "/docs", "", &[], vec![]).await.expect(405);
            }
        }
        // The scrape before is a series from now on.
        scrape(&server, "").await;
        scrape(&server, "").await.values.len()
    };
    let first = storm(1).await;
    assert_eq!(storm(2).await, first);
    let now = scrape(&server, "").await;
    let sum = |part: &str| {
        let counts =
            now.values.iter().filter(|(series, _)| series.starts_with("http_requests_total") && series.contains(part));
        counts.map(|(_, count)| count).sum::<f64>()
    };
    assert_eq!(sum("method=\"other\",route=\"other\",status=\"404\""), 600.0);
    assert_eq!(sum("method=\"other\",route=\"/docs\",status=\"405\""), 500.0);
    assert_eq!(sum("method=\"GET\",route=\"/api/vms/{id}\",status=\"401\""), 100.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_no_name_and_a_user_only_their_own() {
    let server = Server::start(0).await;
    let admin = server.login("admin").await;
    let ann = server.user(&admin, "canary-ann", "user").await;
    let eve = server.user(&admin, "canary-eve", "operator").await;
    let vm = server.vm(&ann, "canary-vm").await;
    let bound = json!({"name": "one", "vm_id": vm});
    let bound = server.call("POST", "/api/tokens", &ann, &bound).await.expect(201).json()["token"].clone();
    let bound = bound.as_str().expect("a token");

    let owners = async |token: &str| -> BTreeSet<String> {
        let scrape = scrape(&server, token).await;
        let named = scrape.values.keys().filter_map(|series| series.split_once("owner=\"")?.1.split_once('"'));
        let owners: BTreeSet<String> = named.map(|(owner, _)| owner.to_owned()).collect();
        let told = scrape.values.keys().filter(|series| series.contains("canary")).count();
        assert!(told == 0 || !owners.is_empty(), "a name without an owner: {:?}", scrape.values);
        owners
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(owners("").await, set(&[]));
    assert_eq!(owners(bound).await, set(&[]));
    assert_eq!(owners(&ann).await, set(&["canary-ann"]));
    assert_eq!(owners(&eve).await, set(&["canary-eve"]));
    assert!(owners(&admin).await.is_superset(&set(&["admin", "canary-ann", "canary-eve"])));
    let used = scrape(&server, &ann).await.get("limen_quota_used{owner=\"canary-ann\",resource=\"memory_mib\"}");
    assert_eq!(used, 64.0);
    assert_eq!(server.get("/api/metrics", "not-a-token").await.expect(401).code(), "unauthenticated");
}

#[derive(Debug)]
struct Panics;

impl Authz for Panics {
    fn decide(&self, _: &Actor, action: Action, _: Resource) -> Decision {
        match action {
            Action::ListNetworks => panic!("on purpose"),
            Action::GetMetrics => Decision::Deny,
            _ => Decision::Allow,
        }
    }

    fn list_scope(&self, _: &Actor) -> Scope {
        Scope::ALL
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_counted_and_a_policy_may_close_the_door() {
    limen_http::count_panics();
    limen_http::count_panics();
    let server = Server::start(0).await;
    let panicky = Server::with_authz(0, Arc::new(Panics)).await;
    let admin = panicky.login("admin").await;
    let before = scrape(&server, "").await.get("limen_panics_total");
    for _ in 0..3 {
        panicky.get("/api/networks", &admin).await.expect(500);
    }
    // Another test panics on purpose too.
    assert!((3.0..=6.0).contains(&(scrape(&server, "").await.get("limen_panics_total") - before)));
    panicky.get("/api/metrics", "").await.expect(401);
    panicky.get("/api/metrics", &admin).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_are_told_of_to_whom_may_see_them_and_cost_their_host_nothing() {
    let server = Server::start(3).await;
    let admin = server.login("admin").await;
    let ann = server.user(&admin, "ann", "user").await;
    let id = sampled(&server, &admin).await;
    let vms = |scrape: &Scrape| -> BTreeSet<String> {
        let named = scrape.values.keys().filter_map(|series| series.split_once(",vm=\"")?.1.split_once('"'));
        named.map(|(vm, _)| vm.to_owned()).collect()
    };
    assert!(vms(&scrape(&server, &admin).await).contains(&id));
    assert_eq!(vms(&scrape(&server, "").await), BTreeSet::new(), "a stranger");
    assert_eq!(vms(&scrape(&server, &ann).await), BTreeSet::new(), "who has no VM");
    server.get(&format!("/api/vms/{id}/stats"), &ann).await.expect(404);
    server.get(&format!("/api/vms/{id}/stats"), "").await.expect(401);

    // As many scrapes as one likes are no call of the host's.
    let (begun, calls) = (std::time::Instant::now(), server.sim.calls_of(Method::Stats));
    for _ in 0..50 {
        scrape(&server, &admin).await;
        server.get(&format!("/api/vms/{id}/stats"), &admin).await.expect(200);
    }
    let due = begun.elapsed().as_secs() / SAMPLE.as_secs() + 1;
    let made = server.sim.calls_of(Method::Stats) - calls;
    assert!(made <= due, "{made} calls while {due} were due, whoever reads");

    // Compressed and plain are the same text, but for what rises between two scrapes.
    let plain = server.get("/api/metrics", &admin).await.expect(200);
    let packed = server.send("GET", "/api/metrics", &admin, &[("accept-encoding", "gzip")], vec![]).await.expect(200);
    assert_eq!((packed.header("content-encoding"), packed.header("vary")), ("gzip", "accept, accept-encoding"));
    // It came compressed, as one stream, and was read so.
    let text = String::from_utf8(packed.bytes.to_vec()).expect("text");
    let of_vms = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("libvirt_domain")).map(str::to_owned).collect()
    };
    let plain = String::from_utf8(plain.bytes.to_vec()).expect("text");
    assert!(!of_vms(&text).is_empty() && of_vms(&text) == of_vms(&plain));

    // One that hangs keeps its last figures, marked.
    let timed_out = |scrape: &Scrape| -> Vec<f64> {
        let series =
            scrape.values.iter().filter(|(name, _)| name.starts_with("libvirt_domain_timed_out") && name.contains(&id));
        series.map(|(_, value)| *value).collect()
    };
    assert_eq!(timed_out(&scrape(&server, &admin).await), [0.0]);
    let vm = limen_core::model::VmId(id.parse().expect("an id"));
    server.sim.outside().silence(vm, true).expect("it runs");
    for _ in 0..200 {
        if timed_out(&scrape(&server, &admin).await) == [1.0] {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(timed_out(&scrape(&server, &admin).await), [1.0]);
    let told = server.get(&format!("/api/vms/{id}/stats"), &admin).await.expect(200).json();
    assert_eq!(told["stale"], true, "{told}");
    server
        .call_with(
            "POST",
            &format!("/api/vms/{id}/power"),
            &admin,
            &[("prefer", "wait=30")],
            &json!({"action": "power_off"}),
        )
        .await;
    let off = server.get(&format!("/api/vms/{id}/stats"), &admin).await.expect(409);
    assert_eq!(off.code(), "conflict");
}
