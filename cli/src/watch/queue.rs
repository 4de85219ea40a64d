//! The queue of changed keys, from the callbacks of the library to the thread that reports them.
//!
//! A key is queued once, however often it changes before it is taken out, so the length of the
//! queue is bounded by the number of keys. The reader gets the value after it has taken the key
//! out: the last change of a key is never lost, however slow the reader is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kvs::Version;

/// Keys that have changed and are not reported yet.
#[derive(Debug, Default)]
pub(crate) struct ChangeQueue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    /// In the order of the first change that is not reported.
    keys: VecDeque<Vec<u8>>,
    /// The keys of `keys`, each with the version of its latest change; 0 is a deletion.
    versions: HashMap<Vec<u8>, Version>,
    closed: Option<WatchEnd>,
}

/// Why a queue is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchEnd {
    /// The connection was closed.
    Disconnected,
    /// The user ended the watch.
    Unwatched,
}

impl ChangeQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // No code panics between two changes of the state that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, key: &[u8], version: Version) {
        let mut state = self.lock();
        if state.versions.insert(key.to_vec(), version).is_none() {
            state.keys.push_back(key.to_vec());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Closes the queue. Queued keys are dropped, as their values can no longer be read. Only the
    /// first reason counts.
    pub(crate) fn close(&self, reason: WatchEnd) {
        self.lock().closed.get_or_insert(reason);
        self.changed.notify_all();
    }

    /// Waits for a changed key. Returns it with the version of its latest change.
    pub(crate) fn pop(&self) -> Result<(Vec<u8>, Version), WatchEnd> {
        let mut state = self.lock();
        loop {
            if let Some(reason) = state.closed {
                return Err(reason);
            }
            if let Some(key) = state.keys.pop_front() {
                let version = state.versions.remove(&key).unwrap_or_default();
                return Ok((key, version));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_queued_once_in_the_order_of_first_change() {
        let queue = ChangeQueue::default();
        for (key, version) in [("a", 1), ("b", 2), ("a", 3), ("a", 0), ("c", 4), ("b", 5)] {
            queue.push(key.as_bytes(), version);
        }
        assert_eq!(queue.pop(), Ok((b"a".to_vec(), 0)));
        assert_eq!(queue.pop(), Ok((b"b".to_vec(), 5)));
        queue.push(b"a", 6);
        assert_eq!(queue.pop(), Ok((b"c".to_vec(), 4)));
        assert_eq!(queue.pop(), Ok((b"a".to_vec(), 6)));
        queue.close(WatchEnd::Unwatched);
        queue.close(WatchEnd::Disconnected);
        assert_eq!(queue.pop(), Err(WatchEnd::Unwatched));
    }
}
