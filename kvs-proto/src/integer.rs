//! The integer of the original protocols.

/// An integer on the wire of [`v1`](crate::v1) and [`link`](crate::link): four bytes, signed, in
/// the byte order of the host.
pub type Int = i32;

/// The length of an [`Int`] on the wire, in bytes.
pub const INT_LEN: usize = size_of::<Int>();
