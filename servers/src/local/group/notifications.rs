//! The subscribers that are notified when the responses to the writers are out.
//!
//! That order is the faster one for both sides: a writer continues at once, and the subscriber that
//! is notified last finds the processor free as soon as the reactor sleeps.

use std::sync::Arc;

use crate::local::group::subscriber::Subscriber;

/// A change with more subscribers than this is left to their own reactors: flushing them here would
/// delay the other sessions of this reactor.
const MAX_DIRECT_SUBSCRIBERS: usize = 16;

/// More pending notifications than this are flushed even if responses wait.
const MAX_PENDING: usize = 64;

/// Subscribers with pending events. They are flushed at the latest when this is dropped.
#[must_use]
#[derive(Debug, Default)]
pub(crate) struct PendingNotifications(Vec<Arc<Subscriber>>);

impl PendingNotifications {
    /// Adds the subscribers of one change. Call it with no lock held.
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

    /// Flushes the pending events of all subscribers. Call it with no lock held.
    pub(crate) fn flush(&mut self) {
        self.0.drain(..).for_each(|subscriber| subscriber.flush());
    }
}

impl Drop for PendingNotifications {
    fn drop(&mut self) {
        self.flush();
    }
}
