//! How a pair is laid out, and where.
//!
//! A small record is one slot: a head of 14 bytes, the key, the value, and nothing else. A record
//! is large when its value has more than [`MAX_INLINE`] bytes or when it does
//! not fit into the largest slot: then it is a row of numbers, and its key and value are extents.
//!
//! A record keeps its handle until it is replaced or freed, or until the slots are compacted
//! because another record was freed ([`Moved`]): then the owner of the index corrects the handle
//! there.

use crate::extents::{ExtentId, ExtentRef, Extents};
use crate::hash::KeyHash;
use crate::slots::{HANDLE_LIMIT, MAX_SLOT, Moved, Slots};
use crate::value::{MAX_INLINE, Value};

/// The table has as many records as it can number, or 32 GiB of small ones.
#[derive(Debug)]
pub struct Full;

/// The bit of the handle of a large record.
const LARGE: u32 = HANDLE_LIMIT;

/// The head of a small record: version (7 bytes), owner (4), the lengths of key and value (12 bits
/// each).
pub(crate) const HEAD: usize = 14;

/// What a record contains besides its key and its value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) version: u64,
    /// The uid of the user who stored the value.
    pub(crate) owner: u32,
    pub(crate) key_len: usize,
    pub(crate) value_len: usize,
}

impl Head {
    #[inline]
    fn write(&self, slot: &mut [u8]) {
        // Both lengths are shorter than a slot.
        let lens = self.key_len as u32 | (self.value_len as u32) << 12;
        slot[..7].copy_from_slice(&self.version.to_le_bytes()[..7]);
        slot[7..11].copy_from_slice(&self.owner.to_le_bytes());
        slot[11..HEAD].copy_from_slice(&lens.to_le_bytes()[..3]);
    }

    #[inline]
    fn read(slot: &[u8]) -> Self {
        let (mut version, mut owner, mut lens) = ([0; 8], [0; 4], [0; 4]);
        version[..7].copy_from_slice(&slot[..7]);
        owner.copy_from_slice(&slot[7..11]);
        lens[..3].copy_from_slice(&slot[11..HEAD]);
        let lens = u32::from_le_bytes(lens) as usize;
        Self {
            version: u64::from_le_bytes(version),
            owner: u32::from_le_bytes(owner),
            key_len: lens & 0xfff,
            value_len: lens >> 12,
        }
    }
}

/// A record that is not a slot.
#[derive(Clone, Copy)]
struct Large {
    /// The hash of the key, which may be long.
    hash: u64,
    version: u64,
    owner: u32,
    key: ExtentId,
    value: ExtentId,
}

/// The records of one table.
#[derive(Default)]
pub(crate) struct Records {
    slots: Slots,
    large: Vec<Large>,
    /// The numbers of the large records that are not in use.
    free_list: Vec<u32>,
    extents: Extents,
}

/// A record that is to be written.
pub(crate) struct NewRecord<'a> {
    pub(crate) hash: u64,
    pub(crate) version: u64,
    pub(crate) owner: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: &'a Value<'a>,
}

impl Records {
    /// Stores a record; returns its handle.
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

    /// Replaces a record of the same key in place; the caller has asked
    /// [`fits_in_place`](Self::fits_in_place). Returns the value that was replaced if it was
    /// shared.
    #[inline]
    pub(crate) fn overwrite(&mut self, handle: u32, record: NewRecord<'_>) -> Option<ExtentRef> {
        if handle & LARGE == 0 {
            self.write_slot(handle, &record);
            return None;
        }
        let large = &mut self.large[(handle ^ LARGE) as usize];
        (large.version, large.owner) = (record.version, record.owner);
        Some(self.extents.replace(large.value, extent_of(record.value))).filter(is_shared)
    }

    /// Whether this value can be written where the record of the key is.
    #[inline]
    pub(crate) fn fits_in_place(&self, handle: u32, key: &[u8], value: &Value<'_>) -> bool {
        match Self::slot_len(key, value) {
            Some(len) => handle & LARGE == 0 && self.slots.fits_in_place(handle, len),
            None => handle & LARGE != 0,
        }
    }

    /// Whether [`store`](Self::store) would find room for a record.
    pub(crate) fn can_store(&self, key: &[u8], value: &Value<'_>) -> bool {
        match Self::slot_len(key, value) {
            Some(len) => self.slots.can_allocate(len),
            None => !self.free_list.is_empty() || self.large.len() < LARGE as usize,
        }
    }

    /// Whether there is room for `count` more records, even if each needs a page of its own.
    #[inline]
    pub(crate) fn has_room(&self, count: usize) -> bool {
        self.slots.available_pages() >= count && LARGE as usize - self.large.len() >= count
    }

    /// Frees a record. Returns its value if it is shared, and which record has the handle now.
    pub(crate) fn free(&mut self, handle: u32) -> (Option<ExtentRef>, Option<Moved>) {
        if handle & LARGE == 0 {
            return (None, self.slots.free(handle));
        }
        let number = handle ^ LARGE;
        let Large { key, value, .. } = self.large[number as usize];
        drop(self.extents.free(key));
        let value = self.extents.free(value);
        self.free_list.push(number);
        if self.free_list.len() == self.large.len() {
            (self.large, self.free_list) = (Vec::new(), Vec::new());
        }
        (Some(value).filter(is_shared), None)
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
    pub(crate) fn head(&self, handle: u32) -> Head {
        if handle & LARGE == 0 {
            return Head::read(self.slots.slot(handle));
        }
        let Large { version, owner, key, value, .. } = *self.large(handle);
        let (key_len, value_len) = (self.extents.get(key).len(), self.extents.get(value).len());
        Head { version, owner, key_len, value_len }
    }

    #[inline]
    pub(crate) fn key(&self, handle: u32) -> &[u8] {
        if handle & LARGE != 0 {
            return self.extents.get(self.large(handle).key);
        }
        let slot = self.slots.slot(handle);
        &slot[HEAD..HEAD + Head::read(slot).key_len]
    }

    /// The value of a record, and its version.
    #[inline]
    pub(crate) fn value(&self, handle: u32) -> (Value<'_>, u64) {
        if handle & LARGE != 0 {
            let large = self.large(handle);
            let extent = self.extents.get(large.value);
            return (Value::from_extent(extent), large.version);
        }
        let slot = self.slots.slot(handle);
        let head = Head::read(slot);
        let start = HEAD + head.key_len;
        (Value::Inline(&slot[start..start + head.value_len]), head.version)
    }

    /// How long a slot must be for this record; `None`: the record is a large one.
    #[inline]
    fn slot_len(key: &[u8], value: &Value<'_>) -> Option<usize> {
        let len = HEAD + key.len() + value.len();
        (value.len() <= MAX_INLINE && len <= MAX_SLOT).then_some(len)
    }

    #[inline]
    fn write_slot(&mut self, handle: u32, record: &NewRecord<'_>) {
        let NewRecord { version, owner, key, value, .. } = *record;
        let value = value.as_bytes();
        let slot = self.slots.slot_mut(handle);
        Head { version, owner, key_len: key.len(), value_len: value.len() }.write(slot);
        let (own, rest) = slot[HEAD..].split_at_mut(key.len());
        own.copy_from_slice(key);
        rest[..value.len()].copy_from_slice(value);
    }

    fn store_large(&mut self, record: NewRecord<'_>) -> Result<u32, Full> {
        if self.free_list.is_empty() && self.large.len() >= LARGE as usize {
            return Err(Full);
        }
        let NewRecord { hash, version, owner, key, value } = record;
        // Two for each large record: a handle of 32 bits names them all.
        let key = self.extents.store(key.into());
        let value = self.extents.store(extent_of(value));
        let large = Large { hash, version, owner, key, value };
        let number = match self.free_list.pop() {
            Some(number) => {
                self.large[number as usize] = large;
                number
            }
            None => {
                self.large.push(large);
                (self.large.len() - 1) as u32
            }
        };
        Ok(LARGE | number)
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

/// Whether a value is handed out by reference. A short one of a long key is copied.
fn is_shared(value: &ExtentRef) -> bool {
    value.len() > MAX_INLINE
}

#[cfg(test)]
impl Records {
    /// The capacity of all pages of slots, in bytes.
    pub(crate) fn slot_bytes(&self) -> usize {
        self.slots.bytes()
    }

    /// The length of the slot of a record; 0 for a large one.
    pub(crate) fn slot_len_of(&self, handle: u32) -> usize {
        if handle & LARGE == 0 { self.slots.slot(handle).len() } else { 0 }
    }

    /// Leaves no page to be had.
    pub(crate) fn exhaust(&mut self) {
        self.slots.exhaust();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_has_room_for_the_largest_of_everything() {
        let head =
            Head { version: (1 << 56) - 1, owner: u32::MAX, key_len: 2034, value_len: 0xfff };
        let mut slot = [0; HEAD];
        head.write(&mut slot);
        assert_eq!(Head::read(&slot), head);
    }
}
