//! The state of one group, which its lock protects.
//!
//! Every change goes through [`State::submit`] or [`State::complete`]: the store decides, then the
//! [`Applier`] updates the table, the usage and the subscribers in commit order. This module does
//! no I/O and wakes no thread; effects that must happen outside of the lock are returned
//! ([`Effects`]).

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use kvs_proto::v2::NO_VERSION;
use kvs_proto::v2::Version;
use kvs_proto::v2::event::MatchedBy;
use kvs_store::{
    Apply, Batch, Change, Commit, Operation, OwnedBatch, Stamp, Store, StoreError, StoreLimits,
    Submitted, Ticket,
};
use kvs_table::{Seed, Table, Value};

use crate::local::group::commits::{Commits, QueuedCommit};
use crate::local::group::members::Members;
use crate::local::group::notifications::PendingNotifications;
use crate::local::group::outcome::Outcome;
use crate::local::group::submission::{Applied, CompletionHandler, Effects, Requester, Submission};
use crate::local::group::subscriber::{Key, Subscriber};
use crate::local::group::subscriptions::SubscriptionIndex;
use crate::local::limits::charge::{Charge, Reservation};
use crate::local::limits::limit::Limit;
use crate::local::limits::quota::UserQuota;
use crate::local::limits::usage::GroupUsage;

/// The events of one batch are enqueued under one lock: this many pairs times connected
/// applications and lengths of prefixes at most.
const MAX_EVENTS_PER_BATCH: usize = 200_000;

/// The state of a group.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: GroupPhase,
    pub(crate) table: Table,
    usage: GroupUsage,
    /// `None` after the group was removed: then every submission is refused.
    store: Option<Box<dyn Store>>,
    /// The limits of the store, which do not change.
    limits: StoreLimits,
    commits: Commits,
    pub(crate) subscriptions: SubscriptionIndex,
    pub(crate) members: Members,
}

/// Whether applications may join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum GroupPhase {
    /// Applications may join.
    #[default]
    Open,
    /// No application may join, because the authentication server is being asked to delete the
    /// group.
    Closing,
    /// The group is deleted. No application may join, and the connected ones are closing.
    Closed,
}

/// The contents of a removed group, which the caller drops after the lock is released.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The batches that were pending, with their outcome.
    pub(crate) refused: Vec<Completed>,
    _table: Table,
    _usage: GroupUsage,
    _store: Option<Box<dyn Store>>,
}

/// A pending submission whose outcome is known.
#[derive(Debug)]
pub(crate) struct Completed {
    /// Contains the handler of the outcome. The batch may be long, so it is dropped after
    /// the lock is released.
    pending: QueuedCommit,
    /// The outcome.
    applied: Applied,
}

impl State {
    /// An open, empty group.
    pub(crate) fn new(store: Box<dyn Store>, seed: Seed) -> Self {
        Self {
            phase: GroupPhase::Open,
            table: Table::new(seed),
            usage: GroupUsage::default(),
            limits: store.limits(),
            store: Some(store),
            commits: Commits::default(),
            subscriptions: SubscriptionIndex::default(),
            members: Members::default(),
        }
    }

    /// Removes the pairs, the store and all pending batches. Later submissions are refused.
    pub(crate) fn clear(&mut self) -> Contents {
        let refused = |pending| Completed { pending, applied: Outcome::StorageFailed.into() };
        Contents {
            refused: self.commits.take_all().map(refused).collect(),
            // The group has been removed, so the seed protects nothing.
            _table: mem::replace(&mut self.table, Table::new(Seed::default())),
            _usage: mem::take(&mut self.usage),
            _store: self.store.take(),
        }
    }

    /// The bytes of all pairs.
    pub(crate) fn bytes(&self) -> u64 {
        self.usage.bytes()
    }

    /// Whether `user` may store a value of `len` bytes under this key.
    pub(crate) fn check_put_quota(
        &self,
        key: &[u8],
        len: usize,
        user: &UserQuota,
    ) -> Result<(), Limit> {
        let (pairs, bytes) = self.growth(key, len, user);
        user.check_quota(pairs, bytes)
    }

    /// Whether `user` may store all of these pairs. A key that occurs twice counts twice.
    pub(crate) fn check_batch_quota(
        &self,
        changes: &[Change<'_>],
        user: &UserQuota,
    ) -> Result<(), Limit> {
        let (pairs, bytes) = self.batch_growth(changes, user);
        user.check_quota(pairs, bytes)
    }

    /// Checks the expected version of a change against the table. While commits are pending, the
    /// table lags behind the store, so only the store decides.
    #[inline]
    pub(crate) fn check_version(&self, change: &Change<'_>) -> Result<(), Outcome> {
        let is_delete = matches!(change.operation, Operation::Delete);
        if !self.commits.is_idle() || (change.expected.is_none() && !is_delete) {
            return Ok(());
        }
        let version = self.table.reader().version(change.key);
        match change.expected {
            Some(expected) if expected != version => Err(Outcome::Conflict(version)),
            _ if is_delete && version == NO_VERSION => Err(Outcome::NoSuchKey),
            _ => Ok(()),
        }
    }

    /// Checks that the batch causes at most [`MAX_EVENTS_PER_BATCH`] events.
    pub(crate) fn check_fan_out(&self, changes: usize) -> Result<(), Outcome> {
        let fan_out = self.subscriptions.fan_out(self.members.connected());
        match changes.saturating_mul(fan_out) > MAX_EVENTS_PER_BATCH {
            true => Err(Outcome::TooLarge),
            false => Ok(()),
        }
    }

    /// Whether the store and the table can take the changes, once those that are pending are
    /// applied, and `user` may keep them pending.
    #[inline]
    pub(crate) fn check_room(
        &self,
        changes: &[Change<'_>],
        user: &UserQuota,
    ) -> Result<(), Outcome> {
        let is_too_long = |change: &Change<'_>| match &change.operation {
            Operation::Put(value) => value.len() > self.limits.max_value,
            Operation::Delete => false,
        };
        if changes.len() > self.limits.max_changes || changes.iter().any(is_too_long) {
            return Err(Outcome::TooLarge);
        }
        let has_room = match changes {
            [Change { operation: Operation::Delete, .. }] => true,
            [Change { key, operation: Operation::Put(value), .. }] if self.commits.is_idle() => {
                self.table.can_put(key, value)
            }
            _ => self.table.has_room(changes.len() + self.commits.pending_changes()),
        };
        if !has_room {
            return Err(Outcome::LimitReached(Limit::Pairs));
        }
        if self.limits.commits_at_once { Ok(()) } else { self.check_pending_quota(changes, user) }
    }

    /// Whether `user` may have the copy of a pending batch buffered.
    #[cold]
    fn check_pending_quota(&self, changes: &[Change<'_>], user: &UserQuota) -> Result<(), Outcome> {
        let (_, reserved) = self.batch_growth(changes, user);
        match unreserved_bytes(Batch { owner: user.uid, changes }, reserved) {
            0 => Ok(()),
            bytes => user.check_buffer_quota(bytes).map_err(Outcome::LimitReached),
        }
    }

    /// Submits checked changes. `ticket` makes a ticket with this id.
    #[inline]
    pub(crate) fn submit(
        &mut self,
        changes: &[Change<'_>],
        requester: Requester<'_>,
        ticket: impl Fn(u64) -> Ticket,
    ) -> Submission {
        let Requester { user, completion } = requester;
        let Some(store) = &mut self.store else { return Outcome::StorageFailed.into() };
        let batch = Batch { owner: user.uid, changes };
        let id = self.commits.next_id();
        let stamp = match store.submit(batch, &mut || ticket(id)) {
            Submitted::Done(stamp) if self.commits.advance(stamp) => {
                let mut applied = Applied::from(outcome_of(stamp, changes));
                self.apply(&Commit { stamp, batch }, user, applied.effects());
                return Submission::Done(applied);
            }
            Submitted::Done(stamp) => Some(stamp),
            Submitted::Pending => None,
        };
        self.keep(batch, stamp, user, completion());
        Submission::Pending
    }

    /// Keeps a batch that cannot be applied yet. A batch without a stamp is not decided.
    #[cold]
    fn keep(
        &mut self,
        batch: Batch<'_>,
        stamp: Option<Stamp>,
        user: &Arc<UserQuota>,
        completion: CompletionHandler,
    ) {
        let (pairs, bytes) = self.batch_growth(batch.changes, user);
        let reservation = Reservation::new(user, pairs, bytes);
        let buffer = Charge::buffer(user, unreserved_bytes(batch, bytes) as usize);
        let batch = OwnedBatch::from(batch);
        let pending = QueuedCommit { batch, reservation, buffer, completion };
        match stamp {
            Some(stamp) => self.commits.add_waiting(stamp, pending),
            None => self.commits.add_undecided(pending),
        }
    }

    /// Handles the store's decision on the batch of a ticket. Returns the submissions whose outcome
    /// is now known, in commit order: none if the commit must wait for an earlier one.
    pub(crate) fn complete(
        &mut self,
        id: u64,
        result: Result<Stamp, StoreError>,
    ) -> Vec<Completed> {
        // The group may have been removed meanwhile, which has refused the batch.
        let Some(pending) = self.commits.take_undecided(id) else { return Vec::new() };
        let stamp = match result {
            Ok(stamp) => stamp,
            Err(error) => {
                let refusal = pending.batch.with(|batch| refusal_of(&error, batch.changes));
                return vec![Completed { pending, applied: refusal.into() }];
            }
        };
        self.commits.add_waiting(stamp, pending);
        let mut completed = Vec::new();
        while let Some((stamp, pending)) = self.commits.next() {
            let user = pending.reservation.user();
            let applied = pending.batch.with(|batch| {
                let mut applied = Applied::from(outcome_of(stamp, batch.changes));
                self.apply(&Commit { stamp, batch }, user, applied.effects());
                applied
            });
            completed.push(Completed { pending, applied });
        }
        completed
    }

    #[inline]
    fn apply(&mut self, commit: &Commit<'_>, owner: &Arc<UserQuota>, effects: &mut Effects) {
        let Self { table, usage, subscriptions, members, .. } = self;
        Applier { table, usage, subscriptions, members, owner, effects }.apply(commit);
    }

    /// How many pairs and bytes more `user` would own with a value of `len` bytes under this key.
    fn growth(&self, key: &[u8], len: usize, user: &UserQuota) -> (u64, u64) {
        // A pending change may remove what the table has, or give it another owner.
        let own = self.commits.is_idle().then(|| self.table.reader().info(key)).flatten();
        match own.filter(|info| info.owner == user.uid) {
            Some(info) => (0, len.saturating_sub(info.value_len) as u64),
            None => (1, (key.len() + len) as u64),
        }
    }

    fn batch_growth(&self, changes: &[Change<'_>], user: &UserQuota) -> (u64, u64) {
        let growth = changes.iter().map(|change| match &change.operation {
            Operation::Put(value) => self.growth(change.key, value.len(), user),
            Operation::Delete => (0, 0),
        });
        growth.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1))
    }
}

impl Completed {
    /// Passes the outcome to the requester. The caller must hold no lock.
    pub(crate) fn finish(self, notifications: &mut PendingNotifications) {
        let QueuedCommit { batch, reservation, buffer, completion } = self.pending;
        // What was stored is counted as pairs now. The requester sees it counted once.
        drop((batch, reservation, buffer));
        completion(self.applied.schedule(notifications));
    }
}

/// Logs a defect: [`State::check_room`] precedes every submission, so the table has room.
#[cold]
fn log_table_full(version: Version) {
    tracing::error!(version, "committed pair lost: the table of its group is full");
}

/// The bytes of a pending batch beyond those that its reservation counts.
fn unreserved_bytes(batch: Batch<'_>, reserved: u64) -> u64 {
    batch.len_bytes().saturating_sub(reserved)
}

fn outcome_of(stamp: Stamp, changes: &[Change<'_>]) -> Outcome {
    match changes {
        [Change { operation: Operation::Delete, .. }] => Outcome::Deleted,
        puts => Outcome::Stored(stamp.first_version + puts.len() as u64 - 1),
    }
}

fn refusal_of(error: &StoreError, changes: &[Change<'_>]) -> Outcome {
    let is_delete = matches!(changes, [Change { operation: Operation::Delete, .. }]);
    match error {
        StoreError::Conflict(NO_VERSION)
            if is_delete && changes[0].expected.is_none_or(|version| version == NO_VERSION) =>
        {
            Outcome::NoSuchKey
        }
        StoreError::Conflict(version) => Outcome::Conflict(*version),
        StoreError::Failed(_) => Outcome::StorageFailed,
    }
}

/// Applies commits to the locked state of a group.
struct Applier<'a> {
    table: &'a mut Table,
    usage: &'a mut GroupUsage,
    subscriptions: &'a mut SubscriptionIndex,
    members: &'a mut Members,
    /// The owner of the batch.
    owner: &'a Arc<UserQuota>,
    effects: &'a mut Effects,
}

impl Apply for Applier<'_> {
    fn apply(&mut self, commit: &Commit<'_>) {
        let mut next_version = commit.stamp.first_version;
        match commit.batch.changes {
            [change] => {
                let version = self.change(change, &mut next_version);
                self.effects.subscribers = self.enqueue(change.key, version);
            }
            changes => self.apply_many(changes, next_version),
        }
    }
}

impl Applier<'_> {
    fn apply_many(&mut self, changes: &[Change<'_>], mut next_version: Version) {
        // Each key is enqueued once, with its last version and in the order of the last changes;
        // each subscriber is notified once, however many of the keys it is subscribed to.
        let mut keys = HashMap::new();
        for (position, change) in changes.iter().enumerate() {
            let version = self.change(change, &mut next_version);
            keys.insert(change.key, (position, version));
        }
        let mut changed: Vec<_> = keys.into_iter().collect();
        changed.sort_unstable_by_key(|(_, (position, _))| *position);
        let mut subscribers = HashMap::new();
        for (key, (_, version)) in changed {
            let these = self.enqueue(key, version);
            subscribers.extend(these.into_iter().map(|these| (Arc::as_ptr(&these), these)));
        }
        self.effects.subscribers = subscribers.into_values().collect();
    }

    /// Changes the table and the usage. Returns the version of the key.
    #[inline]
    fn change(&mut self, change: &Change<'_>, next_version: &mut Version) -> Version {
        match &change.operation {
            Operation::Put(value) => {
                let version = *next_version;
                *next_version += 1;
                self.put(change.key, value, version);
                version
            }
            Operation::Delete => {
                self.delete(change.key);
                NO_VERSION
            }
        }
    }

    #[inline]
    fn put(&mut self, key: &[u8], value: &Value<'_>, version: Version) {
        let bytes = key.len() + value.len();
        match self.table.put(key, value, version, self.owner.uid) {
            Ok(replaced) => {
                self.usage.record_put(self.owner, bytes, replaced.as_ref());
                self.effects.replaced.extend(replaced.and_then(|replaced| replaced.value));
            }
            Err(_) => log_table_full(version),
        }
    }

    fn delete(&mut self, key: &[u8]) {
        let Some(deleted) = self.table.delete(key) else { return };
        self.usage.record_delete(&deleted);
        self.effects.replaced.extend(deleted.value);
        for removed in self.subscriptions.remove_key(key) {
            self.members.remove_subscription(removed.client, removed.position);
        }
    }

    /// Enqueues an event for all subscribers of `key`, and returns the subscribers.
    fn enqueue(&self, key: &[u8], version: Version) -> Vec<Arc<Subscriber>> {
        let enqueue = |(client, key, matched_by): (u64, Key, MatchedBy)| {
            let subscriber = self.members.subscriber(client)?;
            subscriber.enqueue(&key, version, matched_by);
            Some(Arc::clone(subscriber))
        };
        self.subscriptions.of(key).into_iter().filter_map(enqueue).collect()
    }
}
