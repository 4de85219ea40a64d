//! Charges: what is counted for a user while a value exists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kvs_proto::MAX_TEXT;

use crate::local::limits::quota::UserQuota;

/// The bytes that a subscription counts: about what it takes, its pending event included. Its key
/// is short by comparison.
const SUBSCRIPTION_BYTES: u32 = 512;

/// The bytes that a pending event counts. It may outlast its subscription: the event of a deleted
/// key is sent all the same.
const EVENT_BYTES: u32 = 256;

/// Counts one subscription, one pending event or one buffer for a user.
#[derive(Debug)]
pub(crate) struct Charge {
    user: Arc<UserQuota>,
    bytes: u32,
    kind: ChargeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChargeKind {
    Subscription,
    Event,
    Buffer,
}

impl Charge {
    /// Counts a subscription to a key or a prefix of this length.
    pub(crate) fn subscription(user: &Arc<UserQuota>, len: usize) -> Self {
        Self::new(user, saturating_u32(subscription_bytes(len)), ChargeKind::Subscription)
    }

    /// Counts a pending event of a key of this length.
    pub(crate) fn event(user: &Arc<UserQuota>, len: usize) -> Self {
        let bytes = EVENT_BYTES.saturating_add(saturating_u32(excess_over_text(len)));
        Self::new(user, bytes, ChargeKind::Event)
    }

    /// Counts so many bytes of a message on its way in, of a pending batch, or of responses that
    /// are not taken.
    pub(crate) fn buffer(user: &Arc<UserQuota>, len: usize) -> Self {
        Self::new(user, saturating_u32(len), ChargeKind::Buffer)
    }

    fn new(user: &Arc<UserQuota>, bytes: u32, kind: ChargeKind) -> Self {
        user.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
        if let Some(count) = kind.counter(user) {
            count.fetch_add(bytes.into(), Ordering::Relaxed);
        }
        Self { user: Arc::clone(user), bytes, kind }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.user.bytes.fetch_sub(self.bytes.into(), Ordering::Relaxed);
        if let Some(count) = self.kind.counter(&self.user) {
            count.fetch_sub(self.bytes.into(), Ordering::Relaxed);
        }
    }
}

impl ChargeKind {
    /// Where the bytes of this kind are counted besides.
    fn counter(self, user: &UserQuota) -> Option<&AtomicU64> {
        match self {
            Self::Subscription => None,
            Self::Event => Some(&user.events),
            Self::Buffer => Some(&user.buffers),
        }
    }
}

/// The bytes that a subscription to a key or a prefix of this length counts.
pub(crate) fn subscription_bytes(len: usize) -> usize {
    SUBSCRIPTION_BYTES as usize + excess_over_text(len)
}

/// What is flat for the keys of protocol v1 counts more for longer ones.
fn excess_over_text(len: usize) -> usize {
    len.saturating_sub(MAX_TEXT)
}

/// The limits of the protocol are far below 4 GiB.
fn saturating_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Counts all pairs of one group that one user owns.
#[derive(Debug)]
pub(crate) struct PairCharge {
    user: Arc<UserQuota>,
    pairs: u64,
    bytes: u64,
}

impl PairCharge {
    /// Counts no pairs yet.
    pub(crate) fn new(user: &Arc<UserQuota>) -> Self {
        Self { user: Arc::clone(user), pairs: 0, bytes: 0 }
    }

    /// The owner of the pairs.
    pub(crate) fn user(&self) -> &Arc<UserQuota> {
        &self.user
    }

    /// Whether there are no pairs.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The bytes of keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds a pair whose key and value have so many bytes.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.pairs += 1;
        self.user.pairs.fetch_add(1, Ordering::Relaxed);
        self.resize(0, bytes);
    }

    /// Removes a pair of so many bytes.
    pub(crate) fn remove(&mut self, bytes: usize) {
        self.pairs -= 1;
        self.user.pairs.fetch_sub(1, Ordering::Relaxed);
        self.resize(bytes, 0);
    }

    /// Changes the bytes of a pair.
    pub(crate) fn resize(&mut self, before: usize, after: usize) {
        if before != after {
            // Wraps when the pair shrinks; the sum does not, as `before` was added earlier.
            let difference = (after as u64).wrapping_sub(before as u64);
            self.bytes = self.bytes.wrapping_add(difference);
            self.user.bytes.fetch_add(difference, Ordering::Relaxed);
        }
    }
}

impl Drop for PairCharge {
    fn drop(&mut self) {
        self.user.pairs.fetch_sub(self.pairs, Ordering::Relaxed);
        self.user.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Counts pairs and bytes for a user before the store has committed them.
#[derive(Debug)]
pub(crate) struct Reservation {
    user: Arc<UserQuota>,
    pairs: u64,
    bytes: u64,
}

impl Reservation {
    /// Counts so many pairs and bytes for `user`.
    pub(crate) fn new(user: &Arc<UserQuota>, pairs: u64, bytes: u64) -> Self {
        user.pairs.fetch_add(pairs, Ordering::Relaxed);
        user.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { user: Arc::clone(user), pairs, bytes }
    }

    /// The user for whom they are counted.
    pub(crate) fn user(&self) -> &Arc<UserQuota> {
        &self.user
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.user.pairs.fetch_sub(self.pairs, Ordering::Relaxed);
        self.user.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::limits::limit::Limit;
    use crate::local::limits::quota::Quotas;

    #[test]
    fn charges_are_given_back_when_they_are_dropped() {
        let user = Quotas::user_with(10, 1000);
        let mut pairs = PairCharge::new(&user);
        assert!(pairs.is_empty());
        pairs.add(30);
        pairs.add(5);
        assert_eq!(user.taken(), (2, 35));
        pairs.resize(30, 20);
        assert_eq!(user.taken(), (2, 25));
        pairs.resize(20, 21);
        pairs.remove(5);
        assert_eq!(user.taken(), (1, 21));
        let subscription = Charge::subscription(&user, MAX_TEXT);
        let event = Charge::event(&user, MAX_TEXT);
        assert_eq!(user.taken(), (1, u64::from(21 + SUBSCRIPTION_BYTES + EVENT_BYTES)));
        drop((subscription, event));
        assert!(user.taken() == (1, 21) && !pairs.is_empty());
        let reservation = Reservation::new(&user, 2, 9);
        assert_eq!(user.taken(), (3, 30));
        drop((pairs, reservation));
        assert_eq!(user.taken(), (0, 0));
    }

    #[test]
    fn quota_is_available_up_to_the_limit() {
        let user = Quotas::user_with(2, 100);
        let mut pairs = PairCharge::new(&user);
        pairs.add(60);
        assert_eq!(user.check_quota(1, 40), Ok(()));
        assert_eq!(user.check_quota(1, 41), Err(Limit::Bytes));
        pairs.add(60);
        assert_eq!(user.check_quota(1, 1), Err(Limit::Pairs));
        // A user over its limit may do what takes nothing more.
        assert_eq!(user.check_quota(0, 0), Ok(()));
    }

    #[test]
    fn events_and_buffers_are_limited_apart_from_pairs() {
        let user = Quotas::user_with(2, 1000);
        let mut pairs = PairCharge::new(&user);
        pairs.add(1000);
        // A user whose pairs have reached the limit gets events and reads.
        assert!(user.check_backlog_quota());
        assert_eq!(user.check_buffer_quota(1_000_000), Ok(()));
        let buffer = Charge::buffer(&user, 600);
        assert_eq!(user.check_buffer_quota(400), Ok(()));
        assert_eq!(user.check_buffer_quota(401), Err(Limit::Bytes));
        let events: Vec<_> = (0..4).map(|_| Charge::event(&user, 9)).collect();
        assert!(!user.check_backlog_quota());
        drop(events);
        assert!(user.check_backlog_quota());
        drop((buffer, pairs));
        assert_eq!(user.taken(), (0, 0));
    }
}
