//! The command line.

mod audit;
mod backup;
mod check;
mod console;
mod doctor;
mod door;
mod events;
mod host;
mod image;
mod op;
mod output;
mod port;
mod restored;
mod serve;
mod session;
mod token;
mod user;
mod vm;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use limen_core::ErrorKind;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{ConfigError, CoreArgs, HttpArgs, LogFormat};
use crate::logging;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or tried and failed
  2  the command line or a setting is wrong
  3  the server, the store or the host cannot be reached
  4  there is no such thing
  5  not finished in time: it may go on
  6  a backup was made, and VMs were left out";

const EXAMPLES: &str = "\
Examples:
  limen serve                         the server, on port 18443
  limen serve --hypervisor-uri 'sim:///?vms=10' --data-dir /tmp/limen
                                      to try it out: a simulator, no libvirt needed
  limen doctor                        what is wrong with this machine, and what mends it
  limen login --user admin            asks for the password, keeps the token
  limen vm list                       through the server
  limen --local vm list               on the machine itself, without a server or token
  limen image add debian-12.qcow2 --name debian-12
  limen vm start web-1
  limen vm console web-1 --serial     leave it with Ctrl-]
  limen op list
  limen events                        every change, as it happens
  limen --local check                 whether store, host and files agree; beside a server or without

Settings are environment variables, and flags of the same name; a flag wins. `limen serve --help` lists them.";

/// Manage KVM/libvirt virtual machines: the server, and what an operator asks of it.
#[derive(Parser, Debug)]
#[command(
    name = "limen",
    version,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"),
    disable_help_subcommand = true,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    door: DoorArgs,
    #[command(subcommand)]
    command: Command,
}

/// How a command reaches LIMEN.
#[derive(Args, Clone)]
#[command(next_help_heading = "How to reach LIMEN")]
struct DoorArgs {
    /// The server [default: the one of the last login, else http://127.0.0.1:18443]
    #[arg(long, env = "LIMEN_URL", value_name = "URL", global = true, hide_env_values = true)]
    url: Option<String>,
    /// The token; as a flag it shows in the process list [default: the one of the last login]
    #[arg(long, env = "LIMEN_TOKEN", value_name = "TOKEN", global = true, hide_env_values = true)]
    token: Option<String>,
    /// Straight on the store and the hypervisor of this machine, as its owner: no server, no token
    #[arg(long, global = true)]
    local: bool,
    /// Print JSON as the API answers it
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    core: CoreArgs,
}

impl std::fmt::Debug for DoorArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoorArgs").field("local", &self.local).finish_non_exhaustive()
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server until Ctrl-C; guests go on when it stops
    #[command(after_help = serve::HELP)]
    Serve(HttpArgs),
    /// Log in to a server and keep the token
    Login(session::LoginArgs),
    /// Revoke the token of the last login and forget it
    Logout,
    /// Users
    #[command(subcommand)]
    User(user::UserCommand),
    /// API tokens: for programs, instead of a login
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Disk and ISO images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// Virtual machines
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Hosts: the machines that guests run on
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Operations: durable changes, at work and finished
    #[command(subcommand)]
    Op(op::OpCommand),
    /// Follow every change as it happens
    #[command(after_help = events::HELP)]
    Events(events::EventsArgs),
    /// Who asked for what, with which outcome; for admins
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// What is wrong with this machine, and the command that mends each
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Compare store, hosts, files and memory; changes nothing
    #[command(after_help = check::HELP)]
    Check,
    /// Put database, images and VMs that are shut off into a directory, beside a running server
    #[command(after_help = backup::BACKUP_HELP)]
    Backup(backup::BackupArgs),
    /// Bring a backup back: all of it, or one VM under a new name
    #[command(after_help = backup::RESTORE_HELP)]
    Restore(backup::RestoreArgs),
    /// What is to be seen to after the database was restored from a backup; for admins
    #[command(after_help = restored::HELP)]
    Restored,
    /// Print the version
    Version,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(2, message)
    }

    /// The exit code of each kind of error.
    fn code_of(kind: Option<ErrorKind>) -> u8 {
        match kind {
            Some(ErrorKind::Unavailable) => 3,
            Some(ErrorKind::NotFound) => 4,
            Some(ErrorKind::Timeout) => 5,
            _ => 1,
        }
    }
}

impl From<limen_core::Error> for Failure {
    fn from(error: limen_core::Error) -> Self {
        // The one who reads it owns the machine: the cause may be shown.
        let causes = error.causes();
        let message = if causes.is_empty() { error.to_string() } else { format!("{error} ({causes})") };
        Self::new(Self::code_of(Some(error.kind())), message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(1, error.to_string())
    }
}

type Result<T = ()> = std::result::Result<T, Failure>;

/// Runs the command line of this process to its exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("limen: no runtime: {error}");
            return ExitCode::from(1);
        }
    };
    let outcome = runtime.block_on(dispatch(cli));
    // A thread may still wait for standard input: it must not keep the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("limen: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<u8> {
    let Cli { door, command } = cli;
    // It judges the settings itself: what is wrong with them is what it is asked.
    if let Command::Doctor(args) = command {
        logging::install(LevelFilter::OFF, LogFormat::Text);
        return doctor::run(&door.core, &args, door.url.as_deref(), door.json).await;
    }
    let config = door.core.judge()?;
    let usual = match command {
        Command::Serve(_) => LevelFilter::INFO,
        _ => LevelFilter::WARN,
    };
    logging::install(config.log_level.unwrap_or(usual), config.log_format);
    match command {
        Command::Serve(http) => serve::run(&config, &http.judge()?).await?,
        Command::Login(args) => session::login(&door, &args).await?,
        Command::Logout => session::logout(&door).await?,
        Command::User(command) => user::run(&door, &config, command).await?,
        Command::Token(command) => token::run(&door, &config, command).await?,
        Command::Image(command) => image::run(&door, &config, command).await?,
        Command::Vm(command) => return vm::run(&door, &config, command).await,
        Command::Host(command) => host::run(&door, &config, &command).await?,
        Command::Op(command) => op::run(&door, &config, command).await?,
        Command::Events(args) => events::run(&door, &config, &args).await?,
        Command::Audit(command) => audit::run(&door, &config, command).await?,
        Command::Doctor(args) => return doctor::run(&door.core, &args, door.url.as_deref(), door.json).await,
        Command::Check => return check::run(&door, &config).await,
        Command::Backup(args) => return backup::run(&config, &args, door.json).await,
        Command::Restore(args) => return backup::restore(&config, &args, door.json).await,
        Command::Restored => restored::run(&door, &config).await?,
        Command::Version => output::line(concat!("limen ", env!("CARGO_PKG_VERSION"))),
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
