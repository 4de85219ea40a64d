//! Counts change events: on the way to subscribers, coalesced, sent.
//!
//! The thread that makes a change counts the event for every subscriber, so the counters are atomic
//! and shared by all reactors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of change events.
#[derive(Debug, Default)]
pub(super) struct EventCounts {
    pub(super) enqueued: AtomicU64,
    pub(super) coalesced: AtomicU64,
    pub(super) sent: AtomicU64,
}

/// Counts change events; does nothing with metrics off. Clones share their counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventCounters(pub(super) Option<Arc<EventCounts>>);

impl EventCounters {
    /// Counters that count.
    pub(super) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// An event was enqueued for one subscriber, or coalesced with a pending event of its key.
    pub(crate) fn enqueued(&self, is_coalesced: bool) {
        if let Some(counts) = &self.0 {
            counts.enqueued.fetch_add(1, Ordering::Relaxed);
            if is_coalesced {
                counts.coalesced.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// An event was sent to a subscriber.
    pub(crate) fn sent(&self) {
        if let Some(counts) = &self.0 {
            counts.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
