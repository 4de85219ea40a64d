//! Batches that the store has not decided yet, and commits that wait for earlier ones.
//!
//! A store completes tickets in any order, but commits are applied in the order of their stamps. So
//! a commit whose predecessor is not here yet waits. A batch keeps its quota reservation until it
//! is applied or refused. A group that is removed refuses them all, but sequences and ticket ids go
//! on, so that a late completion decides no other batch.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::mem;

use kvs_store::{OwnedBatch, Stamp};

use crate::local::group::submission::CompletionHandler;
use crate::local::limits::charge::{Charge, Reservation};

/// A batch that was submitted and is not applied yet.
pub(crate) struct QueuedCommit {
    /// The changes.
    pub(crate) batch: OwnedBatch,
    /// What they may take of their user's quota.
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
    /// The changes in all of these.
    changes: usize,
}

impl Commits {
    /// Whether all that was submitted is applied or refused.
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

    /// Counts a commit as applied if no earlier one is missing; `false`: it must wait.
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

    /// Keeps a commit until those before it are applied.
    pub(crate) fn add_waiting(&mut self, stamp: Stamp, pending: QueuedCommit) {
        self.changes += pending.batch.len();
        self.waiting.insert(stamp.sequence, (stamp, pending));
    }

    /// Takes out all batches. Those that are not decided yet will not be found any more.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = QueuedCommit> {
        self.changes = 0;
        let waiting = mem::take(&mut self.waiting).into_values().map(|(_, pending)| pending);
        waiting.chain(mem::take(&mut self.undecided).into_values())
    }

    /// Takes out the batch of a ticket; `None`: the group was removed meanwhile.
    pub(crate) fn take_undecided(&mut self, id: u64) -> Option<QueuedCommit> {
        let pending = self.undecided.remove(&id)?;
        self.changes -= pending.batch.len();
        Some(pending)
    }

    /// Takes out the next commit to apply, if it is here, and counts it as applied.
    pub(crate) fn next(&mut self) -> Option<(Stamp, QueuedCommit)> {
        let next = self.waiting.remove(&(self.applied + 1))?;
        self.applied += 1;
        self.changes -= next.1.batch.len();
        Some(next)
    }
}
