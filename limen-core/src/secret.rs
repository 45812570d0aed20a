//! A string that cannot be printed.

use std::fmt;

use serde::Deserialize;

/// A password, token or key. `Debug` hides it, there is no `Display` and no `Serialize`.
///
/// ```compile_fail
/// println!("{}", limen_core::Secret::new("hunter2"));
/// ```
#[derive(Clone, Deserialize)]
#[serde(transparent)]
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
