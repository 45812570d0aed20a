//! A reader of `GET /api/events`.

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use serde_json::Value;

use crate::http::{Client, Connection};

/// One open stream; dropping it hangs up.
#[derive(Debug)]
pub struct Following {
    body: Incoming,
    text: String,
    _connection: Connection,
}

/// What a stream says.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// An event: its `id`, and its `data`.
    Event(i64, Value),
    /// Everything up to this number was looked at.
    Position(i64),
    /// Why it ends.
    End(Value),
}

impl Client {
    /// Follows the events after number `last`.
    ///
    /// # Errors
    /// The status, where that is not 200; none where there is no answer at all.
    pub async fn follow(&self, last: i64) -> Result<Following, Option<u16>> {
        let client = self.with_header("Last-Event-ID", &last.to_string());
        let request = client.prepare(Method::GET, "/api/events", None).map_err(|_| None)?;
        let (answer, connection) = client.open(request).await.map_err(|_| None)?;
        let status = answer.status().as_u16();
        if status != 200 {
            return Err(Some(status));
        }
        Ok(Following { body: answer.into_body(), text: String::new(), _connection: connection })
    }
}

impl Following {
    /// What comes next; none when the connection ended, whole or not.
    ///
    /// # Panics
    /// At what is no event stream of LIMEN's.
    pub async fn next(&mut self) -> Option<Said> {
        loop {
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let said = said(block);
                self.text = rest.to_owned();
                if said.is_some() {
                    return said;
                }
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text.push_str(&String::from_utf8_lossy(&data));
            }
        }
    }
}

fn said(block: &str) -> Option<Said> {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let id = field("id").map(|id| id.parse().unwrap_or_else(|e| panic!("{e}: {block}")));
    let data = field("data").map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {block}")));
    match (id, data) {
        (Some(id), Some(data)) => Some(Said::Event(id, data)),
        (Some(id), None) => Some(Said::Position(id)),
        (None, Some(problem)) => Some(Said::End(problem)),
        (None, None) => None,
    }
}
