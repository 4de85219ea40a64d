//! The pairs of one group: keys, values, versions and owners.
//!
//! A [`Table`] is one group's view of what its store has committed. The group writes it through
//! [`Table`] and reads it through [`TableReader`]. The crate knows no users (a pair names its owner
//! by uid only), no subscribers and no locks: the owner of a table locks it.
//!
//! - [`HashIndex`] finds a record by the hash of its key and never rehashes as a whole.
//! - `slots` holds small records in pages of 64 KiB; `extents` holds the bytes of large ones.
//! - `records` lays out a record and decides where it goes; `keys` lists the keys in pages.
//!
//! A stored record contains numbers, bytes and handles; it contains no pointer, no reference count
//! and nothing that differs from one process to the next but the seed of the hash. So the memory
//! can later be shared with the applications. Until then the bytes of large values are
//! reference-counted outside of the records ([`ExtentRef`]).

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
