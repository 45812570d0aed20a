//! The stream of events.

use poem_openapi::OpenApi;

use super::Tag;
use crate::dto::EventQuery;
use crate::error::Result;
use crate::extract::{Caller, LastEvent, Query};
use crate::line::Line;
use crate::sse::EventStream;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Events;

#[OpenApi]
impl Events {
    /// Follow the events
    ///
    /// Server-Sent Events that do not end by themselves: every change after a number, in order, as
    /// far as the caller may see it. docs/events.md describes them.
    #[oai(path = "/api/events", method = "get", operation_id = "watch_events", tag = "Tag::Events")]
    async fn watch_events(
        &self,
        caller: Caller,
        Query(query): Query<EventQuery>,
        last: LastEvent,
        line: Line,
    ) -> Result<EventStream> {
        let after = last.0.or(query.after).unwrap_or_else(|| caller.event());
        let events = caller.limen().watch_events(&caller, after).await?;
        Ok(EventStream::new(events, line, caller.request_id()))
    }
}
