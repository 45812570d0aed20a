//! Configuration: every value is an environment variable and a flag; a flag wins.

use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tracing::level_filters::LevelFilter;

const HELP: &str = "\
Examples:
  limen-agent                                  on 127.0.0.1:9000, for the LIMEN of this machine
  curl -s http://127.0.0.1:9000/metrics        CPU, memory, disks and networks as JSON
  curl -s http://127.0.0.1:9000/metrics/prometheus
                                               the same for Prometheus, under node_exporter's names
  limen-agent --bind-address 0.0.0.0 --tls-cert-file /etc/limen/agent.crt --tls-key-file /etc/limen/agent.key \\
              --agent-token-file /etc/limen/agent-token
                                               for the LIMEN or the Prometheus of another machine

It answers GET /metrics, /metrics/prometheus, /health, /docs and /openapi.json. Figures are sampled each
SAMPLE_SECONDS, whoever asks; no question costs a sample, and a file system that hangs delays none.
SIGTERM stops it once the last answers are given.";

/// The host agent of LIMEN: figures of this machine as JSON and for Prometheus.
#[derive(Parser, Debug)]
#[command(name = "limen-agent", version, after_help = HELP)]
pub(crate) struct Args {
    /// The port [default: 9000]
    #[arg(long, env = "PORT", value_name = "PORT", hide_env_values = true)]
    port: Option<String>,
    /// The address to listen on; one that others reach wants a token and TLS [default: 127.0.0.1]
    #[arg(long, env = "BIND_ADDRESS", value_name = "ADDRESS", hide_env_values = true)]
    bind_address: Option<String>,
    /// What is logged on standard error: error, warn, info, debug or trace [default: info]
    #[arg(long, env = "LOG_LEVEL", value_name = "LEVEL", hide_env_values = true)]
    log_level: Option<String>,
    /// How often figures are sampled, and the window of CPU use: 1 to 60 seconds [default: 5]
    #[arg(long, env = "SAMPLE_SECONDS", value_name = "SECONDS", hide_env_values = true)]
    sample_seconds: Option<String>,
    /// Who asks for /metrics must show this token (Authorization: Bearer). Others see the command
    /// line: use the environment or a file
    #[arg(long, env = "AGENT_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    agent_token: Option<String>,
    /// A file with AGENT_TOKEN that nobody else can read
    #[arg(long, env = "AGENT_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    agent_token_file: Option<String>,
    /// Serve HTTPS with the certificate chain in this PEM file; wants TLS_KEY_FILE
    #[arg(long, env = "TLS_CERT_FILE", value_name = "FILE", hide_env_values = true)]
    tls_cert_file: Option<String>,
    /// The certificate's private key, a PEM file that nobody else can read
    #[arg(long, env = "TLS_KEY_FILE", value_name = "FILE", hide_env_values = true)]
    tls_key_file: Option<String>,
}

/// A secret that no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(String);

impl Token {
    /// Whether `shown` is the token. Takes as long whatever is wrong in it; its length is no secret.
    pub(crate) fn is(&self, shown: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), shown).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// All settings, judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) address: SocketAddr,
    pub(crate) log_level: LevelFilter,
    pub(crate) period: Duration,
    pub(crate) token: Option<Token>,
    pub(crate) tls: Option<TlsFiles>,
}

type Result<T> = std::result::Result<T, String>;

impl Args {
    /// Judges the values.
    ///
    /// # Errors
    /// One cannot be used: a sentence that names the variable and shows no secret.
    pub(crate) fn judge(&self) -> Result<Config> {
        let port = number("PORT", self.port.as_ref(), 1..=65535, 9000)?;
        let address = match given("BIND_ADDRESS", self.bind_address.as_ref())? {
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Some(text) => text.parse().map_err(|_| format!("BIND_ADDRESS must be an IP address, not {text:?}."))?,
        };
        let log_level = match given("LOG_LEVEL", self.log_level.as_ref())? {
            None | Some("info") => LevelFilter::INFO,
            Some("error") => LevelFilter::ERROR,
            Some("warn") => LevelFilter::WARN,
            Some("debug") => LevelFilter::DEBUG,
            Some("trace") => LevelFilter::TRACE,
            Some(text) => {
                return Err(format!("LOG_LEVEL must be one of error, warn, info, debug, trace, not {text:?}."));
            }
        };
        let period = number("SAMPLE_SECONDS", self.sample_seconds.as_ref(), 1..=60, 5)?;
        let certificate = given("TLS_CERT_FILE", self.tls_cert_file.as_ref())?;
        let key = given("TLS_KEY_FILE", self.tls_key_file.as_ref())?;
        let tls = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                private("TLS_KEY_FILE", key)?;
                Some(TlsFiles { certificate: certificate.into(), key: key.into() })
            }
            (Some(_), None) => return Err("TLS_CERT_FILE is set and TLS_KEY_FILE is not; set both.".to_owned()),
            (None, Some(_)) => return Err("TLS_KEY_FILE is set and TLS_CERT_FILE is not; set both.".to_owned()),
        };
        let token = token(self.agent_token.as_ref(), self.agent_token_file.as_ref())?;
        Ok(Config {
            address: SocketAddr::new(address, port),
            log_level,
            period: Duration::from_secs(period.into()),
            token,
            tls,
        })
    }
}

/// A variable that is set to nothing is a mistake: it would silently mean the default.
fn given<'a>(name: &str, value: Option<&'a String>) -> Result<Option<&'a str>> {
    match value.map(String::as_str) {
        Some("") => Err(format!("{name} is empty; give it a value or remove it.")),
        other => Ok(other),
    }
}

fn number(name: &str, value: Option<&String>, range: std::ops::RangeInclusive<u16>, default: u16) -> Result<u16> {
    let Some(text) = given(name, value)? else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| format!("{name} must be a number from {} to {}, not {text:?}.", range.start(), range.end()))
}

/// The most that a token may have.
const LONGEST_TOKEN: u64 = 4096;

fn token(value: Option<&String>, file: Option<&String>) -> Result<Option<Token>> {
    let value = given("AGENT_TOKEN", value)?;
    let text = match (value, given("AGENT_TOKEN_FILE", file)?) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err("AGENT_TOKEN and AGENT_TOKEN_FILE are both set; set one of them.".to_owned()),
        (Some(value), None) => value.to_owned(),
        (None, Some(path)) => {
            private("AGENT_TOKEN_FILE", path)?;
            let mut text = String::new();
            File::open(path)
                .and_then(|file| file.take(LONGEST_TOKEN + 1).read_to_string(&mut text))
                .map_err(|error| format!("AGENT_TOKEN_FILE: {path} cannot be read: {}.", error.kind()))?;
            text.strip_suffix('\n').unwrap_or(&text).to_owned()
        }
    };
    let is_plain = text.len() as u64 <= LONGEST_TOKEN && text.bytes().all(|byte| byte.is_ascii_graphic());
    if text.len() < 16 || !is_plain {
        return Err(
            "The agent's token must have 16 to 4096 visible ASCII characters; `openssl rand -hex 32` makes one."
                .to_owned(),
        );
    }
    Ok(Some(Token(text)))
}

/// Refuses a file of a secret that others may read or change.
fn private(name: &str, path: &str) -> Result<()> {
    // Looked at before it is opened: opening a pipe would wait for its other end.
    let found = fs::metadata(path).map_err(|error| format!("{name}: {path} cannot be read: {}.", error.kind()))?;
    if !found.is_file() {
        return Err(format!("{name}: {path} is no file."));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!("{name}: others may read or change {path}; `chmod 600 {path}` mends it."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(arguments: &[&str]) -> Result<Config> {
        Args::parse_from(["limen-agent"].iter().chain(arguments)).judge()
    }

    #[test]
    fn values_are_judged_and_refusals_name_the_variable() {
        let config =
            judged(&["--port", "9001", "--bind-address", "::1", "--sample-seconds", "1"]).expect("a configuration");
        assert_eq!((config.address.to_string().as_str(), config.period), ("[::1]:9001", Duration::from_secs(1)));
        for (arguments, name) in [
            (["--port", "0"], "PORT"),
            (["--port", ""], "PORT"),
            (["--bind-address", "localhost"], "BIND_ADDRESS"),
            (["--log-level", "loud"], "LOG_LEVEL"),
            (["--sample-seconds", "61"], "SAMPLE_SECONDS"),
            (["--agent-token", "short-secret"], "token"),
            (["--agent-token-file", "/nowhere"], "AGENT_TOKEN_FILE"),
            (["--tls-cert-file", "/etc/hostname"], "TLS_KEY_FILE"),
            (["--tls-key-file", "/etc/hostname"], "TLS_CERT_FILE"),
        ] {
            let refused = judged(&arguments).expect_err(name);
            assert!(refused.contains(name) && !refused.contains("short-secret"), "{refused}");
        }
        let both = judged(&["--tls-cert-file", "/etc/hostname", "--tls-key-file", "/etc/hostname"]);
        assert!(both.expect_err("others read it").contains("chmod 600"));
    }

    #[test]
    fn a_token_is_compared_and_not_shown() {
        let config = judged(&["--agent-token", "0123456789abcdef"]).expect("a configuration");
        assert!(!format!("{config:?}").contains("0123"));
        let token = config.token.expect("a token");
        assert!(token.is(b"0123456789abcdef"));
        assert!(!token.is(b"0123456789abcdeg") && !token.is(b"0123456789abcde") && !token.is(b""));
    }
}
