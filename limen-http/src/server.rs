//! The listener: accepts connections, hands requests to the endpoint, ends who is too slow, and stops
//! gently.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use poem::http::StatusCode;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::line::Line;
use crate::logging::Measure;
use crate::pace::{Late, Lent, Pace, Timely, Timeouts};
use crate::unparsed::{self, Answers, Documented, Malformed};

/// Headers of a request beyond this are refused.
const LARGEST_HEADERS: usize = 1 << 20;
/// How long requests at work may take when the server stops; all of its end takes 15 s at most.
const LAST_REQUESTS: Duration = Duration::from_secs(11);
/// How long a connection without a request yet may take for its first one when the server stops.
const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// What a peer still sends when all is said is read so long, and so much of it: a connection that
/// is closed with bytes unread is reset, and a reset may overtake the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 8 << 20;
/// Bytes that wait in the kernel for a peer to take them. It tells of room once a third of it is
/// free, so a peer is seen to take something as long as it takes some 10 KB a second.
const SENT_AHEAD: usize = 256 << 10;
/// Lines about connections that could not be accepted: one a second.
static UNACCEPTED: Measure = Measure::new(1);

/// What HTTP is spoken on.
pub(crate) type Wire = Documented<TokioIo<Lent>>;

/// The connection alone, once HTTP is over.
pub(crate) fn bare(wire: Wire) -> Lent {
    wire.into_inner().into_inner()
}

/// Serves `endpoint` on `listener` until `stop`, with the default [`Timeouts`]; see [`serve_with`].
///
/// # Errors
/// The listener's address cannot be told. An accept that fails is logged and tried again.
pub async fn serve<E>(listener: TcpListener, endpoint: E, stop: impl Future<Output = ()> + Send) -> io::Result<()>
where
    E: Endpoint<Output = Response> + 'static,
{
    serve_with(listener, endpoint, Timeouts::default(), stop).await
}

/// Serves `endpoint` on `listener` until `stop`; then accepts nothing more, and returns when the
/// requests at work are answered or 11 s are over. Who is connected when it stops is answered, where
/// the request comes within a second.
///
/// # Errors
/// The listener's address cannot be told. An accept that fails is logged and tried again.
pub async fn serve_with<E>(
    listener: TcpListener,
    endpoint: E,
    timeouts: Timeouts,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()>
where
    E: Endpoint<Output = Response> + 'static,
{
    let endpoint = Arc::new(endpoint);
    let (stopping, is_stopping) = watch::channel(false);
    // Each connection holds a sender: the channel is closed when the last one has ended.
    let (alive, mut ended) = mpsc::channel::<Infallible>(1);
    let local = listener.local_addr()?;
    tokio::pin!(stop);
    let begin = |stream, remote| {
        let connection = Connection { local, remote, endpoint: Arc::clone(&endpoint), timeouts };
        tokio::spawn(connection.run(stream, is_stopping.clone(), alive.clone()));
    };
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => begin(stream, remote),
            Err(error) => {
                // Out of descriptors, mostly: others must end before the next one can begin.
                if let Some(suppressed) = UNACCEPTED.admit() {
                    tracing::warn!(target: "limen", %error, suppressed, "a connection could not be accepted");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    // What the system has accepted for the listener would be reset with it.
    let listener = listener.into_std()?;
    while let Ok((stream, remote)) = listener.accept() {
        stream.set_nonblocking(true)?;
        begin(TcpStream::from_std(stream)?, remote);
    }
    drop(listener);
    drop(alive);
    stopping.send_replace(true);
    if tokio::time::timeout(LAST_REQUESTS, ended.recv()).await.is_err() {
        tracing::warn!(target: "limen", "requests were still at work when the server stopped");
    }
    Ok(())
}

struct Connection<E> {
    local: SocketAddr,
    remote: SocketAddr,
    endpoint: Arc<E>,
    timeouts: Timeouts,
}

/// Why HTTP is spoken no longer on a connection.
enum Over {
    Served(hyper::Result<()>),
    Late(Late),
    Cut,
}

impl<E: Endpoint<Output = Response> + 'static> Connection<E> {
    /// Answers requests until the peer is gone or late, or the one at work when the server stops.
    async fn run(self, stream: TcpStream, mut is_stopping: watch::Receiver<bool>, alive: mpsc::Sender<Infallible>) {
        // Answers are written whole: waiting for more to send only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(target: "limen", %error, "no TCP_NODELAY");
        }
        if let Err(error) = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SENT_AHEAD) {
            tracing::debug!(target: "limen", %error, "no SO_SNDBUF");
        }
        // Nothing is kept for a peer that says nothing.
        let mut byte = [0; 1];
        let first = timeout(self.timeouts.idle, stream.peek(&mut byte));
        let spoke = tokio::select! {
            first = first => matches!(first, Ok(Ok(1))),
            () = async { stopped(&mut is_stopping).await; sleep(FIRST_REQUEST).await } => false,
        };
        if !spoke {
            return;
        }
        let remote = self.remote;
        let stream = Arc::new(Mutex::new(stream));
        let over = Box::pin(self.speak(&stream, is_stopping, alive)).await;
        // What took the connection over (an upgrade) has it for its own.
        let Ok(stream) = Arc::try_unwrap(stream) else { return };
        let stream = stream.into_inner().unwrap_or_else(PoisonError::into_inner);
        match over {
            Over::Served(served) => {
                if let Err(error) = served {
                    tracing::debug!(target: "limen", %error, %remote, "a connection ended early");
                }
                Box::pin(linger(stream, &[])).await;
            }
            Over::Late(Late::Head) => {
                Box::pin(linger(stream, &unparsed::document(StatusCode::REQUEST_TIMEOUT))).await;
            }
            Over::Late(Late::Taking) => {
                tracing::debug!(target: "limen", %remote, "a connection was cut: its peer takes nothing");
                // The kernel keeps nothing for it either.
                stream.set_zero_linger().ok();
            }
            Over::Cut => tracing::debug!(target: "limen", %remote, "a connection was cut"),
            Over::Late(Late::Idle) => {}
        }
    }

    async fn speak(
        self,
        stream: &Arc<Mutex<TcpStream>>,
        mut is_stopping: watch::Receiver<bool>,
        alive: mpsc::Sender<Infallible>,
    ) -> Over {
        let Self { local, remote, endpoint, timeouts } = self;
        let pace = Pace::default();
        let answers = Answers::new(pace.clone());
        let line = Line::new(is_stopping.clone(), alive, pace.clone());
        let io = Documented::new(TokioIo::new(Lent::new(stream, &pace)), answers.clone());
        let (its, its_pace) = (line.clone(), pace.clone());
        let asked = Arc::new(Notify::new());
        let asks = Arc::clone(&asked);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            asks.notify_one();
            let (endpoint, answers, line) = (Arc::clone(&endpoint), answers.clone(), its.clone());
            let has_body = !request.body().is_end_stream();
            let due = its_pace.begins(has_body) + timeouts.read;
            let malformed = Malformed::find(&request);
            // The framework would take it, and no longer give the connection itself.
            let line = line.upgradable(hyper::upgrade::on(&mut request));
            let local = LocalAddr(Addr::SocketAddr(local));
            let remote = RemoteAddr(Addr::SocketAddr(remote));
            let mut request = Request::from((request, local, remote, Scheme::HTTP));
            if has_body {
                let body = Timely::new(request.take_body().into(), &its_pace, due);
                request.set_body(poem::Body::from(body.boxed()));
            }
            if let Some(malformed) = malformed {
                request.extensions_mut().insert(malformed);
            }
            request.extensions_mut().insert(line);
            async move {
                let response = endpoint.call(request).await.unwrap_or_else(poem::Error::into_response);
                Ok::<_, Infallible>(hyper::Response::from(response).map(|body| answers.count(body)))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(LARGEST_HEADERS)
            .max_header_size(LARGEST_HEADERS)
            .serve_connection(io, service)
            .with_upgrades();
        tokio::pin!(connection);
        let stopped = async {
            stopped(&mut is_stopping).await;
            // One on which nothing was read yet would be closed, though a request is on its way.
            _ = timeout(FIRST_REQUEST, asked.notified()).await;
        };
        tokio::pin!(stopped);
        let mut is_stopping = false;
        let mut alarm = Box::pin(sleep_until(Instant::now() + timeouts.idle));
        let served = poll_fn(|cx| {
            if !is_stopping && stopped.as_mut().poll(cx).is_ready() {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            if let Poll::Ready(served) = connection.as_mut().poll(cx) {
                return Poll::Ready(Over::Served(served));
            }
            // All that moves the clock happened in this poll.
            loop {
                let Some((due, late)) = pace.due(&timeouts) else { return Poll::Pending };
                if alarm.deadline() > due {
                    alarm.as_mut().reset(due);
                }
                ready!(Pin::new(&mut alarm).poll(cx));
                if Instant::now() >= due {
                    return Poll::Ready(Over::Late(late));
                }
                alarm.as_mut().reset(due);
            }
        });
        tokio::select! {
            over = served => over,
            () = line.is_cut() => Over::Cut,
        }
    }
}

/// Returns when the server stops.
async fn stopped(is_stopping: &mut watch::Receiver<bool>) {
    is_stopping.wait_for(|stopping| *stopping).await.ok();
}

/// Says the last word, and hears out what is still on its way.
async fn linger(mut stream: TcpStream, last: &[u8]) {
    let hear = async {
        stream.write_all(last).await?;
        stream.shutdown().await?;
        let (mut buffer, mut heard) = ([0; 4096], 0);
        while heard < LINGER_BYTES {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => heard += read,
            }
        }
        io::Result::Ok(())
    };
    // A peer that does not take it, or goes on for ever, has had its time.
    drop(timeout(LINGER, hear).await);
}
