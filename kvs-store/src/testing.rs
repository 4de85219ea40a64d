//! A store for tests, which completes pending batches only when the test asks for it, in any order.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::{Batch, Operation};
use crate::store::{Apply, Stamp, Store, StoreError, StoreLimits, Submitted, Ticket};
use crate::version::Version;

/// A store that keeps every batch pending until its [`StalledStoreControl`] completes it. Batches
/// are committed in the order of their submission; the test chooses the order in which their
/// tickets are completed.
#[derive(Debug)]
pub struct StalledStore(StalledStoreControl);

/// Completes the batches of a [`StalledStore`].
#[derive(Debug, Clone, Default)]
pub struct StalledStoreControl(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    version: Version,
    versions: HashMap<Box<[u8]>, Version>,
    pending: VecDeque<(Ticket, Result<Stamp, StoreError>)>,
    fail_next: usize,
}

impl StalledStore {
    /// Makes a store and its control.
    pub fn new() -> (Self, StalledStoreControl) {
        let control = StalledStoreControl::default();
        (Self(control.clone()), control)
    }
}

impl StalledStoreControl {
    /// The number of pending batches.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// Makes the next `count` batches fail. Failed batches are not committed.
    pub fn fail_next(&self, count: usize) {
        self.state().fail_next = count;
    }

    /// Completes the pending batch at this position; 0 is the oldest. Returns `false` if there is
    /// no such batch.
    pub fn complete(&self, position: usize) -> bool {
        // The completion may submit another batch, so the lock is released first.
        let Some((ticket, result)) = self.state().pending.remove(position) else { return false };
        ticket.complete(result);
        true
    }

    /// Completes all pending batches, the oldest first.
    pub fn complete_all(&self) {
        while self.complete(0) {}
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn decide(&mut self, batch: Batch<'_>) -> Result<Stamp, StoreError> {
        if let Some(left) = self.fail_next.checked_sub(1) {
            self.fail_next = left;
            return Err(StoreError::Failed("injected by the test".into()));
        }
        for change in batch.changes {
            let version = self.versions.get(change.key).copied().unwrap_or(0);
            let is_missing = version == 0 && matches!(change.operation, Operation::Delete);
            if is_missing || change.expected.is_some_and(|expected| expected != version) {
                return Err(StoreError::Conflict(version));
            }
        }
        let first_version = self.version + 1;
        self.sequence += 1;
        for change in batch.changes {
            match change.operation {
                Operation::Put(_) => {
                    self.version += 1;
                    self.versions.insert(change.key.into(), self.version);
                }
                Operation::Delete => drop(self.versions.remove(change.key)),
            }
        }
        Ok(Stamp { sequence: self.sequence, first_version })
    }
}

impl Store for StalledStore {
    fn submit(&mut self, batch: Batch<'_>, ticket: &mut dyn FnMut() -> Ticket) -> Submitted {
        let mut state = self.0.state();
        let result = state.decide(batch);
        state.pending.push_back((ticket(), result));
        Submitted::Pending
    }

    fn limits(&self) -> StoreLimits {
        StoreLimits {
            max_value: usize::MAX,
            max_changes: usize::MAX,
            commits_at_once: false,
            is_durable: false,
        }
    }

    fn recover(&mut self, _: &mut dyn Apply) -> Result<Version, StoreError> {
        Ok(0)
    }
}
