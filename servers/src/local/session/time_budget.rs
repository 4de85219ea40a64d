//! The time slice of a session, measured with few clock reads.

use std::time::{Duration, Instant};

/// The clock is read after about this much work: that of so many small requests.
pub(super) const WORK_PER_CLOCK_READ: usize = 16;

/// Copying so many bytes counts as one small request.
pub(super) const BYTES_PER_WORK: usize = 4096;

/// What is left of a session's time slice. The slice begins with the first request, so that an
/// event without one costs no clock read.
#[derive(Debug)]
pub(super) struct TimeBudget {
    slice: Duration,
    has_begun: bool,
    /// `None`: the slice does not end.
    end: Option<Instant>,
    work_left: usize,
    is_exhausted: bool,
}

impl TimeBudget {
    /// A slice that has not begun.
    pub(super) fn new(slice: Duration) -> Self {
        Self {
            slice,
            has_begun: false,
            end: None,
            work_left: WORK_PER_CLOCK_READ,
            is_exhausted: false,
        }
    }

    /// Begins the slice, unless it has begun. Returns the time if it begins now.
    pub(super) fn begin(&mut self) -> Option<Instant> {
        if self.has_begun {
            return None;
        }
        self.has_begun = true;
        let now = Instant::now();
        self.end = now.checked_add(self.slice);
        Some(now)
    }

    /// Accounts for `work`, in units of one small request.
    pub(super) fn spend(&mut self, work: usize) {
        match self.work_left.checked_sub(work) {
            Some(left) => self.work_left = left,
            None => {
                self.work_left = WORK_PER_CLOCK_READ;
                self.is_exhausted = self.end.is_some_and(|end| Instant::now() >= end);
            }
        }
    }

    /// Whether the slice was over when the clock was last read.
    pub(super) fn is_exhausted(&self) -> bool {
        self.is_exhausted
    }
}
