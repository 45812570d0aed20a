//! Texts as values: each refusal is one sentence that names the variable.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::{Result, refuse};

/// A variable that is set to nothing is a mistake: it would silently mean the default.
pub(super) fn given<'a>(name: &str, value: Option<&'a String>) -> Result<Option<&'a str>> {
    match value.map(String::as_str) {
        Some("") => refuse(format!("{name} is empty; give it a value or remove it.")),
        Some(text) if text.contains('\0') => refuse(format!("{name} must not contain a NUL byte.")),
        other => Ok(other),
    }
}

pub(super) fn directory(name: &str, value: Option<&String>) -> Result<Option<PathBuf>> {
    match given(name, value)? {
        None => Ok(None),
        Some(text) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        Some(text) => refuse(format!("{name} must be an absolute path, not {text:?}.")),
    }
}

pub(super) fn one_of<T: Copy>(name: &str, value: Option<&String>, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = given(name, value)? else { return Ok(None) };
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(Some(*choice));
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    refuse(format!("{name} must be one of {}, not {text:?}.", words.join(", ")))
}

pub(super) fn number(name: &str, text: &str, least: u16) -> Result<u16> {
    match text.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => refuse(format!("{name} must be a number from {least} to 65535, not {text:?}.")),
    }
}

/// A whole number of seconds, minutes, hours or days: `15s`, `10m`, `1h`, `7d`.
pub(super) fn duration(
    name: &str,
    value: Option<&String>,
    range: RangeInclusive<Duration>,
) -> Result<Option<Duration>> {
    let Some(text) = given(name, value)? else { return Ok(None) };
    let read = |text: &str| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let number = number.bytes().all(|digit| digit.is_ascii_digit()).then(|| number.parse::<u64>().ok())??;
        Some(Duration::from_secs(number.checked_mul(seconds)?))
    };
    match read(text) {
        Some(duration) if range.contains(&duration) => Ok(Some(duration)),
        _ => refuse(format!(
            "{name} must be a time like 15s, 10m or 1h, from {}s to {}s, not {text:?}.",
            range.start().as_secs(),
            range.end().as_secs()
        )),
    }
}

pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}
