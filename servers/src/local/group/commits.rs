//! Batches that the store has not decided yet, and commits that wait for earlier ones.
//!
//! A store completes tickets in any order, but the group applies commits in the order of their
//! stamps. So a commit waits until its predecessors have arrived. A batch keeps its quota
//! reservation until it is applied or refused. A removed group refuses all of them, but its
//! sequence and its ticket ids go on, so that a late completion never decides another batch.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::mem;

use kvs_store::{OwnedBatch, Stamp};

use crate::local::group::submission::CompletionHandler;
use crate::local::limits::charge::{Charge, Reservation};

/// A submitted batch that is not applied yet.
pub(crate) struct QueuedCommit {
    /// The changes.
    pub(crate) batch: OwnedBatch,
    /// The part of the user's quota that is reserved for them.
    pub(crate) reservation: Reservation,
    /// Counts the bytes of `batch` that are not reserved: of deleted keys and overwriting values.
    pub(crate) buffer: Charge,
    /// Who receives the outcome.
    pub(crate) completion: CompletionHandler,
}

impl fmt::Debug for QueuedCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuedCommit").field("batch", &self.batch).finish_non_exhaustive()
    }
}

/// The commits of one group.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// The sequence of the last commit that was applied.
    applied: u64,
    /// The id of the last ticket.
    last_id: u64,
    /// Batches that are not decided, by the id of their ticket.
    undecided: HashMap<u64, QueuedCommit>,
    /// Commits that cannot be applied yet, by sequence.
    waiting: BTreeMap<u64, (Stamp, QueuedCommit)>,
    /// The number of changes in all of these batches.
    changes: usize,
}

impl Commits {
    /// Whether every submitted batch is applied or refused.
    pub(crate) fn is_idle(&self) -> bool {
        self.changes == 0
    }

    /// The number of changes that are not applied yet.
    pub(crate) fn pending_changes(&self) -> usize {
        self.changes
    }

    /// The id of the next ticket.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Counts a commit as applied if it is the next one. Otherwise returns `false`: it must wait.
    pub(crate) fn advance(&mut self, stamp: Stamp) -> bool {
        let is_next = stamp.sequence == self.applied + 1;
        self.applied += u64::from(is_next);
        is_next
    }

    /// Keeps a batch until the ticket with [`next_id`](Self::next_id) is completed.
    pub(crate) fn add_undecided(&mut self, pending: QueuedCommit) {
        self.last_id += 1;
        self.changes += pending.batch.len();
        self.undecided.insert(self.last_id, pending);
    }

    /// Keeps a commit until its predecessors are applied.
    pub(crate) fn add_waiting(&mut self, stamp: Stamp, pending: QueuedCommit) {
        self.changes += pending.batch.len();
        self.waiting.insert(stamp.sequence, (stamp, pending));
    }

    /// Removes and returns all batches. Later completions of their tickets are ignored.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = QueuedCommit> {
        self.changes = 0;
        let waiting = mem::take(&mut self.waiting).into_values().map(|(_, pending)| pending);
        waiting.chain(mem::take(&mut self.undecided).into_values())
    }

    /// Removes the batch of a ticket and returns it, or returns `None` if the group was removed
    /// meanwhile.
    pub(crate) fn take_undecided(&mut self, id: u64) -> Option<QueuedCommit> {
        let pending = self.undecided.remove(&id)?;
        self.changes -= pending.batch.len();
        Some(pending)
    }

    /// Removes the next commit in order and counts it as applied, if it has arrived.
    pub(crate) fn next(&mut self) -> Option<(Stamp, QueuedCommit)> {
        let next = self.waiting.remove(&(self.applied + 1))?;
        self.applied += 1;
        self.changes -= next.1.batch.len();
        Some(next)
    }
}
