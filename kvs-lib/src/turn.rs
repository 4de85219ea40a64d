//! A lock that can be waited for until a deadline, and that `fork` cannot leave broken.
//!
//! Whoever comes while others wait queues behind them: a thread that calls in a loop cannot keep the others
//! out.
//!
//! The value is *taken out* while somebody has the turn, so the mutex itself is held for a few
//! instructions only and never across a system call on a socket.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::channel::Deadline;

/// Something that one thread at a time may use.
#[derive(Debug)]
pub(crate) struct Turn<T> {
    slot: Mutex<Slot<T>>,
    returned: Condvar,
}

#[derive(Debug)]
struct Slot<T> {
    /// `None` while somebody has the turn.
    value: Option<T>,
    waiting: usize,
}

/// The value, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a, T> {
    turn: &'a Turn<T>,
    /// Always there, but while it is dropped.
    value: Option<T>,
}

/// The deadline passed before the turn came.
#[derive(Debug)]
pub(crate) struct NotInTime;

impl<T> Turn<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { slot: Mutex::new(Slot { value: Some(value), waiting: 0 }), returned: Condvar::new() }
    }

    /// Waits for the turn.
    pub(crate) fn take(&self, deadline: Deadline) -> Result<Taken<'_, T>, NotInTime> {
        let mut slot = self.lock();
        // When others wait, a value that is there has been returned for one of them.
        let mut my_turn = slot.waiting == 0;
        loop {
            if my_turn && let Some(value) = slot.value.take() {
                return Ok(Taken { turn: self, value: Some(value) });
            }
            let left = deadline.left().ok_or(NotInTime)?;
            slot.waiting += 1;
            slot = self.returned.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
            slot.waiting -= 1;
            my_turn = true;
        }
    }

    /// Nothing in here can panic half-way, so a poisoned mutex is as good as any.
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut slot = self.turn.lock();
        slot.value = self.value.take();
        let wanted = slot.waiting > 0;
        drop(slot);
        if wanted {
            self.turn.returned.notify_one();
        }
    }
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_ref().expect("only `drop` takes the value away")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("only `drop` takes the value away")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Between two turns of one thread that takes turns in a loop, a waiting thread gets one.
    #[test]
    fn a_thread_in_a_loop_does_not_keep_others_out() {
        let turn = Turn::new(Vec::new());
        let long = || Deadline::after(Duration::from_secs(60));
        let waiting = || turn.lock().waiting > 0;
        std::thread::scope(|scope| {
            let first = turn.take(long()).unwrap();
            scope.spawn(|| turn.take(long()).unwrap().push("waiting"));
            while !waiting() {
                std::thread::yield_now();
            }
            drop(first);
            turn.take(long()).unwrap().push("looping");
        });
        assert_eq!(*turn.take(long()).unwrap(), ["waiting", "looping"]);
    }

    #[test]
    fn turns_exclude_each_other_and_waiting_ends() {
        let turn = Turn::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut taken =
                            turn.take(Deadline::after(Duration::from_secs(60))).unwrap();
                        let seen = *taken;
                        *taken = seen + 1;
                    }
                });
            }
        });
        let taken = turn.take(Deadline::after(Duration::ZERO)).unwrap();
        assert_eq!(*taken, 40_000);
        assert!(turn.take(Deadline::after(Duration::from_millis(1))).is_err());
    }
}
