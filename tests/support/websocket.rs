//! A client of `/vnc/{id}` and `/serial/{id}`, and of RFB on it.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::{HeaderMap, Method};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, Limits, Message, WebSocketStream};

use crate::http::{Client, Response};
use crate::site::text;

/// Nothing on a console takes longer in a test.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a WebSocket client asks with (the key is that of RFC 6455).
pub const HANDSHAKE: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// An open WebSocket; dropping it hangs up.
#[derive(Debug)]
pub struct WebSocket {
    socket: WebSocketStream<TcpStream>,
    /// The headers of the answer.
    pub headers: HeaderMap,
    left: BytesMut,
}

/// Why a WebSocket is over: the code and reason of its close frame; 1006 where there was none.
pub type Closed = (u16, String);

impl Client {
    /// A ticket for a console; the path to use it at.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn ticket(&self, vm: &str, kind: &str) -> String {
        let body = json!({ "kind": kind });
        text(&self.post(&format!("/api/vms/{vm}/console"), &body).await.expect(201).json(), "url")
    }

    /// Connects a WebSocket.
    ///
    /// # Errors
    /// The answer, where it is another than 101.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket, Response> {
        let (stream, answer) = self.handshake(path).await;
        if answer.status != 101 {
            return Err(answer);
        }
        assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer:?}");
        let limits = Limits::default();
        let socket = ClientBuilder::new().limits(limits).take_over(stream);
        Ok(WebSocket { socket, headers: answer.headers, left: BytesMut::new() })
    }

    /// Asks for a WebSocket: the connection as it is after the answer, and the answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn handshake(&self, path: &str) -> (TcpStream, Response) {
        let mut client = self.clone();
        for (name, value) in HANDSHAKE {
            client = client.with_header(name, value);
        }
        let request = client.prepare(Method::GET, path, None).expect("a request");
        let mut head = format!("GET {path} HTTP/1.1\r\n").into_bytes();
        for (name, value) in request.headers() {
            head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        head.extend(b"\r\n");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port())).await.expect("connects");
        stream.set_nodelay(true).expect("set");
        stream.write_all(&head).await.expect("asks");
        let answer = tokio::time::timeout(DEADLINE, answer(&mut stream)).await.expect("an answer in time");
        (stream, answer)
    }
}

/// Reads an answer and nothing behind it.
async fn answer(stream: &mut TcpStream) -> Response {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    let head = String::from_utf8(head).expect("text");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name: hyper::header::HeaderName = name.parse().expect("a header");
        headers.append(name, value.parse().expect("a value"));
    }
    let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    Response { status, headers, body: body.into() }
}

impl WebSocket {
    /// Sends one message.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) {
        self.send_message(Message::binary(bytes.into())).await;
    }

    /// Sends one message of any kind.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub async fn send_message(&mut self, message: Message) {
        let sent = tokio::time::timeout(DEADLINE, self.socket.send(message)).await;
        sent.expect("it is taken in time").expect("it is taken");
    }

    /// The connection below.
    pub fn stream(&mut self) -> &mut TcpStream {
        self.socket.get_mut()
    }

    /// What comes next; answers to pings go out meanwhile.
    ///
    /// # Errors
    /// It is over.
    pub async fn next(&mut self) -> Result<Message, Closed> {
        match self.socket.next().await {
            Some(Ok(message)) => match message.as_close() {
                Some((code, reason)) => Err((code.into(), reason.to_owned())),
                None => Ok(message),
            },
            Some(Err(error)) => Err((1006, error.to_string())),
            None => Err((1006, "nothing was said".to_owned())),
        }
    }

    /// Reads on to the end.
    ///
    /// # Panics
    /// When there is none within a minute.
    pub async fn closed(&mut self) -> Closed {
        let end = async {
            loop {
                if let Err(closed) = self.next().await {
                    return closed;
                }
            }
        };
        tokio::time::timeout(DEADLINE, end).await.expect("it is closed")
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// It is over before.
    ///
    /// # Panics
    /// When they do not come within a minute.
    pub async fn exact(&mut self, count: usize) -> Result<Bytes, Closed> {
        while self.left.len() < count {
            let message = tokio::time::timeout(DEADLINE, self.next()).await.expect("bytes in time")?;
            if message.is_binary() {
                self.left.extend_from_slice(message.as_payload());
            }
        }
        Ok(self.left.split_to(count).freeze())
    }

    /// Everything up to `text`, which is among it.
    ///
    /// # Panics
    /// When it does not come within a minute and a half, or it is over before.
    pub async fn until(&mut self, text: &str) -> Vec<u8> {
        let mut said: Vec<u8> = self.left.split().into();
        let listen = async {
            while !String::from_utf8_lossy(&said).contains(text) {
                let message = self.next().await.unwrap_or_else(|closed| panic!("{closed:?} before {text:?}"));
                if message.is_binary() {
                    said.extend_from_slice(message.as_payload());
                }
            }
        };
        let heard = tokio::time::timeout(Duration::from_secs(90), listen).await;
        assert!(heard.is_ok(), "{text:?} was not said, but {:?}", String::from_utf8_lossy(&said));
        said
    }

    /// The client's part of an RFB handshake (RFC 6143, section 7).
    ///
    /// # Errors
    /// It is over before.
    ///
    /// # Panics
    /// When the other side is no RFB 3.8 server without authentication.
    pub async fn rfb(&mut self) -> Result<Screen, Closed> {
        let version = self.exact(12).await?;
        assert_eq!(&version[..], b"RFB 003.008\n");
        self.send(version).await;
        let count = self.exact(1).await?[0];
        let types = self.exact(count.into()).await?;
        assert!(types.contains(&1), "a password is asked for: {types:?}");
        self.send(vec![1]).await;
        assert_eq!(self.exact(4).await?.get_u32(), 0, "the server refuses");
        // Shared: others may look as well.
        self.send(vec![1]).await;
        let mut head = self.exact(24).await?;
        let (width, height, bits) = (head.get_u16(), head.get_u16(), head[0]);
        head.advance(16);
        let name = self.exact(head.get_u32() as usize).await?;
        Ok(Screen { name: String::from_utf8_lossy(&name).into_owned(), width, height, bytes: bits / 8 })
    }

    /// The whole picture, in the server's own format.
    ///
    /// # Errors
    /// It is over before.
    ///
    /// # Panics
    /// When the other side breaks RFB.
    pub async fn screenshot(&mut self, screen: &Screen) -> Result<Vec<u8>, Closed> {
        let (width, height) = (screen.width.to_be_bytes(), screen.height.to_be_bytes());
        // Encodings: raw alone. Then all of it, not only what changed.
        let ask = [&[2, 0, 0, 1, 0, 0, 0, 0][..], &[3, 0, 0, 0, 0, 0], &width, &height].concat();
        self.send(ask).await;
        let line = usize::from(screen.width) * usize::from(screen.bytes);
        let mut picture = vec![0; line * usize::from(screen.height)];
        let mut missing = picture.len();
        while missing > 0 {
            let kind = self.exact(1).await?[0];
            assert_eq!(kind, 0, "a message that is no picture");
            let mut count = self.exact(3).await?.slice(1..).get_u16();
            while count > 0 {
                let mut rectangle = self.exact(12).await?;
                let [x, y, width, height] = [(); 4].map(|()| usize::from(rectangle.get_u16()));
                assert_eq!(rectangle.get_i32(), 0, "an encoding that was not asked for");
                let bytes = usize::from(screen.bytes);
                let pixels = self.exact(width * height * bytes).await?;
                for (row, pixels) in pixels.chunks_exact(width * bytes).enumerate() {
                    let at = (y + row) * line + x * bytes;
                    picture[at..at + pixels.len()].copy_from_slice(pixels);
                }
                missing = missing.saturating_sub(pixels.len());
                count -= 1;
            }
        }
        Ok(picture)
    }
}

/// What an RFB server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screen {
    /// The desktop's name.
    pub name: String,
    /// In pixels.
    pub width: u16,
    /// In pixels.
    pub height: u16,
    /// Bytes of a pixel.
    pub bytes: u8,
}
