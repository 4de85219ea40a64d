//! The bytes of large records: long keys, and values of more than [`MAX_INLINE`](crate::MAX_INLINE)
//! bytes.
//!
//! Extents have the numbers of their records. The bytes are reference-counted, so a reader takes a
//! reference under the group's lock and copies the bytes afterwards, and a writer releases
//! megabytes after the lock. [`ExtentRef`] is the only reference count in a table. Shared memory
//! will replace it: an extent is then a range of the mapped region.

use std::fmt;
use std::mem;
use std::ops::Deref;
use std::sync::Arc;

/// A counted reference to the bytes of an extent. A clone shares them.
#[derive(Clone, PartialEq, Eq)]
pub struct ExtentRef(Arc<[u8]>);

impl ExtentRef {
    /// Whether both are references to the same extent.
    pub fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl From<&[u8]> for ExtentRef {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl Deref for ExtentRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for ExtentRef {
    /// Without the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtentRef").field("len", &self.0.len()).finish()
    }
}

/// The two extents of a large record.
pub(crate) struct RecordExtents {
    pub(crate) key: ExtentRef,
    pub(crate) value: ExtentRef,
}

/// The extents of all large records of one table, by the number of their record.
#[derive(Default)]
pub(crate) struct Extents(Vec<RecordExtents>);

impl Extents {
    /// Adds the extents of the record with the next number.
    pub(crate) fn push(&mut self, extents: RecordExtents) {
        self.0.push(extents);
    }

    /// The extents of a record.
    pub(crate) fn get(&self, number: u32) -> &RecordExtents {
        &self.0[number as usize]
    }

    /// Replaces the value of a record, and returns the previous one.
    pub(crate) fn replace_value(&mut self, number: u32, value: ExtentRef) -> ExtentRef {
        mem::replace(&mut self.0[number as usize].value, value)
    }

    /// Removes the extents of a record. The last record gets its number.
    pub(crate) fn swap_remove(&mut self, number: u32) -> RecordExtents {
        swap_remove(&mut self.0, number)
    }

    /// The number of records for which there is memory.
    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// Removes an entry, and moves the last one there. The memory of `entries` is at most four times
/// what they need, at a constant cost per removal.
pub(crate) fn swap_remove<T>(entries: &mut Vec<T>, number: u32) -> T {
    let removed = entries.swap_remove(number as usize);
    if entries.len() <= entries.capacity() / 4 {
        entries.shrink_to(entries.len() * 2);
    }
    removed
}
