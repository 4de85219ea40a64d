//! The interface between a group and its store.

use std::fmt;
use std::sync::Weak;

use crate::batch::Batch;
use crate::version::Version;

/// The position of a committed batch in the commit order of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// 1 for the first commit after [`Store::recover`], then one more for each commit.
    pub sequence: u64,
    /// The version of the first put of the batch. Each further put has the next one; a delete takes
    /// none.
    pub first_version: Version,
}

/// A committed batch.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Its position in the commit order.
    pub stamp: Stamp,
    /// Its changes.
    pub batch: Batch<'a>,
}

/// Applies commits to a group. Every change of a group goes through this trait.
pub trait Apply {
    /// Applies a commit. The caller applies commits in the order of their sequence.
    fn apply(&mut self, commit: &Commit<'_>);
}

/// Why a batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key does not have the expected version, or the key of a delete does not exist.
    #[error("version conflict: the key has version {0}")]
    Conflict(Version),
    /// The store could not commit the batch. Nothing was changed.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// The limits of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The maximum length of a value in bytes.
    pub max_value: usize,
    /// The maximum number of changes in a batch.
    pub max_changes: usize,
    /// Whether every batch is committed at once: [`Store::submit`] never returns
    /// [`Submitted::Pending`].
    pub commits_at_once: bool,
    /// Whether committed batches survive the end of the process.
    pub is_durable: bool,
}

/// The result of submitting a batch.
#[derive(Debug)]
pub enum Submitted {
    /// The batch is committed. The store made no ticket.
    Done(Stamp),
    /// The batch is not committed yet. The store will complete the ticket.
    Pending,
}

/// Receives the results of pending batches.
pub trait Completions: fmt::Debug + Send + Sync {
    /// Reports the result of the batch with this ticket. A store calls it once for each ticket,
    /// from any thread but never from within [`Store::submit`], and holds no lock that `submit`
    /// takes.
    fn complete(&self, id: u64, result: Result<Stamp, StoreError>);
}

/// Identifies a pending batch and the receiver of its result.
#[derive(Debug)]
pub struct Ticket {
    /// The receiver of the result. The group owns the store, so a ticket does not keep it alive.
    pub completions: Weak<dyn Completions>,
    /// The id by which the receiver identifies the batch.
    pub id: u64,
}

impl Ticket {
    /// Reports the result of the batch, unless its group is gone.
    pub fn complete(self, result: Result<Stamp, StoreError>) {
        if let Some(completions) = self.completions.upgrade() {
            completions.complete(self.id, result);
        }
    }
}

/// The source of truth of one group. The group calls it under the group's lock, so there is one
/// caller at a time.
pub trait Store: fmt::Debug + Send {
    /// Submits a batch. Never blocks. A store that returns [`Submitted::Pending`] calls `ticket`
    /// once, which makes the ticket; any other store does not call it.
    ///
    /// A store that always returns [`Submitted::Done`] need not check the expected versions: the
    /// group has checked them in its table, which reflects all commits.
    fn submit(&mut self, batch: Batch<'_>, ticket: &mut dyn FnMut() -> Ticket) -> Submitted;

    /// The limits of the store, which do not change.
    fn limits(&self) -> StoreLimits;

    /// Applies all commits of earlier runs to `into`, before the first batch is submitted. Returns
    /// the last version that was assigned.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the commits cannot be read.
    fn recover(&mut self, into: &mut dyn Apply) -> Result<Version, StoreError>;
}
