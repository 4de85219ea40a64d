//! Changes and batches of them, as a store receives them.

use std::fmt;

use kvs_table::{ExtentRef, Value};

use crate::version::Version;

/// What is done to a key.
#[derive(Clone)]
pub enum Operation<'a> {
    /// Stores this value, whether the key exists or not.
    Put(Value<'a>),
    /// Deletes the pair. If the key does not exist, the store refuses the batch with
    /// [`StoreError::Conflict`] and version 0.
    ///
    /// [`StoreError::Conflict`]: crate::StoreError::Conflict
    Delete,
}

/// One change of one key.
#[derive(Clone)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The operation on the key.
    pub operation: Operation<'a>,
    /// The version that the key must have for the batch to be committed. 0 means that the key must
    /// not exist; `None` means that any version will do.
    pub expected: Option<Version>,
}

impl fmt::Debug for Change<'_> {
    /// Without key and value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operation = match &self.operation {
            Operation::Put(_) => "put",
            Operation::Delete => "delete",
        };
        let Self { key, expected, .. } = self;
        f.debug_struct(operation).field("key", &key.len()).field("expected", expected).finish()
    }
}

/// Changes that are committed together or not at all.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The uid of the user who owns the pairs that are stored.
    pub owner: u32,
    /// The changes, in order. A key may occur more than once.
    pub changes: &'a [Change<'a>],
}

impl Batch<'_> {
    /// The number of versions that a commit of this batch takes: one for each put.
    #[inline]
    pub fn versions(&self) -> u64 {
        let puts = self.changes.iter();
        puts.filter(|change| matches!(change.operation, Operation::Put(_))).count() as u64
    }

    /// The bytes of all keys and values, which an [`OwnedBatch`] keeps.
    pub fn len_bytes(&self) -> u64 {
        let len = |change: &Change<'_>| match &change.operation {
            Operation::Put(value) => change.key.len() + value.len(),
            Operation::Delete => change.key.len(),
        };
        self.changes.iter().map(|change| len(change) as u64).sum()
    }
}

/// A batch that owns its keys and values, for a store or a group that keeps it until it is
/// committed.
pub struct OwnedBatch {
    owner: u32,
    changes: Vec<OwnedChange>,
}

struct OwnedChange {
    key: Box<[u8]>,
    /// `None` for a delete.
    value: Option<ExtentRef>,
    expected: Option<Version>,
}

impl OwnedBatch {
    /// The number of changes.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are no changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Calls `act` with the borrowed form of the batch.
    pub fn with<T>(&self, act: impl FnOnce(Batch<'_>) -> T) -> T {
        let changes: Vec<_> = self.changes.iter().map(OwnedChange::borrow).collect();
        act(Batch { owner: self.owner, changes: &changes })
    }
}

impl OwnedChange {
    fn borrow(&self) -> Change<'_> {
        let operation = match &self.value {
            Some(value) => Operation::Put(Value::from_extent(value)),
            None => Operation::Delete,
        };
        Change { key: &self.key, operation, expected: self.expected }
    }
}

impl From<Batch<'_>> for OwnedBatch {
    fn from(batch: Batch<'_>) -> Self {
        let own = |change: &Change<'_>| OwnedChange {
            key: change.key.into(),
            value: match &change.operation {
                Operation::Put(Value::Inline(bytes)) => Some((*bytes).into()),
                Operation::Put(Value::Shared(extent)) => Some(extent.clone()),
                Operation::Delete => None,
            },
            expected: change.expected,
        };
        Self { owner: batch.owner, changes: batch.changes.iter().map(own).collect() }
    }
}

impl fmt::Debug for OwnedBatch {
    /// Without keys and values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = self.changes.len();
        f.debug_struct("OwnedBatch").field("owner", &self.owner).field("changes", &changes).finish()
    }
}
