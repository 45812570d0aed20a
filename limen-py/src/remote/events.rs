//! A server's events: Server-Sent Events, as the HTML standard has them.

use limen_core::Secret;
use limen_core::model::EventNumber;
use reqwest::Response;
use reqwest::header::{ACCEPT, HeaderValue};
use serde_json::value::RawValue;

use super::routes::Request;
use super::wire::{Wire, failure};
use crate::answer::Failure;
use crate::streams::Told;

/// A line is an event's object at most: a VM's record, with the limits of its parts.
const LONGEST_LINE: usize = 4 << 20;

/// An open stream.
#[derive(Debug)]
pub(crate) struct RemoteEvents {
    response: Response,
    /// What came and is no whole line yet.
    rest: Vec<u8>,
    /// What the lines since the last empty one tell.
    kind: String,
    data: String,
    id: Option<EventNumber>,
    position: EventNumber,
    broken_off: Failure,
}

impl RemoteEvents {
    pub(super) async fn open(wire: &Wire, who: Option<&Secret>, after: EventNumber) -> Result<Self, Failure> {
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
            broken_off: wire.broken_off(),
        })
    }

    /// The number of the last event that was told.
    pub(crate) fn position(&self) -> EventNumber {
        self.position
    }

    /// What is told next. Whoever gives up waiting loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Told, Failure> {
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
                _ => return Err(self.broken_off.clone()),
            }
        }
    }

    fn take(&mut self, line: &str) -> Option<Result<Told, Failure>> {
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
            return Some(Err(failure(&problem, None).unwrap_or_else(|| self.broken_off.clone())));
        }
        self.position = self.id.take()?;
        Some(match RawValue::from_string(data) {
            Ok(event) => Ok(Told::Event(event)),
            Err(_) => Ok(Told::Position),
        })
    }
}
