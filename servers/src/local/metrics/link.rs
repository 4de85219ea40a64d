//! Counts what happens on the link to the authentication server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The counters of the link.
#[derive(Debug, Default)]
pub(super) struct LinkCounts {
    pub(super) is_up: AtomicBool,
    pub(super) retries: AtomicU64,
    pub(super) reconnects: AtomicU64,
    pub(super) failures: AtomicU64,
}

/// Counts for the link; does nothing with metrics off. Clones share their counters.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkCounters(pub(super) Option<Arc<LinkCounts>>);

impl LinkCounters {
    /// Counters that count.
    pub(super) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// The link is up for the first time.
    pub(crate) fn connected(&self) {
        if let Some(counts) = &self.0 {
            counts.is_up.store(true, Ordering::Relaxed);
        }
    }

    /// The link has tried to reconnect.
    pub(crate) fn reconnected(&self, is_up: bool) {
        if let Some(counts) = &self.0 {
            counts.is_up.store(is_up, Ordering::Relaxed);
            let count = if is_up { &counts.reconnects } else { &counts.failures };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The link repeats a request whose response is overdue.
    pub(crate) fn retry(&self) {
        if let Some(counts) = &self.0 {
            counts.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}
