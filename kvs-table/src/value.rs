//! A value on its way into a table, or out of it.

use crate::extents::ExtentRef;

/// Longer values are kept in extents, whose bytes are shared instead of copied.
pub const MAX_INLINE: usize = 1024;

/// The bytes of a value. Those of a long one are shared.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    /// At most [`MAX_INLINE`] bytes.
    Inline(&'a [u8]),
    /// More.
    Shared(ExtentRef),
}

impl<'a> Value<'a> {
    /// A value with these bytes. More than [`MAX_INLINE`] are copied into an extent: call it before
    /// the group is locked.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        if bytes.len() > MAX_INLINE { Self::Shared(bytes.into()) } else { Self::Inline(bytes) }
    }

    /// A value with the bytes of an extent, which is shared if it is long.
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
