//! The groups of this local server: their pairs, their applications, and who watches what.
//!
//! Each group has one lock, held for look-ups and changes in memory only. What a change sets off (telling
//! watchers, closing applications) is returned to the caller, who does it when the lock is free.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvs_proto::Text;
use parking_lot::{Condvar, Mutex, RwLock};

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
    /// Who watches a key: numbers of applications that are connected.
    watches: HashMap<Text, Vec<u64>>,
    /// By number; connected and past.
    applications: BTreeMap<u64, Application>,
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

/// One application, as `Show application status` tells of it.
#[derive(Debug, Clone)]
pub(crate) struct Application {
    /// As the kernel says, at the time of the connection.
    pub(crate) pid: i32,
    /// When it was let in.
    pub(crate) connected_at: SystemTime,
    /// When it left.
    pub(crate) closed_at: Option<SystemTime>,
    /// The keys it watches, in the order of their registration. Empty after it has left.
    pub(crate) watches: Vec<Text>,
    entered: Instant,
    stayed: Option<Duration>,
    watcher: Option<Arc<Watcher>>,
}

impl Application {
    /// How long it was, or has been, connected.
    pub(crate) fn stay(&self) -> Duration {
        self.stayed.unwrap_or_else(|| self.entered.elapsed())
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
            state: Mutex::default(),
            left: Condvar::new(),
        });
        self.groups.write().insert(name, group);
    }

    /// Forgets a group.
    pub(crate) fn remove(&self, name: &Text) {
        self.groups.write().remove(name);
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

    /// Stores a pair. All who watch the key are to be told.
    pub(crate) fn put(&self, key: &Text, value: &Text) -> Vec<Arc<Watcher>> {
        let mut state = self.state.lock();
        state.table.put(key.as_bytes(), value.as_bytes());
        let Some(numbers) = state.watches.get(key) else { return Vec::new() };
        let watcher = |number| state.applications.get(number)?.watcher.clone();
        numbers.iter().filter_map(watcher).collect()
    }

    /// Hands the value of a key to `read`, which must only copy it: the group is locked meanwhile.
    pub(crate) fn get<T>(&self, key: &Text, read: impl FnOnce(Option<&[u8]>) -> T) -> T {
        read(self.state.lock().table.get(key.as_bytes()))
    }

    /// Deletes a pair and all watches on its key; `false` when there is none.
    pub(crate) fn delete(&self, key: &Text) -> bool {
        let state = &mut *self.state.lock();
        for number in state.watches.remove(key).unwrap_or_default() {
            if let Some(application) = state.applications.get_mut(&number) {
                application.watches.retain(|watched| watched != key);
            }
        }
        state.table.delete(key.as_bytes())
    }

    /// Makes an application watch a key; `false` when there is no such key.
    pub(crate) fn watch(&self, key: &Text, number: u64) -> bool {
        let state = &mut *self.state.lock();
        if !state.table.contains(key.as_bytes()) {
            return false;
        }
        let watchers = state.watches.entry(*key).or_default();
        if !watchers.contains(&number)
            && let Some(application) = state.applications.get_mut(&number)
        {
            watchers.push(number);
            application.watches.push(*key);
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
        let application = Application {
            pid,
            connected_at: SystemTime::now(),
            closed_at: None,
            watches: Vec::new(),
            entered: Instant::now(),
            stayed: None,
            watcher: Some(watcher),
        };
        state.applications.insert(number, application);
        Ok(number)
    }

    /// The application has gone: it watches nothing any more.
    pub(crate) fn leave(&self, number: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(application) = state.applications.get_mut(&number) else { return };
        application.closed_at = Some(SystemTime::now());
        application.stayed = Some(application.entered.elapsed());
        application.watcher = None;
        for key in std::mem::take(&mut application.watches) {
            if let Some(watchers) = state.watches.get_mut(&key) {
                watchers.retain(|watcher| *watcher != number);
                if watchers.is_empty() {
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
        state.applications.values().filter_map(|application| application.watcher.clone()).collect()
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
        state
            .applications
            .iter()
            .map(|(number, application)| (*number, application.clone()))
            .collect()
    }
}
