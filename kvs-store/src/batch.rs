//! Changes on their way into a store.

use std::fmt;

use kvs_table::{ExtentRef, Value};

use crate::version::Version;

/// What is done to a key.
#[derive(Clone)]
pub enum Operation<'a> {
    /// Stores this value, whether the key exists or not.
    Put(Value<'a>),
    /// Deletes the pair. The store refuses it with [`StoreError::Conflict`] and version 0 when
    /// there is no such key.
    ///
    /// [`StoreError::Conflict`]: crate::StoreError::Conflict
    Delete,
}

/// One change of one key.
#[derive(Clone)]
pub struct Change<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What is done to it.
    pub operation: Operation<'a>,
    /// The version that the key must have for the batch to be committed; 0: it must not exist.
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
    /// The changes, in order. A key may stand among them more than once.
    pub changes: &'a [Change<'a>],
}

impl Batch<'_> {
    /// How many versions a commit of this batch takes: one for each put.
    #[inline]
    pub fn versions(&self) -> u64 {
        let puts = self.changes.iter();
        puts.filter(|change| matches!(change.operation, Operation::Put(_))).count() as u64
    }
}

/// A batch that has its own copy of keys and values, for a store or a group that keeps it until it
/// is committed.
pub struct OwnedBatch {
    owner: u32,
    changes: Vec<OwnedChange>,
}

struct OwnedChange {
    key: Box<[u8]>,
    /// `None`: the pair is deleted.
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

    /// Hands the batch to `act`.
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
