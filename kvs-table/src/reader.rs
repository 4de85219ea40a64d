//! What can be read from a table.

use crate::hash::KeyHash;
use crate::hash_index::HashIndex;
use crate::keys::{self, KeyPage};
use crate::records::Records;
use crate::value::Value;

/// A pair as it is read.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The value.
    pub value: Value<'a>,
    /// The version that the value was stored with.
    pub version: u64,
}

/// What is known of a pair besides its key and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    /// The version that the value was stored with.
    pub version: u64,
    /// The uid of the user who stored the value.
    pub owner: u32,
    /// The length of the value.
    pub value_len: usize,
}

/// Reads one table.
pub struct TableReader<'a, H> {
    pub(crate) index: &'a HashIndex<u32>,
    pub(crate) records: &'a Records,
    pub(crate) hash: &'a H,
}

// Not derived: that would ask for a hash function that is `Copy`.
impl<H> Copy for TableReader<'_, H> {}

impl<H> Clone for TableReader<'_, H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, H: KeyHash> TableReader<'a, H> {
    /// The value of a key, and its version.
    pub fn get(self, key: &[u8]) -> Option<Entry<'a>> {
        let (value, version) = self.records.value(self.find(key)?);
        Some(Entry { value, version })
    }

    /// The version of a key; 0 when there is no such key.
    pub fn version(self, key: &[u8]) -> u64 {
        self.info(key).map_or(0, |info| info.version)
    }

    /// Version, owner and length of a pair.
    pub fn info(self, key: &[u8]) -> Option<RecordInfo> {
        let head = self.records.head(self.find(key)?);
        Some(RecordInfo { version: head.version, owner: head.owner, value_len: head.value_len })
    }

    /// The number of pairs.
    pub fn count(self) -> usize {
        self.index.count()
    }

    /// About `limit` of the keys that begin with `prefix` (0, or more than [`MAX_KEYS_PER_PAGE`]:
    /// as many as that), and the cursor of the next page. The cursor of the first page is 0.
    ///
    /// A key that exists from the first page to the last is in exactly one of them, whatever is
    /// stored and deleted meanwhile. A page may be empty although others follow: the work for one
    /// page is bounded.
    ///
    /// [`MAX_KEYS_PER_PAGE`]: crate::MAX_KEYS_PER_PAGE
    pub fn keys(self, prefix: &[u8], cursor: u64, limit: usize) -> KeyPage {
        keys::list(self.index, self.records, self.hash, prefix, cursor, limit)
    }

    pub(crate) fn find(self, key: &[u8]) -> Option<u32> {
        let hash = self.hash.hash(key);
        self.index.find(hash, |handle| self.records.key(*handle) == key).copied()
    }
}
