//! The shutdown of the authentication server: it asks local servers to close until they have
//! disconnected or the deadline has passed.

use std::time::{Duration, Instant};

use kvs_proto::link::original::{CLOSE, RECONNECT};

use super::links::Links;

/// How often a local server that is still connected is sent the close flag.
const CLOSE_INTERVAL: Duration = Duration::from_millis(300);

/// How many copies of the reconnect flag are sent. No response acknowledges it, so several copies
/// make up for lost ones.
const RECONNECT_COPIES: usize = 3;

/// A server that is quitting.
pub(super) struct Quit {
    deadline: Instant,
    next_close: Instant,
}

impl Quit {
    /// Starts the shutdown, which takes at most `timeout`.
    pub(super) fn begin(links: &Links, now: Instant, timeout: Duration) -> Self {
        for (_, link) in links.iter() {
            if link.is_confirmed() && link.close_address().is_none() {
                tracing::warn!(
                    "{link} cannot be asked to close, because it has sent no Connect_2: stop it \
                     manually"
                );
            }
        }
        Self { deadline: now + timeout, next_close: now }
    }

    /// The latest time for the next [`poll`](Self::poll).
    pub(super) fn deadline(&self) -> Instant {
        self.deadline.min(self.next_close)
    }

    /// Sends the close flag to the local servers that are still connected, once per
    /// [`CLOSE_INTERVAL`]. Returns whether the server can exit.
    pub(super) fn poll(&mut self, links: &Links, now: Instant) -> bool {
        let mut connected =
            links.iter().filter(|(_, link)| link.close_address().is_some()).peekable();
        if connected.peek().is_none() {
            return true;
        }
        if now >= self.deadline {
            for (_, link) in connected {
                tracing::warn!("{link} has not disconnected in time");
            }
            return true;
        }
        if now >= self.next_close {
            connected.for_each(|(_, link)| link.send_flag(CLOSE));
            self.next_close = now + CLOSE_INTERVAL;
        }
        false
    }
}

/// Asks all local servers to keep running and to connect to the server that is started next.
pub(super) fn send_reconnect(links: &Links) {
    for (_, link) in links.iter() {
        (0..RECONNECT_COPIES).for_each(|_| link.send_flag(RECONNECT));
    }
}
