//! What came of a change.
//!
//! A bottom layer: a message to a reactor carries it.

use kvs_proto::v2::Version;

use crate::local::limits::limit::Limit;

/// What came of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The value is stored; the key has this version. Of several: the last one.
    Stored(Version),
    /// The pair is deleted.
    Deleted,
    /// Nothing was changed: there is no such key.
    NoSuchKey,
    /// Nothing was changed: the key has this version, which is not the expected one.
    Conflict(Version),
    /// Nothing was changed: the store takes no such value, or the batch would cause too many
    /// events.
    TooLarge,
    /// Nothing was changed: the user has reached this limit.
    LimitReached(Limit),
    /// Nothing was changed: the store could not keep it, or the group was deleted.
    StorageFailed,
}
