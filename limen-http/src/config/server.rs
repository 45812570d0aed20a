//! What the server alone needs.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use limen_core::Secret;
use limen_core::store::Retention;

use super::agent::AgentArgs;
use super::limits::{LimitArgs, Rate};
use super::origins::Origins;
use super::proxies::Proxies;
use super::retention::RetentionArgs;
use super::secret::{ServerSecretFiles, secret};
use super::value::{given, number};
use super::{Result, refuse};
use crate::agent::Agent;
use crate::pace::Timeouts;

/// What the server alone needs.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct HttpArgs {
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, env = "BIND_ADDRESS", value_name = "IP", hide_env_values = true)]
    pub(super) bind_address: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 18443]
    #[arg(long, env = "PORT", value_name = "PORT", hide_env_values = true)]
    pub(super) port: Option<String>,
    /// Signs the tokens, at least 32 bytes; as a flag it shows in the process list [default: made
    /// and kept in the data directory with SQLite; PostgreSQL needs one]
    #[arg(long, env = "JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    pub(super) jwt_secret: Option<String>,
    /// The JWT_SECRET until now: tokens that it signed stay good until they expire
    #[arg(long, env = "JWT_SECRET_PREVIOUS", value_name = "SECRET", hide_env_values = true)]
    pub(super) jwt_secret_previous: Option<String>,
    /// How many hours a login lasts, 1 to 720 [default: 24]
    #[arg(long, env = "TOKEN_EXPIRY_HOURS", value_name = "HOURS", hide_env_values = true)]
    pub(super) token_expiry_hours: Option<String>,
    /// Name of the first user, at the first start only [default: admin]
    #[arg(long, env = "ADMIN_USER", value_name = "NAME", hide_env_values = true)]
    pub(super) admin_user: Option<String>,
    /// Password of the first user, at the first start only [default: made and written to
    /// initial-admin-password in the data directory]
    #[arg(long, env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub(super) admin_password: Option<String>,
    /// Origins of web pages that may use the API from a browser, exactly as the browser names them,
    /// separated by commas [default: none]
    #[arg(long, env = "ALLOWED_ORIGINS", value_name = "ORIGINS", hide_env_values = true)]
    pub(super) allowed_origins: Option<String>,
    /// Addresses and nets of proxies, separated by commas, whose X-Forwarded-For and
    /// X-Forwarded-Proto are believed; none for nobody's [default: 127.0.0.0/8,::1]
    #[arg(long, env = "TRUSTED_PROXIES", value_name = "NETS", hide_env_values = true)]
    pub(super) trusted_proxies: Option<String>,
    #[command(flatten)]
    pub(super) files: ServerSecretFiles,
    #[command(flatten)]
    pub(super) agent: AgentArgs,
    #[command(flatten)]
    pub(super) limits: LimitArgs,
    #[command(flatten)]
    pub(super) retention: RetentionArgs,
}

impl std::fmt::Debug for HttpArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpArgs").finish_non_exhaustive()
    }
}

/// [`HttpArgs`], judged.
#[derive(Debug, Clone)]
pub(crate) struct HttpConfig {
    pub(crate) bind: SocketAddr,
    pub(crate) jwt_secret: Option<Secret>,
    pub(crate) jwt_secret_previous: Option<Secret>,
    pub(crate) token_expiry: Duration,
    pub(crate) admin_user: String,
    pub(crate) admin_password: Option<Secret>,
    pub(crate) origins: Origins,
    pub(crate) proxies: Proxies,
    pub(crate) rate: Option<Rate>,
    pub(crate) timeouts: Timeouts,
    pub(crate) agent: Agent,
    pub(crate) retention: Retention,
}

impl HttpArgs {
    /// `ALLOWED_ORIGINS` as it is given.
    pub(crate) fn origins_given(&self) -> Option<&str> {
        self.allowed_origins.as_deref()
    }

    /// The file of a secret, where it is given so.
    pub(crate) fn file_of(&self, secret: &str) -> Option<&str> {
        let files = &self.files;
        match secret {
            "JWT_SECRET" => files.jwt_secret_file.as_deref(),
            "JWT_SECRET_PREVIOUS" => files.jwt_secret_previous_file.as_deref(),
            _ => None,
        }
    }

    /// Takes one setting back to its default, for the others to be judged without it; false where
    /// it is not one of these.
    pub(crate) fn forget(&mut self, setting: &str) -> bool {
        let files = &mut self.files;
        let places = match setting {
            "BIND_ADDRESS" => [Some(&mut self.bind_address), None],
            "PORT" => [Some(&mut self.port), None],
            "JWT_SECRET" | "JWT_SECRET_FILE" => [Some(&mut self.jwt_secret), Some(&mut files.jwt_secret_file)],
            "JWT_SECRET_PREVIOUS" | "JWT_SECRET_PREVIOUS_FILE" => {
                [Some(&mut self.jwt_secret_previous), Some(&mut files.jwt_secret_previous_file)]
            }
            "ADMIN_PASSWORD" | "ADMIN_PASSWORD_FILE" => {
                [Some(&mut self.admin_password), Some(&mut files.admin_password_file)]
            }
            "ALLOWED_ORIGINS" => [Some(&mut self.allowed_origins), None],
            "TRUSTED_PROXIES" => [Some(&mut self.trusted_proxies), None],
            _ => [None, None],
        };
        let mut forgotten = false;
        for place in places.into_iter().flatten() {
            forgotten |= place.take().is_some();
        }
        forgotten
    }

    /// Judges every value.
    pub(crate) fn judge(&self) -> Result<HttpConfig> {
        let address = match given("BIND_ADDRESS", self.bind_address.as_ref())? {
            None => IpAddr::from([0, 0, 0, 0]),
            Some(text) => match text.parse() {
                Ok(address) => address,
                Err(_) => {
                    return refuse(format!("BIND_ADDRESS must be an IP address like 127.0.0.1 or ::, not {text:?}."));
                }
            },
        };
        let port = match given("PORT", self.port.as_ref())? {
            None => 18443,
            Some(text) => number("PORT", text, 0)?,
        };
        let files = &self.files;
        let key = |name, value: &Option<String>, file: &Option<String>| {
            secret(name, value.as_ref(), file.as_ref())?.map(|text| judge_jwt_secret(name, &text)).transpose()
        };
        let jwt_secret = key("JWT_SECRET", &self.jwt_secret, &files.jwt_secret_file)?;
        let jwt_secret_previous =
            key("JWT_SECRET_PREVIOUS", &self.jwt_secret_previous, &files.jwt_secret_previous_file)?;
        if let (Some(now), Some(before)) = (&jwt_secret, &jwt_secret_previous)
            && now.expose() == before.expose()
        {
            return refuse("JWT_SECRET_PREVIOUS is JWT_SECRET itself; it must be the one before, or be removed.");
        }
        let hours = match given("TOKEN_EXPIRY_HOURS", self.token_expiry_hours.as_ref())? {
            None => 24,
            Some(text) => match text.parse() {
                Ok(hours @ 1..=LONGEST_EXPIRY_HOURS) => hours,
                _ => {
                    return refuse(format!(
                        "TOKEN_EXPIRY_HOURS must be a number from 1 to {LONGEST_EXPIRY_HOURS}, not {text:?}."
                    ));
                }
            },
        };
        let token_expiry = Duration::from_secs(u64::from(hours) * 3600);
        let admin_user = given("ADMIN_USER", self.admin_user.as_ref())?.unwrap_or("admin").to_owned();
        let admin_password =
            secret("ADMIN_PASSWORD", self.admin_password.as_ref(), files.admin_password_file.as_ref())?
                .map(Secret::new);
        Ok(HttpConfig {
            bind: SocketAddr::new(address, port),
            jwt_secret,
            jwt_secret_previous,
            token_expiry,
            admin_user,
            admin_password,
            origins: match given("ALLOWED_ORIGINS", self.allowed_origins.as_ref())? {
                None => Origins::default(),
                Some(text) => Origins::parse("ALLOWED_ORIGINS", text)?,
            },
            proxies: match given("TRUSTED_PROXIES", self.trusted_proxies.as_ref())? {
                None => Proxies::default(),
                Some(text) => Proxies::parse("TRUSTED_PROXIES", text)?,
            },
            rate: self.limits.rate()?,
            timeouts: self.limits.timeouts()?,
            agent: self.agent.judge()?,
            retention: self.retention.judge()?,
        })
    }
}

/// The longest that a login may last.
pub(crate) const LONGEST_EXPIRY_HOURS: u32 = 720;

/// At least 32 bytes, and none that stands in some example. `name` is the variable's.
pub(crate) fn judge_jwt_secret(name: &str, text: &str) -> Result<Secret> {
    const PLACEHOLDERS: [&str; 18] = [
        "changeme",
        "yoursecret",
        "yourjwt",
        "placeholder",
        "replaceme",
        "supersecret",
        "secretkey",
        "mysecret",
        "example",
        "password",
        "jwtsecret",
        "keepitsecret",
        "donotuse",
        "insecure",
        "abcdefghijklmnop",
        "0123456789012345",
        "1234567890123456",
        "0123456789abcdef0123456789abcdef",
    ];
    if text.len() < 32 {
        return refuse(format!("{name} must have at least 32 bytes; `openssl rand -hex 32` makes one."));
    }
    let plain: String = text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut bytes = text.as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    if bytes.len() < 8 || PLACEHOLDERS.iter().any(|word| plain.contains(word)) {
        return refuse(format!(
            "{name} is a placeholder that anybody could guess; `openssl rand -hex 32` makes a good one."
        ));
    }
    Ok(Secret::new(text))
}
