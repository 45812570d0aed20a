//! A console at a server: a WebSocket of binary messages (RFC 6455), as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use futures_util::{SinkExt as _, StreamExt as _};
use headers::{HeaderMapExt as _, SecWebsocketAccept, SecWebsocketKey};
use reqwest::Upgraded;
use reqwest::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

use super::routes::Request;
use super::wire::Wire;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ConsoleKind, VmId};
use crate::secret::Secret;

/// Bytes on their way, each way.
const ON_THE_WAY: usize = 64 << 10;
/// The largest message that a server may send.
const LARGEST: usize = 1 << 20;

/// An open console of a server's VM: bytes to and from the guest. Dropping it closes it; one that was lost
/// ends with an error of [`ConnectionReset`](io::ErrorKind::ConnectionReset).
#[derive(Debug)]
pub struct RemoteConsole {
    bytes: DuplexStream,
    /// Its end was none that the server told of.
    lost: Arc<AtomicBool>,
}

pub(super) async fn open(wire: &Wire, who: Option<&Secret>, id: VmId, kind: ConsoleKind) -> Result<RemoteConsole> {
    let key = SecWebsocketKey::from(*uuid::Uuid::new_v4().as_bytes());
    let mut request = Request::get(format!("/{}/{id}", kind.as_str()));
    request.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    request.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    request.headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    request.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("binary"));
    request.headers.typed_insert(key.clone());
    let response = wire.send(&request, who, None).await?;
    let accepted = response.headers().typed_get::<SecWebsocketAccept>() == Some(key.into());
    let upgraded = if accepted { response.upgrade().await.ok() } else { None };
    let Some(upgraded) = upgraded else {
        let text = format!("{} opens no WebSocket: does a proxy before it pass upgrades on?", wire.url());
        return Err(Error::new(ErrorKind::Unavailable, text));
    };
    let limits = Limits::default().max_payload_len(Some(LARGEST));
    let socket = ClientBuilder::new().limits(limits).take_over(upgraded);
    let (bytes, theirs) = tokio::io::duplex(ON_THE_WAY);
    let lost = Arc::<AtomicBool>::default();
    tokio::spawn(relay(socket, theirs, Arc::clone(&lost)));
    Ok(RemoteConsole { bytes, lost })
}

/// Carries bytes both ways until either side ends.
async fn relay(socket: WebSocketStream<Upgraded>, bytes: DuplexStream, lost: Arc<AtomicBool>) {
    let (mut to_guest, mut from_guest) = socket.split();
    let (mut typed, mut shown) = tokio::io::split(bytes);
    let reading = async {
        while let Some(Ok(message)) = from_guest.next().await {
            if message.is_close() {
                return;
            }
            if message.is_binary() && shown.write_all(message.as_payload()).await.is_err() {
                return;
            }
        }
        lost.store(true, Ordering::Release);
    };
    let writing = async {
        let mut part = BytesMut::with_capacity(ON_THE_WAY);
        while matches!(typed.read_buf(&mut part).await, Ok(count) if count > 0) {
            if to_guest.send(Message::binary(part.split())).await.is_err() {
                lost.store(true, Ordering::Release);
                return;
            }
            part.reserve(ON_THE_WAY);
        }
        _ = to_guest.close().await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

impl AsyncRead for RemoteConsole {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.bytes).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 && self.lost.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RemoteConsole {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}
