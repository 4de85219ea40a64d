//! The interface between a group and its store.

use std::fmt;
use std::sync::Arc;

use crate::batch::Batch;
use crate::version::Version;

/// Where a committed batch stands among the commits of its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// 1 for the first commit after [`Store::recover`], then one more for each.
    pub sequence: u64,
    /// The version of the first put of the batch. Each further put has the next one; a delete takes
    /// none.
    pub first_version: Version,
}

/// A batch that is committed.
#[derive(Debug, Clone, Copy)]
pub struct Commit<'a> {
    /// Its place in the order of commits.
    pub stamp: Stamp,
    /// What was changed.
    pub batch: Batch<'a>,
}

/// The only way for a change into a group.
pub trait Apply {
    /// Applies a commit. Commits are applied in the order of their sequence.
    fn apply(&mut self, commit: &Commit<'_>);
}

/// Why a batch was not committed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key does not have the expected version, or does not exist and was to be deleted.
    #[error("the key has version {0}")]
    Conflict(Version),
    /// The store could not keep the batch. Nothing of it was changed.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What a store can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreLimits {
    /// The longest value, in bytes.
    pub max_value: usize,
    /// The most changes of a batch.
    pub max_changes: usize,
    /// Whether a committed batch outlives the process.
    pub is_durable: bool,
}

/// What became of a batch that was submitted.
#[derive(Debug)]
pub enum Submitted {
    /// It is committed. No ticket was made.
    Done(Stamp),
    /// It is not committed yet: the ticket will be completed.
    Pending,
}

/// Who is notified when a pending batch is decided.
pub trait Completions: fmt::Debug + Send + Sync {
    /// Reports the result of the batch with this ticket. A store calls it once for each ticket,
    /// from any thread but never from within [`Store::submit`], and holds no lock that `submit`
    /// takes.
    fn complete(&self, id: u64, result: Result<Stamp, StoreError>);
}

/// What identifies a pending batch, and where its result goes.
#[derive(Debug)]
pub struct Ticket {
    /// Where the result goes.
    pub completions: Arc<dyn Completions>,
    /// Which batch it is, to them.
    pub id: u64,
}

impl Ticket {
    /// Reports the result of the batch.
    pub fn complete(self, result: Result<Stamp, StoreError>) {
        self.completions.complete(self.id, result);
    }
}

/// The source of truth of one group. The group calls it under its own lock, so it has one caller at
/// a time.
pub trait Store: fmt::Debug + Send {
    /// Submits a batch. Never blocks. `ticket` makes a ticket; only a store that answers
    /// [`Submitted::Pending`] calls it, and once.
    ///
    /// A store that always answers [`Submitted::Done`] need not check the expected versions: the
    /// table of the group has all of its commits, and the group has checked them there.
    fn submit(&mut self, batch: Batch<'_>, ticket: &mut dyn FnMut() -> Ticket) -> Submitted;

    /// What the store can take. It does not change.
    fn limits(&self) -> StoreLimits;

    /// Applies what was committed in an earlier life of the group, before the first batch is
    /// submitted. Returns the last version that was given.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that cannot be read.
    fn recover(&mut self, into: &mut dyn Apply) -> Result<Version, StoreError>;
}
