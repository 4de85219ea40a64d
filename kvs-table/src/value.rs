//! Values as a table takes and returns them: short ones inline, long ones by reference.

use crate::extents::ExtentRef;

/// The longest value that is stored inline, in bytes. Longer values are stored in extents, whose
/// bytes are shared instead of copied.
pub const MAX_INLINE: usize = 1024;

/// The bytes of a value. Those of a long one are shared.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// A value of at most [`MAX_INLINE`] bytes.
    Inline(&'a [u8]),
    /// A longer value, as a reference to its extent.
    Shared(ExtentRef),
}

impl<'a> Value<'a> {
    /// Makes a value of `bytes`. A value longer than [`MAX_INLINE`] is copied into an extent, so
    /// call this before the group is locked.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        if bytes.len() > MAX_INLINE { Self::Shared(bytes.into()) } else { Self::Inline(bytes) }
    }

    /// Makes a value of the bytes of `extent`. A long value shares the extent.
    pub fn from_extent(extent: &'a ExtentRef) -> Self {
        if extent.len() > MAX_INLINE { Self::Shared(extent.clone()) } else { Self::Inline(extent) }
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// The number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
