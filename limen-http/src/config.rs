//! Configuration: every value is an environment variable and a flag; a flag wins.
//!
//! clap only collects the texts. They are judged here, so that each refusal is one sentence that
//! names the variable, whichever way the value came.

mod agent;
mod installation;
mod limits;
mod origins;
mod pool;
mod proxies;
mod retention;
mod secret;
mod server;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use self::agent::FiguresChoice;
pub(crate) use self::installation::{CoreArgs, CoreConfig, HypervisorChoice, LogFormat, StoreChoice};
pub(crate) use self::origins::Origins;
pub(crate) use self::proxies::Proxies;
pub(crate) use self::server::{HttpArgs, HttpConfig, LONGEST_EXPIRY_HOURS, judge_jwt_secret};
pub(crate) use self::value::percent_encode;

/// A value that cannot be used; the sentence names the variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError(String);

impl ConfigError {
    /// The setting that it names: every sentence begins with one.
    pub(crate) fn setting(&self) -> &str {
        self.0.split([' ', ':']).next().unwrap_or_default()
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

type Result<T> = std::result::Result<T, ConfigError>;

pub(crate) fn refuse<T>(sentence: impl Into<String>) -> Result<T> {
    Err(ConfigError(sentence.into()))
}
