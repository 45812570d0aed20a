//! How many logins may be tried: guessing a password shall take years, and nobody can lock another
//! one out.
//!
//! Two limits, beside that of all requests. An address has a bucket of its own for logins. And a
//! name that was tried [`FREE`] times in vain makes who tried in vain wait: twice as long after each
//! further failure, from whatever address, up to [`LONGEST`]. An address whose tries did not fail is
//! never made to wait for the failures of others: so the one whose name is attacked gets in, at once
//! from where nothing was mistyped, and [`LONGEST`] after the own last try at worst.
//!
//! A name is treated in the same way whether there is such a user or not.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rate::{Buckets, Sender, Table, nanos};

/// Logins that an address may try at once, and how many a second after that.
const BURST: u32 = 10;
const PER_SECOND: f64 = 0.5;
/// Failures of a name that cost nothing.
const FREE: u32 = 5;
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// Failures are remembered so long after the last one, at least.
const REMEMBERED: Duration = Duration::from_secs(900);

/// The limits on logins.
#[derive(Debug)]
pub(crate) struct Logins {
    addresses: Buckets,
    start: Instant,
    hasher: RandomState,
    tries: Mutex<Tries>,
}

#[derive(Debug)]
struct Tries {
    /// Failures of a name, from anywhere.
    names: Table<u64, u32>,
    /// Failures of a name from one address, and when the last one was.
    pairs: Table<(u64, Sender), (u32, u64)>,
}

impl Logins {
    pub(crate) fn new() -> Self {
        let span = nanos(REMEMBERED);
        let tries = Tries { names: Table::new(span), pairs: Table::new(span) };
        Self {
            addresses: Buckets::new(PER_SECOND, BURST),
            start: Instant::now(),
            hasher: RandomState::new(),
            tries: Mutex::new(tries),
        }
    }

    /// Whether a login as `name` may be tried now, else how long to wait. A try counts as a failure
    /// until it is [`forgiven`](Self::forgive).
    pub(crate) fn admit(&self, name: &str, from: Sender) -> Result<(), Duration> {
        self.addresses.take(from)?;
        self.admit_at(name, from, nanos(self.start.elapsed()))
    }

    fn admit_at(&self, name: &str, from: Sender, now: u64) -> Result<(), Duration> {
        let name = self.hasher.hash_one(name);
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = tries.names.get(&name).copied().unwrap_or_default();
        if let Some((_, last)) = tries.pairs.get(&(name, from)) {
            let again = last.saturating_add(nanos(delay(failures)));
            if now < again {
                return Err(Duration::from_nanos(again - now));
            }
        }
        let (count, last) = tries.pairs.entry((name, from), now);
        (*count, *last) = (count.saturating_add(1), now);
        let failures = tries.names.entry(name, now);
        *failures = failures.saturating_add(1);
        Ok(())
    }

    /// The login as `name` did not fail: its failures from this address are forgotten.
    pub(crate) fn forgive(&self, name: &str, from: Sender) {
        let now = nanos(self.start.elapsed());
        let name = self.hasher.hash_one(name);
        let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((count, _)) = tries.pairs.remove(&(name, from)) else { return };
        let failures = tries.names.entry(name, now);
        *failures = failures.saturating_sub(count);
    }
}

/// The wait after so many failures: none, then 1 s, 2 s, 4 s…
fn delay(failures: u32) -> Duration {
    let Some(beyond) = failures.checked_sub(FREE) else { return Duration::ZERO };
    Duration::from_secs(1_u64.checked_shl(beyond).unwrap_or(u64::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const ADMIN: Sender = Sender::V4([192, 0, 2, 1]);

    fn attacker(number: u32) -> Sender {
        Sender::V4(number.to_be_bytes())
    }

    #[test]
    fn each_failure_doubles_the_wait_up_to_a_minute() {
        let logins = Logins::new();
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..14 {
            match logins.admit_at("admin", attacker(1), now) {
                Ok(()) => {}
                Err(wait) => {
                    waits.push(wait.as_secs());
                    now += nanos(wait);
                    // One that is refused does not make the wait longer.
                    logins.admit_at("admin", attacker(1), now).expect("the wait is over");
                }
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        // Names do not share, and after a quarter of an hour or two all is forgotten.
        logins.admit_at("alice", attacker(1), now).expect("another name");
        now += 2 * nanos(REMEMBERED);
        for _ in 0..FREE {
            logins.admit_at("admin", attacker(1), now).expect("forgotten");
        }
    }

    #[test]
    fn whose_name_is_attacked_gets_in() {
        let logins = Logins::new();
        for second in 0..3600_u64 {
            for number in 0..20 {
                drop(logins.admit_at("admin", attacker(number), second * SECOND));
            }
            // The admin's own first try is let through whatever others do, and so is each after a
            // success.
            if second % 600 == 599 {
                logins.admit_at("admin", ADMIN, second * SECOND).expect("never failed from here");
                logins.forgive("admin", ADMIN);
            }
        }
        // One who mistypes waits for a minute after the own try, and for nobody else's.
        let now = 3600 * SECOND;
        logins.admit_at("admin", ADMIN, now).expect("the first");
        for second in 0..60 {
            drop(logins.admit_at("admin", attacker(100 + second), now + u64::from(second) * SECOND));
            assert!(logins.admit_at("admin", ADMIN, now + u64::from(second) * SECOND).is_err());
        }
        logins.admit_at("admin", ADMIN, now + 60 * SECOND).expect("a minute after the own try");
    }

    #[test]
    fn attackers_at_many_addresses_wait_too() {
        let logins = Logins::new();
        let mut tried = 0;
        for second in 0..3600_u64 {
            for number in 0..100 {
                tried += u32::from(logins.admit_at("admin", attacker(number), second * SECOND).is_ok());
            }
        }
        // 100 addresses, one try a minute each, and the first ones.
        assert!(tried <= 100 * 61 + 100, "{tried}");
    }
}
