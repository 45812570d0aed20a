//! The listener: accepts connections, hands requests to the endpoint, and stops gently.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::line::Line;
use crate::unparsed::{self, Answers, Documented};

/// Headers of a request beyond this are refused.
const LARGEST_HEADERS: usize = 1 << 20;
/// How long requests at work may take when the server stops.
const LAST_REQUESTS: Duration = Duration::from_secs(15);

/// What HTTP is spoken on.
pub(crate) type Wire = Documented<TokioIo<TcpStream>>;

/// The connection alone, once HTTP is over.
pub(crate) fn bare(wire: Wire) -> TcpStream {
    wire.into_inner().into_inner()
}

/// Serves `endpoint` on `listener` until `stop`; then accepts nothing more, and returns when the
/// requests at work are answered or 15 s are over.
///
/// # Errors
/// The listener's address cannot be told. An accept that fails is logged and tried again.
pub async fn serve<E>(listener: TcpListener, endpoint: E, stop: impl Future<Output = ()> + Send) -> io::Result<()>
where
    E: Endpoint<Output = Response> + 'static,
{
    let endpoint = Arc::new(endpoint);
    let (stopping, is_stopping) = watch::channel(false);
    // Each connection holds a sender: the channel is closed when the last one has ended.
    let (alive, mut ended) = mpsc::channel::<std::convert::Infallible>(1);
    let local = listener.local_addr()?;
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                let connection = Connection { stream, local, remote, endpoint: Arc::clone(&endpoint) };
                tokio::spawn(connection.run(is_stopping.clone(), alive.clone()));
            }
            Err(error) => {
                // Out of descriptors, mostly: others must end before the next one can begin.
                tracing::warn!(target: "limen", %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
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
    stream: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    endpoint: Arc<E>,
}

impl<E: Endpoint<Output = Response> + 'static> Connection<E> {
    /// Answers requests until the peer is gone, or the one at work when the server stops.
    async fn run(self, mut is_stopping: watch::Receiver<bool>, alive: mpsc::Sender<std::convert::Infallible>) {
        let Self { stream, local, remote, endpoint } = self;
        // Answers are written whole: waiting for more to send only delays them.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(target: "limen", %error, "no TCP_NODELAY");
        }
        let answers = Answers::default();
        let counted = answers.clone();
        let line = Line::new(is_stopping.clone(), alive);
        let its = line.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            let (endpoint, answers, line) = (Arc::clone(&endpoint), answers.clone(), its.clone());
            async move {
                if let Some(refusal) = unparsed::refuse(&request) {
                    return Ok(hyper::Response::from(refusal).map(|body| answers.count(body)));
                }
                // The framework would take it, and no longer give the connection itself.
                let line = line.upgradable(hyper::upgrade::on(&mut request));
                let local = LocalAddr(Addr::SocketAddr(local));
                let remote = RemoteAddr(Addr::SocketAddr(remote));
                let mut request = Request::from((request, local, remote, Scheme::HTTP));
                request.extensions_mut().insert(line);
                let response = endpoint.call(request).await.unwrap_or_else(poem::Error::into_response);
                Ok::<_, std::convert::Infallible>(hyper::Response::from(response).map(|body| answers.count(body)))
            }
        });
        // Room for more limits: a timeout for headers, for an idle connection, for a slow reader.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(LARGEST_HEADERS)
            .serve_connection(Documented::new(TokioIo::new(stream), counted), service)
            .with_upgrades();
        tokio::pin!(connection);
        let stopped = async move {
            is_stopping.wait_for(|stopping| *stopping).await.ok();
        };
        let served = async {
            tokio::select! {
                served = connection.as_mut() => served,
                () = stopped => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        let served = tokio::select! {
            served = served => served,
            () = line.is_cut() => return tracing::debug!(target: "limen", %remote, "a connection was cut"),
        };
        if let Err(error) = served {
            tracing::debug!(target: "limen", %error, %remote, "a connection ended early");
        }
    }
}
