//! Fields inside the body of a frame.

/// The length of an encoded length, in bytes.
pub(super) const LENGTH_LEN: usize = size_of::<u32>();

/// The length of `bytes` as frames carry it. Everything that is encoded is far below the limit of
/// `u32`.
pub(super) fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Removes an integer of four bytes from the front.
pub(super) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (four, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*four))
}

/// Removes `len` bytes from the front.
pub(super) fn take<'a>(bytes: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(taken)
}
