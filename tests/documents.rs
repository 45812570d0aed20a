//! Tables that stand in the documents and in the code are the same. (That of the errors is held
//! by limen-http, which knows the statuses.)

use std::collections::BTreeSet;

use limen_core::model::FindingKind;
use limen_core::service::operation_steps;
use limen_support::project_dir;

/// What a cell begins with between backquotes.
fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split_once('`').map(|(code, _)| code)
}

#[test]
fn the_documented_operations_and_steps_are_those_of_the_code() {
    let text = std::fs::read_to_string(project_dir().join("docs/architecture.md")).expect("read a document");
    let table = text.lines().skip_while(|line| !line.starts_with("| operation | steps")).skip(2);
    let mut documented: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for line in table.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let Some(kind) = code(cells[0]) {
            documented.push((kind.to_owned(), Vec::new()));
        }
        let step = code(cells[1]).unwrap_or_else(|| panic!("no step: {line}"));
        let nature = cells[2].split([' ', ',']).next().unwrap_or_default();
        documented.last_mut().expect("a kind before its steps").1.push((step.to_owned(), nature.to_owned()));
    }
    let owned = |(step, nature): (&str, &str)| (step.to_owned(), nature.to_owned());
    let known: Vec<(String, Vec<(String, String)>)> = operation_steps()
        .into_iter()
        .map(|(kind, steps)| (kind.to_owned(), steps.into_iter().map(owned).collect()))
        .collect();
    assert_eq!(documented, known);
}

#[test]
fn every_setting_is_documented() {
    let read = |path: &str| std::fs::read_to_string(project_dir().join(path)).expect("read a file");
    let is_variable = |text: &str| text.chars().all(|c| c.is_ascii_uppercase() || c == '_') && !text.is_empty();
    let config = std::fs::read_dir(project_dir().join("limen-http/src/config")).expect("read a directory");
    let config = config.map(|file| format!("config/{}", file.expect("a file").file_name().to_string_lossy()));
    let files = ["config.rs", "cli/mod.rs"].map(str::to_owned).into_iter().chain(config);
    let in_code: BTreeSet<String> = files
        .flat_map(|file| {
            read(&format!("limen-http/src/{file}")).split("env = \"").skip(1).map(str::to_owned).collect::<Vec<_>>()
        })
        .filter_map(|rest| rest.split_once('"').map(|(name, _)| name.to_owned()))
        .collect();
    let in_document: BTreeSet<String> = read("docs/configuration.md")
        .lines()
        .filter_map(|line| code(line.strip_prefix("| ")?))
        .filter(|name| is_variable(name))
        .map(str::to_owned)
        .collect();
    assert_eq!(in_document, in_code);
    assert!(in_code.contains("HYPERVISOR_URI") && in_code.len() > 15, "the code is read wrongly: {in_code:?}");
    let example = read(".env.example");
    for name in in_code.iter().filter(|name| !["LIMEN_URL", "LIMEN_TOKEN", "LIBVIRT_URI"].contains(&name.as_str())) {
        assert!(example.contains(&format!("\n#{name}=")), ".env.example lacks {name}");
    }
}

#[test]
fn the_documented_findings_are_those_of_the_code() {
    let text = std::fs::read_to_string(project_dir().join("docs/check.md")).expect("read a document");
    let table = text.lines().skip_while(|line| !line.starts_with("| finding |")).skip(2);
    let documented: Vec<(String, String)> = table
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "{line}");
            (code(cells[0]).expect("a finding").to_owned(), cells[1].to_owned())
        })
        .collect();
    let known: Vec<(String, String)> =
        FindingKind::ALL.iter().map(|kind| (kind.as_str().to_owned(), kind.severity().as_str().to_owned())).collect();
    assert_eq!(documented, known);
}

#[test]
fn the_tests_that_show_a_fault_are_there() {
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("read a file");
    let text = read(&project_dir().join("docs/faults.md"));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| F")).collect();
    assert!(rows.len() > 15, "{rows:?}");
    for row in rows {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last cell");
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test shows {row}");
        for test in tests {
            let (file, name) = test.split_once("::").unwrap_or_else(|| panic!("{test} names no file"));
            let place = match file {
                "http" => "limen-http/tests/http".to_owned(),
                file => format!("tests/{file}"),
            };
            let place = project_dir().join(place);
            let files: Vec<_> = match std::fs::read_dir(&place) {
                Ok(entries) => entries.map(|entry| entry.expect("read a directory").path()).collect(),
                Err(_) => vec![place.with_extension("rs")],
            };
            let is_there = files.iter().any(|file| read(file).contains(&format!("fn {name}(")));
            assert!(is_there, "docs/faults.md names {test}, which is not in {}", place.display());
        }
    }
}
