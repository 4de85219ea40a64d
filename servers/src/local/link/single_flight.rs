//! Single flight: one lookup of a group's secret at a time, for all logins that need it.
//!
//! The link has one exchange under way for all groups. Without this module, a flood of logins to
//! one group would queue one lookup each and delay the logins to every other group. At most one
//! lookup per group is queued or under way. A login that joins while one is under way receives the
//! result of the *next* lookup: a result that was requested before a login began must not decide
//! about that login.
//!
//! The module knows nothing of links or sessions: a waiter is of any type.

use std::mem;

use parking_lot::Mutex;

/// The waiters for one value, and whether its lookup is under way.
#[derive(Debug)]
pub(crate) struct SingleFlight<W> {
    waiters: Mutex<Waiters<W>>,
}

#[derive(Debug)]
struct Waiters<W> {
    /// Receive the result of the lookup that is under way; empty when there is none.
    current: Vec<W>,
    /// Receive the result of the lookup after it.
    next: Vec<W>,
}

impl<W> Default for SingleFlight<W> {
    fn default() -> Self {
        Self { waiters: Mutex::new(Waiters { current: Vec::new(), next: Vec::new() }) }
    }
}

impl<W> SingleFlight<W> {
    /// Adds a waiter. Returns whether the caller has to start the lookup.
    pub(crate) fn join(&self, waiter: W) -> bool {
        let waiters = &mut *self.waiters.lock();
        if waiters.current.is_empty() {
            waiters.current.push(waiter);
            return true;
        }
        waiters.next.push(waiter);
        false
    }

    /// The lookup is complete. Returns the waiters that receive its result, and whether the caller
    /// has to start the next lookup.
    pub(crate) fn complete(&self) -> (Vec<W>, bool) {
        let waiters = &mut *self.waiters.lock();
        let next = mem::take(&mut waiters.next);
        let start_next = !next.is_empty();
        (mem::replace(&mut waiters.current, next), start_next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiter_never_receives_a_result_requested_before_it_joined() {
        let flight = SingleFlight::default();
        assert!(flight.join(1));
        // These join when the result of the first lookup may be on its way.
        assert!(!flight.join(2));
        assert!(!flight.join(3));
        assert_eq!(flight.complete(), (vec![1], true));
        assert!(!flight.join(4));
        assert_eq!(flight.complete(), (vec![2, 3], true));
        assert_eq!(flight.complete(), (vec![4], false));
        assert!(flight.join(5));
    }
}
