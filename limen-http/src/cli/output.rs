//! What commands print: tables for people, JSON for programs.

use std::io::Write;

use serde_json::Value;

/// Prints a line. A reader that went away (`limen vm list | head`) is no error.
pub(super) fn line(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    _ = writeln!(out, "{}", text.as_ref());
}

/// Prints JSON, indented.
pub(super) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A column: its title, and where its value is in each row.
pub(super) type Column = (&'static str, &'static str);

/// Prints rows under titles, each column as wide as it must be.
pub(super) fn table(columns: &[Column], rows: &[Value]) {
    let titles: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|(_, pointer)| cell(row.pointer(pointer))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(cells).collect();
    let width = |index: usize| lines.iter().map(|cells| cells[index].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    for cells in &lines {
        let padded = cells.iter().zip(&widths).map(|(value, width)| format!("{value:width$}"));
        line(padded.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// A value in one line; what a client could have put into a name cannot reach the terminal.
pub(super) fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// The text at `pointer`, or nothing.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}
