//! The point in time at which a call times out.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

/// The end of the time that a call may take. One deadline covers the whole call, however many waits
/// it consists of, so that a peer cannot prolong a call by sending a byte now and then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// The remaining time; `None` once the deadline has passed.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// As [`remaining`](Self::remaining), as a result for functions that do I/O.
    pub(crate) fn remaining_or_timed_out(self) -> io::Result<Duration> {
        self.remaining().ok_or_else(|| ErrorKind::TimedOut.into())
    }

    /// Whether the deadline is `timeout` from now, to within one percent.
    pub(crate) fn is_about(self, timeout: Duration) -> bool {
        self.remaining().is_some_and(|left| left + timeout / 100 >= timeout)
    }
}
