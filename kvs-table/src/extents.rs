//! The bytes of large records: long keys, and values of more than [`MAX_INLINE`](crate::MAX_INLINE)
//! bytes.
//!
//! A record names an extent by a handle of four bytes. The bytes are reference-counted, so a reader
//! takes a reference under the group's lock and copies the bytes afterwards, and a writer releases
//! megabytes after the lock. [`ExtentRef`] is the only reference count in a table. Shared memory
//! will replace it: an extent is then a range of the mapped region.

use std::fmt;
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

/// The handle of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtentId(u32);

/// The extents of one table.
#[derive(Default)]
pub(crate) struct Extents {
    extents: Vec<Option<ExtentRef>>,
    free_list: Vec<u32>,
}

impl Extents {
    /// Stores an extent. The caller keeps the number of extents below 2^32.
    pub(crate) fn store(&mut self, bytes: ExtentRef) -> ExtentId {
        match self.free_list.pop() {
            Some(id) => {
                self.extents[id as usize] = Some(bytes);
                ExtentId(id)
            }
            None => {
                self.extents.push(Some(bytes));
                ExtentId((self.extents.len() - 1) as u32)
            }
        }
    }

    /// The bytes of an extent in use.
    pub(crate) fn get(&self, id: ExtentId) -> &ExtentRef {
        self.extents[id.0 as usize].as_ref().expect("a record names extents in use only")
    }

    /// Replaces the bytes of an extent in use, and returns the previous ones.
    pub(crate) fn replace(&mut self, id: ExtentId, bytes: ExtentRef) -> ExtentRef {
        let previous = self.extents[id.0 as usize].replace(bytes);
        previous.expect("a record names extents in use only")
    }

    /// Frees an extent, and returns its bytes.
    pub(crate) fn free(&mut self, id: ExtentId) -> ExtentRef {
        let freed = self.extents[id.0 as usize].take();
        self.free_list.push(id.0);
        if self.free_list.len() == self.extents.len() {
            (self.extents, self.free_list) = (Vec::new(), Vec::new());
        }
        freed.expect("a record names extents in use only")
    }
}
