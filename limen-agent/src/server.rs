//! HTTP/1.1: answers from memory, one thread for all.

mod accept;
mod answer;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use self::answer::Body;
use crate::clock::Clock;
use crate::config::Token;

/// Connections at once; more wait.
const CONNECTIONS: usize = 128;
/// Headers of a request beyond this are refused.
const LARGEST_HEADERS: usize = 16 << 10;
/// A TLS handshake, or the head of a request once the one before is answered.
const PATIENCE: Duration = Duration::from_secs(75);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection is ended after so long, between two requests.
const LIFE: Duration = Duration::from_secs(600);
/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// What the agent serves, and to whom.
#[derive(Clone)]
pub(crate) struct Server {
    clock: Clock,
    token: Option<Arc<Token>>,
    tls: Option<TlsAcceptor>,
}

impl Server {
    pub(crate) fn new(clock: Clock, token: Option<Token>, tls: Option<TlsAcceptor>) -> Self {
        Self { clock, token: token.map(Arc::new), tls }
    }

    /// Serves until `stop`; then accepts nothing more, and returns when the last answers are given or
    /// 3 s are over.
    pub(crate) async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let (stopping, is_stopping) = watch::channel(false);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut stop = pin!(stop);
        loop {
            let next = async {
                // Never closed.
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                next = next => next,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, is_stopping) = (self.clone(), is_stopping.clone());
                    tokio::spawn(async move {
                        server.connection(stream, is_stopping).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, mostly: others must end before the next one can begin.
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        stopping.send_replace(true);
        let all = u32::try_from(CONNECTIONS).unwrap_or(u32::MAX);
        drop(timeout(LAST_ANSWERS, places.acquire_many(all)).await);
    }

    async fn connection(&self, stream: TcpStream, is_stopping: watch::Receiver<bool>) {
        // Answers are written whole: waiting for more to send only delays them.
        _ = stream.set_nodelay(true);
        match &self.tls {
            None => self.speak(stream, is_stopping).await,
            Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.speak(stream, is_stopping).await,
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            },
        }
    }

    async fn speak(&self, stream: impl AsyncRead + AsyncWrite + Unpin, mut is_stopping: watch::Receiver<bool>) {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = self.answer(&request);
            async move { Ok::<Response<Body>, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .max_buf_size(LARGEST_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let over = async { drop(timeout(LIFE, is_stopping.wait_for(|stopping| *stopping)).await) };
        let served = tokio::select! {
            served = &mut connection => served,
            () = over => {
                connection.as_mut().graceful_shutdown();
                let Ok(served) = timeout(LAST_ANSWERS, connection).await else { return };
                served
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
