//! A mutex that can be waited for until a deadline, and that is fair.
//!
//! Whoever comes while others wait queues behind them: a thread that calls in a loop cannot keep the others
//! out.
//!
//! The value is *taken out* while it is locked, so the mutex beneath is held for a few instructions only
//! and never across a system call on a socket.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::channel::Deadline;

/// A value that one thread at a time may use.
#[derive(Debug)]
pub(crate) struct FairMutex<T> {
    slot: Mutex<Slot<T>>,
    returned: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    /// `None` while it is locked.
    value: Option<T>,
    waiting: usize,
}

/// Access to the value, until it is dropped.
#[derive(Debug)]
pub(crate) struct FairMutexGuard<'a, T> {
    mutex: &'a FairMutex<T>,
    /// Always there, but while it is dropped.
    value: Option<T>,
}

/// The deadline passed first.
#[derive(Debug)]
pub(crate) struct TimedOut;

impl<T> FairMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { slot: Mutex::new(Slot { value: Some(value), waiting: 0 }), returned: Condvar::new() }
    }

    /// Waits for the value.
    pub(crate) fn lock(&self, deadline: Deadline) -> Result<FairMutexGuard<'_, T>, TimedOut> {
        let mut slot = self.slot();
        // When others wait, a value that is there has been returned for one of them.
        let mut my_turn = slot.waiting == 0;
        loop {
            if my_turn && let Some(value) = slot.value.take() {
                return Ok(FairMutexGuard { mutex: self, value: Some(value) });
            }
            let left = deadline.left().ok_or(TimedOut)?;
            slot.waiting += 1;
            slot = self.returned.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
            slot.waiting -= 1;
            my_turn = true;
        }
    }

    /// Nothing in here can panic half-way, so a poisoned mutex is as good as any.
    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for FairMutexGuard<'_, T> {
    fn drop(&mut self) {
        let mut slot = self.mutex.slot();
        slot.value = self.value.take();
        let wanted = slot.waiting > 0;
        drop(slot);
        if wanted {
            self.mutex.returned.notify_one();
        }
    }
}

impl<T> Deref for FairMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("only `drop` takes the value away")
    }
}

impl<T> DerefMut for FairMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("only `drop` takes the value away")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Between two locks of a thread that locks in a loop, a waiting thread gets one.
    #[test]
    fn a_thread_in_a_loop_does_not_keep_others_out() {
        let mutex = FairMutex::new(Vec::new());
        let long = || Deadline::after(Duration::from_secs(60));
        let waiting = || mutex.slot().waiting > 0;
        std::thread::scope(|scope| {
            let first = mutex.lock(long()).unwrap();
            scope.spawn(|| mutex.lock(long()).unwrap().push("waiting"));
            while !waiting() {
                std::thread::yield_now();
            }
            drop(first);
            mutex.lock(long()).unwrap().push("looping");
        });
        assert_eq!(*mutex.lock(long()).unwrap(), ["waiting", "looping"]);
    }

    #[test]
    fn locks_exclude_each_other_and_waiting_ends() {
        let mutex = FairMutex::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut guard =
                            mutex.lock(Deadline::after(Duration::from_secs(60))).unwrap();
                        let seen = *guard;
                        *guard = seen + 1;
                    }
                });
            }
        });
        let guard = mutex.lock(Deadline::after(Duration::ZERO)).unwrap();
        assert_eq!(*guard, 40_000);
        assert!(mutex.lock(Deadline::after(Duration::from_millis(1))).is_err());
    }
}
