//! The screen of a VM, as RFB.
//!
//! On this machine nothing listens: QEMU serves a socket that libvirt hands over. Another machine
//! cannot hand one over, so there the screen listens where its host's administrator says
//! (`vnc_listen` in `qemu.conf`), behind a password that nobody knows and that has run out. Each
//! opening
//!
//! 1. reads address and port from the live definition, found by UUID;
//! 2. sets a random password that is good for [`VALID`];
//! 3. enters with it, and lets it run out, whatever came of that;
//! 4. compares the desktop's name: a port may have become another VM's in between.
//!
//! A client never sees that password: to it the screen is presented without one.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use url::Host;
use virt::connect::Connect;
use virt::domain::Domain;

use super::console::{refusal, running};
use super::error::{conflict, during, unexpected};
use super::rfb::{self, Entered, Refusal};
use super::xml::{edit, read, write};
use super::{LibvirtHypervisor, ffi};
use crate::error::{Error, ErrorKind, Result};
use crate::hypervisor::ConsoleStream;
use crate::model::VmId;
use crate::secret::Secret;

/// How long a password is good, at most; clocks of host and server may be that far apart.
const VALID: Duration = Duration::from_secs(60);
/// How often it is tried when another server sets a password of its own at the same time.
const TRIES: usize = 3;
/// Bytes on their way to a client, or from it.
const PIPE: usize = 16 << 10;

pub(super) async fn open(host: &LibvirtHypervisor, id: VmId) -> Result<ConsoleStream> {
    match host.link.options.other_machine() {
        None => of_this_machine(host, id).await,
        Some(machine) => of_another_machine(host, id, machine).await,
    }
}

async fn of_this_machine(host: &LibvirtHypervisor, id: VmId) -> Result<ConsoleStream> {
    let socket = host
        .change("open_console", None, move |_, conn| {
            let domain = running(conn, id)?;
            let raw = domain
                .open_graphics_fd(0, virt_sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
                .map_err(|error| refusal(conn, id, "virDomainOpenGraphicsFD", error))?;
            let fd = ffi::own_descriptor(raw).ok_or_else(|| unexpected("a descriptor that is none"))?;
            let socket = std::os::unix::net::UnixStream::from(fd);
            socket.set_nonblocking(true).map_err(Error::internal)?;
            Ok(socket)
        })
        .await?;
    Ok(Box::new(UnixStream::from_std(socket).map_err(Error::internal)?))
}

async fn of_another_machine(host: &LibvirtHypervisor, id: VmId, machine: Host) -> Result<ConsoleStream> {
    // In the VM's own lane: one password at a time.
    let entered = host.change("open_console", Some(id), move |_, conn| enter(conn, id, &machine)).await?;
    let Entered { socket, init } = entered;
    socket.set_nonblocking(true).map_err(Error::internal)?;
    let socket = TcpStream::from_std(socket).map_err(Error::internal)?;
    let (inner, outer) = tokio::io::duplex(PIPE);
    tokio::spawn(relay(socket, inner, init));
    Ok(Box::new(outer))
}

/// Presents the screen to the client and passes bytes on until one of them ends.
async fn relay(socket: TcpStream, mut client: tokio::io::DuplexStream, init: Vec<u8>) {
    if let Err(error) = rfb::present(&mut client, &init).await {
        tracing::debug!(%error, "a client of a screen does not speak RFB");
        return;
    }
    let (mut from_host, mut to_host) = socket.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    tokio::select! {
        () = copy(&mut from_host, &mut to_client) => {}
        () = copy(&mut from_client, &mut to_host) => {}
    }
}

async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    // However it ends, the console has ended.
    tokio::io::copy(from, to).await.ok();
}

fn enter(conn: &Connect, id: VmId, machine: &Host) -> Result<Entered> {
    let domain = running(conn, id)?;
    let text = domain.xml_desc(0).map_err(|error| refusal(conn, id, "virDomainGetXMLDesc", error))?;
    let Some((listens, port)) = read::screen(&text)? else {
        return Err(conflict(
            "The VM's screen has no port, so it cannot be had from another machine: it was made by a server on its host. \
             Its serial console can be had.",
        ));
    };
    let address = reachable(&listens, port, machine)?;
    let mut refused = None;
    for _ in 0..TRIES {
        let password = write::screen_password();
        set_password(conn, id, &text, &password, OffsetDateTime::now_utc() + VALID)?;
        let entered = rfb::enter(address, &password);
        set_password(conn, id, &text, &write::screen_password(), OffsetDateTime::UNIX_EPOCH + VALID)?;
        match entered {
            Ok(entered) => return same(&domain, entered),
            Err(error @ Refusal::Password(_)) => refused = Some(error),
            Err(error) => return Err(away(conn, id, error)),
        }
    }
    let message = "The host refuses the console's password. Are the clocks of host and server a minute apart?";
    let error = Error::new(ErrorKind::Unavailable, message);
    Err(match refused {
        Some(cause) => error.with_source(cause),
        None => error,
    })
}

/// A screen that does not answer mostly belongs to a VM that stops just now.
fn away(conn: &Connect, id: VmId, error: Refusal) -> Error {
    match running(conn, id) {
        Err(stopped) => stopped.with_source(error),
        Ok(_) => Error::new(
            ErrorKind::Unavailable,
            "The VM's screen cannot be reached on its host. A firewall may be between host and server: VNC has ports from 5900 on.",
        )
        .with_source(error),
    }
}

/// Where the screen can be reached from here.
fn reachable(listens: &str, port: u16, machine: &Host) -> Result<SocketAddr> {
    let own: Vec<SocketAddr> = match machine {
        Host::Domain(name) => {
            let known = (name.as_str(), port).to_socket_addrs();
            known.map_err(|error| Error::unavailable("The host").with_source(error))?.collect()
        }
        Host::Ipv4(address) => vec![SocketAddr::new((*address).into(), port)],
        Host::Ipv6(address) => vec![SocketAddr::new((*address).into(), port)],
    };
    let listens: IpAddr = listens.parse().map_err(|_| unexpected("a screen's address that is none"))?;
    let fits = |own: &&SocketAddr| match listens {
        _ if listens.is_loopback() => own.ip().is_loopback(),
        IpAddr::V4(_) if listens.is_unspecified() => own.is_ipv4(),
        _ => true,
    };
    let Some(own) = own.iter().find(fits) else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "The VM's screen listens for its own host alone. On that host set vnc_listen in /etc/libvirt/qemu.conf to an \
             address that the server reaches, and start the VM again.",
        ));
    };
    Ok(if listens.is_unspecified() { *own } else { SocketAddr::new(listens, port) })
}

/// Gives the live screen `password`, good until `until`; consoles that are open stay so.
fn set_password(conn: &Connect, id: VmId, text: &str, password: &Secret, until: OffsetDateTime) -> Result<()> {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]");
    let screen = edit::screen(text, password, &until.format(format).map_err(Error::internal)?)?;
    running(conn, id)?
        .update_device_flags(&screen, virt_sys::VIR_DOMAIN_AFFECT_LIVE)
        .map_err(|error| refusal(conn, id, "virDomainUpdateDeviceFlags", error))
}

fn same(domain: &Domain, entered: Entered) -> Result<Entered> {
    let name = domain.name().map_err(during("virDomainGetName"))?;
    if entered.name() == format!("QEMU ({name})").as_bytes() {
        return Ok(entered);
    }
    Err(conflict("The VM stopped meanwhile, and its port is another's."))
}
