//! What each user has of its limits.
//!
//! A *user* is a uid as reported by the kernel for a connection. Whatever a user holds is
//! represented by a value that gives it back when it is dropped: a
//! [`ConnectionPermit`](crate::local::limits::permit::ConnectionPermit) for a connection, a
//! [`Charge`](crate::local::limits::charge::Charge) for a subscription, a pending event or a
//! buffer, a [`PairCharge`](crate::local::limits::charge::PairCharge) for all pairs of a group. So
//! nothing is given back twice or forgotten, however a session or a group ends.
//!
//! Pairs and bytes are checked before a value is received and counted when it is stored, with no
//! lock between the two. So a limit can be exceeded by one value for each connection of the user.
//! Far from its limits a user costs a put two loads, and an addition when the sizes differ; a get
//! costs nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::local::limits::connections::{Channel, Connections};
use crate::local::limits::limit::{ConnectionLimits, Limit, Limits};
use crate::local::limits::log::{LogPermit, UserLog};

/// Users that hold nothing are forgotten when there are so many users, or twice as many as were
/// left the last time.
const MIN_SWEEP: usize = 64;

/// The quotas of all users.
#[derive(Debug)]
pub(crate) struct Quotas {
    limits: Limits,
    connection_limits: ConnectionLimits,
    users: Mutex<Users>,
}

#[derive(Debug)]
struct Users {
    by_uid: HashMap<u32, Arc<UserQuota>>,
    sweep_at: usize,
}

/// The limits of one user, and what it has of them.
pub(crate) struct UserQuota {
    /// The user.
    pub(crate) uid: u32,
    limits: Limits,
    connection_limits: ConnectionLimits,
    pub(super) pairs: AtomicU64,
    /// Bytes of pairs, subscriptions, events and buffers.
    pub(super) bytes: AtomicU64,
    /// Those of the bytes that are pending events.
    pub(super) events: AtomicU64,
    /// Those of the bytes that are messages on their way in, pending batches, or responses that are
    /// not taken.
    pub(super) buffers: AtomicU64,
    pub(super) connections: Connections,
    log: UserLog,
}

/// What one user has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserUsage {
    /// The user.
    pub(crate) uid: u32,
    /// Connections on the main socket.
    pub(crate) connections: usize,
    /// Pairs.
    pub(crate) pairs: u64,
    /// Bytes of pairs, subscriptions, events and buffers.
    pub(crate) bytes: u64,
}

impl Quotas {
    /// Quotas of a server that may have `descriptors` open. No user has anything yet.
    pub(crate) fn new(limits: Limits, descriptors: u64) -> Self {
        let connection_limits = ConnectionLimits::new(limits.connections, descriptors);
        let users = Users { by_uid: HashMap::new(), sweep_at: MIN_SWEEP };
        Self { limits, connection_limits, users: Mutex::new(users) }
    }

    /// The number of applications that one user may have connected.
    pub(crate) fn connections(&self) -> usize {
        self.connection_limits.user
    }

    /// The usage of each user that has anything.
    pub(crate) fn usage(&self) -> Vec<UserUsage> {
        let users: Vec<_> = self.users.lock().by_uid.values().cloned().collect();
        let usage = users.iter().map(|user| UserUsage {
            uid: user.uid,
            connections: user.connections.count(Channel::Main),
            pairs: user.pairs.load(Ordering::Relaxed),
            bytes: user.bytes.load(Ordering::Relaxed),
        });
        usage.filter(|user| user.connections > 0 || user.pairs > 0 || user.bytes > 0).collect()
    }

    /// The limits of each user.
    pub(crate) fn limits(&self) -> Limits {
        Limits { connections: self.connection_limits.user, ..self.limits }
    }

    /// The quota of a user.
    pub(super) fn user(&self, uid: u32) -> Arc<UserQuota> {
        let users = &mut *self.users.lock();
        if let Some(user) = users.by_uid.get(&uid) {
            return Arc::clone(user);
        }
        if users.by_uid.len() >= users.sweep_at {
            // References are taken only here, under the lock, so a count of 1 stays 1.
            users.by_uid.retain(|_, user| Arc::strong_count(user) > 1);
            users.sweep_at = MIN_SWEEP.max(users.by_uid.len() * 2);
        }
        let user = Arc::new(UserQuota {
            uid,
            limits: self.limits,
            connection_limits: self.connection_limits,
            pairs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            events: AtomicU64::new(0),
            buffers: AtomicU64::new(0),
            connections: Connections::default(),
            log: UserLog::default(),
        });
        users.by_uid.insert(uid, Arc::clone(&user));
        user
    }
}

impl UserQuota {
    /// Whether the user may have so many pairs and bytes more.
    ///
    /// # Errors
    /// The limit that forbids it.
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

    /// Whether one more event may be pending. Events count against the limit of bytes apart from
    /// pairs, so a user whose pairs have reached the limit still gets events.
    pub(crate) fn check_backlog_quota(&self) -> bool {
        self.events.load(Ordering::Relaxed) < self.limits.bytes
    }

    /// Whether so many bytes of a response or a pending batch may be buffered. Buffers count
    /// against the limit of bytes apart from pairs, so a user whose pairs have reached the limit
    /// still reads and deletes them; and one buffer is always allowed.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub(crate) fn check_buffer_quota(&self, bytes: u64) -> Result<(), Limit> {
        match self.buffers.load(Ordering::Relaxed) {
            0 => Ok(()),
            buffered if buffered.saturating_add(bytes) <= self.limits.bytes => Ok(()),
            _ => Err(Limit::Bytes),
        }
    }

    /// Adds a connection of a process of the user.
    ///
    /// # Errors
    /// The limit that forbids it.
    pub(super) fn add_connection(&self, pid: i32, channel: Channel) -> Result<(), Limit> {
        self.connections.add(pid, channel, self.connection_limits)
    }

    /// Asks for a log line about a closed session; `None`: there were enough of them.
    pub(crate) fn log_permit(&self) -> Option<LogPermit> {
        self.log.permit()
    }

    /// Logs that something was refused, unless the same limit was logged a short time ago.
    pub(crate) fn log_refusal(&self, limit: Limit, what: fmt::Arguments<'_>) {
        self.log.refusal(self.uid, limit, self.limits, self.connection_limits, what);
    }
}

impl fmt::Debug for UserQuota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserQuota").field("uid", &self.uid).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Quotas {
    /// A user with these limits, and as many connections as it wants. No two have the same uid.
    pub(crate) fn user_with(pairs: u64, bytes: u64) -> Arc<UserQuota> {
        static LAST: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let uid = LAST.fetch_add(1, Ordering::Relaxed);
        Self::new(Limits { connections: 1, pairs, bytes }, 1000).user(uid)
    }

    /// The number of users that are remembered, and whether this one is.
    pub(super) fn remembered(&self, uid: u32) -> (usize, bool) {
        let users = self.users.lock();
        (users.by_uid.len(), users.by_uid.contains_key(&uid))
    }
}

#[cfg(test)]
impl UserQuota {
    /// The pairs and bytes that are counted for the user.
    pub(crate) fn taken(&self) -> (u64, u64) {
        (self.pairs.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}
