//! Rate-limits log lines that a peer can cause.

use std::time::{Duration, Instant};

/// The time that must pass between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Allows one kind of log line at most once a minute.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LogLimiter(Option<Instant>);

impl LogLimiter {
    /// Whether the line may be written `now`. If so, a new interval begins.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let allowed = self.0.is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if allowed {
            self.0 = Some(now);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_is_allowed_at_once_and_then_once_a_minute() {
        let (mut limiter, now) = (LogLimiter::default(), Instant::now());
        let seconds = (0..200).filter(|&n| limiter.allow(now + Duration::from_secs(n)));
        assert_eq!(seconds.collect::<Vec<_>>(), [0, 60, 120, 180]);
    }
}
