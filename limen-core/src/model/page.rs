//! Pages of lists.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::error::{Error, Result};

/// Which part of a list is wanted: keyset paging by id, stable while the list changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRequest {
    limit: u32,
    after: Option<Uuid>,
}

impl PageRequest {
    /// The most that one page holds.
    pub const MAX_LIMIT: u32 = 1000;

    /// The first `limit` items.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) `limit` unless it is 1 to 1000.
    pub fn first(limit: u32) -> Result<Self> {
        if (1..=Self::MAX_LIMIT).contains(&limit) {
            Ok(Self { limit, after: None })
        } else {
            Err(Error::invalid("limit", "limit must be from 1 to 1000."))
        }
    }

    /// The same, after the item that `cursor` (a page's `next_cursor`) names.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) `cursor` when it is none that a page gave.
    pub fn with_cursor(mut self, cursor: &str) -> Result<Self> {
        let after =
            cursor.parse().map_err(|_| Error::invalid("cursor", "cursor must be a next_cursor of this list."))?;
        self.after = Some(after);
        Ok(self)
    }

    /// How many items at most.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.limit
    }

    /// The id of the last item of the page before.
    #[must_use]
    pub fn after(self) -> Option<Uuid> {
        self.after
    }
}

impl Serialize for PageRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut request = serializer.serialize_struct("PageRequest", 2)?;
        request.serialize_field("limit", &self.limit)?;
        request.serialize_field("cursor", &self.after)?;
        request.end()
    }
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 100, after: None }
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// Give it to [`PageRequest::with_cursor`] for the next page; none at the end.
    pub next_cursor: Option<String>,
}
