//! How much room file systems have. A file system that does not answer (an NFS server that is away)
//! keeps one thread waiting, and nothing else.
//!
//! Each round puts the file systems that owe no answer on a list, and a walker, a thread of its own,
//! asks one after another. Where the list stands still, its walker is left to the file system that
//! it hangs at, and another walks on. The figures are then the last that were had, with their age.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::mounts::{self, Mount};
use crate::proc::Source;

/// How long a walker may stand at one file system before another walks on.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a whole round is waited for.
const ROUND: Duration = Duration::from_secs(1);
/// A file system that has not answered for so long is stale.
const STALE: Duration = Duration::from_secs(2);
/// A walker needs little more than one system call does.
const STACK: usize = 64 << 10;

/// The size of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    /// To who is not root.
    pub(crate) available_bytes: u64,
    pub(crate) files: u64,
    pub(crate) free_files: u64,
}

impl Room {
    fn of(mount: &Mount) -> rustix::io::Result<Self> {
        let found = rustix::fs::statvfs(&mount.point)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self {
            total_bytes: bytes(found.f_blocks),
            free_bytes: bytes(found.f_bfree),
            available_bytes: bytes(found.f_bavail),
            files: found.f_files,
            free_files: found.f_ffree,
        })
    }
}

/// What is known of a mounted file system.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) mount: Arc<Mount>,
    /// What it last answered, and how long ago; none where it never has.
    pub(crate) room: Option<(Room, Duration)>,
    /// It has not answered for 2 s, or has answered with an error.
    pub(crate) is_stale: bool,
}

type Ask = dyn Fn(&Mount) -> rustix::io::Result<Room> + Send + Sync;

/// All mounted file systems that are shown.
pub(crate) struct Rooms {
    mountinfo: Source,
    /// What it last said.
    said: Vec<u8>,
    places: Vec<Arc<Place>>,
    walk: Arc<Walk>,
    ask: Arc<Ask>,
}

impl fmt::Debug for Rooms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rooms").field("places", &self.places).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Place {
    mount: Arc<Mount>,
    answer: Mutex<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    room: Option<(Room, Instant)>,
    /// Since when it owes one.
    asked: Option<Instant>,
    failed: bool,
}

#[derive(Debug, Default)]
struct Walk {
    list: Mutex<VecDeque<Arc<Place>>>,
    /// A file system has answered.
    answered: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Place {
    fn owes(&self) -> bool {
        lock(&self.answer).asked.is_some()
    }
}

impl Walk {
    fn walk(&self, ask: &Ask) {
        loop {
            let Some(place) = lock(&self.list).pop_front() else { return };
            let answer = ask(&place.mount);
            let mut known = lock(&place.answer);
            known.asked = None;
            known.failed = answer.is_err();
            if let Ok(room) = answer {
                known.room = Some((room, Instant::now()));
            }
            drop(known);
            // Who waits holds the list between its look and its wait: this is not missed.
            drop(lock(&self.list));
            self.answered.notify_one();
        }
    }
}

impl Rooms {
    pub(crate) fn new() -> Self {
        Self::asking(Arc::new(Room::of))
    }

    fn asking(ask: Arc<Ask>) -> Self {
        let mountinfo = Source::new("/proc/self/mountinfo");
        Self { mountinfo, said: Vec::new(), places: Vec::new(), walk: Arc::default(), ask }
    }

    /// Looks which file systems are mounted now and asks each; at most a second, whatever they do.
    ///
    /// # Errors
    /// The list of mounts cannot be read.
    pub(crate) fn look(&mut self) -> std::io::Result<Vec<Known>> {
        let said = self.mountinfo.bytes()?;
        if said != self.said {
            let mounts = mounts::parse(said);
            self.said = said.to_vec();
            self.keep(mounts);
        }
        self.round();
        Ok(self.known())
    }

    /// What was mounted before keeps what is known of it.
    fn keep(&mut self, mounts: Vec<Mount>) {
        let place = |mount: Mount| {
            let before = self.places.iter().find(|place| *place.mount == mount).map(Arc::clone);
            before.unwrap_or_else(|| Arc::new(Place { mount: Arc::new(mount), answer: Mutex::default() }))
        };
        self.places = mounts.into_iter().map(place).collect();
    }

    fn round(&self) {
        let begun = Instant::now();
        let asked: Vec<_> = self.places.iter().filter(|place| !place.owes()).map(Arc::clone).collect();
        for place in &asked {
            lock(&place.answer).asked = Some(begun);
        }
        let mut list = lock(&self.walk.list);
        list.extend(asked.iter().map(Arc::clone));
        while !list.is_empty() && begun.elapsed() < ROUND {
            self.send_walker();
            loop {
                let (next, waited) =
                    self.walk.answered.wait_timeout(list, PATIENCE).unwrap_or_else(PoisonError::into_inner);
                list = next;
                if waited.timed_out() || asked.iter().all(|place| !place.owes()) {
                    break;
                }
            }
        }
    }

    fn send_walker(&self) {
        let (walk, ask) = (Arc::clone(&self.walk), Arc::clone(&self.ask));
        let sent =
            std::thread::Builder::new().name("room".to_owned()).stack_size(STACK).spawn(move || walk.walk(&*ask));
        if let Err(error) = sent {
            tracing::warn!(%error, "no thread for asking file systems; they are asked again at the next sample");
        }
    }

    fn known(&self) -> Vec<Known> {
        let known = |place: &Arc<Place>| {
            let answer = lock(&place.answer);
            Known {
                mount: Arc::clone(&place.mount),
                room: answer.room.map(|(room, at)| (room, at.elapsed())),
                is_stale: answer.failed || answer.asked.is_some_and(|asked| asked.elapsed() >= STALE),
            }
        };
        self.places.iter().map(known).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const ROOM: Room = Room { total_bytes: 3, free_bytes: 2, available_bytes: 1, files: 5, free_files: 4 };

    fn mounts() -> Vec<Mount> {
        mounts::parse(
            b"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / /hung rw - nfs b rw\n3 1 8:3 / /broken rw - xfs c rw\n\
              4 1 8:4 / /last rw - xfs d rw\n",
        )
    }

    #[test]
    fn who_does_not_answer_keeps_one_thread_and_nobody_waiting() {
        let (asked, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new((Mutex::new(true), Condvar::new())));
        let (count, door) = (Arc::clone(&asked), Arc::clone(&gate));
        let mut rooms = Rooms::asking(Arc::new(move |mount| match mount.point.to_str() {
            Some("/hung") => {
                count.fetch_add(1, Ordering::SeqCst);
                let shut = door.0.lock().expect("a lock");
                drop(door.1.wait_while(shut, |shut| *shut).expect("a lock"));
                Ok(ROOM)
            }
            Some("/broken") => Err(rustix::io::Errno::STALE),
            _ => Ok(ROOM),
        }));
        rooms.keep(mounts());
        for _ in 0..3 {
            rooms.round();
            let known = rooms.known();
            assert_eq!(known[0].room.map(|(room, _)| room), Some(ROOM));
            assert_eq!((known[1].room, known[2].room), (None, None));
            assert_eq!((known[2].is_stale, known[3].is_stale), (true, false));
            assert_eq!(known[3].room.map(|(room, _)| room), Some(ROOM), "behind the one that hangs");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1, "one thread, not one for each look");

        // The mounts change meanwhile: what is known stays known.
        rooms.keep(mounts());
        *gate.0.lock().expect("a lock") = false;
        gate.1.notify_all();
        while rooms.places[1].owes() {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(rooms.known()[1].room.map(|(room, _)| room), Some(ROOM));
        rooms.round();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
