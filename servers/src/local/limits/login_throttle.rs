//! How fast the secret of one group can be guessed: one try in a second for each user.
//!
//! A right secret that is answered at once, whatever the rate, would give throttle away: of a thousand logins
//! at the same time the one that is answered is right. So the tries themselves are slowed, whether right or
//! wrong, for every user who has not shown yet that it knows the secret. Of these the first
//! [`BURST`] are looked at at once, then one in [`INTERVAL`]; a try beyond that is looked at when
//! its turn comes, and not at all when that is more than [`MAX_WAIT`] away. A right one does not count, and
//! *proves* the user: from then on its right secrets are answered at once, whatever else it sends. Its wrong
//! ones still have to wait.
//!
//! That is for each user and group, so nobody slows another down. Programs of one user are not kept apart:
//! they can read the secret in each other's memory. Users are not free either: a user namespace has 65,536.
//! So only [`MAX_BUCKETS`] have buckets of their own at a time; more share theirs. A user
//! who waits for nothing has no entry, so it takes that many who have sent wrong secrets within the
//! last seconds to meet that.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The tries that a user has at once.
const BURST: u32 = 5;

/// The time in which it has another.
const INTERVAL: Duration = Duration::from_secs(1);

/// The longest time for which a try waits for its turn. Less than an application waits for its login.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// The users who have buckets of their own at a time.
const MAX_BUCKETS: usize = 16;

/// The users who are remembered to know the secret. More are treated as if they did not, which slows nobody
/// who sends no wrong ones.
const MAX_PROVEN: usize = 4096;

/// When a try is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Now.
    Now,
    /// Then.
    At(Instant),
    /// Never: too many wait.
    Denied,
}

/// The tries of all users at the secret of one group.
#[derive(Debug, Default)]
pub(crate) struct LoginThrottle {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    proven: HashSet<u32>,
    buckets: HashMap<u32, TokenBucket>,
    /// Of those who have none of their own.
    shared: TokenBucket,
}

/// The buckets of one user: the point in time at which all tries of the burst are free again.
#[derive(Debug, Clone, Copy, Default)]
struct TokenBucket(Option<Instant>);

impl TokenBucket {
    fn are_all_free(self, now: Instant) -> bool {
        self.0.is_none_or(|free| free <= now)
    }

    /// Takes the next one.
    fn take(&mut self, now: Instant) -> Admission {
        let free = self.0.map_or(now, |free| free.max(now));
        let wait = (free - now).saturating_sub(INTERVAL * (BURST - 1));
        if wait > MAX_WAIT {
            return Admission::Denied;
        }
        self.0 = Some(free + INTERVAL);
        if wait.is_zero() { Admission::Now } else { Admission::At(now + wait) }
    }

    fn give_back(&mut self) {
        self.0 = self.0.and_then(|free| free.checked_sub(INTERVAL));
    }
}

impl LoginThrottle {
    /// The user sends a secret, which is right or not: when may it be told?
    pub(crate) fn admit(&self, uid: u32, right: bool, now: Instant) -> Admission {
        let state = &mut *self.state.lock();
        if right && state.proven.contains(&uid) {
            return Admission::Now;
        }
        let buckets = state.bucket_of(uid, now);
        let turn = buckets.take(now);
        if right && turn == Admission::Now {
            buckets.give_back();
            state.prove(uid);
        }
        turn
    }

    /// Its turn has come, and the secret is right.
    pub(crate) fn confirm(&self, uid: u32) {
        let state = &mut *self.state.lock();
        if let Some(buckets) = state.buckets.get_mut(&uid) {
            buckets.give_back();
        }
        state.prove(uid);
    }
}

impl State {
    fn bucket_of(&mut self, uid: u32, now: Instant) -> &mut TokenBucket {
        if !self.buckets.contains_key(&uid) && self.buckets.len() >= MAX_BUCKETS {
            self.buckets.retain(|_, buckets| !buckets.are_all_free(now));
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
    fn five_at_once_then_one_in_a_second_and_none_that_would_wait_too_long() {
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
        // Others are not slowed.
        assert_eq!(throttle.admit(2, true, now), Admission::Now);
    }

    #[test]
    fn who_has_shown_the_secret_is_never_slowed_with_it() {
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
    fn right_ones_do_not_count() {
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
    fn one_that_waited_and_is_right_proves_the_user() {
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
    fn many_users_do_not_guess_much_faster_than_a_few() {
        let (throttle, now) = (LoginThrottle::default(), Instant::now());
        let seen = (0..1_000_000)
            .filter(|n| {
                throttle.admit(n % 65_536, false, now + SECOND * (n / 10_000)) != Admission::Denied
            })
            .count();
        // 100 seconds, and at the beginning nine for each.
        assert!(seen <= (MAX_BUCKETS + 1) * 110, "{seen} tries in 100 s");
        assert!(throttle.state.lock().buckets.len() <= MAX_BUCKETS);
        assert_eq!(
            throttle.admit(1, false, now + SECOND * 1000),
            Admission::Now,
            "all are forgotten"
        );
    }
}
