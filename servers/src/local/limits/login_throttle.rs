//! How fast the secret of one group can be guessed: one try in a second for each user.
//!
//! A right secret that is answered at once, whatever the rate, would give guesses away: of a thousand logins
//! at the same time the one that is answered is right. So the tries themselves are slowed, whether right or
//! wrong, for every user who has not shown yet that it knows the secret. Of these the first
//! [`BURST`] are looked at at once, then one in [`INTERVAL`]; a try beyond that is looked at when
//! its turn comes, and not at all when that is more than [`LONGEST_WAIT`] away. A right one does not count, and
//! *proves* the user: from then on its right secrets are answered at once, whatever else it sends. Its wrong
//! ones still have to wait.
//!
//! That is for each user and group, so nobody slows another down. Programs of one user are not kept apart:
//! they can read the secret in each other's memory. Users are not free either: a user namespace has 65,536.
//! So only [`USERS`] have turns of their own at a time; more share theirs. A user
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
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// The users who have turns of their own at a time.
const USERS: usize = 16;

/// The users who are remembered to know the secret. More are treated as if they did not, which slows nobody
/// who sends no wrong ones.
const PROVEN: usize = 4096;

/// When a try is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Now.
    Now,
    /// Then.
    At(Instant),
    /// Never: too many wait.
    Never,
}

/// The tries of all users at the secret of one group.
#[derive(Debug, Default)]
pub(crate) struct Guesses {
    tries: Mutex<Tries>,
}

#[derive(Debug, Default)]
struct Tries {
    proven: HashSet<u32>,
    turns: HashMap<u32, Turns>,
    /// Of those who have none of their own.
    shared: Turns,
}

/// The turns of one user: the point in time at which all tries of the burst are free again.
#[derive(Debug, Clone, Copy, Default)]
struct Turns(Option<Instant>);

impl Turns {
    fn are_all_free(self, now: Instant) -> bool {
        self.0.is_none_or(|free| free <= now)
    }

    /// Takes the next one.
    fn take(&mut self, now: Instant) -> Turn {
        let free = self.0.map_or(now, |free| free.max(now));
        let wait = (free - now).saturating_sub(INTERVAL * (BURST - 1));
        if wait > LONGEST_WAIT {
            return Turn::Never;
        }
        self.0 = Some(free + INTERVAL);
        if wait.is_zero() { Turn::Now } else { Turn::At(now + wait) }
    }

    fn give_back(&mut self) {
        self.0 = self.0.and_then(|free| free.checked_sub(INTERVAL));
    }
}

impl Guesses {
    /// The user sends a secret, which is right or not: when may it be told?
    pub(crate) fn turn(&self, uid: u32, right: bool, now: Instant) -> Turn {
        let tries = &mut *self.tries.lock();
        if right && tries.proven.contains(&uid) {
            return Turn::Now;
        }
        let turns = tries.turns_of(uid, now);
        let turn = turns.take(now);
        if right && turn == Turn::Now {
            turns.give_back();
            tries.prove(uid);
        }
        turn
    }

    /// Its turn has come, and the secret is right.
    pub(crate) fn shown_right(&self, uid: u32) {
        let tries = &mut *self.tries.lock();
        if let Some(turns) = tries.turns.get_mut(&uid) {
            turns.give_back();
        }
        tries.prove(uid);
    }
}

impl Tries {
    fn turns_of(&mut self, uid: u32, now: Instant) -> &mut Turns {
        if !self.turns.contains_key(&uid) && self.turns.len() >= USERS {
            self.turns.retain(|_, turns| !turns.are_all_free(now));
            if self.turns.len() >= USERS {
                return &mut self.shared;
            }
        }
        self.turns.entry(uid).or_default()
    }

    fn prove(&mut self, uid: u32) {
        if self.proven.len() < PROVEN {
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
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..5 {
            assert_eq!(guesses.turn(1, false, now), Turn::Now);
        }
        for n in 1..=4 {
            assert_eq!(guesses.turn(1, false, now), Turn::At(now + SECOND * n));
        }
        // Right or wrong makes no difference.
        assert_eq!(guesses.turn(1, true, now), Turn::Never);
        assert_eq!(guesses.turn(1, false, now), Turn::Never);
        // In the long run: one in a second.
        let seen = (1..=1000)
            .map(|n| now + SECOND / 10 * n)
            .filter(|&now| guesses.turn(1, false, now) != Turn::Never)
            .count();
        assert!((99..=101).contains(&seen), "{seen} in 100 s");
        // Others are not slowed.
        assert_eq!(guesses.turn(2, true, now), Turn::Now);
    }

    #[test]
    fn who_has_shown_the_secret_is_never_slowed_with_it() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.turn(1, true, now), Turn::Now);
        for _ in 0..9 {
            assert_ne!(guesses.turn(1, false, now), Turn::Never);
        }
        assert_eq!(guesses.turn(1, false, now), Turn::Never, "wrong ones are");
        for _ in 0..1000 {
            assert_eq!(guesses.turn(1, true, now), Turn::Now);
        }
    }

    #[test]
    fn right_ones_do_not_count() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for uid in 0..10_000 {
            for _ in 0..10 {
                assert_eq!(guesses.turn(uid, true, now), Turn::Now, "user {uid}");
            }
        }
        let tries = guesses.tries.lock();
        assert!(tries.proven.len() <= PROVEN && tries.turns.len() <= USERS);
    }

    #[test]
    fn one_that_waited_and_is_right_proves_the_user() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for _ in 0..5 {
            guesses.turn(1, false, now);
        }
        assert_eq!(guesses.turn(1, true, now), Turn::At(now + SECOND));
        assert_ne!(guesses.turn(1, true, now), Turn::Now);
        guesses.shown_right(1);
        assert_eq!(guesses.turn(1, true, now + SECOND), Turn::Now);
    }

    #[test]
    fn many_users_do_not_guess_much_faster_than_a_few() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let seen = (0..1_000_000)
            .filter(|n| guesses.turn(n % 65_536, false, now + SECOND * (n / 10_000)) != Turn::Never)
            .count();
        // 100 seconds, and at the beginning nine for each.
        assert!(seen <= (USERS + 1) * 110, "{seen} tries in 100 s");
        assert!(guesses.tries.lock().turns.len() <= USERS);
        assert_eq!(guesses.turn(1, false, now + SECOND * 1000), Turn::Now, "all are forgotten");
    }
}
