//! How long a try waits for the next datagram, and whether the network is trusted.
//!
//! Where many datagrams are lost or late, many short tries succeed sooner than a few long ones.

use std::time::Duration;

/// The longest wait for the next datagram.
pub(super) const MAX_TRY: Duration = Duration::from_millis(300);

/// The shortest first wait in a network that is trusted.
const MIN_TRY_TRUSTED: Duration = Duration::from_millis(100);

/// The shortest first wait in a network that is distrusted.
const MIN_TRY_DISTRUSTED: Duration = Duration::from_millis(20);

/// The shortest round trip that is assumed.
const MIN_ROUND_TRIP: Duration = Duration::from_micros(100);

/// For how many exchanges the network is distrusted after it has lost or repeated a datagram.
const DISTRUSTED_EXCHANGES: u32 = 100;

/// What is known about the network from the exchanges so far.
pub(super) struct Pacing {
    /// About the median round trip: a single late response moves it little.
    round_trip: Duration,
    /// For how many more exchanges the network is distrusted.
    distrusted: u32,
}

impl Pacing {
    pub(super) fn new() -> Self {
        Self { round_trip: MIN_TRY_DISTRUSTED / 4, distrusted: 0 }
    }

    /// Whether the network has neither lost nor repeated a datagram recently.
    pub(super) fn is_trusted(&self) -> bool {
        self.distrusted == 0
    }

    /// A datagram was lost or repeated.
    pub(super) fn distrust(&mut self) {
        self.distrusted = DISTRUSTED_EXCHANGES;
    }

    /// An exchange is complete.
    pub(super) fn exchange_completed(&mut self) {
        self.distrusted = self.distrusted.saturating_sub(1);
    }

    /// How long the first try of an exchange waits for the next datagram: four round trips.
    pub(super) fn first_try(&self) -> Duration {
        let shortest = if self.is_trusted() { MIN_TRY_TRUSTED } else { MIN_TRY_DISTRUSTED };
        (self.round_trip * 4).clamp(shortest, MAX_TRY)
    }

    /// How long the try after one of this length waits: a quarter longer.
    pub(super) fn next_try(current: Duration) -> Duration {
        (current * 5 / 4).min(MAX_TRY)
    }

    /// Adjusts the estimate to a measured round trip. The estimate moves by a fixed step up or
    /// down, which makes it follow the median; it moves by a longer step for a round trip so late
    /// that tries would be given up before it.
    pub(super) fn measured(&mut self, round_trip: Duration) {
        self.round_trip = if round_trip > self.round_trip * 4 {
            self.round_trip * 3 / 2
        } else if round_trip > self.round_trip {
            self.round_trip * 11 / 10
        } else {
            self.round_trip * 9 / 10
        }
        .clamp(MIN_ROUND_TRIP, MAX_TRY);
    }
}
