//! Results of operations.

use kvs_proto::v2::Version;

/// A value and its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The version of the key. Every put in a group gets a version greater than all before it.
    pub version: Version,
}

/// The result of [`compare_and_swap`](crate::Connection::compare_and_swap) or
/// [`compare_and_delete`](crate::Connection::compare_and_delete).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The value is stored with this version, or the pair is deleted (version 0).
    Done(Version),
    /// Nothing was changed, because the key has this version, or does not exist (version 0).
    Conflict(Version),
}
