//! A string that cannot be printed.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// A password, token or key. `Debug` hides it, there is no `Display` and no `Serialize`, and where
/// one is read that is no string, the error does not repeat it.
///
/// ```compile_fail
/// println!("{}", limen_core::Secret::new("hunter2"));
/// ```
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself; pass it on, never log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not as a string: of anything else the format itself would complain, and repeat it.
        deserializer.deserialize_any(Text)
    }
}

/// Takes a string; serde's own words on a number or truth value would repeat it.
struct Text;

fn no_string<E: Error>() -> E {
    E::custom("invalid type: a secret must be a string")
}

impl Visitor<'_> for Text {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Secret, E> {
        Err(no_string())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(no_string())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(no_string())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(no_string())
    }
}

#[cfg(test)]
mod tests {
    use super::Secret;

    #[test]
    fn what_is_no_string_is_refused_and_not_repeated() {
        assert_eq!(serde_json::from_str::<Secret>("\"a\\nb\"").expect("a string").expose(), "a\nb");
        for value in
            ["739182645509", "-739182645509", "7391.82645509", "true", "[739182645509]", "{\"a\": 739182645509}"]
        {
            let error = serde_json::from_str::<Secret>(value).expect_err("no string").to_string();
            assert!(!error.contains("7391") && !error.contains("true"), "{error}");
        }
    }
}
