//! The framed session between an application and its local server (`docs/PROTOCOL.md` §7).
//!
//! Both agree on it in the login of [`crate::v1`], by an [offer](OFFER) behind the group's name. After
//! the verdict everything on both channels is a *frame*: a [`FrameHeader`] of fixed length, and a body. What a frame
//! means is in [`request`] (application → server), [`response`] (server → application, main channel) and
//! [`event`] (server → application, callback channel), each with both roles: what one encodes the
//! other decodes. [`FrameDecoder`] finds the frames in a stream, however it is cut.
//!
//! Nothing here allocates by a length that a peer has announced: what is kept of an incomplete frame grows with
//! the bytes that have come.

pub mod event;
pub mod request;
pub mod response;

mod decoder;

pub use decoder::{Decoded, FrameDecoder};

/// What follows the group's name, behind a NUL, when the application can speak framed sessions.
pub const OFFER: &[u8] = b"kvs2";

/// How each offer begins, of this version of the protocol and of later ones.
pub const OFFER_PREFIX: &[u8] = b"kvs";

/// In place of "yes, there is such a group": yes, and the session will be a framed one.
pub const YES_V2: crate::Int = 2;

/// The bytes of a name and what follows it.
pub const MAX_NAME_AND_OFFER: usize = 100;

/// The longest key in bytes.
pub const MAX_KEY: usize = 65_536;

/// The longest value in bytes that any server takes.
pub const MAX_VALUE: usize = 64 << 20;

/// The longest value in bytes that a server takes unless told otherwise.
pub const DEFAULT_MAX_VALUE: usize = 16 << 20;

/// The body of a message of several puts may be so much longer than the longest value.
pub const PUT_MANY_OVERHEAD: usize = MAX_KEY + 64;

/// The bytes of a [`FrameHeader`].
pub const HEADER_LEN: usize = 24;

/// The most keys of one page.
pub const MAX_PAGE: u32 = 10_000;

/// The number of a put among all of its group, from 1 on. [`NO_VERSION`] is that of no put.
pub type Version = u64;

/// "There is no such key", and the version of frames that name none.
pub const NO_VERSION: Version = 0;

/// What every frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// How many bytes follow.
    pub body_len: u32,
    /// Of the request; an answer repeats it.
    pub number: u32,
    /// What it is.
    pub kind: u8,
    /// More about it.
    pub flags: u8,
    /// How many bytes of the body are the key.
    pub key_len: u32,
    /// A version, or something else of that size.
    pub version: u64,
}

/// The peer broke the protocol. Close the connection; nothing of this frame counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A header that says what cannot be.
    #[error("bad header of a frame: {0}")]
    Header(&'static str),
    /// A body that is not what its kind needs.
    #[error("bad body of a frame of kind {kind}: {why}")]
    Body {
        /// The kind.
        kind: u8,
        /// What is wrong.
        why: &'static str,
    },
    /// A kind that a server does not send.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// An answer to nothing, or one that its request cannot have.
    #[error("an answer to request {0} that cannot be")]
    Unexpected(u32),
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

    /// Reads and checks it.
    ///
    /// # Errors
    /// [`Malformed::Header`].
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

    /// Gives the frame at the front of `frames` another number, and returns how long it is.
    pub fn renumber(frames: &mut [u8], number: u32) -> usize {
        let Some(header) = frames.first_chunk_mut::<HEADER_LEN>() else { return frames.len() };
        header[4..8].copy_from_slice(&number.to_le_bytes());
        HEADER_LEN + u32_at(header, 0) as usize
    }

    /// Key and rest of a body of this frame. `body` has the length that the header says.
    fn split<'a>(&self, body: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        body.split_at_checked(self.key_len as usize).unwrap_or((body, &[]))
    }

    fn bad(&self, why: &'static str) -> Malformed {
        Malformed::Body { kind: self.kind, why }
    }

    fn check_flags(&self, known: u8) -> Result<(), Malformed> {
        if self.flags & !known == 0 { Ok(()) } else { Err(Malformed::Header("unknown flags")) }
    }

    fn check_no_version(&self) -> Result<(), Malformed> {
        match self.version {
            NO_VERSION => Ok(()),
            _ => Err(Malformed::Header("a version where none belongs")),
        }
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(four)
}

/// Takes a length of four bytes off the front.
fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (four, rest) = bytes.split_first_chunk::<4>()?;
    *bytes = rest;
    Some(u32::from_le_bytes(*four))
}

/// Takes so many bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], len: u32) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// A length as frames carry it. Everything that is framed is far shorter than what does not fit.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Appends a frame whose body is key and rest.
fn put_frame(mut header: FrameHeader, key: &[u8], rest: &[u8], out: &mut Vec<u8>) {
    header.key_len = length(key);
    header.body_len = header.key_len.saturating_add(length(rest));
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(key);
    out.extend_from_slice(rest);
}
