//! Both sides of how RFB opens (RFC 6143, section 7), for screens of remote hosts.
//!
//! ```text
//!   QEMU   -- version, VNC authentication, ClientInit, ServerInit -->  enter
//!   client <-- version, no authentication, ClientInit, the same ServerInit -- present
//! ```
//!
//! Afterwards the bytes are passed on as they are. Who may look was asked before; the password is
//! between LIMEN and the host alone.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::secret::Secret;

const VERSION: &[u8; 12] = b"RFB 003.008\n";
const NO_AUTHENTICATION: u8 = 1;
const VNC_AUTHENTICATION: u8 = 2;
/// Others may look at the same time.
const SHARED: u8 = 1;
/// The fixed part of ServerInit: size, pixel format, length of the name.
const INIT: usize = 24;
/// The longest name and the longest reason that are read.
const TEXT: u32 = 4096;
/// The longest password: the key of DES.
pub(super) const PASSWORD: usize = 8;
/// How long the other side may take for a step.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a screen was not entered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the password was refused: {0}")]
    Password(String),
    #[error("the other side is no RFB server with VNC authentication: {0}")]
    Other(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A screen that shows its picture from here on.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) socket: TcpStream,
    /// ServerInit, to the byte.
    pub(super) init: Vec<u8>,
}

impl Entered {
    /// What the server calls its desktop.
    pub(super) fn name(&self) -> &[u8] {
        &self.init[INIT..]
    }
}

/// Connects and opens as a client with `password`, up to ServerInit. Blocks, at most [`PATIENCE`] a step.
pub(super) fn enter(address: SocketAddr, password: &Secret) -> Result<Entered, Refusal> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_nodelay(true)?;
    let version: [u8; 12] = read(&mut socket)?;
    if !version.starts_with(b"RFB 003.") {
        return Err(Refusal::Other("its version".to_owned()));
    }
    socket.write_all(VERSION)?;
    let [count] = read(&mut socket)?;
    if count == 0 {
        return Err(Refusal::Other(text(&mut socket)?));
    }
    let mut offered = vec![0; usize::from(count)];
    socket.read_exact(&mut offered)?;
    if !offered.contains(&VNC_AUTHENTICATION) {
        return Err(Refusal::Other(format!("it offers {offered:?}")));
    }
    socket.write_all(&[VNC_AUTHENTICATION])?;
    let challenge = read(&mut socket)?;
    socket.write_all(&response(challenge, password))?;
    if read::<4>(&mut socket)? != [0; 4] {
        return Err(Refusal::Password(text(&mut socket).unwrap_or_default()));
    }
    socket.write_all(&[SHARED])?;
    let mut init = vec![0; INIT];
    socket.read_exact(&mut init)?;
    let length = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
    init.extend(bytes(&mut socket, length)?);
    Ok(Entered { socket, init })
}

fn read<const LENGTH: usize>(socket: &mut TcpStream) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn bytes(socket: &mut TcpStream, length: u32) -> Result<Vec<u8>, Refusal> {
    if length > TEXT {
        return Err(Refusal::Other(format!("a text of {length} bytes")));
    }
    let mut bytes = vec![0; length as usize];
    socket.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(socket: &mut TcpStream) -> Result<String, Refusal> {
    let length = u32::from_be_bytes(read(socket)?);
    Ok(String::from_utf8_lossy(&bytes(socket, length)?).into_owned())
}

/// The challenge, encrypted with the password: DES in two blocks, the bits of each byte of the key
/// from the other end (section 7.2.2, and every implementation since the first).
fn response(mut challenge: [u8; 16], password: &Secret) -> [u8; 16] {
    let mut key = [0; PASSWORD];
    for (place, byte) in key.iter_mut().zip(password.expose().bytes()) {
        *place = byte.reverse_bits();
    }
    let cipher = Des::new(&key.into());
    for block in challenge.chunks_exact_mut(8) {
        let mut own = [0; 8];
        own.copy_from_slice(block);
        let mut own = own.into();
        cipher.encrypt_block(&mut own);
        block.copy_from_slice(&own);
    }
    challenge
}

/// Opens as a server without authentication, up to `init`.
pub(super) async fn present<C: AsyncRead + AsyncWrite + Unpin + Send>(client: &mut C, init: &[u8]) -> io::Result<()> {
    client.write_all(VERSION).await?;
    let mut version = [0; 12];
    client.read_exact(&mut version).await?;
    match &version {
        b"RFB 003.003\n" => client.write_all(&u32::from(NO_AUTHENTICATION).to_be_bytes()).await?,
        b"RFB 003.007\n" | b"RFB 003.008\n" => {
            client.write_all(&[1, NO_AUTHENTICATION]).await?;
            let chosen = client.read_u8().await?;
            if chosen != NO_AUTHENTICATION {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a kind of authentication that was not offered",
                ));
            }
            if &version == VERSION {
                client.write_all(&[0; 4]).await?;
            }
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a version of RFB that there is not")),
    }
    // Whether it wants to be alone: everybody who may look does.
    client.read_u8().await?;
    client.write_all(init).await
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A server that says `before` the password and `after` it; what it was sent is the outcome.
    fn server(before: &'static [u8], after: &'static [u8]) -> (SocketAddr, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
        let address = listener.local_addr().expect("an address");
        let served = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            socket.write_all(before).expect("write");
            let mut heard = vec![0; 12 + 1 + 16];
            if socket.read_exact(&mut heard).is_ok() {
                socket.write_all(after).expect("write");
            }
            socket.read_to_end(&mut heard).ok();
            heard
        });
        (address, served)
    }

    fn password() -> Secret {
        Secret::new("limen-pw")
    }

    const INIT_OF_X: &[u8] = b"\0\0\0\0\x02\x80\x01\xe0 \x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\0\0\0\x01X";

    #[test]
    fn the_challenge_is_answered_as_vnc_does() {
        // From OpenSSL: `openssl enc -des-ecb -nopad`, the key with each byte's bits reversed.
        let challenge = *b"0123456789abcdef";
        let wanted = [0xa5, 0x88, 0xec, 0x4e, 0x8a, 0xd5, 0x52, 0x8d, 0x77, 0x08, 0x14, 0x59, 0x91, 0xab, 0xe6, 0xa4];
        assert_eq!(response(challenge, &password()), wanted);
    }

    #[test]
    fn a_screen_is_entered_with_its_name() {
        let (address, served) = server(b"RFB 003.008\n\x01\x020123456789abcdef", INIT_OF_X);
        let entered = enter(address, &password()).expect("enter");
        assert_eq!(entered.name(), b"X");
        assert_eq!(entered.init, INIT_OF_X[4..]);
        drop(entered);
        let heard = served.join().expect("a server");
        assert_eq!(&heard[..13], b"RFB 003.008\n\x02");
        assert_eq!(heard[29..], [SHARED]);
    }

    #[test]
    fn what_is_no_guarded_screen_is_refused() {
        let refused = |before, after| {
            let (address, _served) = server(before, after);
            enter(address, &password()).expect_err("a refusal")
        };
        assert!(matches!(refused(b"SSH-2.0-12345", b""), Refusal::Other(_)));
        assert!(matches!(refused(b"RFB 003.008\n\x01\x01", b""), Refusal::Other(_)), "anybody may look");
        assert!(matches!(refused(b"RFB 003.008\n\0\0\0\0\x03off", b""), Refusal::Other(why) if why == "off"));
        let wrong = refused(b"RFB 003.008\n\x01\x020123456789abcdef", b"\0\0\0\x01\0\0\0\x02no");
        assert!(matches!(wrong, Refusal::Password(why) if why == "no"));
        let endless = refused(
            b"RFB 003.008\n\x01\x020123456789abcdef",
            b"\0\0\0\0\x02\x80\x01\xe0 \x18\0\x01\0\xff\0\xff\0\xff\x10\x08\0\0\0\0\xff\xff\xff\xff",
        );
        assert!(matches!(endless, Refusal::Other(_)));
    }

    #[tokio::test]
    async fn every_version_of_a_client_is_let_in() {
        for (client_says, then) in [
            (&b"RFB 003.003\n\x01"[..], &b"\0\0\0\x01"[..]),
            (b"RFB 003.007\n\x01\x01", b"\x01\x01"),
            (b"RFB 003.008\n\x01\x00", b"\x01\x01\0\0\0\0"),
        ] {
            let (mut client, mut served) = tokio::io::duplex(256);
            client.write_all(client_says).await.expect("write");
            present(&mut served, &INIT_OF_X[4..]).await.expect("an opening");
            drop(served);
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.expect("read");
            assert_eq!(heard, [VERSION, then, &INIT_OF_X[4..]].concat());
        }
        for wrong in [&b"RFB 004.000\n\x01\x01"[..], b"RFB 003.008\n\x02\x01"] {
            let (mut client, mut served) = tokio::io::duplex(256);
            client.write_all(wrong).await.expect("write");
            present(&mut served, INIT_OF_X).await.expect_err("a refusal");
        }
    }
}
