//! How many requests a client may send: so many a second, and some more at once.
//!
//! Each client has a bucket that holds `burst` requests and is filled with `per_second`. All that is
//! kept of it is the moment at which it is full again (the generic cell rate algorithm), so a bucket
//! that is full is no different from one that was never used, and may be forgotten.
//!
//! Invariant: memory is bounded. Buckets live in two generations ([`Table`]); nothing is forgotten
//! before it is full but under a flood of more clients than [`MOST`] within that time.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use limen_core::model::UserId;
use limen_core::{Error, ErrorKind};

use crate::error::Problem;

/// Clients of one generation.
const MOST: usize = 100_000;

/// Who shares a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sender {
    /// Whoever has a good token of this user.
    User(UserId),
    /// Whoever comes from this address.
    V4([u8; 4]),
    /// Whoever comes from this /64: one machine has as many addresses in it as it likes.
    V6([u8; 8]),
}

impl From<IpAddr> for Sender {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Sender::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Sender::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// The buckets of all clients.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// Nanoseconds of one request.
    each: u64,
    /// Nanoseconds that an empty bucket takes to be full.
    full: u64,
    start: Instant,
    /// When each bucket is full.
    table: Mutex<Table<Sender, u64>>,
}

impl Buckets {
    /// Both at least 1.
    pub(crate) fn new(per_second: f64, burst: u32) -> Self {
        let each = Duration::from_secs_f64(1.0 / per_second);
        let each = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        let full = each.saturating_mul(burst.into());
        Self { each, full, start: Instant::now(), table: Mutex::new(Table::new(full)) }
    }

    /// Takes one request out of the client's bucket; else says how long until there is one.
    pub(crate) fn take(&self, sender: Sender) -> Result<(), Duration> {
        self.take_at(sender, nanos(self.start.elapsed()))
    }

    fn take_at(&self, sender: Sender, now: u64) -> Result<(), Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = table.entry(sender, now);
        let then = (*full_at).max(now) + self.each;
        if then - now > self.full {
            return Err(Duration::from_nanos(then - now - self.full));
        }
        *full_at = then;
        Ok(())
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The answer to a client that has to wait.
pub(crate) fn refusal(what: &str, wait: Duration) -> Problem {
    // Rounded up: who comes at that second is let in.
    let wait = Duration::from_secs((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1));
    let sentence = format!("{what}; try again in {} s.", wait.as_secs());
    Problem::Core(Error::new(ErrorKind::RateLimited, sentence).with_retry_after(wait))
}

/// A map that forgets what was not asked for within a time, and never holds more than twice
/// [`MOST`]: what is asked for moves from the old generation to the young one, which becomes the
/// old one when the time is over or it is full.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    turned: u64,
    span: u64,
}

impl<K: Hash + Eq, V: Default> Table<K, V> {
    /// Keeps for `span` nanoseconds at least, and at most for twice that.
    pub(super) fn new(span: u64) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), turned: 0, span }
    }

    fn turn(&mut self, now: u64) {
        let over = now.saturating_sub(self.turned);
        if over >= self.span || self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
            if over >= self.span.saturating_mul(2) {
                self.old.clear();
            }
            self.turned = now;
        }
    }

    /// What is kept under `key`, or a new value.
    pub(super) fn entry(&mut self, key: K, now: u64) -> &mut V {
        self.turn(now);
        let old = self.old.remove(&key);
        self.young.entry(key).or_insert_with(|| old.unwrap_or_default())
    }

    /// What is kept under `key`.
    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.old.remove(key).or_else(|| self.young.remove(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn v4(number: u32) -> Sender {
        Sender::V4(number.to_be_bytes())
    }

    #[test]
    fn constant_load_gets_the_rate_and_one_burst_exactly() {
        for (per_second, burst) in [(10.0, 20), (1.0, 1), (500.0, 3), (0.5, 10)] {
            let buckets = Buckets::new(per_second, burst);
            // For 60 s, ten times as many as may be.
            let step = (0.1 / per_second * 1e9) as u64;
            let mut accepted = 0;
            let mut now = 0;
            while now < 60 * SECOND {
                accepted += u32::from(buckets.take_at(v4(1), now).is_ok());
                now += step;
            }
            let expected = 60.0 * per_second + f64::from(burst);
            assert!((f64::from(accepted) - expected).abs() <= 1.0, "{accepted} of {expected}");
            // Who waited has a burst again, not more.
            now += 3600 * SECOND;
            let again = (0..100).filter(|_| buckets.take_at(v4(1), now).is_ok()).count();
            assert_eq!(again, burst as usize);
        }
    }

    #[test]
    fn the_wait_that_is_told_is_enough_and_no_more() {
        let buckets = Buckets::new(10.0, 2);
        assert!(buckets.take_at(v4(1), 5).is_ok() && buckets.take_at(v4(1), 5).is_ok());
        let wait = nanos(buckets.take_at(v4(1), 5).expect_err("empty"));
        assert!(buckets.take_at(v4(1), 5 + wait - 1).is_err());
        assert!(buckets.take_at(v4(1), 5 + wait).is_ok());
        assert!(buckets.take_at(v4(2), 5).is_ok(), "another client has its own");
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_a_mapped_address_is_its_own() {
        let sender = |text: &str| Sender::from(text.parse::<IpAddr>().expect("an address"));
        assert_eq!(sender("2001:db8::1"), sender("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(sender("2001:db8::1"), sender("2001:db8:0:1::1"));
        assert_eq!(sender("::ffff:192.0.2.1"), sender("192.0.2.1"));
    }

    #[test]
    fn a_flood_of_clients_is_forgotten_and_a_client_that_goes_on_is_not() {
        let buckets = Buckets::new(10.0, 20);
        let mut accepted = 0;
        for number in 0..1_000_000 {
            // A million clients in 1000 s, and one that asks 100 times a second.
            let now = u64::from(number) * SECOND / 1000;
            assert!(buckets.take_at(v4(number + 10), now).is_ok());
            if number % 10 == 0 {
                accepted += u32::from(buckets.take_at(v4(1), now).is_ok());
            }
        }
        assert!((10_000..=10_021).contains(&accepted), "{accepted}");
        let kept = |buckets: &Buckets| {
            let table = buckets.table.lock().expect("unpoisoned");
            table.young.len() + table.old.len()
        };
        assert!(kept(&buckets) <= 4_100, "{} are kept", kept(&buckets));
        for number in 0..1_000_000 {
            assert!(buckets.take_at(v4(number), 2000 * SECOND).is_ok());
        }
        assert!(kept(&buckets) <= 2 * MOST, "{} are kept", kept(&buckets));
    }
}
