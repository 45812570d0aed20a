//! `limen check`: whether Store, hosts, files and memory agree.

use serde_json::Value;

use super::door::{Door, Intent};
use super::{DoorArgs, Failure, Result, output};
use crate::config::CoreConfig;

pub(super) const HELP: &str = "\
With --local it looks for itself, beside a running server or without one; else the server looks. Nothing is made or
changed.
docs/check.md says what each finding means, and what to do.

Exit codes: 0 all agrees, 1 something does not, 3 a host could not be compared (and nothing else was found),
or the store cannot be read: away, absent, or of another version; 2 and 4 to 5 as everywhere.";

pub(super) async fn run(args: &DoorArgs, config: &CoreConfig) -> Result<u8> {
    let door = Door::open(args, config, Intent::Look).await.map_err(|failure| match failure {
        // 1 is that something does not agree: here nothing was compared.
        Failure { code: 1, message } => Failure::new(3, message),
        other => other,
    })?;
    let report = door.get("/api/check").await;
    door.close().await;
    let report = report?;
    let findings = report["findings"].as_array().cloned().unwrap_or_default();
    if args.json {
        output::json(&report);
    } else if findings.is_empty() {
        let hosts: Vec<String> =
            report["hosts"].as_array().into_iter().flatten().map(|host| output::cell(Some(host))).collect();
        output::line(format!("All agrees; compared with the Store: {}.", hosts.join(", ")));
    } else {
        let columns = [
            ("SEVERITY", "/severity"),
            ("FINDING", "/kind"),
            ("HOST", "/host"),
            ("SUBJECT", "/subject"),
            ("DETAIL", "/detail"),
        ];
        output::table(&columns, &findings);
    }
    Ok(exit_code(&findings))
}

fn exit_code(findings: &[Value]) -> u8 {
    match findings {
        [] => 0,
        all if all.iter().all(|finding| finding["kind"] == "host_unreachable") => 3,
        _ => 1,
    }
}
