//! The connection that a request came by, for an answer that lasts: it must know when the server
//! stops, and be able to end the connection of a client that takes nothing.

use std::sync::Arc;

use poem::{Request, RequestBody};
use poem_openapi::{ApiExtractor, ApiExtractorType, ExtractParamOptions};
use tokio::sync::{Notify, watch};

use crate::pace::Pace;

/// One connection. Cheap to clone; without a server around it nothing ever stops.
#[derive(Debug, Clone, Default)]
pub(crate) struct Line {
    stopping: Option<watch::Receiver<bool>>,
    cut: Arc<Notify>,
    pace: Pace,
}

impl Line {
    /// `stopping` turns true when the server stops.
    pub(crate) fn new(stopping: watch::Receiver<bool>, pace: Pace) -> Self {
        Self { stopping: Some(stopping), cut: Arc::default(), pace }
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

impl<'a> ApiExtractor<'a> for Line {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::PoemExtractor];
    type ParamType = ();
    type ParamRawType = ();

    async fn from_request(request: &'a Request, _: &mut RequestBody, _: ExtractParamOptions<()>) -> poem::Result<Self> {
        Ok(request.extensions().get::<Line>().cloned().unwrap_or_default())
    }
}
