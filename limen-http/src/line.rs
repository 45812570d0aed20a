//! The connection that a request came by, for an answer that lasts: it must know when the server
//! stops, be able to end the connection of a client that takes nothing, and may become something
//! else than HTTP.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::upgrade::OnUpgrade;
use poem::{Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use tokio::sync::{Notify, mpsc, watch};

use crate::pace::{Lent, Pace};
use crate::server;

/// One connection. Cheap to clone; without a server around it nothing ever stops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    stopping: Option<watch::Receiver<bool>>,
    /// The server waits for its end as for a connection's.
    _alive: Option<mpsc::Sender<Infallible>>,
    cut: Arc<Notify>,
    upgrade: Arc<Mutex<Option<Upgrade>>>,
    pace: Pace,
}

impl Line {
    /// `stopping` turns true when the server stops; `alive` is dropped when the line is.
    pub(crate) fn new(stopping: watch::Receiver<bool>, alive: mpsc::Sender<Infallible>, pace: Pace) -> Self {
        Self { stopping: Some(stopping), _alive: Some(alive), pace, ..Self::default() }
    }

    /// The line of one request, which may take the connection for itself.
    pub(crate) fn upgradable(&self, upgrade: OnUpgrade) -> Self {
        Self { upgrade: Arc::new(Mutex::new(Some(Upgrade(upgrade)))), ..self.clone() }
    }

    /// The connection itself, for what comes after the answer: once, and where the request asked.
    pub(crate) fn take_upgrade(&self) -> Option<Upgrade> {
        self.upgrade.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Exempts the request at hand from the limits on slow peers: whoever answers it has limits of
    /// its own.
    pub(crate) fn lasts(&self) {
        self.pace.lasts();
    }

    /// Returns when the server stops.
    pub(crate) async fn stopping(&mut self) {
        match &mut self.stopping {
            // An error is a server that is gone.
            Some(stopping) => drop(stopping.wait_for(|stopping| *stopping).await),
            None => std::future::pending().await,
        }
    }

    /// Ends the connection, whatever is still on its way.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }

    /// Returns when the connection is to end.
    pub(crate) async fn is_cut(&self) {
        self.cut.notified().await;
    }
}

/// A connection that becomes something else than HTTP with its next answer, a 101.
#[derive(Debug)]
pub(crate) struct Upgrade(OnUpgrade);

impl Upgrade {
    /// The connection as it is, without anything of HTTP around it, once the answer is written.
    ///
    /// # Errors
    /// The client went away before, or sent something before the answer.
    pub(crate) async fn stream(self) -> io::Result<Lent> {
        let upgraded = self.0.await.map_err(io::Error::other)?;
        let parts =
            upgraded.downcast::<server::Wire>().map_err(|_| io::Error::other("a connection of another kind"))?;
        if !parts.read_buf.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "bytes before the answer"));
        }
        Ok(server::bare(parts.io))
    }
}

impl<'a> ApiExtractor<'a> for Line {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];
    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(request.extensions().get::<Line>().cloned().unwrap_or_default())
    }
}
