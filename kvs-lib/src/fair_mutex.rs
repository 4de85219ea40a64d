//! A fair mutex with a deadline for locking.
//!
//! A thread that arrives while others wait queues behind them, so a thread that locks in a loop
//! cannot keep the others out.
//!
//! A *gate* decides which thread may lock, and is itself locked for a few instructions only. The
//! value is behind a mutex of its own, for which only the thread that passed the gate contends:
//! that mutex may be held across system calls without making the gate wait.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::deadline::Deadline;

/// A value that one thread at a time may use.
#[derive(Debug)]
pub(crate) struct FairMutex<T> {
    gate: Gate,
    value: Mutex<T>,
}

/// Access to the value until the guard is dropped.
#[derive(Debug)]
pub(crate) struct FairMutexGuard<'a, T> {
    // Dropped first, so that the next thread to pass the gate does not find the value locked.
    value: MutexGuard<'a, T>,
    _passage: Passage<'a>,
}

/// The deadline passed before the value was free.
#[derive(Debug)]
pub(crate) struct LockTimedOut;

#[derive(Debug, Default)]
struct Gate {
    state: Mutex<GateState>,
    opened: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    is_taken: bool,
    waiting: usize,
}

/// The right to use the value. Dropping it lets the next thread pass the gate.
#[derive(Debug)]
struct Passage<'a>(&'a Gate);

impl<T> FairMutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { gate: Gate::default(), value: Mutex::new(value) }
    }

    /// Waits until the value is free.
    pub(crate) fn lock(&self, deadline: Deadline) -> Result<FairMutexGuard<'_, T>, LockTimedOut> {
        let passage = self.gate.pass(deadline)?;
        // A panic of another holder poisons the mutex. The holder's caller decides whether the
        // value can still be used.
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(FairMutexGuard { value, _passage: passage })
    }
}

impl Gate {
    fn pass(&self, deadline: Deadline) -> Result<Passage<'_>, LockTimedOut> {
        let mut state = self.lock();
        // While other threads wait, an open gate is reserved for one of them.
        let mut is_first = state.waiting == 0;
        loop {
            if is_first && !state.is_taken {
                state.is_taken = true;
                return Ok(Passage(self));
            }
            let left = deadline.remaining().ok_or(LockTimedOut)?;
            state.waiting += 1;
            state = self.opened.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
            is_first = true;
        }
    }

    /// No code that holds this lock can panic, so the state is consistent even if it is poisoned.
    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_taken = false;
        let is_awaited = state.waiting > 0;
        drop(state);
        if is_awaited {
            self.0.opened.notify_one();
        }
    }
}

impl<T> Deref for FairMutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for FairMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A waiting thread locks before a thread that unlocks and locks again.
    #[test]
    fn locking_in_a_loop_does_not_starve_others() {
        let mutex = FairMutex::new(Vec::new());
        let long = || Deadline::after(Duration::from_secs(60));
        let waiting = || mutex.gate.lock().waiting > 0;
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
    fn lock_excludes_others_and_times_out() {
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
