//! Lines of the log that a peer can cause as often as it likes are written seldom.

use std::time::{Duration, Instant};

/// How often at most.
const PAUSE: Duration = Duration::from_secs(60);

/// One kind of line: at most once a minute.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether it may be written `now`, and then it is.
    pub(crate) fn may(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_once_and_then_once_a_minute() {
        let (mut line, now) = (Seldom::default(), Instant::now());
        let seconds = (0..200).filter(|&n| line.may(now + Duration::from_secs(n)));
        assert_eq!(seconds.collect::<Vec<_>>(), [0, 60, 120, 180]);
    }
}
