//! What goes on whatever happens in it: a panic is a defect, and ends neither the work of this
//! process silently nor what it has nothing to do with.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use super::Shared;
use crate::error::{Error, Result};

/// How long a task that panicked rests before it begins again: a defect that stays must not fill
/// the log.
const REST: Duration = Duration::from_secs(1);

/// Starts a task that ends when the service stops. One that panics is told of in the log and begins
/// again; `make` is called each time, with `true` but for the first.
pub(super) fn start<F>(
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<()>,
    name: &'static str,
    make: impl Fn(bool) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut stopping = shared.stopping.subscribe();
    let lasting = async move {
        let mut again = false;
        while let Err(payload) = AssertUnwindSafe(make(again)).catch_unwind().await {
            tracing::error!(task = name, panic = text(&*payload), "a task panicked and begins again");
            again = true;
            tokio::time::sleep(REST).await;
        }
    };
    tasks.spawn(async move {
        tokio::select! {
            _ = stopping.wait_for(|stopping| *stopping) => {}
            () = lasting => {}
        }
    });
}

/// Does `work`; a panic in it is told of in the log, and an error like others.
pub(crate) async fn guarded<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let done = AssertUnwindSafe(work).catch_unwind().await;
    done.unwrap_or_else(|payload| {
        let text = text(&*payload);
        tracing::error!(panic = text, "a panic is taken as a failure");
        Err(Error::internal(format!("panic: {text}")))
    })
}

/// What a panic said.
fn text(payload: &(dyn Any + Send)) -> &str {
    let known = payload.downcast_ref::<&str>().copied();
    known.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
