//! Records as documents, times as microseconds.

use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::driver::Line;
use super::failure::{Failure, Outcome};
use crate::error::Error;

/// The refusal of a NUL character: PostgreSQL cannot keep one, so no database does.
pub(super) fn nul() -> Error {
    Error::invalid("text", "Text must not contain NUL characters.")
}

/// `value` as the JSON that the database keeps.
pub(super) fn document(value: &impl Serialize) -> Outcome<String> {
    let text = serde_json::to_string(value).map_err(Error::internal)?;
    if holds_nul(&text) { Err(nul().into()) } else { Ok(text) }
}

/// Whether a string in `json` holds a NUL; the text of an escape (`\\u0000`) is none.
fn holds_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let before = json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        before % 2 == 0
    })
}

/// The record in a column of documents.
pub(super) fn record<T: DeserializeOwned>(line: &Line, column: usize) -> Outcome<T> {
    Ok(serde_json::from_str(line.text(column)?).map_err(Error::internal)?)
}

/// The name of a plain enum's value, as its serde form has it.
pub(super) fn name(value: &impl Serialize) -> Outcome<String> {
    match serde_json::to_value(value).map_err(Error::internal)? {
        serde_json::Value::String(name) => Ok(name),
        other => Err(Error::internal(format!("{other} is no name")).into()),
    }
}

/// Microseconds since 1970.
pub(super) fn micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX)
}

/// The time that `micros` stands for.
pub(super) fn time(micros: i64) -> Outcome<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000)
        .map_err(|error| Failure::Refused(Error::internal(error)))
}

/// Now, as exact as the database keeps it.
pub(super) fn now() -> i64 {
    micros(OffsetDateTime::now_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_refused_and_the_text_of_its_escape_is_not() {
        assert!(document(&"a\0b").is_err());
        assert!(document(&"\\\0").is_err());
        assert!(document(&"\\u0000").is_ok());
        assert!(document(&"한국어 🦀").is_ok());
    }
}
