//! The outcome of a write. A bottom layer, because messages to a reactor carry it.

use kvs_proto::v2::Version;

use crate::local::limits::limit::Limit;

/// The outcome of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The values are stored; the last of them has this version.
    Stored(Version),
    /// The pair is deleted.
    Deleted,
    /// Nothing was changed: the key does not exist.
    NoSuchKey,
    /// Nothing was changed: the key has this version, which is not the expected one.
    Conflict(Version),
    /// Nothing was changed: a value or the batch exceeds the store's limits, or the batch would
    /// cause too many events.
    TooLarge,
    /// Nothing was changed: the user has reached this limit.
    LimitReached(Limit),
    /// Nothing was changed: the store could not commit the batch, or the group was deleted.
    StorageFailed,
}
