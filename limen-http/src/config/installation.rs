//! Where VMs run, where records are kept: what every command that works without a server needs.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use limen_core::Secret;
use limen_core::hypervisor::libvirt::VirtChoice;
use limen_core::model::GIB;
use limen_core::service::HostReserve;
use limen_core::store::PoolSettings;
use tracing_subscriber::filter::LevelFilter;

use super::agent::{FiguresArgs, FiguresChoice};
use super::pool::PoolArgs;
use super::secret::{CoreSecretFiles, secret};
use super::value::{directory, given, number, one_of, percent_encode};
use super::{Result, refuse};

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
    pub(super) hypervisor_uri: Option<String>,
    /// The same, under the name that libvirt's tools use
    #[arg(
        long,
        env = "LIBVIRT_URI",
        value_name = "URI",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) libvirt_uri: Option<String>,
    /// How guests run: auto, kvm, or qemu (software emulation) [default: auto]
    #[arg(long, env = "VIRT_TYPE", value_name = "TYPE", global = true, hide_env_values = true, hide_short_help = true)]
    pub(super) virt_type: Option<String>,
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
    pub(super) database_url: Option<String>,
    /// PostgreSQL's host; any DB_* chooses PostgreSQL [default: localhost]
    #[arg(long, env = "DB_HOST", value_name = "HOST", global = true, hide_env_values = true, hide_short_help = true)]
    pub(super) db_host: Option<String>,
    /// PostgreSQL's port [default: 5432]
    #[arg(long, env = "DB_PORT", value_name = "PORT", global = true, hide_env_values = true, hide_short_help = true)]
    pub(super) db_port: Option<String>,
    /// PostgreSQL's user [default: postgres]
    #[arg(long, env = "DB_USER", value_name = "USER", global = true, hide_env_values = true, hide_short_help = true)]
    pub(super) db_user: Option<String>,
    /// The password of PostgreSQL's user; as a flag it shows in the process list
    #[arg(
        long,
        env = "DB_PASSWORD",
        value_name = "PASSWORD",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) db_password: Option<String>,
    #[command(flatten)]
    pub(super) files: CoreSecretFiles,
    /// PostgreSQL's database [default: limen]
    #[arg(long, env = "DB_NAME", value_name = "NAME", global = true, hide_env_values = true, hide_short_help = true)]
    pub(super) db_name: Option<String>,
    #[command(flatten)]
    pub(super) pool: PoolArgs,
    /// What LIMEN keeps on this machine [default: /var/lib/limen]
    #[arg(
        long = "data-dir",
        env = "LIMEN_DATA_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) data_dir: Option<String>,
    /// Volumes of VMs, as the hypervisor sees the path [default: vms in the data directory]
    #[arg(
        long = "vms-dir",
        env = "LIMEN_VMS_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) vms_dir: Option<String>,
    /// Images [default: images in the data directory]
    #[arg(
        long = "images-dir",
        env = "LIMEN_IMAGES_DIR",
        value_name = "DIR",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) images_dir: Option<String>,
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
    pub(super) memory_overcommit: Option<String>,
    /// Space in GiB that the disks of a new VM must leave free on the host [default: 2]
    #[arg(
        long,
        env = "FREE_SPACE_GIB",
        value_name = "GIB",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) free_space_gib: Option<String>,
    #[command(flatten)]
    pub(super) figures: FiguresArgs,
    /// Log: error, warn, info, debug or trace [default: info for serve, warn for other commands]
    #[arg(
        long,
        env = "LOG_LEVEL",
        value_name = "LEVEL",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) log_level: Option<String>,
    /// Log lines: text or json [default: text]
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_name = "FORMAT",
        global = true,
        hide_env_values = true,
        hide_short_help = true
    )]
    pub(super) log_format: Option<String>,
}

impl std::fmt::Debug for CoreArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreArgs").finish_non_exhaustive()
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
    pub(crate) pool: PoolSettings,
    pub(crate) data_dir: PathBuf,
    pub(crate) vms_dir: PathBuf,
    pub(crate) images_dir: PathBuf,
    pub(crate) reserve: HostReserve,
    pub(crate) figures: FiguresChoice,
    pub(crate) sample: Duration,
    pub(crate) log_level: Option<LevelFilter>,
    pub(crate) log_format: LogFormat,
}

impl CoreArgs {
    /// Of two settings that mean the same and disagree, the one that is the other's other name.
    pub(crate) fn twin(&self, setting: &str) -> Option<&'static str> {
        let both = self.hypervisor_uri.is_some() && self.libvirt_uri.is_some();
        (setting == "HYPERVISOR_URI" && both && self.hypervisor_uri != self.libvirt_uri).then_some("LIBVIRT_URI")
    }

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
            pool: self.pool.judge()?,
            vms_dir: directory("LIMEN_VMS_DIR", self.vms_dir.as_ref())?.unwrap_or_else(|| data_dir.join("vms")),
            images_dir: directory("LIMEN_IMAGES_DIR", self.images_dir.as_ref())?
                .unwrap_or_else(|| data_dir.join("images")),
            data_dir,
            reserve: self.reserve()?,
            figures: self.figures.judge()?,
            sample: self.figures.interval()?,
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

    /// Whether the database is named by `DATABASE_URL`, and else the file of `DB_PASSWORD`.
    pub(crate) fn database_secret(&self) -> (bool, Option<&str>) {
        (self.database_url.is_some(), self.files.db_password_file.as_deref())
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
