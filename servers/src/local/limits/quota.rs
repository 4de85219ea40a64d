//! What one user may take of this server, and what each has taken.
//!
//! A *user* is a uid, as the kernel says it of a connection. Everything that is taken is stood for by a value
//! that gives it back when it is dropped, wherever that happens: a [`ConnectionPermit`] for each connection, a
//! [`Charge`] for each watch, [`PairCharge`] for all pairs of one user in one group. So nothing is given back twice or forgotten, however a session
//! or a group ends.
//!
//! Connections are counted for each of the two sockets by itself: an application has one on either. They
//! are limited for each process, too, as on many machines all programs run under one user. Both limits
//! are never more than the descriptors of this server allow with room left for others ([`Shares`]).
//!
//! Pairs and bytes are checked before a value is asked for and counted when it is stored, without a lock
//! between the two. What is in between at the same time is one value for each connection of the user, so
//! that is how far a limit can be overstepped. Far from its limits a user costs two loads for a put, one
//! addition when the sizes differ, and nothing for a get.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use kvs_proto::MAX_TEXT;
use parking_lot::Mutex;

use crate::log_limiter::LogLimiter;

/// What a watch counts, in bytes: about what it takes, the pending change included. Its key is short by
/// comparison.
const SUBSCRIPTION_BYTES: u32 = 512;

/// What a change counts that its application has still to be told. It may outlast the watch: when the key is
/// deleted meanwhile, it is told all the same.
const EVENT_BYTES: u32 = 256;

/// The descriptors that the server needs for itself; it has about 30 open.
const OWN_DESCRIPTORS: u64 = 48;

/// The lines in a minute about the ends of a user's applications, so that it cannot fill a disk with them.
const MAX_LOG_LINES: u32 = 20;

/// Users of whom nothing is left are forgotten when there are so many, or twice as many as the last time.
const MIN_SWEEP: usize = 64;

/// What each user may have at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Applications; one process at most half of them, and all together at most three quarters of those for
    /// which there are descriptors.
    pub connections: usize,
    /// Pairs whose value was stored by the user.
    pub pairs: u64,
    /// Bytes of those pairs, keys and values; a watch counts as 512.
    pub bytes: u64,
}

impl Default for Limits {
    /// What no honest program meets.
    fn default() -> Self {
        Self { connections: 4096, pairs: 10_000_000, bytes: 1 << 30 }
    }
}

/// Which limit stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Connections of one user.
    Connections,
    /// Connections of one process.
    ProcessConnections,
    /// Pairs.
    Pairs,
    /// Bytes.
    Bytes,
    /// Wrong secrets: the limit of `guesses`.
    FailedLogins,
}

const KINDS: usize = Limit::FailedLogins as usize + 1;

/// One of the two sockets on which applications connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    /// The main one.
    Main,
    /// That for callbacks.
    Callback,
}

/// How many connections one user and one process may have on each of the two sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    user: usize,
    process: usize,
}

impl Shares {
    /// `descriptors`: how many the server may have open.
    fn new(wanted: usize, descriptors: u64) -> Self {
        // Every application takes two.
        let applications = descriptors.saturating_sub(OWN_DESCRIPTORS) / 2;
        let most = usize::try_from(applications / 4 * 3).unwrap_or(usize::MAX);
        let user = wanted.min(most).max(1);
        Self { user, process: user.div_ceil(2) }
    }
}

/// All users.
#[derive(Debug)]
pub(crate) struct Quotas {
    limits: Limits,
    shares: Shares,
    users: Mutex<Users>,
}

#[derive(Debug)]
struct Users {
    by_uid: HashMap<u32, Arc<UserQuota>>,
    sweep_at: usize,
}

/// One user.
pub(crate) struct UserQuota {
    /// Who it is.
    pub(crate) uid: u32,
    limits: Limits,
    shares: Shares,
    pairs: AtomicU64,
    bytes: AtomicU64,
    /// Those of the bytes that are changes.
    events: AtomicU64,
    /// Those of the bytes that come, or wait to be taken.
    buffers: AtomicU64,
    connected: Mutex<Connected>,
    logged: Mutex<Logged>,
}

#[derive(Debug, Default)]
struct Logged {
    /// Refusals, by [`Limit`].
    refusals: [LogLimiter; KINDS],
    /// To count the lines anew.
    minute: LogLimiter,
    lines: u32,
}

/// A line of the log that a user may still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogPermit {
    /// More may follow.
    More,
    /// None may follow for a while.
    Last,
}

impl fmt::Debug for UserQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("uid", &self.uid).finish_non_exhaustive()
    }
}

/// Connections, by [`Channel`].
type Count = [usize; 2];

#[derive(Debug, Default)]
struct Connected {
    all: Count,
    by_process: HashMap<i32, Count>,
}

impl Quotas {
    /// Nobody has anything yet. `descriptors`: how many the server may have open.
    pub(crate) fn new(limits: Limits, descriptors: u64) -> Self {
        let shares = Shares::new(limits.connections, descriptors);
        let users = Users { by_uid: HashMap::new(), sweep_at: MIN_SWEEP };
        Self { limits, shares, users: Mutex::new(users) }
    }

    /// How many applications one user may have.
    pub(crate) fn connections(&self) -> usize {
        self.shares.user
    }

    /// A connection of this process of this user has come.
    ///
    /// # Errors
    /// There is no place for it; that was logged.
    pub(crate) fn admit(
        &self,
        uid: u32,
        pid: i32,
        channel: Channel,
    ) -> Result<ConnectionPermit, Limit> {
        let user = self.user(uid);
        let refused = {
            let connected = &mut *user.connected.lock();
            let own = connected.by_process.get(&pid).copied().unwrap_or_default();
            if connected.all[channel as usize] >= user.shares.user {
                Some(Limit::Connections)
            } else if own[channel as usize] >= user.shares.process {
                Some(Limit::ProcessConnections)
            } else {
                connected.all[channel as usize] += 1;
                connected.by_process.entry(pid).or_default()[channel as usize] += 1;
                None
            }
        };
        match refused {
            None => Ok(ConnectionPermit { user, pid, channel }),
            Some(limit) => {
                user.log_refusal(limit, format_args!("a connection of process {pid} is refused"));
                Err(limit)
            }
        }
    }

    /// What each user has taken who has anything.
    pub(crate) fn usage(&self) -> Vec<UserUsage> {
        let users: Vec<_> = self.users.lock().by_uid.values().cloned().collect();
        let usage = users.iter().map(|user| UserUsage {
            uid: user.uid,
            connections: user.connected.lock().all[Channel::Main as usize],
            pairs: user.pairs.load(Ordering::Relaxed),
            bytes: user.bytes.load(Ordering::Relaxed),
        });
        usage.filter(|user| user.connections > 0 || user.pairs > 0 || user.bytes > 0).collect()
    }

    /// What each of them may have.
    pub(crate) fn limits(&self) -> Limits {
        Limits { connections: self.shares.user, ..self.limits }
    }

    fn user(&self, uid: u32) -> Arc<UserQuota> {
        let users = &mut *self.users.lock();
        if let Some(user) = users.by_uid.get(&uid) {
            return Arc::clone(user);
        }
        if users.by_uid.len() >= users.sweep_at {
            // Others get hold of a user only here, under the lock.
            users.by_uid.retain(|_, user| Arc::strong_count(user) > 1);
            users.sweep_at = MIN_SWEEP.max(users.by_uid.len() * 2);
        }
        let user = Arc::new(UserQuota {
            uid,
            limits: self.limits,
            shares: self.shares,
            pairs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            buffers: AtomicU64::new(0),
            connected: Mutex::default(),
            logged: Mutex::default(),
        });
        users.by_uid.insert(uid, Arc::clone(&user));
        user
    }
}

impl UserQuota {
    /// Which limit stands in the way of so many pairs and bytes more, if one does.
    pub(crate) fn check_quota(&self, pairs: u64, bytes: u64) -> Result<(), Limit> {
        let within = |have: &AtomicU64, more: u64, limit: u64| {
            more == 0 || have.load(Ordering::Relaxed).saturating_add(more) <= limit
        };
        if !within(&self.pairs, pairs, self.limits.pairs) {
            Err(Limit::Pairs)
        } else if !within(&self.bytes, bytes, self.limits.bytes) {
            Err(Limit::Bytes)
        } else {
            Ok(())
        }
    }

    /// Whether one more change may wait. However full of pairs a user is, it is told of changes; but those that
    /// its applications do not take are never more by themselves than all that it may have.
    pub(crate) fn check_backlog_quota(&self) -> bool {
        self.events.load(Ordering::Relaxed) < self.limits.bytes
    }

    /// Whether an answer of so many bytes may wait to be taken. However full of pairs a user is, it may read them;
    /// but the answers that its applications do not take are never more by themselves than all that it may
    /// have, or one.
    pub(crate) fn check_buffer_quota(&self, bytes: u64) -> Result<(), Limit> {
        match self.buffers.load(Ordering::Relaxed) {
            0 => Ok(()),
            wait if wait.saturating_add(bytes) <= self.limits.bytes => Ok(()),
            _ => Err(Limit::Bytes),
        }
    }

    /// Whether there may be another line about the end of one of its applications.
    pub(crate) fn log_permit(&self) -> Option<LogPermit> {
        let now = Instant::now();
        let logged = &mut *self.logged.lock();
        if logged.minute.allow(now) {
            logged.lines = 0;
        }
        logged.lines = logged.lines.saturating_add(1);
        match logged.lines {
            ..MAX_LOG_LINES => Some(LogPermit::More),
            MAX_LOG_LINES => Some(LogPermit::Last),
            _ => None,
        }
    }

    /// Logs a refusal, unless one of this kind was logged a short time ago.
    pub(crate) fn log_refusal(&self, limit: Limit, what: fmt::Arguments<'_>) {
        let now = Instant::now();
        let may = self.logged.lock().refusals[limit as usize].allow(now);
        if !may {
            return;
        }
        let uid = self.uid;
        let Limits { pairs, bytes, .. } = self.limits;
        let Shares { user, process } = self.shares;
        match limit {
            Limit::Connections => tracing::warn!(
                uid,
                "{what}: its user has {user} (--max-connections-per-user, or three quarters of what \
                 the limit of open files allows)"
            ),
            Limit::ProcessConnections => tracing::warn!(
                uid,
                "{what}: it has {process}, half of what its user may have \
                 (--max-connections-per-user, or three quarters of what the limit of open files allows)"
            ),
            Limit::Pairs => {
                tracing::warn!(uid, "{what}: its user has {pairs} pairs (--max-pairs-per-user)");
            }
            Limit::Bytes => tracing::warn!(
                uid,
                "{what}: its user has stored nearly {bytes} bytes (--max-bytes-per-user)"
            ),
            Limit::FailedLogins => {
                tracing::warn!(uid, "{what}: its user sends too many wrong secrets")
            }
        }
    }
}

/// What one user has taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserUsage {
    /// Who it is.
    pub(crate) uid: u32,
    /// Connections on the main socket.
    pub(crate) connections: usize,
    /// Pairs.
    pub(crate) pairs: u64,
    /// Bytes of pairs, watches, changes and buffers.
    pub(crate) bytes: u64,
}

/// Stands for one connection as long as it is open.
#[derive(Debug)]
pub(crate) struct ConnectionPermit {
    user: Arc<UserQuota>,
    pid: i32,
    channel: Channel,
}

impl ConnectionPermit {
    /// Whose it is.
    pub(crate) fn user(&self) -> &Arc<UserQuota> {
        &self.user
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let connected = &mut *self.user.connected.lock();
        let channel = self.channel as usize;
        connected.all[channel] -= 1;
        if let Some(own) = connected.by_process.get_mut(&self.pid) {
            own[channel] -= 1;
            if *own == [0; 2] {
                connected.by_process.remove(&self.pid);
            }
        }
    }
}

/// Stands for one watch, one change or one buffer as long as it is kept.
#[derive(Debug)]
pub(crate) struct Charge {
    user: Arc<UserQuota>,
    bytes: u32,
    what: ChargeKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChargeKind {
    Subscription,
    Event,
    Buffer,
}

impl Charge {
    /// A watch of a key or a prefix of this length.
    pub(crate) fn subscription(user: &Arc<UserQuota>, len: usize) -> Self {
        Self::new(user, bytes_of(subscription_bytes(len)), ChargeKind::Subscription)
    }

    /// A change of a key of this length that is still to be told.
    pub(crate) fn event(user: &Arc<UserQuota>, len: usize) -> Self {
        let bytes = EVENT_BYTES.saturating_add(bytes_of(excess_over_text(len)));
        Self::new(user, bytes, ChargeKind::Event)
    }

    /// So many bytes of a message that comes, or of answers that are not taken.
    pub(crate) fn buffer(user: &Arc<UserQuota>, len: usize) -> Self {
        Self::new(user, bytes_of(len), ChargeKind::Buffer)
    }

    fn new(user: &Arc<UserQuota>, bytes: u32, what: ChargeKind) -> Self {
        user.bytes.fetch_add(bytes.into(), Ordering::Relaxed);
        if let Some((count, more)) = what.counted(user, bytes) {
            count.fetch_add(more, Ordering::Relaxed);
        }
        Self { user: Arc::clone(user), bytes, what }
    }
}

impl ChargeKind {
    /// Where it counts besides, and how much.
    fn counted(self, user: &UserQuota, bytes: u32) -> Option<(&AtomicU64, u64)> {
        match self {
            Self::Subscription => None,
            Self::Event => Some((&user.events, bytes.into())),
            Self::Buffer => Some((&user.buffers, bytes.into())),
        }
    }
}

/// What a watch of a key or a prefix of this length counts.
pub(crate) fn subscription_bytes(len: usize) -> usize {
    SUBSCRIPTION_BYTES as usize + excess_over_text(len)
}

/// What is flat for the keys of original sessions counts more for longer ones.
fn excess_over_text(len: usize) -> usize {
    len.saturating_sub(MAX_TEXT)
}

/// Messages are limited far below: there is always room.
fn bytes_of(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.user.bytes.fetch_sub(self.bytes.into(), Ordering::Relaxed);
        if let Some((count, less)) = self.what.counted(&self.user, self.bytes) {
            count.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

/// Pairs and bytes that are counted for a user before the store has committed them. Dropping it
/// gives them back.
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

/// Stands for all pairs that one user has stored in one place, as long as they are kept.
#[derive(Debug)]
pub(crate) struct PairCharge {
    user: Arc<UserQuota>,
    pairs: u64,
    bytes: u64,
}

impl PairCharge {
    /// None yet.
    pub(crate) fn new(user: &Arc<UserQuota>) -> Self {
        Self { user: Arc::clone(user), pairs: 0, bytes: 0 }
    }

    /// Whose they are.
    pub(crate) fn user(&self) -> &Arc<UserQuota> {
        &self.user
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs == 0
    }

    /// The bytes of their keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Another pair, with so many bytes in its key and its value.
    pub(crate) fn add(&mut self, bytes: usize) {
        self.pairs += 1;
        self.user.pairs.fetch_add(1, Ordering::Relaxed);
        self.resize(0, bytes);
    }

    /// One pair less.
    pub(crate) fn remove(&mut self, bytes: usize) {
        self.pairs -= 1;
        self.user.pairs.fetch_sub(1, Ordering::Relaxed);
        self.resize(bytes, 0);
    }

    /// A pair that had `before` bytes has `after`.
    pub(crate) fn resize(&mut self, before: usize, after: usize) {
        if before != after {
            // Unsigned, and wrapping around: what is added before can always be taken away.
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

#[cfg(test)]
impl Quotas {
    /// A user with these limits, and as many connections as it wants, for tests of other modules.
    pub(crate) fn user_with(pairs: u64, bytes: u64) -> Arc<UserQuota> {
        /// No two have the same uid.
        static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let uid = LAST.fetch_add(1, Ordering::Relaxed);
        Self::new(Limits { connections: 1, pairs, bytes }, 1000).user(uid)
    }
}

#[cfg(test)]
impl UserQuota {
    /// The pairs and bytes that it is charged with.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.pairs.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_room_for_others_and_one_process_for_the_rest_of_its_user() {
        let plenty = Shares::new(4096, 1_000_000);
        assert_eq!(plenty, Shares { user: 4096, process: 2048 });
        assert_eq!(Shares::new(4096, u64::MAX), plenty);
        for descriptors in [0, 47, 48, 64, 256, 1024, 4096, 20_000] {
            let shares = Shares::new(4096, descriptors);
            assert!(shares.process >= 1 && shares.process <= shares.user.div_ceil(2));
            if descriptors >= 64 {
                let taken = shares.user as u64 * 2;
                assert!(taken * 4 <= (descriptors - OWN_DESCRIPTORS) * 3, "of {descriptors}");
            }
        }
    }

    #[test]
    fn a_place_is_taken_for_as_long_as_it_is_held() {
        let limits = Limits { connections: 4, ..Limits::default() };
        let quotas = Quotas::new(limits, 1000);
        let admit = |uid, pid, channel| quotas.admit(uid, pid, channel);
        let first: Vec<_> = (0..2).map(|_| admit(1, 10, Channel::Main).unwrap()).collect();
        assert_eq!(admit(1, 10, Channel::Main).unwrap_err(), Limit::ProcessConnections);
        // The callback connection of an application counts with it.
        let _callbacks: Vec<_> = (0..2).map(|_| admit(1, 10, Channel::Callback).unwrap()).collect();
        let _second: Vec<_> = (0..2).map(|_| admit(1, 11, Channel::Main).unwrap()).collect();
        assert_eq!(admit(1, 12, Channel::Main).unwrap_err(), Limit::Connections);
        admit(2, 13, Channel::Main).expect("others have their own");
        drop(first);
        admit(1, 10, Channel::Main).expect("there is room again");
        let user = quotas.user(1);
        assert_eq!(
            user.connected.lock().by_process.len(),
            2,
            "processes without any are forgotten"
        );
    }

    #[test]
    fn what_is_held_is_charged_and_given_back() {
        let user = Quotas::user_with(10, 1000);
        let mut holdings = PairCharge::new(&user);
        assert!(holdings.is_empty());
        holdings.add(30);
        holdings.add(5);
        assert_eq!(user.taken(), (2, 35));
        holdings.resize(30, 20);
        assert_eq!(user.taken(), (2, 25));
        holdings.resize(20, 21);
        holdings.remove(5);
        assert_eq!(user.taken(), (1, 21));
        let (watch, change) =
            (Charge::subscription(&user, MAX_TEXT), Charge::event(&user, MAX_TEXT));
        assert_eq!(user.taken(), (1, u64::from(21 + SUBSCRIPTION_BYTES + EVENT_BYTES)));
        drop((watch, change));
        assert!(user.taken() == (1, 21) && !holdings.is_empty());
        drop(holdings);
        assert_eq!(user.taken(), (0, 0));
    }

    #[test]
    fn there_is_room_up_to_the_limit() {
        let user = Quotas::user_with(2, 100);
        let mut holdings = PairCharge::new(&user);
        holdings.add(60);
        assert_eq!(user.check_quota(1, 40), Ok(()));
        assert_eq!(user.check_quota(1, 41), Err(Limit::Bytes));
        holdings.add(60);
        assert_eq!(user.check_quota(1, 1), Err(Limit::Pairs));
        // One that is over its limit may do what takes nothing more.
        assert_eq!(user.check_quota(0, 0), Ok(()));
    }

    #[test]
    fn changes_and_answers_that_wait_are_limited_by_themselves() {
        let user = Quotas::user_with(2, 1000);
        let mut pairs = PairCharge::new(&user);
        pairs.add(1000);
        // Full of pairs, it is told of changes, and reads.
        assert!(user.check_backlog_quota());
        assert_eq!(user.check_buffer_quota(1_000_000), Ok(()));
        let answer = Charge::buffer(&user, 600);
        assert_eq!(user.check_buffer_quota(400), Ok(()));
        assert_eq!(user.check_buffer_quota(401), Err(Limit::Bytes));
        let changes: Vec<_> = (0..4).map(|_| Charge::event(&user, 9)).collect();
        assert!(!user.check_backlog_quota());
        drop(changes);
        assert!(user.check_backlog_quota());
        drop((answer, pairs));
        assert_eq!(user.taken(), (0, 0));
    }

    #[test]
    fn a_user_does_not_fill_the_log() {
        let user = Quotas::user_with(0, 0);
        let lines: Vec<_> = (0..1000).filter_map(|_| user.log_permit()).collect();
        assert_eq!(lines.len(), MAX_LOG_LINES as usize);
        assert_eq!(lines.iter().position(|line| *line == LogPermit::Last), Some(lines.len() - 1));
    }

    #[test]
    fn users_of_whom_nothing_is_left_are_forgotten() {
        let quotas = Quotas::new(Limits::default(), 1000);
        let _place = quotas.admit(7, 1, Channel::Main).unwrap();
        for uid in 1000..100_000 {
            drop(quotas.admit(uid, 1, Channel::Main).unwrap());
        }
        let users = quotas.users.lock();
        assert!(users.by_uid.len() <= MIN_SWEEP && users.by_uid.contains_key(&7));
    }
}
