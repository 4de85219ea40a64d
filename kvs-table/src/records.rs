//! The layout of records.
//!
//! A record stores one pair. A small record is one slot: a header of 14 bytes, the key and the
//! value. A record is large when its value is longer than [`MAX_INLINE`] or when the record does
//! not fit into the largest slot; it is then a fixed-size entry of `large`, and its key and value
//! are extents. Both kinds are kept dense, so freed records leave no gaps behind.
//!
//! A record keeps its handle until it is replaced or freed, or until it moves because another
//! record was freed ([`Moved`]): then the owner of the index must correct the handle there.

use crate::extents::{ExtentRef, Extents, RecordExtents, swap_remove};
use crate::hash::KeyHash;
use crate::slots::{HANDLE_LIMIT, MAX_SLOT, Moved, Slots};
use crate::value::{MAX_INLINE, Value};

/// The table is full: it has 2^31 large records, or small records in all of its pages (32 GiB).
#[derive(Debug)]
pub struct Full;

/// This bit is set in the handle of a large record.
const LARGE: u32 = HANDLE_LIMIT;

/// The length of the header of a small record: version (7 bytes), owner (4), and the lengths of key
/// and value (12 bits each).
pub(crate) const HEADER_LEN: usize = 14;

/// The fields of a record besides its key and its value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) version: u64,
    /// The uid of the user who stored the value.
    pub(crate) owner: u32,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
}

impl RecordHeader {
    #[inline]
    fn write(&self, slot: &mut [u8]) {
        // Both lengths are shorter than a slot.
        let lens = self.key_len as u32 | (self.value_len as u32) << 12;
        slot[..7].copy_from_slice(&self.version.to_le_bytes()[..7]);
        slot[7..11].copy_from_slice(&self.owner.to_le_bytes());
        slot[11..HEADER_LEN].copy_from_slice(&lens.to_le_bytes()[..3]);
    }

    #[inline]
    fn read(slot: &[u8]) -> Self {
        let (mut version, mut owner, mut lens) = ([0; 8], [0; 4], [0; 4]);
        version[..7].copy_from_slice(&slot[..7]);
        owner.copy_from_slice(&slot[7..11]);
        lens[..3].copy_from_slice(&slot[11..HEADER_LEN]);
        let lens = u32::from_le_bytes(lens) as usize;
        Self {
            version: u64::from_le_bytes(version),
            owner: u32::from_le_bytes(owner),
            key_len: lens & 0xfff,
            value_len: lens >> 12,
        }
    }
}

/// A record whose key and value are extents.
#[derive(Clone, Copy)]
struct Large {
    /// The hash of the key, which is stored because the key may be long.
    hash: u64,
    version: u64,
    owner: u32,
}

/// The records of one table.
#[derive(Default)]
pub(crate) struct Records {
    slots: Slots,
    large: Vec<Large>,
    /// Those of `large`, at the same positions.
    extents: Extents,
}

/// A record to write.
pub(crate) struct NewRecord<'a> {
    pub(crate) hash: u64,
    pub(crate) version: u64,
    pub(crate) owner: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a Value<'a>,
}

impl Records {
    /// Stores a record, and returns its handle.
    pub(crate) fn store(&mut self, record: NewRecord<'_>) -> Result<u32, Full> {
        match Self::slot_len(record.key, record.value) {
            Some(len) => {
                let handle = self.slots.allocate(len).ok_or(Full)?;
                self.write_slot(handle, &record);
                Ok(handle)
            }
            None => self.store_large(record),
        }
    }

    /// Overwrites a record of the same key, for which [`fits_in_place`](Self::fits_in_place) must
    /// hold. Returns the replaced value if it was shared.
    #[inline]
    pub(crate) fn overwrite(&mut self, handle: u32, record: NewRecord<'_>) -> Option<ExtentRef> {
        if handle & LARGE == 0 {
            self.write_slot(handle, &record);
            return None;
        }
        let number = handle ^ LARGE;
        let large = &mut self.large[number as usize];
        (large.version, large.owner) = (record.version, record.owner);
        Some(self.extents.replace_value(number, extent_of(record.value))).filter(is_shared)
    }

    /// Whether the record of `key` can be overwritten with this value.
    #[inline]
    pub(crate) fn fits_in_place(&self, handle: u32, key: &[u8], value: &Value<'_>) -> bool {
        match Self::slot_len(key, value) {
            Some(len) => handle & LARGE == 0 && self.slots.fits_in_place(handle, len),
            None => handle & LARGE != 0,
        }
    }

    /// Whether [`store`](Self::store) would succeed.
    pub(crate) fn can_store(&self, key: &[u8], value: &Value<'_>) -> bool {
        match Self::slot_len(key, value) {
            Some(len) => self.slots.can_allocate(len),
            None => self.large.len() < LARGE as usize,
        }
    }

    /// Whether there is room for `count` more records, even if each needs a page of its own.
    #[inline]
    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.slots.available_pages() >= count && LARGE as usize - self.large.len() >= count
    }

    /// Frees a record. Returns its value if it is shared, and the record that got its handle.
    pub(crate) fn free(&mut self, handle: u32) -> (Option<ExtentRef>, Option<Moved>) {
        if handle & LARGE == 0 {
            return (None, self.slots.free(handle));
        }
        let number = handle ^ LARGE;
        swap_remove(&mut self.large, number);
        let RecordExtents { value, .. } = self.extents.swap_remove(number);
        // What was the last record has this number now.
        let from = LARGE | self.large.len() as u32;
        (Some(value).filter(is_shared), (from != handle).then_some(Moved { from, to: handle }))
    }

    /// The hash of the key of a record.
    #[inline]
    pub(crate) fn hash(&self, handle: u32, hash: &impl KeyHash) -> u64 {
        match handle & LARGE {
            0 => hash.hash(self.key(handle)),
            _ => self.large(handle).hash,
        }
    }

    #[inline]
    pub(crate) fn header(&self, handle: u32) -> RecordHeader {
        if handle & LARGE == 0 {
            return RecordHeader::read(self.slots.slot(handle));
        }
        let Large { version, owner, .. } = *self.large(handle);
        let RecordExtents { key, value } = self.extents.get(handle ^ LARGE);
        let (key_len, value_len) = (key.len(), value.len());
        RecordHeader { version, owner, key_len, value_len }
    }

    #[inline]
    pub(crate) fn key(&self, handle: u32) -> &[u8] {
        if handle & LARGE != 0 {
            return &self.extents.get(handle ^ LARGE).key;
        }
        let slot = self.slots.slot(handle);
        &slot[HEADER_LEN..HEADER_LEN + RecordHeader::read(slot).key_len]
    }

    /// The value of a record, and its version.
    #[inline]
    pub(crate) fn value(&self, handle: u32) -> (Value<'_>, u64) {
        if handle & LARGE != 0 {
            let RecordExtents { value, .. } = self.extents.get(handle ^ LARGE);
            return (Value::from_extent(value), self.large(handle).version);
        }
        let slot = self.slots.slot(handle);
        let header = RecordHeader::read(slot);
        let start = HEADER_LEN + header.key_len;
        (Value::Inline(&slot[start..start + header.value_len]), header.version)
    }

    /// The length of the slot that this record needs, or `None` for a large record.
    #[inline]
    fn slot_len(key: &[u8], value: &Value<'_>) -> Option<usize> {
        let len = HEADER_LEN + key.len() + value.len();
        (value.len() <= MAX_INLINE && len <= MAX_SLOT).then_some(len)
    }

    #[inline]
    fn write_slot(&mut self, handle: u32, record: &NewRecord<'_>) {
        let NewRecord { version, owner, key, value, .. } = *record;
        let value = value.as_bytes();
        let slot = self.slots.slot_mut(handle);
        RecordHeader { version, owner, key_len: key.len(), value_len: value.len() }.write(slot);
        let (own, rest) = slot[HEADER_LEN..].split_at_mut(key.len());
        own.copy_from_slice(key);
        rest[..value.len()].copy_from_slice(value);
    }

    fn store_large(&mut self, record: NewRecord<'_>) -> Result<u32, Full> {
        if self.large.len() >= LARGE as usize {
            return Err(Full);
        }
        let NewRecord { hash, version, owner, key, value } = record;
        let handle = LARGE | self.large.len() as u32;
        self.large.push(Large { hash, version, owner });
        self.extents.push(RecordExtents { key: key.into(), value: extent_of(value) });
        Ok(handle)
    }

    fn large(&self, handle: u32) -> &Large {
        &self.large[(handle ^ LARGE) as usize]
    }
}

fn extent_of(value: &Value<'_>) -> ExtentRef {
    match value {
        Value::Inline(bytes) => (*bytes).into(),
        Value::Shared(extent) => extent.clone(),
    }
}

/// Whether readers get the value by reference. The short value of a long key is copied.
fn is_shared(value: &ExtentRef) -> bool {
    value.len() > MAX_INLINE
}

#[cfg(test)]
impl Records {
    /// The capacity of all pages of slots, in bytes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// The length of the slot of a record, or 0 for a large record.
    pub(crate) fn slot_len_of(&self, handle: u32) -> usize {
        if handle & LARGE == 0 { self.slots.slot(handle).len() } else { 0 }
    }

    /// The number of large records for which there is memory.
    pub(crate) fn large_capacity(&self) -> usize {
        self.large.capacity().max(self.extents.capacity())
    }

    /// Uses up all page numbers.
    pub(crate) fn exhaust(&mut self) {
        self.slots.exhaust();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_encodes_the_maximum_of_each_field() {
        let header = RecordHeader {
            version: (1 << 56) - 1,
            owner: u32::MAX,
            key_len: 2034,
            value_len: 0xfff,
        };
        let mut slot = [0; HEADER_LEN];
        header.write(&mut slot);
        assert_eq!(RecordHeader::read(&slot), header);
    }
}
