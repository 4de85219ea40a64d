//! Versions of keys.

/// The version of a key. 0 stands for a key that does not exist.
pub type Version = u64;
