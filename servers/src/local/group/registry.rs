//! The groups of this local server: their pairs, their applications, and who watches what.
//!
//! Each group has one lock, held for look-ups and changes in memory only. What a change sets off (telling
//! watchers, closing applications, dropping megabytes) is returned to the caller, who does it when the lock is
//! free. Only that there is something to tell is noted under it, so that changes are told in the order in which they
//! were made.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvs_proto::Protocol;
use kvs_proto::Text;
use kvs_proto::v2::event::MatchedBy;
use kvs_proto::v2::request::{Entries, WatchTarget};
use kvs_proto::v2::{NO_VERSION, Version};
use parking_lot::{Condvar, Mutex, RwLock};

use crate::local::group::deferred_cleanup::{DeferredCleanup, REAP_BATCH};
use crate::local::group::subscriber::{Key, Subscriber};
use crate::local::group::subscriptions::{SubscriptionIndex, Watch};
use crate::local::limits::login_throttle::LoginThrottle;
use crate::local::limits::quota::{Charge, Limit, UserQuota};
use crate::local::link::single_flight::SingleFlight;
use crate::local::net::mailbox::Address;
use crate::local::table::{Found, Full, Page, Table, Value};

/// How many closed applications of a group are remembered for its status; the oldest are forgotten
/// first, so that a server that runs for years does not grow by its visitors.
pub(crate) const MAX_DISCONNECTED: usize = 1000;

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: RwLock<HashMap<Text, Arc<Group>>>,
}

/// One group.
pub(crate) struct Group {
    name: Text,
    secret: Text,
    created: Instant,
    /// How fast its secret is guessed.
    pub(crate) login_throttle: LoginThrottle,
    /// Who wants to know its secret from the authentication server.
    pub(crate) secret_lookup: SingleFlight<Address>,
    state: Mutex<State>,
    /// An application has left.
    left: Condvar,
}

impl fmt::Debug for Group {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    table: Table,
    watches: SubscriptionIndex,
    /// By number; connected and past.
    applications: BTreeMap<u64, Entry>,
    /// The past ones, the one that left first in front.
    past: VecDeque<u64>,
    /// Those of the connected ones that have a framed session.
    framed: usize,
    last_number: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// Its name is being deleted at the authentication server: nobody may enter.
    Closing,
    /// Nobody may enter ever again; who is in is on the way out.
    Closed,
}

#[derive(Debug)]
struct Entry {
    pid: i32,
    session: Protocol,
    connected_at: SystemTime,
    closed_at: Option<SystemTime>,
    entered: Instant,
    stayed: Option<Duration>,
    subscriber: Option<Arc<Subscriber>>,
    /// In the order of their registration. However many an application watches, taking one out is quick: the
    /// group is locked meanwhile.
    watches: BTreeMap<u64, Subscription>,
    last_place: u64,
}

/// What an application watches.
#[derive(Debug)]
struct Subscription {
    key: Key,
    is_prefix: bool,
    _charge: Charge,
}

/// What an application has watched that has left, and what the list of watches still has.
#[derive(Debug)]
pub(crate) struct RemainingSubscriptions {
    application: u64,
    watches: BTreeMap<u64, Subscription>,
}

/// One application, as `Show application status` tells of it.
#[derive(Debug, Clone)]
pub(crate) struct ClientStatus {
    /// As the kernel says, at the time of the connection.
    pub(crate) pid: i32,
    /// When it was let in.
    pub(crate) connected_at: SystemTime,
    /// When it left.
    pub(crate) closed_at: Option<SystemTime>,
    /// How long it was, or has been, connected.
    pub(crate) stay: Duration,
    /// The keys it watches, and the prefixes (`true`), in the order of their registration. Empty after it has
    /// left.
    pub(crate) watches: Vec<(Key, bool)>,
}

/// A group in numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupStats {
    /// Its pairs.
    pub(crate) pairs: usize,
    /// The bytes of their keys and values.
    pub(crate) bytes: u64,
    /// The applications that are connected, in a framed session.
    pub(crate) framed: usize,
    /// And in an original one.
    pub(crate) original: usize,
    /// Those that were connected and are remembered.
    pub(crate) past: usize,
}

/// One application in short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientInfo {
    /// Its number in the group.
    pub(crate) number: u64,
    /// As the kernel says, at the time of the connection.
    pub(crate) pid: i32,
    /// What it speaks, or spoke.
    pub(crate) session: Protocol,
    /// When it was let in.
    pub(crate) connected_at: SystemTime,
    /// When it left.
    pub(crate) closed_at: Option<SystemTime>,
    /// How long it was, or has been, connected.
    pub(crate) stay: Duration,
    /// How many keys and prefixes it watches.
    pub(crate) watches: usize,
}

/// What has come of a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was made; the key has this version now.
    Done(Version),
    /// It was not: there is no such key.
    NoSuchKey,
    /// It was not: the key has this version, which is not the expected one.
    Conflict(Version),
    /// It was not: the user is at this limit.
    Limit(Limit),
    /// It was not: so many pairs cannot be told at once to so many who watch.
    TooLarge,
}

/// Several pairs are stored and noted under one lock: so many pairs times applications and lengths of prefixes at most.
const MOST_NOTES: usize = 200_000;

/// A change that was tried: to be [settled](Change::settle) when no lock is held.
#[must_use]
#[derive(Debug)]
pub(crate) struct Change {
    /// What has come of it.
    pub(crate) outcome: Outcome,
    watchers: Vec<Arc<Subscriber>>,
    /// Values that nobody can get any more. They may be long, so they are dropped without the lock.
    _before: Vec<Arc<[u8]>>,
}

/// So many watchers are told by whoever has made the change. If there are more, each is told by its own reactor:
/// the others that are served by this one have to wait meanwhile.
const TOLD_DIRECTLY: usize = 16;

impl Change {
    fn none(outcome: Outcome) -> Self {
        Self { outcome, watchers: Vec::new(), _before: Vec::new() }
    }

    /// Has all who watch what has changed told of it, and returns how that went.
    pub(crate) fn settle(self, told: &mut PendingNotifications) -> Outcome {
        let Self { outcome, watchers, _before: _ } = self;
        if watchers.len() <= TOLD_DIRECTLY {
            told.0.extend(watchers);
        } else {
            watchers.iter().for_each(|subscriber| subscriber.schedule());
        }
        if told.0.len() > MOST_TO_TELL {
            told.flush();
        }
        outcome
    }

    /// How many applications are to be told.
    pub(crate) fn watchers(&self) -> usize {
        self.watchers.len()
    }
}

/// Who is to be told of changes when the answers to those who have made them are out: at the latest when this is dropped.
///
/// That order is the quicker one for both. Whoever has made a change goes on at once; and the one who is told last is
/// the one for whom the processor is free as soon as the reactor sleeps.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct PendingNotifications(Vec<Arc<Subscriber>>);

/// They are told when there are so many, even if answers wait.
const MOST_TO_TELL: usize = 64;

impl PendingNotifications {
    /// Tells all of them. Call it with no lock held.
    pub(crate) fn flush(&mut self) {
        self.0.drain(..).for_each(|subscriber| subscriber.flush());
    }
}

impl Drop for PendingNotifications {
    fn drop(&mut self) {
        self.flush();
    }
}

/// The group is closed: nobody can enter.
#[derive(Debug)]
pub(crate) struct GroupClosed;

impl Groups {
    /// A group that applications may enter.
    pub(crate) fn open_group(&self, name: &Text) -> Option<Arc<Group>> {
        self.find(name).filter(|group| group.is_open())
    }

    /// A group, open or on its way out.
    pub(crate) fn find(&self, name: &Text) -> Option<Arc<Group>> {
        self.groups.read().get(name).cloned()
    }

    /// Adds a group that the authentication server has accepted.
    pub(crate) fn add(&self, name: Text, secret: Text) {
        let group = Arc::new(Group {
            name,
            secret,
            created: Instant::now(),
            login_throttle: LoginThrottle::default(),
            secret_lookup: SingleFlight::default(),
            state: Mutex::default(),
            left: Condvar::new(),
        });
        self.groups.write().insert(name, group);
    }

    /// Forgets a group and its pairs, even if somebody still holds it.
    pub(crate) fn remove(&self, name: &Text) {
        let removed = self.groups.write().remove(name);
        let pairs = removed.map(|group| mem::take(&mut group.state.lock().table));
        drop(pairs);
    }

    /// All groups, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Group>> {
        let mut groups: Vec<_> = self.groups.read().values().cloned().collect();
        groups.sort_by_key(|group| group.created);
        groups
    }
}

impl Group {
    /// Its name.
    pub(crate) fn name(&self) -> Text {
        self.name
    }

    /// The secret that this server made for it.
    pub(crate) fn secret(&self) -> Text {
        self.secret
    }

    /// Whether applications may enter.
    pub(crate) fn is_open(&self) -> bool {
        self.state.lock().phase == Phase::Open
    }

    /// Whether `user` may store a value of `len` bytes under this key.
    ///
    /// # Errors
    /// Its limit that stands in the way.
    pub(crate) fn check_put_quota(
        &self,
        key: &[u8],
        len: usize,
        user: &Arc<UserQuota>,
    ) -> Result<(), Limit> {
        // Nearly always there is room for another pair.
        user.check_quota(1, (key.len() + len) as u64)
            .or_else(|_| self.state.lock().check_put_quota(key, len, user))
    }

    /// Stores a pair at the expense of `user`, who was allowed to before.
    pub(crate) fn put(&self, key: &[u8], value: &[u8], user: &Arc<UserQuota>) -> Change {
        let value = Value::of(value);
        self.state.lock().put(key, value, user)
    }

    /// Stores a pair at the expense of `user`, if that has room, and if the key has the expected version.
    pub(crate) fn put_if(
        &self,
        key: &[u8],
        value: &[u8],
        expected: Option<Version>,
        user: &Arc<UserQuota>,
    ) -> Change {
        // A long one is copied here, where there is no lock.
        let value = Value::of(value);
        let room = user.check_quota(1, (key.len() + value.len()) as u64);
        let state = &mut *self.state.lock();
        if let Some(conflict) = state.conflict(key, expected) {
            return Change::none(conflict);
        }
        if let Err(limit) = room.or_else(|_| state.check_put_quota(key, value.len(), user)) {
            return Change::none(Outcome::Limit(limit));
        }
        state.put(key, value, user)
    }

    /// Stores all of these pairs at the expense of `user`, or none of them.
    pub(crate) fn put_many(&self, entries: Entries<'_>, user: &Arc<UserQuota>) -> Change {
        let entries: Vec<_> = entries.iter().map(|(key, value)| (key, Value::of(value))).collect();
        let bytes = entries.iter().map(|(key, value)| (key.len() + value.len()) as u64).sum();
        let room = user.check_quota(entries.len() as u64, bytes);
        let state = &mut *self.state.lock();
        if let Err(limit) = room.or_else(|_| {
            // A key that stands twice among them counts twice, as the values meanwhile are not known.
            let growth =
                entries.iter().map(|(key, value)| state.table.growth(key, value.len(), user));
            let (pairs, bytes) = growth.fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
            user.check_quota(pairs, bytes)
        }) {
            return Change::none(Outcome::Limit(limit));
        }
        let connected = state.applications.len() - state.past.len();
        if entries.len().saturating_mul(state.watches.most_work(connected)) > MOST_NOTES {
            return Change::none(Outcome::TooLarge);
        }
        if !state.table.has_room(entries.len()) {
            return Change::none(Outcome::Limit(Limit::Pairs));
        }
        let mut all = Change::none(Outcome::NoSuchKey);
        // Each once, however much of it it watches; and each key once, however often it stands there.
        let (mut watchers, mut keys) = (HashMap::new(), HashMap::new());
        for (at, (key, value)) in entries.iter().enumerate() {
            match state.table.put(key, value.clone(), user) {
                Ok(stored) => {
                    all.outcome = Outcome::Done(stored.version);
                    all._before.extend(stored.before);
                    keys.insert(*key, (at, stored.version));
                }
                Err(Full) => return Change::none(Outcome::Limit(Limit::Pairs)),
            }
        }
        let mut changed: Vec<_> = keys.into_iter().collect();
        changed.sort_unstable_by_key(|(_, (at, _))| *at);
        for (key, (_, version)) in changed {
            let these = state.note(key, version);
            watchers
                .extend(these.into_iter().map(|subscriber| (Arc::as_ptr(&subscriber), subscriber)));
        }
        all.watchers = watchers.into_values().collect();
        all
    }

    /// Hands a pair to `read`, which must only copy it: the group is locked meanwhile.
    pub(crate) fn get<T>(&self, key: &[u8], read: impl FnOnce(Option<Found<'_>>) -> T) -> T {
        read(self.state.lock().table.get(key))
    }

    /// A page of the keys that begin with `prefix`.
    pub(crate) fn keys(&self, prefix: &[u8], cursor: u64, limit: usize) -> Page {
        self.state.lock().table.keys(prefix, cursor, limit)
    }

    /// Deletes a pair and all watches on its key, if it has the expected version.
    pub(crate) fn delete(&self, key: &[u8], expected: Option<Version>) -> Change {
        let state = &mut *self.state.lock();
        if let Some(conflict) = state.conflict(key, expected) {
            return Change::none(conflict);
        }
        let Some(removed) = state.table.delete(key) else {
            return Change::none(Outcome::NoSuchKey);
        };
        for watch in state.watches.remove_key(key) {
            if let Some(entry) = state.applications.get_mut(&watch.application) {
                entry.watches.remove(&watch.place);
            }
        }
        let watchers = state.note(key, NO_VERSION);
        Change {
            outcome: Outcome::Done(NO_VERSION),
            watchers,
            _before: removed.value.into_iter().collect(),
        }
    }

    /// Makes an application of `user` watch a key, or all with a prefix. The version is that of the key.
    pub(crate) fn subscribe(
        &self,
        what: WatchTarget<'_>,
        application: u64,
        user: &Arc<UserQuota>,
    ) -> Outcome {
        let state = &mut *self.state.lock();
        let (bytes, version) = match what {
            WatchTarget::Key(key) => match state.table.version(key) {
                NO_VERSION => return Outcome::NoSuchKey,
                version => (key, version),
            },
            WatchTarget::Prefix(prefix) => (prefix, NO_VERSION),
        };
        if let Some(entry) = state.applications.get_mut(&application) {
            let place = entry.last_place + 1;
            if let Some(key) = state.watches.add(what, Watch { application, place }) {
                entry.last_place = place;
                let is_prefix = matches!(what, WatchTarget::Prefix(_));
                let _charge = Charge::subscription(user, bytes.len());
                entry.watches.insert(place, Subscription { key, is_prefix, _charge });
            }
        }
        Outcome::Done(version)
    }

    /// Makes an application watch something no more; `false`: it did not.
    pub(crate) fn unsubscribe(&self, what: WatchTarget<'_>, application: u64) -> bool {
        let state = &mut *self.state.lock();
        let Some(watch) = state.watches.remove(what, application) else { return false };
        if let Some(entry) = state.applications.get_mut(&application) {
            entry.watches.remove(&watch.place);
        }
        true
    }

    /// Lets an application in, and returns its number.
    ///
    /// # Errors
    /// [`GroupClosed`] when the group was deleted meanwhile.
    pub(crate) fn join(
        &self,
        pid: i32,
        session: Protocol,
        subscriber: Arc<Subscriber>,
    ) -> Result<u64, GroupClosed> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(GroupClosed);
        }
        state.last_number += 1;
        let number = state.last_number;
        state.framed += usize::from(session == Protocol::V2);
        let entry = Entry {
            pid,
            session,
            connected_at: SystemTime::now(),
            closed_at: None,
            entered: Instant::now(),
            stayed: None,
            subscriber: Some(subscriber),
            watches: BTreeMap::new(),
            last_place: 0,
        };
        state.applications.insert(number, entry);
        Ok(number)
    }

    /// The application has gone: it watches nothing any more. Returns what there is still to clear, if it
    /// has watched much.
    pub(crate) fn leave(self: &Arc<Self>, number: u64) -> Option<DeferredCleanup> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let entry = state.applications.get_mut(&number)?;
        entry.closed_at = Some(SystemTime::now());
        entry.stayed = Some(entry.entered.elapsed());
        // Nobody is told what is noted for it from now on, so its watches may still be found for a while.
        entry.subscriber = None;
        state.framed -= usize::from(entry.session == Protocol::V2);
        let watches = mem::take(&mut entry.watches);
        let mut left = RemainingSubscriptions { application: number, watches };
        let is_cleared = state.reap(&mut left);
        state.past.push_back(number);
        if state.past.len() > MAX_DISCONNECTED
            && let Some(oldest) = state.past.pop_front()
        {
            state.applications.remove(&oldest);
        }
        drop(guard);
        self.left.notify_all();
        (!is_cleared).then(|| DeferredCleanup { group: Arc::clone(self), watches: left })
    }

    /// Clears a few of the watches of an application that has left; `true`: there are no more.
    pub(crate) fn reap(&self, left: &mut RemainingSubscriptions) -> bool {
        self.state.lock().reap(left)
    }

    /// How many watches there are on all keys.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn subscription_count(&self) -> usize {
        self.state.lock().watches.count()
    }

    /// Nobody may enter for now.
    pub(crate) fn begin_closing(&self) {
        self.state.lock().phase = Phase::Closing;
    }

    /// The deletion did not come about.
    pub(crate) fn reopen(&self) {
        self.state.lock().phase = Phase::Open;
    }

    /// Nobody may enter any more. All who are in are to be told to close.
    pub(crate) fn close(&self) -> Vec<Arc<Subscriber>> {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.applications.values().filter_map(|entry| entry.subscriber.clone()).collect()
    }

    /// Waits until all applications have left, `limit` at most, and returns how many have not.
    pub(crate) fn wait_until_empty(&self, limit: Duration) -> usize {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        loop {
            let connected = state.applications.len() - state.past.len();
            if connected == 0 || self.left.wait_until(&mut state, deadline).timed_out() {
                return connected;
            }
        }
    }

    /// How many pairs there are.
    pub(crate) fn pairs(&self) -> usize {
        self.state.lock().table.count()
    }

    /// Up to `most` of the applications that are connected or remembered, with the numbers after `after`; of each no
    /// more than `watches` of what it watches, and how much it watches in all. So the group is not locked for long.
    pub(crate) fn applications_after(
        &self,
        after: u64,
        most: usize,
        watches: usize,
    ) -> Vec<(u64, ClientStatus, usize)> {
        let state = self.state.lock();
        let later = state.applications.range(after.saturating_add(1)..);
        later
            .take(most)
            .map(|(number, entry)| (*number, entry.describe(watches), entry.watches.len()))
            .collect()
    }

    /// How it stands.
    pub(crate) fn stats(&self) -> GroupStats {
        let state = self.state.lock();
        let connected = state.applications.len() - state.past.len();
        GroupStats {
            pairs: state.table.count(),
            bytes: state.table.bytes(),
            framed: state.framed,
            original: connected - state.framed,
            past: state.past.len(),
        }
    }

    /// So many of its applications at most, the last that came first: connected ones, then past ones.
    pub(crate) fn clients(&self, connected: usize, past: usize) -> Vec<ClientInfo> {
        let state = self.state.lock();
        let are = state.applications.iter().rev();
        let are = are.filter(|(_, entry)| entry.closed_at.is_none()).take(connected);
        let were = state.past.iter().rev().take(past);
        let were = were.filter_map(|number| state.applications.get_key_value(number));
        let describe = |(number, entry): (&u64, &Entry)| ClientInfo {
            number: *number,
            pid: entry.pid,
            session: entry.session,
            connected_at: entry.connected_at,
            closed_at: entry.closed_at,
            stay: entry.stayed.unwrap_or_else(|| entry.entered.elapsed()),
            watches: entry.watches.len(),
        };
        are.chain(were).map(describe).collect()
    }

    /// The applications that are connected or remembered, with their numbers.
    pub(crate) fn applications(&self) -> Vec<(u64, ClientStatus)> {
        let state = self.state.lock();
        let all = |(number, entry): (&u64, &Entry)| (*number, entry.describe(usize::MAX));
        state.applications.iter().map(all).collect()
    }
}

impl Entry {
    /// With the first of its watches.
    fn describe(&self, watches: usize) -> ClientStatus {
        ClientStatus {
            pid: self.pid,
            connected_at: self.connected_at,
            closed_at: self.closed_at,
            stay: self.stayed.unwrap_or_else(|| self.entered.elapsed()),
            watches: self.watches.values().take(watches).map(Subscription::describe).collect(),
        }
    }
}

impl Subscription {
    fn describe(&self) -> (Key, bool) {
        (Arc::clone(&self.key), self.is_prefix)
    }
}

impl State {
    fn check_put_quota(&self, key: &[u8], len: usize, user: &Arc<UserQuota>) -> Result<(), Limit> {
        let (pairs, bytes) = self.table.growth(key, len, user);
        user.check_quota(pairs, bytes)
    }

    /// What stands against a change of `key`, which is expected to have a certain version.
    fn conflict(&self, key: &[u8], expected: Option<Version>) -> Option<Outcome> {
        let expected = expected?;
        let version = self.table.version(key);
        (version != expected).then_some(Outcome::Conflict(version))
    }

    fn reap(&mut self, left: &mut RemainingSubscriptions) -> bool {
        for _ in 0..REAP_BATCH {
            let Some((_, Subscription { key, is_prefix, _charge })) = left.watches.pop_first()
            else {
                return true;
            };
            let what = if is_prefix { WatchTarget::Prefix(&key) } else { WatchTarget::Key(&key) };
            // One of a key that was deleted meanwhile is gone already.
            self.watches.remove(what, left.application);
        }
        left.watches.is_empty()
    }

    fn put(&mut self, key: &[u8], value: Value<'_>, user: &Arc<UserQuota>) -> Change {
        match self.table.put(key, value, user) {
            Ok(stored) => Change {
                outcome: Outcome::Done(stored.version),
                watchers: self.note(key, stored.version),
                _before: stored.before.into_iter().collect(),
            },
            Err(Full) => Change::none(Outcome::Limit(Limit::Pairs)),
        }
    }

    /// Has all who watch `key` note that it has this version now. They are to be told.
    fn note(&self, key: &[u8], version: Version) -> Vec<Arc<Subscriber>> {
        let subscriber = |(application, key, watches): (u64, Key, MatchedBy)| {
            let subscriber = self.applications.get(&application)?.subscriber.as_ref()?;
            subscriber.enqueue(&key, version, watches);
            Some(Arc::clone(subscriber))
        };
        self.watches.of(key).into_iter().filter_map(subscriber).collect()
    }
}
