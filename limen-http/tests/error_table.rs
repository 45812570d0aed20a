//! The one table of errors, `docs/errors.md`, is that of the code: the library's kinds, in their
//! order, with the statuses of this server.

use std::collections::BTreeSet;
use std::path::Path;

use limen_core::ErrorKind;

/// What a cell holds between backquotes.
fn code(cell: &str) -> &str {
    cell.strip_prefix('`').and_then(|cell| cell.strip_suffix('`')).unwrap_or_else(|| panic!("{cell} is not code"))
}

/// The rows of the first table, without its head.
fn rows() -> Vec<[String; 6]> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
    let text = std::fs::read_to_string(document).expect("read docs/errors.md");
    let table = text.lines().skip_while(|line| !line.starts_with("| kind | code |")).skip(2);
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect() };
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| cells(line).try_into().unwrap_or_else(|cells| panic!("not six cells: {cells:?}")))
        .collect()
}

#[test]
fn the_documented_errors_are_those_of_the_code() {
    let rows = rows();
    let documented: Vec<&str> = rows.iter().map(|row| code(&row[1])).collect();
    let known: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(documented, known);
    for ([name, wire, status, python, retry, meaning], kind) in rows.iter().zip(ErrorKind::ALL) {
        assert_eq!(code(name), format!("{kind:?}"));
        assert_eq!(status, limen_http::status(*kind).as_str(), "the status of {wire}");
        assert_eq!(code(python), format!("{kind:?}Error"));
        assert_eq!(retry, if kind.is_retryable() { "yes" } else { "no" }, "whether to retry {wire}");
        assert!(meaning.ends_with('.'), "the meaning of {wire} is a sentence");
        // The name on the wire is the one in the table.
        assert_eq!(serde_json::to_value(kind).expect("a kind is JSON"), code(wire));
    }
    let exceptions: BTreeSet<&String> = rows.iter().map(|row| &row[3]).collect();
    assert_eq!(exceptions.len(), rows.len(), "each kind has an exception of its own");
}
