//! The times of single operations.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::limit::{Limit, Measurement};
use crate::error::Result;

/// A histogram of times: three significant digits, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3)
        .expect("the bounds and the number of digits are valid")
}

/// Repeats an operation, first to warm up, then measured. Its argument is the position in the
/// sequence.
pub(crate) fn time_each(
    measurement: &Measurement,
    mut operation: impl FnMut(u64) -> Result<()>,
) -> Result<Histogram<u64>> {
    let mut position = measurement.position;
    let mut repeat = |limit: Limit, mut times: Option<&mut Histogram<u64>>| {
        let (begun, mut count) = (Instant::now(), 0);
        loop {
            let before = Instant::now();
            operation(position)?;
            let now = Instant::now();
            position += 1;
            count += 1;
            if let Some(times) = &mut times {
                times.saturating_record(nanos(now.duration_since(before)));
            }
            if limit.is_reached(begun, now, count) {
                return Ok(());
            }
            measurement.interrupt.check()?;
        }
    };
    repeat(measurement.warm_up, None)?;
    let mut times = histogram();
    repeat(measurement.limit, Some(&mut times))?;
    Ok(times)
}

/// Nanoseconds, at least one.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1)
}
