//! Limits how fast the secret of one group can be guessed: one attempt a second for each user.
//!
//! Delaying only wrong secrets would not help: of a thousand logins at the same time, the one that
//! is answered at once is right. So every attempt of a user who has not *proven* to know the secret
//! is throttled, right or wrong, by a token bucket: the first [`BURST`] are examined at once, then
//! one per [`INTERVAL`]. Later attempts are delayed, and denied if the delay would exceed
//! [`MAX_WAIT`]. A right secret costs no token and proves its user: from then on right secrets of
//! that user are never delayed. Wrong ones still are.
//!
//! Buckets are per user and group, so no user delays another. Programs of one user are not kept
//! apart: they can read the secret in each other's memory. Uids are not scarce either, as a user
//! namespace has 65,536. So only [`MAX_BUCKETS`] users have a bucket of their own at a time, and
//! further ones share one. A full bucket is dropped, so it takes that many users with wrong secrets
//! within the last seconds before buckets are shared.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The tokens of a full bucket: attempts that are examined at once.
const BURST: u32 = 5;

/// The time in which a bucket gains a token.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest delay of an attempt. It is shorter than an application waits for its login.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// The users that have a bucket of their own at a time.
const MAX_BUCKETS: usize = 16;

/// The users that are remembered as proven. Further ones are throttled, which only delays those
/// that send wrong secrets.
const MAX_PROVEN: usize = 4096;

/// When an attempt is examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// At once.
    Now,
    /// At this time.
    At(Instant),
    /// Never: too many attempts are waiting.
    Denied,
}

/// The attempts of all users at the secret of one group.
#[derive(Debug, Default)]
pub(crate) struct LoginThrottle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    proven: HashSet<u32>,
    buckets: HashMap<u32, TokenBucket>,
    /// The bucket of users that have none of their own.
    shared: TokenBucket,
}

/// A token bucket, represented by the time at which it is full again.
#[derive(Debug, Clone, Copy, Default)]
struct TokenBucket(Option<Instant>);

impl TokenBucket {
    fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full_at| full_at <= now)
    }

    /// Takes a token, or reserves the next one that there will be.
    fn take(&mut self, now: Instant) -> Admission {
        let full_at = self.0.map_or(now, |full_at| full_at.max(now));
        let wait = (full_at - now).saturating_sub(INTERVAL * (BURST - 1));
        if wait > MAX_WAIT {
            return Admission::Denied;
        }
        self.0 = Some(full_at + INTERVAL);
        if wait.is_zero() { Admission::Now } else { Admission::At(now + wait) }
    }

    fn give_back(&mut self) {
        self.0 = self.0.and_then(|full_at| full_at.checked_sub(INTERVAL));
    }
}

impl LoginThrottle {
    /// Admits an attempt of a user with a secret that is right or not.
    pub(crate) fn admit(&self, uid: u32, is_right: bool, now: Instant) -> Admission {
        let state = &mut *self.state.lock();
        if is_right && state.proven.contains(&uid) {
            return Admission::Now;
        }
        let bucket = state.bucket_of(uid, now);
        let admission = bucket.take(now);
        if is_right && admission == Admission::Now {
            bucket.give_back();
            state.prove(uid);
        }
        admission
    }

    /// Confirms that an attempt that was admitted for later has the right secret.
    pub(crate) fn confirm(&self, uid: u32) {
        let state = &mut *self.state.lock();
        if let Some(bucket) = state.buckets.get_mut(&uid) {
            bucket.give_back();
        }
        state.prove(uid);
    }
}

impl State {
    fn bucket_of(&mut self, uid: u32, now: Instant) -> &mut TokenBucket {
        if !self.buckets.contains_key(&uid) && self.buckets.len() >= MAX_BUCKETS {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= MAX_BUCKETS {
                return &mut self.shared;
            }
        }
        self.buckets.entry(uid).or_default()
    }

    fn prove(&mut self, uid: u32) {
        if self.proven.len() < MAX_PROVEN {
            self.proven.insert(uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn burst_then_one_per_second_then_denied() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(throttle.admit(1, false, now), Admission::Now);
        }
        for n in 1..=4 {
            assert_eq!(throttle.admit(1, false, now), Admission::At(now + SECOND * n));
        }
        // Right or wrong makes no difference.
        assert_eq!(throttle.admit(1, true, now), Admission::Denied);
        assert_eq!(throttle.admit(1, false, now), Admission::Denied);
        // In the long run: one in a second.
        let seen = (1..=1000)
            .map(|n| now + SECOND / 10 * n)
            .filter(|&now| throttle.admit(1, false, now) != Admission::Denied)
            .count();
        assert!((99..=101).contains(&seen), "{seen} in 100 s");
        // Other users are not delayed.
        assert_eq!(throttle.admit(2, true, now), Admission::Now);
    }

    #[test]
    fn right_secret_of_a_proven_user_is_never_delayed() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        assert_eq!(throttle.admit(1, true, now), Admission::Now);
        for _ in 0..9 {
            assert_ne!(throttle.admit(1, false, now), Admission::Denied);
        }
        assert_eq!(throttle.admit(1, false, now), Admission::Denied, "wrong ones are");
        for _ in 0..1000 {
            assert_eq!(throttle.admit(1, true, now), Admission::Now);
        }
    }

    #[test]
    fn right_secrets_cost_no_token() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for uid in 0..10_000 {
            for _ in 0..10 {
                assert_eq!(throttle.admit(uid, true, now), Admission::Now, "user {uid}");
            }
        }
        let state = throttle.state.lock();
        assert!(state.proven.len() <= MAX_PROVEN && state.buckets.len() <= MAX_BUCKETS);
    }

    #[test]
    fn delayed_right_secret_proves_the_user() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        for _ in 0..5 {
            throttle.admit(1, false, now);
        }
        assert_eq!(throttle.admit(1, true, now), Admission::At(now + SECOND));
        assert_ne!(throttle.admit(1, true, now), Admission::Now);
        throttle.confirm(1);
        assert_eq!(throttle.admit(1, true, now + SECOND), Admission::Now);
    }

    #[test]
    fn many_users_guess_hardly_faster_than_few() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        let seen = (0..1_000_000)
            .filter(|n| {
                throttle.admit(n % 65_536, false, now + SECOND * (n / 10_000)) != Admission::Denied
            })
            .count();
        // 100 seconds, and nine at the beginning for each bucket.
        assert!(seen <= (MAX_BUCKETS + 1) * 110, "{seen} attempts in 100 s");
        assert!(throttle.state.lock().buckets.len() <= MAX_BUCKETS);
        assert_eq!(
            throttle.admit(1, false, now + SECOND * 1000),
            Admission::Now,
            "full buckets are dropped"
        );
    }
}
