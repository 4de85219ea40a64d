//! The read access to a table.

use crate::hash::KeyHash;
use crate::hash_index::HashIndex;
use crate::keys::{self, KeyPage};
use crate::records::Records;
use crate::value::Value;

/// A value and its version, as a lookup returns them.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The value.
    pub value: Value<'a>,
    /// The version that the value was stored with.
    pub version: u64,
}

/// The metadata of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    /// The version that the value was stored with.
    pub version: u64,
    /// The uid of the user who stored the value.
    pub owner: u32,
    /// The length of the value.
    pub value_len: usize,
}

/// Read access to one table.
pub struct TableReader<'a, H> {
    pub(crate) index: &'a HashIndex<u32>,
    pub(crate) records: &'a Records,
    pub(crate) hash: &'a H,
}

// Not derived, because the derived implementation would require `H: Copy`.
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

    /// The version of a key, or 0 if the key does not exist.
    pub fn version(self, key: &[u8]) -> u64 {
        self.info(key).map_or(0, |info| info.version)
    }

    /// The metadata of a pair.
    pub fn info(self, key: &[u8]) -> Option<RecordInfo> {
        let header = self.records.header(self.find(key)?);
        Some(RecordInfo {
            version: header.version,
            owner: header.owner,
            value_len: header.value_len,
        })
    }

    /// The number of pairs.
    pub fn count(self) -> usize {
        self.index.count()
    }

    /// Lists about `limit` keys that begin with `prefix`, and the cursor of the next page. The
    /// first page has cursor 0. A `limit` of 0 means [`MAX_KEYS_PER_PAGE`], which is also the
    /// maximum.
    ///
    /// A key that exists while all pages are listed is in exactly one of them, whatever is stored
    /// and deleted between the calls. Because the work for one page is bounded, a page may be empty
    /// although others follow.
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
