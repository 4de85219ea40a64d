//! The keys of a table, listed in pages.
//!
//! Keys are listed in the order of their hashes. A page ends at a hash and the next page begins
//! after it, so a listing stays correct whatever changes in the table between two pages.

use crate::hash::KeyHash;
use crate::hash_index::HashIndex;
use crate::records::Records;

/// The maximum number of keys in a page. Only keys with the same hash may exceed it.
pub const MAX_KEYS_PER_PAGE: usize = 10_000;

/// A page ends when its keys have this many bytes, when this many bytes were compared with the
/// prefix, or when this many records were visited.
pub(crate) const MAX_PAGE_BYTES: usize = 256 * 1024;
const MAX_BYTES_COMPARED: usize = 1 << 20;
const MAX_RECORDS_VISITED: usize = if cfg!(test) { 60 } else { 16_384 };

/// One page of a listing of keys.
#[derive(Debug, Default)]
pub struct KeyPage {
    /// The concatenated keys.
    bytes: Vec<u8>,
    /// The end of each key in `bytes`.
    ends: Vec<usize>,
    /// The cursor of the next page, or 0 if this is the last page.
    pub next: u64,
}

impl KeyPage {
    /// The keys.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |end| &self.bytes[std::mem::replace(&mut start, *end)..*end])
    }

    /// The total length of the keys in bytes.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn push(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ends.push(self.bytes.len());
    }
}

/// Implements [`TableReader::keys`](crate::TableReader::keys).
pub(crate) fn list(
    index: &HashIndex<u32>,
    records: &Records,
    hash: &impl KeyHash,
    prefix: &[u8],
    cursor: u64,
    limit: usize,
) -> KeyPage {
    let limit = if limit == 0 { MAX_KEYS_PER_PAGE } else { limit.min(MAX_KEYS_PER_PAGE) };
    let (mut page, mut visited, mut compared) = (KeyPage::default(), 0, 0);
    let mut next = Some(cursor);
    'buckets: while let Some(start) = next
        && page.ends.len() < limit
        && page.bytes.len() < MAX_PAGE_BYTES
        && visited < MAX_RECORDS_VISITED
    {
        let (handles, after) = index.bucket(start);
        visited += handles.len();
        next = after;
        let mut found: Vec<(u64, u32)> = handles
            .map(|handle| (records.hash(*handle, hash), *handle))
            .filter(|(hash, _)| *hash >= start)
            .collect();
        found.sort_unstable_by_key(|(hash, _)| *hash);
        let mut last = None;
        for (hash, handle) in found {
            let is_full = page.ends.len() >= limit
                || page.bytes.len() >= MAX_PAGE_BYTES
                || compared >= MAX_BYTES_COMPARED;
            // Keys of the same hash stay together: the next page begins with another hash.
            if is_full && last.is_none_or(|last| last < hash) {
                next = Some(hash);
                break 'buckets;
            }
            let key = records.key(handle);
            compared += prefix.len().min(key.len());
            if key.starts_with(prefix) {
                page.push(key);
            }
            last = Some(hash);
        }
    }
    // No page but the first begins with the lowest hash, so 0 is free for "the last page".
    page.next = next.unwrap_or(0);
    page
}
