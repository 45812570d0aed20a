//! `limen vm console`: a byte stream between this terminal and a guest.
//!
//! It is opened by this process itself, on the machine's Store and hypervisor: any process may,
//! also beside a running server.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::Args;
use limen_core::hypervisor::ConsoleKind;
use limen_core::model::{PageRequest, VmId};
use limen_core::service::{Console, VmQuery};
use limen_core::{Context, Limen};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::door::{Intent, open_local};
use super::{Failure, Result, output};
use crate::config::CoreConfig;

pub(super) const HELP: &str = "\
Examples:
  limen vm console web-1 --serial           type into it; leave it with Ctrl-]
  limen vm console web-1 --serial --until 'login:' --timeout 60
                                            print what comes until the text is there
  limen vm console web-1 --vnc              opens a port on 127.0.0.1 for one viewer";

/// Ctrl-], as virsh and telnet have it.
const ESCAPE: u8 = 0x1d;

#[derive(Args, Debug)]
pub(super) struct ConsoleArgs {
    /// The first serial port (the default)
    #[arg(long, conflicts_with = "vnc")]
    serial: bool,
    /// The screen
    #[arg(long)]
    vnc: bool,
    /// Print what the guest writes until this text is there; exit code 5 when it does not come
    #[arg(long, value_name = "TEXT", conflicts_with = "vnc")]
    until: Option<String>,
    /// How many seconds to wait for the text of --until
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

pub(super) async fn run(config: &CoreConfig, vm: &str, args: &ConsoleArgs) -> Result<u8> {
    let limen = open_local(config, Intent::Record).await?;
    let done = work(&limen, vm, args).await;
    limen.shutdown().await;
    done.map(|()| 0)
}

async fn work(limen: &Limen, vm: &str, args: &ConsoleArgs) -> Result {
    let context = Context::local();
    let id = find(limen, &context, vm).await?;
    let kind = if args.vnc { ConsoleKind::Vnc } else { ConsoleKind::Serial };
    let stream = limen.open_console(&context, id, kind).await?;
    match (&args.until, kind) {
        (Some(text), _) => until(stream, text.as_bytes(), Duration::from_secs(args.timeout)).await,
        (None, ConsoleKind::Vnc) => serve_viewer(stream).await,
        (None, ConsoleKind::Serial) => talk(stream).await,
    }
}

async fn find(limen: &Limen, context: &Context, vm: &str) -> Result<VmId> {
    if let Ok(id) = vm.parse() {
        return Ok(id);
    }
    let query = VmQuery { name: Some(vm.to_owned()), ..VmQuery::default() };
    let page = limen.list_vms(context, &query, PageRequest::default()).await?;
    match &*page.vms {
        [] => Err(Failure::new(4, format!("there is no VM {vm:?}"))),
        [only] => Ok(only.vm.id),
        _ => Err(Failure::usage(format!("several owners have a VM {vm:?}; name it by its id"))),
    }
}

/// Prints what comes until `text` is in it.
async fn until(mut stream: Console, text: &[u8], at_most: Duration) -> Result {
    let mut seen: Vec<u8> = Vec::new();
    let mut buffer = [0_u8; 4096];
    let reading = async {
        loop {
            let count = stream.read(&mut buffer).await?;
            if count == 0 {
                return Err(Failure::new(1, "the console ended before the text came"));
            }
            print(&buffer[..count])?;
            seen.extend_from_slice(&buffer[..count]);
            if text.is_empty() || seen.windows(text.len()).any(|window| window == text) {
                return Ok(());
            }
            // Only the last text.len() - 1 bytes can still become a part of it.
            let keep = seen.len().min(text.len().saturating_sub(1));
            seen.drain(..seen.len() - keep);
        }
    };
    match tokio::time::timeout(at_most, reading).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Failure::new(5, format!("the text did not come within {} s", at_most.as_secs()))),
    }
}

fn print(bytes: &[u8]) -> Result {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    out.flush()?;
    Ok(())
}

/// The terminal is the guest's until Ctrl-].
async fn talk(stream: Console) -> Result {
    let _raw = RawTerminal::enter()?;
    if std::io::stdin().is_terminal() {
        eprint!("Connected; leave with Ctrl-].\r\n");
    }
    let (mut from_guest, mut to_guest) = tokio::io::split(stream);
    let mut keys = tokio::io::stdin();
    let (mut guest_buffer, mut key_buffer) = ([0_u8; 4096], [0_u8; 1024]);
    let mut keys_open = true;
    loop {
        tokio::select! {
            count = from_guest.read(&mut guest_buffer) => match count? {
                0 => return Ok(()),
                count => print(&guest_buffer[..count])?,
            },
            count = keys.read(&mut key_buffer), if keys_open => {
                let typed = &key_buffer[..count?];
                let escape = typed.iter().position(|byte| *byte == ESCAPE);
                to_guest.write_all(&typed[..escape.unwrap_or(typed.len())]).await?;
                to_guest.flush().await?;
                if escape.is_some() {
                    return Ok(());
                }
                keys_open = !typed.is_empty();
            }
        }
    }
}

/// A terminal that hands over each key as it is; put back when dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(Self(None));
        }
        let before = tcgetattr(&stdin).map_err(std::io::Error::from)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(std::io::Error::from)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// One viewer of this machine may come to the screen.
async fn serve_viewer(mut stream: Console) -> Result {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    output::line(format!("The screen is at vnc://{} for one viewer.", listener.local_addr()?));
    let (mut viewer, _) = listener.accept().await?;
    drop(listener);
    match tokio::io::copy_bidirectional(&mut stream, &mut viewer).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(1, format!("the screen was lost: {error}"))),
    }
}
