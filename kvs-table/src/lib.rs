//! The pairs of one group: keys, values, versions and owners.
//!
//! A [`Table`] is one group's view of what its store has committed. The group writes through
//! [`Table`] and reads through [`TableReader`]. The crate knows no quotas, no subscribers and no
//! locks: a pair names its owner by uid only, and the group locks its table.
//!
//! - [`HashIndex`] finds a record by the hash of its key, and never rehashes all records at once.
//! - `slots` holds small records in pages of 64 KiB; `extents` holds the bytes of large ones.
//! - `records` defines the layout of a record; `keys` lists the keys in pages.
//!
//! A record contains numbers, bytes and handles, but no pointer and no reference count. Only the
//! seed of the hash differs from one process to the next. So the memory can later be shared with
//! the applications. Until then the bytes of large records are reference-counted outside of the
//! records ([`ExtentRef`]).

#![forbid(unsafe_code)]

mod extents;
mod hash;
mod hash_index;
mod keys;
mod reader;
mod records;
mod slots;
mod table;
mod value;

pub use extents::ExtentRef;
pub use hash::{KeyHash, Seed, SeededHash};
pub use hash_index::HashIndex;
pub use keys::{KeyPage, MAX_KEYS_PER_PAGE};
pub use reader::{Entry, RecordInfo, TableReader};
pub use records::Full;
pub use table::{Replaced, Table};
pub use value::{MAX_INLINE, Value};
