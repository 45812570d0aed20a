//! The stream of events: the log by number, as far as its reader may see it.
//!
//! A stream holds a position, the number up to which it has looked at everything, and at most one
//! part of the log behind it. It reads when it is asked for more, so a slow reader costs one part
//! of the log and holds up nobody; and while nothing happens it waits for the inventory's event
//! number, at the cost of no query. It never runs ahead of the inventory: whoever hears of a
//! change reads it here at once.
//!
//! What it may tell is judged anew before each event, and twice a second while it waits.

mod view;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::{Limen, Shared};
use crate::authz::Resource;
use crate::context::{Action, Actor, Context};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Event, EventNumber, EventView, UserId};
use view::Sight;

/// Events read at once, and held by a stream at most.
const BATCH: u32 = 64;
/// How often a stream that waits looks whether it still may.
const GLANCE: Duration = Duration::from_millis(500);
/// How long the number that a reader brings may be ahead of this process.
const AHEAD: Duration = Duration::from_secs(1);
/// Streams of one user.
const MOST_OF_ONE: usize = 32;
/// Streams of all.
const MOST: usize = 1024;
/// How many streams may read the log in the Store at once: the others' requests go first.
const READERS: usize = 4;

/// What a stream of events tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// The next event that the actor may see.
    Event(Box<EventView>),
    /// Everything up to this number was looked at: where to go on from.
    Position(EventNumber),
}

/// Who follows the events.
#[derive(Debug)]
pub(super) struct Streams {
    open: Mutex<(usize, HashMap<UserId, usize>)>,
    readers: Semaphore,
}

impl Default for Streams {
    fn default() -> Self {
        Self { open: Mutex::default(), readers: Semaphore::new(READERS) }
    }
}

/// A stream's place among the open ones.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    user: Option<UserId>,
}

impl Place {
    fn take(shared: &Arc<Shared>, user: Option<UserId>) -> Result<Self> {
        let mut open = shared.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_users) = &mut *open;
        if *all >= MOST {
            return Err(Error::overloaded("Too many streams of events are open"));
        }
        if let Some(user) = user {
            let of_one = of_users.entry(user).or_default();
            if *of_one >= MOST_OF_ONE {
                let text = format!("You have {MOST_OF_ONE} streams of events open; close one first.");
                return Err(Error::new(ErrorKind::RateLimited, text).with_retry_after(Duration::from_secs(5)));
            }
            *of_one += 1;
        }
        *all += 1;
        Ok(Self { shared: Arc::clone(shared), user })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.shared.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, of_users) = &mut *open;
        *all -= 1;
        let Some(user) = self.user else { return };
        if let Some(of_one) = of_users.get_mut(&user) {
            *of_one -= 1;
            if *of_one == 0 {
                of_users.remove(&user);
            }
        }
    }
}

/// The events after a number, and those to come, as far as an actor may see them:
/// [`Limen::watch_events`].
///
/// Numbers only rise, and none comes twice. An actor who sees everything gets every number (but for
/// those of kinds that this version does not know); another one gets those that are about objects
/// in their sight. Either is told the position reached when nothing else was told for 15 s.
#[derive(Debug)]
pub struct Events {
    limen: Limen,
    actor: Actor,
    sight: Sight,
    /// The number up to which everything was looked at.
    position: EventNumber,
    /// What comes next, as read already.
    next: VecDeque<Arc<Event>>,
    applied: watch::Receiver<EventNumber>,
    stopping: watch::Receiver<bool>,
    /// When the position is due.
    mark: Instant,
    ended: bool,
    _place: Place,
}

impl Limen {
    /// Follows the events after number `after`: 0 from the first one on, [`event`](Self::event) for
    /// those to come. List first, then follow from the number that the list shows: nothing is
    /// missed and nothing told twice.
    ///
    /// # Errors
    /// [`Gone`](ErrorKind::Gone): the log does not reach back to `after`, or ends before it, as
    /// after the restore of an older Store, or `after` is a number of the time that was lost by
    /// one; [`Error::oldest`] is the oldest number that it has.
    /// [`Unavailable`](ErrorKind::Unavailable): the Store is away, this process does not show
    /// `after` within a second, or too many streams are open.
    /// [`RateLimited`](ErrorKind::RateLimited): the user has 32 open.
    /// [`Invalid`](ErrorKind::Invalid): `after` is negative.
    pub async fn watch_events(&self, ctx: &Context, after: EventNumber) -> Result<Events> {
        self.authorize(ctx, Action::WatchEvents, Resource::Any, "event")?;
        if after < 0 {
            return Err(Error::invalid("after", "after must not be negative."));
        }
        let place = Place::take(&self.shared, ctx.actor().user_id())?;
        self.reach(after).await?;
        self.refuse_lost(after)?;
        let mut events = Events {
            limen: self.clone(),
            actor: ctx.actor().clone(),
            sight: Sight::of(&*self.shared.authz, ctx.actor()),
            position: after,
            next: VecDeque::new(),
            applied: self.shared.inventory.follow(),
            stopping: self.shared.stopping.subscribe(),
            mark: Instant::now() + self.shared.timings.mark,
            ended: false,
            _place: place,
        };
        events.read().await?;
        Ok(events)
    }

    /// Refuses a number of the time that was lost by a restore: what its reader knows is not so.
    fn refuse_lost(&self, number: EventNumber) -> Result<()> {
        match self.shared.inventory.lost(number) {
            Some(restore) => {
                let text = "The event of this number was lost when the store was restored; read everything anew.";
                Err(Error::gone(restore.next_event, text))
            }
            None => Ok(()),
        }
    }

    /// Returns once this process shows event `number`.
    async fn reach(&self, number: EventNumber) -> Result<()> {
        let Err(late) = self.wait_for_event(number, AHEAD).await else { return Ok(()) };
        let batch = self.shared.store.events_after(number - 1, 1).await?;
        if batch.events.is_empty() {
            return Err(Error::gone(batch.oldest, "The log of events ends before this number; read everything anew."));
        }
        Err(late)
    }
}

impl Events {
    /// The number up to which everything was looked at: what a new stream goes on from.
    #[must_use]
    pub fn position(&self) -> EventNumber {
        self.position
    }

    /// What comes next, as soon as there is something. Dropping the future loses nothing.
    ///
    /// An error is why the stream ends; it is the last thing told, and after it comes `None`. One
    /// that the Store is away is not told: the stream goes on when it is back.
    ///
    /// # Errors
    /// [`Unauthenticated`](ErrorKind::Unauthenticated) or [`Forbidden`](ErrorKind::Forbidden):
    /// the session or token has ended, or its right to this.
    /// [`Gone`](ErrorKind::Gone): what comes next is kept no longer, or the log was begun anew.
    /// [`Unavailable`](ErrorKind::Unavailable): the service stops.
    pub async fn next(&mut self) -> Option<Result<Told>> {
        if self.ended {
            return None;
        }
        let told = self.advance().await;
        match &told {
            Ok(_) => self.mark = Instant::now() + self.limen.shared.timings.mark,
            Err(_) => self.end(),
        }
        Some(told)
    }

    /// Returns, with the reason, once nothing more may be told, whatever is left to tell: for a
    /// door whose reader takes nothing. [`next`](Self::next) then gives `None`.
    pub async fn over(&mut self) -> Error {
        loop {
            if let Err(error) = self.judge() {
                self.end();
                return error;
            }
            self.pause(GLANCE).await;
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.next.clear();
    }

    async fn advance(&mut self) -> Result<Told> {
        loop {
            self.judge()?;
            while let Some(event) = self.next.pop_front() {
                self.position = event.number;
                if let Some(view) = self.sight.view(&event, &self.limen.shared) {
                    return Ok(Told::Event(Box::new(view)));
                }
            }
            if self.mark <= Instant::now() {
                return Ok(Told::Position(self.position));
            }
            match self.read().await {
                Ok(true) => {}
                Ok(false) => self.pause(GLANCE.min(self.mark - Instant::now())).await,
                Err(error) if error.kind() == ErrorKind::Gone => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a stream of events waits for the log");
                    self.pause(GLANCE).await;
                }
            }
        }
    }

    /// Whether the actor may still follow, as who they are now.
    fn judge(&mut self) -> Result<()> {
        if *self.stopping.borrow() {
            return Err(Error::overloaded("This server is stopping"));
        }
        self.actor = self.limen.reauthenticate(&self.actor)?;
        // Also for the same actor: a policy may have data of its own.
        self.limen.authorize(&Context::new(self.actor.clone()), Action::WatchEvents, Resource::Any, "event")?;
        self.sight = Sight::of(&*self.limen.shared.authz, &self.actor);
        Ok(())
    }

    /// Until the inventory has grown or the service stops, or `at_most`.
    async fn pause(&mut self, at_most: Duration) {
        tokio::select! {
            _ = self.applied.changed() => {}
            _ = self.stopping.changed() => {}
            () = tokio::time::sleep(at_most) => {}
        }
    }

    /// Reads the next part of the log, where there is one that the inventory shows already.
    async fn read(&mut self) -> Result<bool> {
        let shared = &self.limen.shared;
        let shown = *self.applied.borrow_and_update();
        if shown < self.position {
            let oldest = shared.store.events_after(shown, 1).await?.oldest;
            return Err(Error::gone(oldest, "The log of events was begun anew; read everything anew."));
        }
        if shown == self.position {
            return Ok(false);
        }
        self.limen.refuse_lost(self.position)?;
        let mut next = match shared.inventory.tail(self.position, BATCH as usize) {
            Some(events) => events,
            None => {
                let _turn = shared.streams.readers.acquire().await.map_err(Error::internal)?;
                let batch = shared.store.events_after(self.position, BATCH).await?;
                if batch.oldest > self.position + 1 {
                    let text = "The events after this number are kept no longer; read everything anew.";
                    return Err(Error::gone(batch.oldest, text));
                }
                batch.events.into_iter().map(Arc::new).collect()
            }
        };
        next.truncate(next.partition_point(|event| event.number <= shown));
        if next.is_empty() {
            // All of them are of kinds that this version does not know.
            self.position = shown;
        }
        self.next = next;
        Ok(true)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests;
