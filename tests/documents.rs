//! Tables that stand in the documents and in the code are the same.

use std::collections::BTreeSet;

use limen_core::ErrorKind;
use limen_core::service::operation_steps;
use limen_support::project_dir;

/// The cells of every table row in a document whose first cell is written as code.
fn rows(document: &str) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(project_dir().join("docs").join(document)).expect("read a document");
    let cells = |line: &str| line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    text.lines().filter(|line| line.starts_with("| ")).map(cells).collect()
}

fn code(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.split_once('`').map(|(code, _)| code)
}

#[test]
fn the_table_of_errors_is_that_of_the_code() {
    let rows: Vec<Vec<String>> = rows("errors.md").into_iter().filter(|row| row.len() == 6).skip(1).collect();
    let documented: Vec<&str> = rows.iter().filter_map(|row| code(&row[1])).collect();
    let known: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(documented, known, "the codes of docs/errors.md, in order");
    for (row, kind) in rows.iter().zip(ErrorKind::ALL) {
        let [name, code_cell, _, python, retry, meaning] = &row[..] else { panic!("six cells: {row:?}") };
        assert_eq!(code(name), Some(&*format!("{kind:?}")), "the kind of {code_cell}");
        //        assert_eq!(status, &limen_http::status(*kind).as_u16().to_string(), "the status of {code_cell}");
        assert_eq!(code(python), Some(&*format!("{kind:?}Error")), "the Python exception of {code_cell}");
        assert_eq!(retry, if kind.is_retryable() { "yes" } else { "no" }, "whether to retry {code_cell}");
        assert!(meaning.ends_with('.'), "the meaning of {code_cell} is a sentence");
        // The name on the wire is the one in the table.
        assert_eq!(serde_json::to_value(kind).expect("a kind is JSON"), kind.code());
    }
    let pythons: BTreeSet<&String> = rows.iter().map(|row| &row[3]).collect();
    assert_eq!(pythons.len(), ErrorKind::ALL.len(), "each kind has an exception of its own");
}

#[test]
fn the_table_of_operations_is_that_of_the_code() {
    let rows = rows("architecture.md");
    let begin = rows.iter().position(|row| row[0] == "operation").expect("the table of operations") + 1;
    let table = rows[begin..].iter().take_while(|row| row[0].is_empty() || code(&row[0]).is_some());
    let mut documented: Vec<(String, Vec<String>)> = Vec::new();
    for row in table {
        if let Some(kind) = code(&row[0]) {
            documented.push((kind.to_owned(), Vec::new()));
        }
        let step = code(&row[1]).expect("a step").to_owned();
        documented.last_mut().expect("a kind before its steps").1.push(step);
    }
    let owned = |(kind, steps): (&str, Vec<&str>)| (kind.to_owned(), steps.into_iter().map(str::to_owned).collect());
    let known: Vec<(String, Vec<String>)> = operation_steps().into_iter().map(owned).collect();
    assert_eq!(documented, known, "the operations of docs/architecture.md, in order");
}
