//! One group: its secret, its pairs, its applications and their subscriptions.
//!
//! A group has one lock, which is held for work in memory only. The remaining effects of a change
//! (notifying subscribers, dropping long values) are returned to the caller, which carries them out
//! after the lock is released. Events are enqueued under the lock, so they keep commit order.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kvs_proto::Protocol;
use kvs_proto::Text;
use kvs_proto::v2::request::{Entries, WatchTarget};
use kvs_proto::v2::{NO_VERSION, Version};
use kvs_store::{Change, Completions, Operation, Stamp, Store, StoreError, Ticket};
use kvs_table::{Entry, KeyPage, Value};
use parking_lot::{Condvar, Mutex};

use crate::local::group::members::{ClientInfo, ClientStatus, RemainingSubscriptions};
use crate::local::group::notifications::PendingNotifications;
use crate::local::group::outcome::Outcome;
use crate::local::group::state::{Completed, Contents, GroupPhase, State};
use crate::local::group::submission::{Requester, Submission};
use crate::local::group::subscriber::Subscriber;
use crate::local::group::subscriptions::IndexedSubscription;
use crate::local::limits::charge::Charge;
use crate::local::limits::limit::Limit;
use crate::local::limits::login_throttle::LoginThrottle;
use crate::local::limits::quota::UserQuota;
use crate::local::link::single_flight::SingleFlight;
use crate::local::net::mailbox::Address;
use crate::log_limiter::LogLimiter;

/// The maximum number of subscriptions that are removed under one lock after an application has
/// left.
pub(crate) const REAP_BATCH: usize = 64;

/// One group.
pub(crate) struct Group {
    name: Text,
    secret: Text,
    created: Instant,
    /// Limits how fast the secret can be guessed.
    pub(crate) login_throttle: LoginThrottle,
    /// The sessions that wait for the secret from the authentication server.
    pub(crate) secret_lookup: SingleFlight<Address>,
    state: Mutex<State>,
    /// Notified when an application has left.
    left: Condvar,
    failure_logged: Mutex<LogLimiter>,
}

/// The figures of a group that the metrics show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupStats {
    /// Its pairs.
    pub(crate) pairs: usize,
    /// The bytes of their keys and values.
    pub(crate) bytes: u64,
    /// Connected applications that speak protocol v2.
    pub(crate) v2: usize,
    /// Connected applications that speak protocol v1.
    pub(crate) v1: usize,
    /// Disconnected applications that are remembered.
    pub(crate) disconnected: usize,
}

/// The group is closed: no application can join.
#[derive(Debug)]
pub(crate) struct GroupClosed;

impl fmt::Debug for Group {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Group {
    /// An open, empty group.
    pub(crate) fn new(name: Text, secret: Text, store: Box<dyn Store>) -> Self {
        Self {
            name,
            secret,
            created: Instant::now(),
            login_throttle: LoginThrottle::default(),
            secret_lookup: SingleFlight::default(),
            state: Mutex::new(State::new(store, rand::random())),
            left: Condvar::new(),
            failure_logged: Mutex::default(),
        }
    }

    /// Its name.
    pub(crate) fn name(&self) -> Text {
        self.name
    }

    /// The secret that this server made for it.
    pub(crate) fn secret(&self) -> Text {
        self.secret
    }

    /// When it was created.
    pub(crate) fn created(&self) -> Instant {
        self.created
    }

    /// Whether applications may join.
    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().phase == GroupPhase::Open
    }

    /// Whether `user` may store a value of `len` bytes under this key.
    ///
    /// # Errors
    /// The limit that the user has reached.
    pub(crate) fn check_put_quota(
        &self,
        key: &[u8],
        len: usize,
        user: &UserQuota,
    ) -> Result<(), Limit> {
        // A user is rarely near a limit, and then no lock is needed.
        user.check_quota(1, (key.len() + len) as u64)
            .or_else(|_| self.state.lock().check_put_quota(key, len, user))
    }

    /// Stores a pair without checking the user's quota: the session has called
    /// [`check_put_quota`](Self::check_put_quota) before it received the value.
    pub(crate) fn put_unchecked(
        self: &Arc<Self>,
        key: &[u8],
        value: &[u8],
        requester: Requester<'_>,
    ) -> Submission {
        let changes =
            [Change { key, operation: Operation::Put(Value::new(value)), expected: None }];
        self.submit(&mut self.state.lock(), &changes, requester)
    }

    /// Stores a pair if the user's quota allows it and the key has the expected version.
    pub(crate) fn put(
        self: &Arc<Self>,
        key: &[u8],
        value: &[u8],
        expected: Option<Version>,
        requester: Requester<'_>,
    ) -> Submission {
        // A long value is copied here, where no lock is held.
        let changes = [Change { key, operation: Operation::Put(Value::new(value)), expected }];
        let user = requester.user;
        let quota = user.check_quota(1, (key.len() + value.len()) as u64);
        let mut state = self.state.lock();
        if let Err(refusal) = state.check_version(&changes[0]) {
            return refusal.into();
        }
        if let Err(limit) = quota.or_else(|_| state.check_put_quota(key, value.len(), user)) {
            return Outcome::LimitReached(limit).into();
        }
        self.submit(&mut state, &changes, requester)
    }

    /// Stores all of these pairs, or none.
    pub(crate) fn put_many(
        self: &Arc<Self>,
        entries: Entries<'_>,
        requester: Requester<'_>,
    ) -> Submission {
        let put = |(key, value)| Change {
            key,
            operation: Operation::Put(Value::new(value)),
            expected: None,
        };
        let changes: Vec<_> = entries.iter().map(put).collect();
        let bytes = entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let user = requester.user;
        let quota = user.check_quota(changes.len() as u64, bytes);
        let mut state = self.state.lock();
        if let Err(limit) = quota.or_else(|_| state.check_batch_quota(&changes, user)) {
            return Outcome::LimitReached(limit).into();
        }
        if let Err(refusal) = state.check_fan_out(changes.len()) {
            return refusal.into();
        }
        self.submit(&mut state, &changes, requester)
    }

    /// Deletes a pair and all subscriptions to its key, if the key has the expected version.
    pub(crate) fn delete(
        self: &Arc<Self>,
        key: &[u8],
        expected: Option<Version>,
        requester: Requester<'_>,
    ) -> Submission {
        let changes = [Change { key, operation: Operation::Delete, expected }];
        let mut state = self.state.lock();
        if let Err(refusal) = state.check_version(&changes[0]) {
            return refusal.into();
        }
        self.submit(&mut state, &changes, requester)
    }

    #[inline]
    fn submit(
        self: &Arc<Self>,
        state: &mut State,
        changes: &[Change<'_>],
        requester: Requester<'_>,
    ) -> Submission {
        if let Err(refusal) = state.check_room(changes, requester.user) {
            return refusal.into();
        }
        let ticket = |id| Ticket { completions: Arc::downgrade(self) as Weak<dyn Completions>, id };
        state.submit(changes, requester, ticket)
    }

    /// Passes a pair to `read`, which should only copy it, because the group is locked meanwhile.
    pub(crate) fn get<T>(&self, key: &[u8], read: impl FnOnce(Option<Entry<'_>>) -> T) -> T {
        read(self.state.lock().table.reader().get(key))
    }

    /// A page of the keys that begin with `prefix`.
    pub(crate) fn keys(&self, prefix: &[u8], cursor: u64, limit: usize) -> KeyPage {
        self.state.lock().table.reader().keys(prefix, cursor, limit)
    }

    /// Subscribes an application of `user` to a key, or to all keys with a prefix. Returns the
    /// version of the key, or `None` if the key does not exist.
    pub(crate) fn subscribe(
        &self,
        target: WatchTarget<'_>,
        client: u64,
        user: &Arc<UserQuota>,
    ) -> Option<Version> {
        let state = &mut *self.state.lock();
        let (is_prefix, version) = match target {
            WatchTarget::Key(key) => match state.table.reader().version(key) {
                NO_VERSION => return None,
                version => (false, version),
            },
            WatchTarget::Prefix(_) => (true, NO_VERSION),
        };
        if let Some(position) = state.members.next_position(client)
            && let Some(key) =
                state.subscriptions.add(target, IndexedSubscription { client, position })
        {
            let charge = Charge::subscription(user, key.len());
            state.members.add_subscription(client, key, is_prefix, charge);
        }
        Some(version)
    }

    /// Ends a subscription of an application. Returns `false` if it does not exist.
    pub(crate) fn unsubscribe(&self, target: WatchTarget<'_>, client: u64) -> bool {
        let state = &mut *self.state.lock();
        let Some(removed) = state.subscriptions.remove(target, client) else { return false };
        state.members.remove_subscription(client, removed.position);
        true
    }

    /// Adds a connected application, and returns its number.
    ///
    /// # Errors
    /// [`GroupClosed`] when the group was deleted meanwhile.
    pub(crate) fn join(
        &self,
        pid: i32,
        protocol: Protocol,
        subscriber: Arc<Subscriber>,
    ) -> Result<u64, GroupClosed> {
        let mut state = self.state.lock();
        if state.phase != GroupPhase::Open {
            return Err(GroupClosed);
        }
        Ok(state.members.join(pid, protocol, subscriber))
    }

    /// Disconnects an application and ends its subscriptions. If there are many, returns the rest,
    /// which the caller must [reap](Self::reap).
    pub(crate) fn leave(&self, client: u64) -> Option<RemainingSubscriptions> {
        let mut state = self.state.lock();
        let mut remaining = state.members.leave(client)?;
        let is_done = reap(&mut state, &mut remaining);
        drop(state);
        self.left.notify_all();
        (!is_done).then_some(remaining)
    }

    /// Removes up to [`REAP_BATCH`] subscriptions of an application that has left. Returns `true`
    /// when none are left.
    pub(crate) fn reap(&self, remaining: &mut RemainingSubscriptions) -> bool {
        reap(&mut self.state.lock(), remaining)
    }

    /// The number of subscriptions of all applications.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn subscription_count(&self) -> usize {
        self.state.lock().subscriptions.count()
    }

    /// Refuses new applications, until [`reopen`](Self::reopen).
    pub(crate) fn begin_closing(&self) {
        self.state.lock().phase = GroupPhase::Closing;
    }

    /// Accepts applications again, because the group could not be deleted.
    pub(crate) fn reopen(&self) {
        self.state.lock().phase = GroupPhase::Open;
    }

    /// Refuses new applications for good. Returns the subscribers of the connected applications,
    /// which the caller must ask to close.
    pub(crate) fn close(&self) -> Vec<Arc<Subscriber>> {
        let mut state = self.state.lock();
        state.phase = GroupPhase::Closed;
        state.members.subscribers()
    }

    /// Removes all pairs, and refuses all pending and later submissions.
    pub(crate) fn clear(&self) {
        let Contents { refused, .. } = self.state.lock().clear();
        // The handlers are called and the pairs, perhaps millions, are dropped outside of the lock.
        finish(refused);
    }

    /// Waits until all applications have left, for `limit` at most. Returns the number of those
    /// that are still connected.
    pub(crate) fn wait_until_empty(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            let connected = state.members.connected();
            if connected == 0 || self.left.wait_until(&mut state, deadline).timed_out() {
                return connected;
            }
        }
    }

    /// The number of pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.state.lock().table.reader().count()
    }

    /// Up to `most` of the applications that are connected or remembered, with numbers above
    /// `after`; of each at most `subscriptions` subscriptions, and how many it has. So the group is
    /// not locked for long.
    pub(crate) fn client_status_after(
        &self,
        after: u64,
        most: usize,
        subscriptions: usize,
    ) -> Vec<(u64, ClientStatus, usize)> {
        self.state.lock().members.status_after(after, most, subscriptions)
    }

    /// The applications that are connected or remembered, with their numbers.
    pub(crate) fn client_status(&self) -> Vec<(u64, ClientStatus)> {
        let all = self.state.lock().members.status_after(0, usize::MAX, usize::MAX);
        all.into_iter().map(|(number, status, _)| (number, status)).collect()
    }

    /// The figures for the metrics.
    pub(crate) fn stats(&self) -> GroupStats {
        let state = self.state.lock();
        let v2 = state.members.connected_v2();
        GroupStats {
            pairs: state.table.reader().count(),
            bytes: state.bytes(),
            v2,
            v1: state.members.connected() - v2,
            disconnected: state.members.disconnected(),
        }
    }

    /// Up to `connected` connected and `disconnected` disconnected applications, the latest first.
    pub(crate) fn clients(&self, connected: usize, disconnected: usize) -> Vec<ClientInfo> {
        self.state.lock().members.infos(connected, disconnected)
    }
}

impl Completions for Group {
    fn complete(&self, id: u64, result: Result<Stamp, StoreError>) {
        if let Err(error @ StoreError::Failed(_)) = &result
            && self.failure_logged.lock().allow(Instant::now())
        {
            tracing::error!(group = ?self.name, "changes not committed: {error}");
        }
        let completed = self.state.lock().complete(id, result);
        finish(completed);
    }
}

/// Passes outcomes to their requesters, then notifies the subscribers. A requester's handler only
/// posts the outcome to its reactor, so a response may leave after the events. The caller must hold
/// no lock.
fn finish(completed: Vec<Completed>) {
    let mut notifications = PendingNotifications::default();
    completed.into_iter().for_each(|completed| completed.finish(&mut notifications));
    notifications.flush();
}

fn reap(state: &mut State, remaining: &mut RemainingSubscriptions) -> bool {
    for _ in 0..REAP_BATCH {
        let Some((key, is_prefix)) = remaining.pop() else { return true };
        let target = if is_prefix { WatchTarget::Prefix(&key) } else { WatchTarget::Key(&key) };
        // The subscription to a key that was deleted meanwhile is gone already.
        state.subscriptions.remove(target, remaining.client);
    }
    remaining.is_empty()
}
