//! A server's events: Server-Sent Events, as the HTML standard has them.

use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Response, Url};
use serde_json::value::RawValue;

use super::routes::Request;
use super::wire::{Wire, broken_off, error_of, strange};
use crate::error::Result;
use crate::model::{EventNumber, EventView};
use crate::secret::Secret;
use crate::service::Told;

/// A line is an event's object at most: a VM's record, with the limits of its parts.
const LONGEST_LINE: usize = 4 << 20;

/// An open stream of a server's events: [`Remote::watch_events`](super::Remote::watch_events).
#[derive(Debug)]
pub struct RemoteEvents {
    response: Response,
    /// What came and is no whole line yet.
    rest: Vec<u8>,
    /// What the lines since the last empty one tell.
    kind: String,
    data: String,
    id: Option<EventNumber>,
    position: EventNumber,
    url: Url,
}

impl RemoteEvents {
    pub(super) async fn open(wire: &Wire, who: Option<&Secret>, after: EventNumber) -> Result<Self> {
        let mut request = Request::get(format!("/api/events?after={after}"));
        request.headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let response = wire.send(&request, who, None).await?;
        Ok(Self {
            response,
            rest: Vec::new(),
            kind: String::new(),
            data: String::new(),
            id: None,
            position: after,
            url: wire.url().clone(),
        })
    }

    /// The number of the last event that was told: where to go on from.
    #[must_use]
    pub fn position(&self) -> EventNumber {
        self.position
    }

    /// What comes next, as soon as there is something. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Those of [`Events::next`](crate::service::Events::next).
    /// [`Unavailable`](crate::ErrorKind::Unavailable): the connection was lost; open another one after
    /// [`position`](Self::position). An error is the last thing told.
    pub async fn next(&mut self) -> Result<Told> {
        match self.next_json().await? {
            Some(event) => {
                let event: EventView = serde_json::from_str(event.get()).map_err(strange)?;
                Ok(Told::Event(Box::new(event)))
            }
            None => Ok(Told::Position(self.position)),
        }
    }

    /// The same with the event as the server wrote it; none where a position alone is told.
    ///
    /// # Errors
    /// Those of [`next`](Self::next).
    pub async fn next_json(&mut self) -> Result<Option<Box<RawValue>>> {
        loop {
            while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]);
                if let Some(told) = self.take(line.trim_end_matches('\r')) {
                    return told;
                }
            }
            match self.response.chunk().await {
                Ok(Some(chunk)) if self.rest.len() + chunk.len() <= LONGEST_LINE => self.rest.extend_from_slice(&chunk),
                _ => return Err(broken_off(&self.url)),
            }
        }
    }

    fn take(&mut self, line: &str) -> Option<Result<Option<Box<RawValue>>>> {
        if !line.is_empty() {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut self.kind),
                "data" => self.data.push_str(value),
                "id" => self.id = value.parse().ok(),
                _ => {}
            }
            return None;
        }
        let (kind, data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        if kind == "end" {
            let problem = serde_json::from_str(&data).unwrap_or_default();
            return Some(Err(error_of(&problem, None).unwrap_or_else(|| broken_off(&self.url))));
        }
        self.position = self.id.take()?;
        Some(Ok(RawValue::from_string(data).ok()))
    }
}
