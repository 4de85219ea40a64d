//! A lock for each key: operations on one key run one after the other, those on different keys do
//! not wait for each other.

use std::collections::HashSet;
use std::hash::Hash;

use parking_lot::{Condvar, Mutex};

/// The keys that are locked.
#[derive(Debug)]
pub(super) struct KeyedLock<K> {
    locked: Mutex<HashSet<K>>,
    unlocked: Condvar,
}

impl<K> Default for KeyedLock<K> {
    fn default() -> Self {
        Self { locked: Mutex::default(), unlocked: Condvar::new() }
    }
}

/// Holds the lock of one key until it is dropped.
#[derive(Debug)]
pub(super) struct KeyGuard<'a, K: Copy + Eq + Hash> {
    lock: &'a KeyedLock<K>,
    key: K,
}

impl<K: Copy + Eq + Hash> KeyedLock<K> {
    /// Locks a key; waits while another thread has it.
    pub(super) fn lock(&self, key: K) -> KeyGuard<'_, K> {
        let mut locked = self.locked.lock();
        while !locked.insert(key) {
            self.unlocked.wait(&mut locked);
        }
        KeyGuard { lock: self, key }
    }
}

impl<K: Copy + Eq + Hash> Drop for KeyGuard<'_, K> {
    fn drop(&mut self) {
        self.lock.locked.lock().remove(&self.key);
        self.lock.unlocked.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn one_thread_at_a_time_has_a_key_and_other_keys_are_free() {
        let lock = KeyedLock::default();
        let _other = lock.lock("other");
        let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _guard = lock.lock("g");
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        total.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 1600);
        assert_eq!(lock.locked.lock().len(), 1);
    }
}
