//! Versions of keys.

/// The version of a key. Version 0 means that the key does not exist.
pub type Version = u64;
