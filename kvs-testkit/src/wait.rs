//! How long tests wait, and how they wait for conditions that no event reports.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The longest time that any wait may take. Working code stays far below it, even on a loaded
/// machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// The longest time for what is promised to be visible or answered immediately.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// How long a test observes a server before it concludes that the server does not read or does not
/// respond, which only the passing of time can show. A longer period cannot make a test wrong.
pub const QUIET_PERIOD: Duration = Duration::from_millis(500);

/// Polls `attempt` until it returns something, for conditions that no event reports.
///
/// # Panics
/// If `attempt` returns nothing within [`DEADLINE`].
pub fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Sets a stop flag when dropped, so that the threads of a test also end when the test panics.
/// Without it a scope would wait for them for ever, and the failure would not be reported.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
