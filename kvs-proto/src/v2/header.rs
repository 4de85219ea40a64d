//! The header of a frame.

use super::fields::length;
use super::malformed::Malformed;

/// The length of a [`FrameHeader`] on the wire, in bytes.
pub const HEADER_LEN: usize = 24;

/// The version of a pair: each put of a group gets the next one, from 1. [`NO_VERSION`] is never
/// given.
pub type Version = u64;

/// The version of a key that does not exist, and of frames without a version.
pub const NO_VERSION: Version = 0;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The length of the body, which follows the header, in bytes.
    pub body_len: u32,
    /// The number of the request. A response repeats it.
    pub number: u32,
    /// The kind of the frame.
    pub kind: u8,
    /// The flags of this kind.
    pub flags: u8,
    /// The length of the key at the front of the body, in bytes.
    pub key_len: u32,
    /// A version, or another integer that this kind of frame carries.
    pub version: u64,
}

impl FrameHeader {
    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0..4].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8] = self.kind;
        bytes[9] = self.flags;
        bytes[12..16].copy_from_slice(&self.key_len.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.version.to_le_bytes());
        bytes
    }

    /// Decodes and checks a header.
    ///
    /// # Errors
    /// [`Malformed::Header`]: reserved bytes are not 0, or the key is longer than the body.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, Malformed> {
        let header = Self {
            body_len: u32_at(bytes, 0),
            number: u32_at(bytes, 4),
            kind: bytes[8],
            flags: bytes[9],
            key_len: u32_at(bytes, 12),
            version: u64::from(u32_at(bytes, 16)) | u64::from(u32_at(bytes, 20)) << 32,
        };
        if bytes[10..12] != [0, 0] {
            return Err(Malformed::Header("reserved bytes that are not 0"));
        }
        if header.key_len > header.body_len {
            return Err(Malformed::Header("a key that is longer than the body"));
        }
        Ok(header)
    }

    /// Replaces the number of the frame at the front of `frames`, and returns the length of that
    /// frame.
    pub fn renumber(frames: &mut [u8], number: u32) -> usize {
        let Some(header) = frames.first_chunk_mut::<HEADER_LEN>() else { return frames.len() };
        header[4..8].copy_from_slice(&number.to_le_bytes());
        HEADER_LEN + u32_at(header, 0) as usize
    }

    /// Splits `body`, which has the length that the header says, into key and rest.
    pub(super) fn split<'a>(&self, body: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        body.split_at_checked(self.key_len as usize).unwrap_or((body, &[]))
    }

    /// The error for a body that this kind of frame cannot have.
    pub(super) fn bad_body(&self, why: &'static str) -> Malformed {
        Malformed::Body { kind: self.kind, why }
    }

    pub(super) fn check_flags(&self, known: u8) -> Result<(), Malformed> {
        if self.flags & !known == 0 { Ok(()) } else { Err(Malformed::Header("unknown flags")) }
    }

    pub(super) fn check_no_version(&self) -> Result<(), Malformed> {
        match self.version {
            NO_VERSION => Ok(()),
            _ => Err(Malformed::Header("a version in a frame without one")),
        }
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Appends a frame whose body is `key` and `rest`. Sets the lengths of the header.
pub(super) fn put_frame(mut header: FrameHeader, key: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    header.key_len = length(key);
    header.body_len = header.key_len.saturating_add(length(rest));
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(key);
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_round_trip(
            body_len: u32, number: u32, kind: u8, flags: u8, key_len: u32, version: u64,
        ) {
            let header = FrameHeader { body_len, number, kind, flags, key_len, version };
            let decoded = FrameHeader::decode(&header.encode());
            prop_assert_eq!(decoded.is_ok(), key_len <= body_len);
            if let Ok(decoded) = decoded {
                prop_assert_eq!(decoded, header);
            }
        }
    }
}
