//! Subscribers to notify after the responses to the writers are sent.
//!
//! This order is faster for both sides: a writer continues at once, and the subscriber that is
//! notified last can use the processor as soon as the reactor sleeps.

use std::sync::Arc;

use crate::local::group::subscriber::Subscriber;

/// Above this number of subscribers, their own reactors send the events of a change: flushing all
/// of them here would delay the other sessions of this reactor.
const MAX_DIRECT_SUBSCRIBERS: usize = 16;

/// Above this number, pending notifications are flushed even before the responses.
const MAX_PENDING: usize = 64;

/// Subscribers with pending events. Dropping this flushes them.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct PendingNotifications(Vec<Arc<Subscriber>>);

impl PendingNotifications {
    /// Adds the subscribers of one change. The caller must hold no lock.
    pub(crate) fn schedule(&mut self, subscribers: Vec<Arc<Subscriber>>) {
        if subscribers.len() <= MAX_DIRECT_SUBSCRIBERS {
            self.0.extend(subscribers);
        } else {
            subscribers.iter().for_each(|subscriber| subscriber.schedule());
        }
        if self.0.len() > MAX_PENDING {
            self.flush();
        }
    }

    /// Flushes the pending events of all subscribers. The caller must hold no lock.
    pub(crate) fn flush(&mut self) {
        self.0.drain(..).for_each(|subscriber| subscriber.flush());
    }
}

impl Drop for PendingNotifications {
    fn drop(&mut self) {
        self.flush();
    }
}
