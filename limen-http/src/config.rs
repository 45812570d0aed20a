//! Configuration: every value is an environment variable and a flag; a flag wins.
//!
//! clap only collects the texts. They are judged here, so that each refusal is one sentence that
//! names the variable, whichever way the value came.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use limen_core::Secret;
use limen_core::hypervisor::libvirt::VirtChoice;
use limen_core::model::GIB;
use limen_core::service::HostReserve;
use limen_core::store::Retention;
use tracing_subscriber::filter::LevelFilter;

use self::agent::AgentArgs;
use self::retention::RetentionArgs;
use self::secret::{CoreSecretFiles, ServerSecretFiles, secret};
use crate::agent::Agent;

/// A value that cannot be used; the sentence names the variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigError(String);

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

/// Where VMs run, where records are kept: what every command that works without a server needs.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Installation")]
pub(crate) struct CoreArgs {
    /// Hypervisor: qemu:///system, any other libvirt URI, test:///default, or sim:///?vms=N&seed=N
    /// (a simulator) [default: qemu:///system]
    #[arg(
        long,
        env = "HYPERVISOR_URI",
        value_name = "URI",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    hypervisor_uri: Option<String>,
    /// The same, under the name that libvirt's tools use
    #[arg(
        long,
        env = "LIBVIRT_URI",
        value_name = "URI",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    libvirt_uri: Option<String>,
    /// How guests run: auto, kvm, or qemu (software emulation) [default: auto]
    #[arg(long, env = "VIRT_TYPE", value_name = "TYPE", global = true, hide_env_values = true, hide_short_help = true)]
    virt_type: Option<String>,
    /// Database: postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite://PATH; wins over DB_*
    /// [default: SQLite in the data directory]
    #[arg(
        long,
        env = "DATABASE_URL",
        value_name = "URL",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    database_url: Option<String>,
    /// PostgreSQL's host; any DB_* chooses PostgreSQL [default: localhost]
    #[arg(long, env = "DB_HOST", value_name = "HOST", global = true, hide_env_values = true, hide_short_help = true)]
    db_host: Option<String>,
    /// PostgreSQL's port [default: 5432]
    #[arg(long, env = "DB_PORT", value_name = "PORT", global = true, hide_env_values = true, hide_short_help = true)]
    db_port: Option<String>,
    /// PostgreSQL's user [default: postgres]
    #[arg(long, env = "DB_USER", value_name = "USER", global = true, hide_env_values = true, hide_short_help = true)]
    db_user: Option<String>,
    /// The password of PostgreSQL's user; as a flag it shows in the process list
    #[arg(
        long,
        env = "DB_PASSWORD",
        value_name = "PASSWORD",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    db_password: Option<String>,
    #[command(flatten)]
    files: CoreSecretFiles,
    /// PostgreSQL's database [default: limen]
    #[arg(long, env = "DB_NAME", value_name = "NAME", global = true, hide_env_values = true, hide_short_help = true)]
    db_name: Option<String>,
    /// What LIMEN keeps on this machine [default: /var/lib/limen]
    #[arg(
        long = "data-dir",
        env = "LIMEN_DATA_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    data_dir: Option<String>,
    /// Volumes of VMs, as the hypervisor sees the path [default: vms in the data directory]
    #[arg(
        long = "vms-dir",
        env = "LIMEN_VMS_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    vms_dir: Option<String>,
    /// Images [default: images in the data directory]
    #[arg(
        long = "images-dir",
        env = "LIMEN_IMAGES_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    images_dir: Option<String>,
    /// Memory that all VMs of the host may have together, running or not, as a multiple of the
    /// host's own; none for no limit [default: 1.5]
    #[arg(
        long,
        env = "MEMORY_OVERCOMMIT",
        value_name = "FACTOR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    memory_overcommit: Option<String>,
    /// Space in GiB that the disks of a new VM must leave free on the host [default: 2]
    #[arg(
        long,
        env = "FREE_SPACE_GIB",
        value_name = "GIB",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    free_space_gib: Option<String>,
    /// Log: error, warn, info, debug or trace [default: info for serve, warn for other commands]
    #[arg(
        long,
        env = "LOG_LEVEL",
        value_name = "LEVEL",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    log_level: Option<String>,
    /// Log lines: text or json [default: text]
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    log_format: Option<String>,
}

/// What the server alone needs.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct HttpArgs {
    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, env = "BIND_ADDRESS", value_name = "IP", hide_env_values = true)]
    bind_address: Option<String>,
    /// Port to listen on; 0 takes a free one [default: 18443]
    #[arg(long, env = "PORT", value_name = "PORT", hide_env_values = true)]
    port: Option<String>,
    /// Signs the tokens, at least 32 bytes; as a flag it shows in the process list [default: made
    /// and kept in the data directory with SQLite; PostgreSQL needs one]
    #[arg(long, env = "JWT_SECRET", value_name = "SECRET", hide_env_values = true)]
    jwt_secret: Option<String>,
    /// The JWT_SECRET until now: tokens that it signed stay good until they expire
    #[arg(long, env = "JWT_SECRET_PREVIOUS", value_name = "SECRET", hide_env_values = true)]
    jwt_secret_previous: Option<String>,
    /// How many hours a login lasts, 1 to 720 [default: 24]
    #[arg(long, env = "TOKEN_EXPIRY_HOURS", value_name = "HOURS", hide_env_values = true)]
    token_expiry_hours: Option<String>,
    /// Name of the first user, at the first start only [default: admin]
    #[arg(long, env = "ADMIN_USER", value_name = "NAME", hide_env_values = true)]
    admin_user: Option<String>,
    /// Password of the first user, at the first start only [default: made and written to
    /// initial-admin-password in the data directory]
    #[arg(long, env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    admin_password: Option<String>,
    #[command(flatten)]
    files: ServerSecretFiles,
    #[command(flatten)]
    agent: AgentArgs,
    #[command(flatten)]
    retention: RetentionArgs,
}

impl std::fmt::Debug for CoreArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreArgs").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for HttpArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpArgs").finish_non_exhaustive()
    }
}

/// Which back end, from the scheme of its URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HypervisorChoice {
    /// `sim:///…`
    Sim(String),
    /// Anything else is libvirt's.
    Libvirt(String),
}

impl HypervisorChoice {
    /// The URI as given.
    pub(crate) fn uri(&self) -> &str {
        let (HypervisorChoice::Sim(uri) | HypervisorChoice::Libvirt(uri)) = self;
        uri
    }
}

/// Which Store.
#[derive(Debug, Clone)]
pub(crate) enum StoreChoice {
    /// A file, or `:memory:`.
    Sqlite(String),
    /// A URL with its password.
    Postgres(Secret),
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// [`CoreArgs`], judged.
#[derive(Debug, Clone)]
pub(crate) struct CoreConfig {
    pub(crate) hypervisor: HypervisorChoice,
    pub(crate) virt_type: VirtChoice,
    pub(crate) store: StoreChoice,
    pub(crate) data_dir: PathBuf,
    pub(crate) vms_dir: PathBuf,
    pub(crate) images_dir: PathBuf,
    pub(crate) reserve: HostReserve,
    pub(crate) log_level: Option<LevelFilter>,
    pub(crate) log_format: LogFormat,
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
    pub(crate) agent: Agent,
    pub(crate) retention: Retention,
}

impl CoreArgs {
    /// Judges every value.
    pub(crate) fn judge(&self) -> Result<CoreConfig> {
        let data_dir = directory("LIMEN_DATA_DIR", self.data_dir.as_ref())?.unwrap_or_else(|| "/var/lib/limen".into());
        Ok(CoreConfig {
            hypervisor: self.hypervisor()?,
            virt_type: one_of(
                "VIRT_TYPE",
                self.virt_type.as_ref(),
                &[("auto", VirtChoice::Auto), ("kvm", VirtChoice::Kvm), ("qemu", VirtChoice::Qemu)],
            )?
            .unwrap_or(VirtChoice::Auto),
            store: self.store(&data_dir)?,
            vms_dir: directory("LIMEN_VMS_DIR", self.vms_dir.as_ref())?.unwrap_or_else(|| data_dir.join("vms")),
            images_dir: directory("LIMEN_IMAGES_DIR", self.images_dir.as_ref())?
                .unwrap_or_else(|| data_dir.join("images")),
            data_dir,
            reserve: self.reserve()?,
            log_level: one_of(
                "LOG_LEVEL",
                self.log_level.as_ref(),
                &[
                    ("error", LevelFilter::ERROR),
                    ("warn", LevelFilter::WARN),
                    ("info", LevelFilter::INFO),
                    ("debug", LevelFilter::DEBUG),
                    ("trace", LevelFilter::TRACE),
                ],
            )?,
            log_format: one_of(
                "LOG_FORMAT",
                self.log_format.as_ref(),
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            )?
            .unwrap_or(LogFormat::Text),
        })
    }

    fn reserve(&self) -> Result<HostReserve> {
        let mut reserve = HostReserve::default();
        if let Some(text) = given("MEMORY_OVERCOMMIT", self.memory_overcommit.as_ref())? {
            reserve.memory_overcommit = match text.parse() {
                _ if text == "none" => None,
                Ok(factor) if (0.1..=1000.0).contains(&factor) => Some(factor),
                _ => return refuse(format!("MEMORY_OVERCOMMIT must be 0.1 to 1000, or none, not {text:?}.")),
            };
        }
        if let Some(text) = given("FREE_SPACE_GIB", self.free_space_gib.as_ref())? {
            reserve.free_bytes = u64::from(number("FREE_SPACE_GIB", text, 0)?) * GIB;
        }
        Ok(reserve)
    }

    fn hypervisor(&self) -> Result<HypervisorChoice> {
        let ours = given("HYPERVISOR_URI", self.hypervisor_uri.as_ref())?;
        let alias = given("LIBVIRT_URI", self.libvirt_uri.as_ref())?;
        let (name, uri) = match (ours, alias) {
            (Some(uri), Some(other)) if uri != other => {
                return refuse("HYPERVISOR_URI and LIBVIRT_URI name two hypervisors; set one of them.");
            }
            (Some(uri), _) => ("HYPERVISOR_URI", uri),
            (None, Some(uri)) => ("LIBVIRT_URI", uri),
            (None, None) => ("HYPERVISOR_URI", "qemu:///system"),
        };
        let scheme = uri.split_once("://").map(|(scheme, _)| scheme).unwrap_or_default();
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c));
        if !is_scheme || uri.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse(format!(
                "{name} must be a URI like qemu:///system, test:///default or sim:///?vms=10&seed=1, not {uri:?}."
            ));
        }
        let uri = uri.to_owned();
        Ok(if scheme == "sim" { HypervisorChoice::Sim(uri) } else { HypervisorChoice::Libvirt(uri) })
    }

    fn store(&self, data_dir: &std::path::Path) -> Result<StoreChoice> {
        if let Some(url) = given("DATABASE_URL", self.database_url.as_ref())? {
            return match url.split_once(':') {
                Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                    Ok(StoreChoice::Postgres(Secret::new(url)))
                }
                Some(("sqlite", "//:memory:" | ":memory:")) => Ok(StoreChoice::Sqlite(":memory:".to_owned())),
                Some(("sqlite", path)) if path.len() > 2 && path.starts_with("//") && !path.contains('?') => {
                    Ok(StoreChoice::Sqlite(path[2..].to_owned()))
                }
                _ => refuse("DATABASE_URL must be postgres://USER:PASSWORD@HOST:PORT/NAME or sqlite://PATH."),
            };
        }
        let host = given("DB_HOST", self.db_host.as_ref())?;
        let port = given("DB_PORT", self.db_port.as_ref())?;
        let user = given("DB_USER", self.db_user.as_ref())?;
        let password = secret("DB_PASSWORD", self.db_password.as_ref(), self.files.db_password_file.as_ref())?;
        let name = given("DB_NAME", self.db_name.as_ref())?;
        if [host, port, user, password.as_deref(), name].iter().all(Option::is_none) {
            return Ok(StoreChoice::Sqlite(data_dir.join("limen.db").display().to_string()));
        }
        let port = match port {
            Some(text) => number("DB_PORT", text, 1)?,
            None => 5432,
        };
        let host = host.unwrap_or("localhost");
        let is_host = |c: char| c.is_ascii_alphanumeric() || ".-_:/[]".contains(c);
        if !host.chars().all(is_host) {
            return refuse("DB_HOST must be a name, an address, or the directory of a socket.");
        }
        // The directory of a socket stands percent-encoded where a host would.
        let host = if host.starts_with('/') { percent_encode(host) } else { host.to_owned() };
        let mut url = format!("postgres://{}", percent_encode(user.unwrap_or("postgres")));
        if let Some(password) = password {
            url.push(':');
            url.push_str(&percent_encode(&password));
        }
        url.push_str(&format!("@{host}:{port}/{}", percent_encode(name.unwrap_or("limen"))));
        Ok(StoreChoice::Postgres(Secret::new(url)))
    }
}

impl HttpArgs {
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

/// A variable that is set to nothing is a mistake: it would silently mean the default.
fn given<'a>(name: &str, value: Option<&'a String>) -> Result<Option<&'a str>> {
    match value.map(String::as_str) {
        Some("") => refuse(format!("{name} is empty; give it a value or remove it.")),
        Some(text) if text.contains('\0') => refuse(format!("{name} must not contain a NUL byte.")),
        other => Ok(other),
    }
}

fn directory(name: &str, value: Option<&String>) -> Result<Option<PathBuf>> {
    match given(name, value)? {
        None => Ok(None),
        Some(text) if text.starts_with('/') => Ok(Some(PathBuf::from(text))),
        Some(text) => refuse(format!("{name} must be an absolute path, not {text:?}.")),
    }
}

fn one_of<T: Copy>(name: &str, value: Option<&String>, choices: &[(&str, T)]) -> Result<Option<T>> {
    let Some(text) = given(name, value)? else { return Ok(None) };
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(Some(*choice));
    }
    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
    refuse(format!("{name} must be one of {}, not {text:?}.", words.join(", ")))
}

fn number(name: &str, text: &str, least: u16) -> Result<u16> {
    match text.parse() {
        Ok(number) if number >= least => Ok(number),
        _ => refuse(format!("{name} must be a number from {least} to 65535, not {text:?}.")),
    }
}

fn percent_encode(text: &str) -> String {
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

mod agent;
mod retention;
mod secret;
#[cfg(test)]
mod tests;
