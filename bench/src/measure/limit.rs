//! When a measurement ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::options::Options;

/// Whether the user has interrupted the run. Checked between operations.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interrupt(pub(crate) Arc<AtomicBool>);

impl Interrupt {
    /// [`Error::Interrupted`] after an interrupt.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }
}

/// The length of a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// A duration.
    Time(Duration),
    /// A number of operations.
    Operations(u64),
}

impl Limit {
    /// The length of each measurement by the options.
    pub(crate) fn of(options: &Options) -> Self {
        match options.operations {
            Some(operations) => Self::Operations(operations),
            None => Self::Time(Duration::from_secs_f64(options.seconds)),
        }
    }

    /// The length of the warm-up: a fifth.
    pub(super) fn warm_up(self) -> Self {
        match self {
            Self::Time(time) => Self::Time(time / 5),
            Self::Operations(operations) => Self::Operations(operations.div_ceil(5)),
        }
    }

    /// Whether the measurement has ended.
    pub(crate) fn is_reached(self, begun: Instant, now: Instant, operations: u64) -> bool {
        match self {
            Self::Time(time) => now.duration_since(begun) >= time,
            Self::Operations(limit) => operations >= limit,
        }
    }
}

/// The parameters of one measurement of a cell.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    /// Its length.
    pub(crate) limit: Limit,
    /// The length of the warm-up before it.
    pub(crate) warm_up: Limit,
    /// Its first position in the sequence of keys, the same for every cell of a round.
    pub(crate) position: u64,
    /// Checked between operations.
    pub(crate) interrupt: Interrupt,
}
