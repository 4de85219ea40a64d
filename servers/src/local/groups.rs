//! The groups of this local server: their pairs, their applications, and who watches what.
//!
//! Each group has one lock, held for look-ups and changes in memory only. What a change sets off (telling
//! watchers, closing applications) is returned to the caller, who does it when the lock is free.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvs_proto::{MAX_TEXT, Text};
use parking_lot::{Condvar, Mutex, RwLock};

use super::asking::Asking;
use super::guesses::Guesses;
use super::quota::{Charge, Limit, User};
use super::table::Table;
use super::watcher::Watcher;

/// How many closed applications of a group are remembered for its status; the oldest are forgotten
/// first, so that a server that runs for years does not grow by its visitors.
pub(crate) const PAST_APPLICATIONS: usize = 1000;

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
    pub(crate) guesses: Guesses,
    /// Who wants to know its secret from the authentication server.
    pub(crate) asking: Asking,
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
    /// Who watches a key.
    watches: HashMap<Text, Vec<Watch>>,
    /// By number; connected and past.
    applications: BTreeMap<u64, Entry>,
    /// The past ones, the one that left first in front.
    past: VecDeque<u64>,
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

#[derive(Debug, Clone, Copy)]
struct Watch {
    /// The number of an application that is connected.
    application: u64,
    /// Where it has the key among those that it watches.
    place: u64,
}

#[derive(Debug)]
struct Entry {
    pid: i32,
    connected_at: SystemTime,
    closed_at: Option<SystemTime>,
    entered: Instant,
    stayed: Option<Duration>,
    watcher: Option<Arc<Watcher>>,
    /// In the order of their registration. However many an application watches, taking one out is quick: the
    /// group is locked meanwhile.
    watches: BTreeMap<u64, (Text, Charge)>,
    last_place: u64,
}

/// One application, as `Show application status` tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    /// As the kernel says, at the time of the connection.
    pub(crate) pid: i32,
    /// When it was let in.
    pub(crate) connected_at: SystemTime,
    /// When it left.
    pub(crate) closed_at: Option<SystemTime>,
    /// How long it was, or has been, connected.
    pub(crate) stay: Duration,
    /// The keys it watches, in the order of their registration. Empty after it has left.
    pub(crate) watches: Vec<Text>,
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
            guesses: Guesses::default(),
            asking: Asking::default(),
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

    /// Whether `user` may store a value under this key, however long it turns out to be.
    ///
    /// # Errors
    /// Its limit that stands in the way.
    pub(crate) fn may_put(&self, key: &Text, user: &Arc<User>) -> Result<(), Limit> {
        // Nearly always there is room for another pair.
        user.room_for(1, (key.as_bytes().len() + MAX_TEXT) as u64).or_else(|_| {
            let (pairs, bytes) = self.state.lock().table.growth(key.as_bytes(), MAX_TEXT, user);
            user.room_for(pairs, bytes)
        })
    }

    /// Stores a pair at the expense of `user`. All who watch the key are to be told.
    pub(crate) fn put(&self, key: &Text, value: &Text, user: &Arc<User>) -> Vec<Arc<Watcher>> {
        let mut state = self.state.lock();
        state.table.put(key.as_bytes(), value.as_bytes(), user);
        let Some(watches) = state.watches.get(key) else { return Vec::new() };
        let watcher = |watch: &Watch| state.applications.get(&watch.application)?.watcher.clone();
        watches.iter().filter_map(watcher).collect()
    }

    /// Hands the value of a key to `read`, which must only copy it: the group is locked meanwhile.
    pub(crate) fn get<T>(&self, key: &Text, read: impl FnOnce(Option<&[u8]>) -> T) -> T {
        read(self.state.lock().table.get(key.as_bytes()))
    }

    /// Deletes a pair and all watches on its key; `false` when there is none.
    pub(crate) fn delete(&self, key: &Text) -> bool {
        let state = &mut *self.state.lock();
        for watch in state.watches.remove(key).unwrap_or_default() {
            if let Some(entry) = state.applications.get_mut(&watch.application) {
                entry.watches.remove(&watch.place);
            }
        }
        state.table.delete(key.as_bytes())
    }

    /// Makes an application of `user` watch a key; `false` when there is no such key.
    pub(crate) fn watch(&self, key: &Text, application: u64, user: &Arc<User>) -> bool {
        let state = &mut *self.state.lock();
        if !state.table.contains(key.as_bytes()) {
            return false;
        }
        let watches = state.watches.entry(*key).or_default();
        if !watches.iter().any(|watch| watch.application == application)
            && let Some(entry) = state.applications.get_mut(&application)
        {
            entry.last_place += 1;
            watches.push(Watch { application, place: entry.last_place });
            entry.watches.insert(entry.last_place, (*key, Charge::watch(user)));
        }
        true
    }

    /// Lets an application in, and returns its number.
    ///
    /// # Errors
    /// [`GroupClosed`] when the group was deleted meanwhile.
    pub(crate) fn enter(&self, pid: i32, watcher: Arc<Watcher>) -> Result<u64, GroupClosed> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(GroupClosed);
        }
        state.last_number += 1;
        let number = state.last_number;
        let entry = Entry {
            pid,
            connected_at: SystemTime::now(),
            closed_at: None,
            entered: Instant::now(),
            stayed: None,
            watcher: Some(watcher),
            watches: BTreeMap::new(),
            last_place: 0,
        };
        state.applications.insert(number, entry);
        Ok(number)
    }

    /// The application has gone: it watches nothing any more.
    pub(crate) fn leave(&self, number: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(entry) = state.applications.get_mut(&number) else { return };
        entry.closed_at = Some(SystemTime::now());
        entry.stayed = Some(entry.entered.elapsed());
        entry.watcher = None;
        for (key, _) in mem::take(&mut entry.watches).into_values() {
            if let Some(watches) = state.watches.get_mut(&key) {
                watches.retain(|watch| watch.application != number);
                if watches.is_empty() {
                    state.watches.remove(&key);
                }
            }
        }
        state.past.push_back(number);
        if state.past.len() > PAST_APPLICATIONS
            && let Some(oldest) = state.past.pop_front()
        {
            state.applications.remove(&oldest);
        }
        drop(guard);
        self.left.notify_all();
    }

    /// How many watches there are on all keys.
    #[cfg(fuzzing)]
    pub(crate) fn watches(&self) -> usize {
        self.state.lock().watches.values().map(Vec::len).sum()
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
    pub(crate) fn close(&self) -> Vec<Arc<Watcher>> {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.applications.values().filter_map(|entry| entry.watcher.clone()).collect()
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

    /// The applications that are connected or remembered, with their numbers.
    pub(crate) fn applications(&self) -> Vec<(u64, Application)> {
        let state = self.state.lock();
        let describe = |(number, entry): (&u64, &Entry)| {
            let application = Application {
                pid: entry.pid,
                connected_at: entry.connected_at,
                closed_at: entry.closed_at,
                stay: entry.stayed.unwrap_or_else(|| entry.entered.elapsed()),
                watches: entry.watches.values().map(|(key, _)| *key).collect(),
            };
            (*number, application)
        };
        state.applications.iter().map(describe).collect()
    }
}
