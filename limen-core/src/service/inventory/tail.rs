//! The last events of the log, for those who follow it: a change that a thousand streams wait for
//! is read once.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use super::Inventory;
use crate::model::{Event, EventNumber};

/// How many events are kept.
const LENGTH: usize = 1000;

/// Every known event of the log after `from`, as far as this process has read it.
#[derive(Debug)]
pub(super) struct Tail {
    from: EventNumber,
    events: VecDeque<Arc<Event>>,
}

impl Default for Tail {
    /// Holds nothing, and knows of nothing that comes.
    fn default() -> Self {
        Self { from: EventNumber::MAX, events: VecDeque::new() }
    }
}

impl Tail {
    /// Begins anew behind event `from`.
    pub(super) fn restart(&mut self, from: EventNumber) {
        *self = Self { from, events: VecDeque::new() };
    }

    pub(super) fn push(&mut self, event: &Event) {
        self.events.push_back(Arc::new(event.clone()));
        if self.events.len() > LENGTH
            && let Some(first) = self.events.pop_front()
        {
            self.from = first.number;
        }
    }

    fn after(&self, number: EventNumber, limit: usize) -> Option<VecDeque<Arc<Event>>> {
        if number < self.from {
            return None;
        }
        let first = self.events.partition_point(|event| event.number <= number);
        Some(self.events.iter().skip(first).take(limit).cloned().collect())
    }
}

impl Inventory {
    /// At most `limit` events after `number`; none where the log itself must be read.
    pub(crate) fn tail(&self, number: EventNumber, limit: usize) -> Option<VecDeque<Arc<Event>>> {
        self.tail.read().unwrap_or_else(PoisonError::into_inner).after(number, limit)
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::model::{Fact, UserId};

    #[test]
    fn it_answers_for_what_it_holds_and_for_nothing_before() {
        let event = |number| {
            let fact = Fact::UserGone { id: UserId::generate() };
            Event { number, at: OffsetDateTime::UNIX_EPOCH, operation: None, fact }
        };
        let mut tail = Tail::default();
        let numbers = |tail: &Tail, after, limit| -> Option<Vec<EventNumber>> {
            tail.after(after, limit).map(|events| events.iter().map(|event| event.number).collect())
        };
        assert_eq!(numbers(&tail, 7, 10), None);
        tail.restart(7);
        assert_eq!((numbers(&tail, 6, 10), numbers(&tail, 7, 10)), (None, Some(vec![])));
        // 9 is of a kind that this version does not know.
        [8, 10, 11].into_iter().for_each(|number| tail.push(&event(number)));
        assert_eq!(numbers(&tail, 7, 2), Some(vec![8, 10]));
        assert_eq!(numbers(&tail, 9, 10), Some(vec![10, 11]));
        (12..=1010).for_each(|number| tail.push(&event(number)));
        assert_eq!(tail.events.len(), LENGTH);
        assert_eq!((numbers(&tail, 9, 1), numbers(&tail, 10, 1)), (None, Some(vec![11])));
    }
}
