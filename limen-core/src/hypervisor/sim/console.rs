//! The far ends of consoles: what a simulated guest says on them.

use std::fmt;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;

use crate::hypervisor::{ConsoleKind, ConsoleStream};

/// Where consoles come from that are not the simulator's own.
#[derive(Clone)]
pub(super) struct Elsewhere(pub(super) Arc<dyn Fn(ConsoleKind) -> ConsoleStream + Send + Sync>);

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Elsewhere")
    }
}

/// The size of a simulated screen.
const WIDTH: u16 = 720;
const HEIGHT: u16 = 400;

/// Opens a console that ends when `power`'s sender goes.
pub(super) fn open(kind: ConsoleKind, name: String, mut power: watch::Receiver<()>) -> ConsoleStream {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let talk = async {
            // An error means that the reader went away: so does the console.
            let _ = match kind {
                ConsoleKind::Serial => serial(&mut far, &name).await,
                ConsoleKind::Vnc => vnc(&mut far, &name).await,
            };
        };
        tokio::select! {
            () = talk => {}
            _ = power.changed() => {}
        }
    });
    Box::new(near)
}

async fn serial(far: &mut DuplexStream, name: &str) -> std::io::Result<()> {
    far.write_all(format!("Hello from {name}\r\n").as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let read = far.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        far.write_all(&buffer[..read]).await?;
    }
}

/// The handshake of RFB 3.8 (RFC 6143, section 7) without authentication; then nothing moves.
async fn vnc(far: &mut DuplexStream, name: &str) -> std::io::Result<()> {
    far.write_all(b"RFB 003.008\n").await?;
    let mut version = [0; 12];
    far.read_exact(&mut version).await?;
    if &version != b"RFB 003.008\n" {
        return Ok(());
    }
    // One security type: none.
    far.write_all(&[1, 1]).await?;
    if far.read_u8().await? != 1 {
        return Ok(());
    }
    far.write_u32(0).await?;
    let _shared = far.read_u8().await?;
    far.write_u16(WIDTH).await?;
    far.write_u16(HEIGHT).await?;
    // 32 bits a pixel, depth 24, little end first, true colour, 8 bits a colour, padding.
    far.write_all(&[32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0]).await?;
    far.write_u32(u32::try_from(name.len()).unwrap_or(0)).await?;
    far.write_all(name.as_bytes()).await?;
    tokio::io::copy(far, &mut tokio::io::sink()).await.map(|_| ())
}
