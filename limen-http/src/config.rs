//! Configuration: every value is an environment variable and a flag; a flag wins.
//!
//! clap only collects the texts. They are judged here, so that each refusal is one sentence that
//! names the variable, whichever way the value came.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use limen_core::Secret;
use limen_core::hypervisor::libvirt::VirtChoice;
use tracing_subscriber::filter::LevelFilter;

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
    /// Name of the first user, at the first start only [default: admin]
    #[arg(long, env = "ADMIN_USER", value_name = "NAME", hide_env_values = true)]
    admin_user: Option<String>,
    /// Password of the first user, at the first start only [default: made and written to
    /// initial-admin-password in the data directory]
    #[arg(long, env = "ADMIN_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    admin_password: Option<String>,
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
    pub(crate) log_level: Option<LevelFilter>,
    pub(crate) log_format: LogFormat,
}

/// [`HttpArgs`], judged.
#[derive(Debug, Clone)]
pub(crate) struct HttpConfig {
    pub(crate) bind: SocketAddr,
    pub(crate) jwt_secret: Option<Secret>,
    pub(crate) admin_user: String,
    pub(crate) admin_password: Option<Secret>,
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
        let password = given("DB_PASSWORD", self.db_password.as_ref())?;
        let name = given("DB_NAME", self.db_name.as_ref())?;
        if [host, port, user, password, name].iter().all(Option::is_none) {
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
            url.push_str(&percent_encode(password));
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
        let jwt_secret = given("JWT_SECRET", self.jwt_secret.as_ref())?.map(judge_jwt_secret).transpose()?;
        let admin_user = given("ADMIN_USER", self.admin_user.as_ref())?.unwrap_or("admin").to_owned();
        let admin_password = given("ADMIN_PASSWORD", self.admin_password.as_ref())?.map(Secret::new);
        Ok(HttpConfig { bind: SocketAddr::new(address, port), jwt_secret, admin_user, admin_password })
    }
}

/// At least 32 bytes, and none that stands in some example.
pub(crate) fn judge_jwt_secret(text: &str) -> Result<Secret> {
    const PLACEHOLDERS: [&str; 10] = [
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
    ];
    if text.len() < 32 {
        return refuse("JWT_SECRET must have at least 32 bytes; `openssl rand -hex 32` makes one.");
    }
    let plain: String = text.to_lowercase().chars().filter(char::is_ascii_alphanumeric).collect();
    let mut bytes = text.as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    if bytes.len() < 8 || PLACEHOLDERS.iter().any(|word| plain.contains(word)) {
        return refuse(
            "JWT_SECRET is a placeholder that anybody could guess; `openssl rand -hex 32` makes a good one.",
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    type Set = fn(&mut CoreArgs, &str);

    #[test]
    fn a_bad_value_is_refused_in_a_sentence_that_names_its_variable() {
        let cases: [(&str, Set, &str); 22] = [
            ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "qemu"),
            ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "QEMU:///system"),
            ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), "qemu:///sys\ntem"),
            ("HYPERVISOR_URI", |a, v| a.hypervisor_uri = Some(v.into()), ""),
            ("LIBVIRT_URI", |a, v| a.libvirt_uri = Some(v.into()), "://"),
            ("VIRT_TYPE", |a, v| a.virt_type = Some(v.into()), "xen"),
            ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "mysql://x/y"),
            ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "postgres:x"),
            ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), "sqlite://"),
            ("DATABASE_URL", |a, v| a.database_url = Some(v.into()), ""),
            ("DB_HOST", |a, v| a.db_host = Some(v.into()), "a b"),
            ("DB_PORT", |a, v| a.db_port = Some(v.into()), "0"),
            ("DB_PORT", |a, v| a.db_port = Some(v.into()), "65536"),
            ("DB_USER", |a, v| a.db_user = Some(v.into()), ""),
            ("DB_PASSWORD", |a, v| a.db_password = Some(v.into()), ""),
            ("DB_NAME", |a, v| a.db_name = Some(v.into()), ""),
            ("LIMEN_DATA_DIR", |a, v| a.data_dir = Some(v.into()), "relative"),
            ("LIMEN_VMS_DIR", |a, v| a.vms_dir = Some(v.into()), "./vms"),
            ("LIMEN_IMAGES_DIR", |a, v| a.images_dir = Some(v.into()), ""),
            ("LOG_LEVEL", |a, v| a.log_level = Some(v.into()), "INFO "),
            ("LOG_LEVEL", |a, v| a.log_level = Some(v.into()), "verbose"),
            ("LOG_FORMAT", |a, v| a.log_format = Some(v.into()), "xml"),
        ];
        for (name, set, value) in cases {
            let mut args = CoreArgs::default();
            set(&mut args, value);
            let sentence = args.judge().expect_err(name).to_string();
            assert!(sentence.starts_with(name) && sentence.ends_with('.'), "{name}={value:?}: {sentence}");
        }
    }

    #[test]
    fn a_bad_server_value_is_refused_too() {
        type Set = fn(&mut HttpArgs, &str);
        let zeros = "0".repeat(64);
        let cases: [(&str, Set, &str); 10] = [
            ("BIND_ADDRESS", |a, v| a.bind_address = Some(v.into()), "localhost"),
            ("PORT", |a, v| a.port = Some(v.into()), "-1"),
            ("PORT", |a, v| a.port = Some(v.into()), "80 "),
            ("PORT", |a, v| a.port = Some(v.into()), "99999"),
            ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "short"),
            ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), &zeros),
            ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "Change-Me-Please-0123456789-abcdef"),
            ("JWT_SECRET", |a, v| a.jwt_secret = Some(v.into()), "your-secret-key-here-at-least-32-bytes"),
            ("ADMIN_USER", |a, v| a.admin_user = Some(v.into()), ""),
            ("ADMIN_PASSWORD", |a, v| a.admin_password = Some(v.into()), ""),
        ];
        for (name, set, value) in cases {
            let mut args = HttpArgs::default();
            set(&mut args, value);
            let sentence = args.judge().expect_err(name).to_string();
            assert!(sentence.starts_with(name), "{name}: {sentence}");
            assert!(value.len() < 20 || !sentence.contains(value), "{name} must not be repeated: {sentence}");
        }
        assert!(judge_jwt_secret("d41d8cd98f00b204e9800998ecf8427e").is_ok());
    }

    #[test]
    fn without_any_value_the_embedded_defaults_hold() {
        let core = CoreArgs::default().judge().expect("defaults");
        assert_eq!(core.hypervisor, HypervisorChoice::Libvirt("qemu:///system".to_owned()));
        assert!(matches!(core.store, StoreChoice::Sqlite(path) if path == "/var/lib/limen/limen.db"));
        assert_eq!(core.vms_dir, PathBuf::from("/var/lib/limen/vms"));
        let http = HttpArgs::default().judge().expect("defaults");
        assert_eq!(http.bind.to_string(), "0.0.0.0:18443");
    }

    #[test]
    fn the_parts_of_a_database_make_a_url_whatever_is_in_the_password() {
        let args = CoreArgs {
            db_host: Some("db.example".into()),
            db_password: Some("p@ss/w:rd%".into()),
            ..CoreArgs::default()
        };
        let StoreChoice::Postgres(url) = args.judge().expect("valid").store else { panic!("not PostgreSQL") };
        assert_eq!(url.expose(), "postgres://postgres:p%40ss%2Fw%3Ard%25@db.example:5432/limen");
    }

    #[test]
    fn two_hypervisors_are_one_too_many() {
        let args = CoreArgs {
            hypervisor_uri: Some("sim:///".into()),
            libvirt_uri: Some("qemu:///system".into()),
            ..CoreArgs::default()
        };
        assert!(args.judge().is_err());
    }
}
