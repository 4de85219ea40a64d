//! Events that a server sends on the callback channel.

use super::header::{FrameHeader, HEADER_LEN, NO_VERSION, Version, put_frame};
use super::limits::MAX_KEY;
use super::malformed::Malformed;

const CHANGED: u8 = 192;
const CLOSE: u8 = 193;

const BY_KEY: u8 = 1;
const BY_PREFIX: u8 = 2;

/// The maximum length of a frame on this channel, in bytes.
pub const MAX_LEN: usize = HEADER_LEN + MAX_KEY;

/// The subscriptions that a changed key matches: at least one of the two kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MatchedBy {
    /// A subscription to the key.
    pub key: bool,
    /// Subscriptions to one or more prefixes of the key.
    pub prefix: bool,
}

impl MatchedBy {
    /// The subscriptions of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { key: self.key || other.key, prefix: self.prefix || other.prefix }
    }
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerEvent<'a> {
    /// A key has changed.
    Changed {
        /// The key.
        key: &'a [u8],
        /// The version of the pair, or [`NO_VERSION`]: the key was deleted.
        version: Version,
        /// The subscriptions that the key matches.
        matched_by: MatchedBy,
    },
    /// The server closes the connection.
    Close,
}

impl<'a> ServerEvent<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// [`Malformed`]: the frame is not an event.
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, Malformed> {
        if header.number != 0 {
            return Err(Malformed::Header("a request number in an event"));
        }
        match header.kind {
            CHANGED => {
                header.check_flags(BY_KEY | BY_PREFIX)?;
                let (key, rest) = header.split(body);
                if key.is_empty() || key.len() > MAX_KEY || !rest.is_empty() {
                    return Err(header.bad_body("not exactly one key of valid length"));
                }
                let matched_by = MatchedBy {
                    key: header.flags & BY_KEY != 0,
                    prefix: header.flags & BY_PREFIX != 0,
                };
                if matched_by == MatchedBy::default() {
                    return Err(header.bad_body("a change without a matching subscription"));
                }
                Ok(Self::Changed { key, version: header.version, matched_by })
            }
            CLOSE => {
                header.check_flags(0)?;
                header.check_no_version()?;
                if !body.is_empty() {
                    return Err(header.bad_body("a body"));
                }
                Ok(Self::Close)
            }
            kind => Err(Malformed::Kind(kind)),
        }
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let header = |kind, flags, version| FrameHeader {
            body_len: 0,
            number: 0,
            kind,
            flags,
            key_len: 0,
            version,
        };
        match *self {
            Self::Changed { key, version, matched_by } => {
                let by_key = if matched_by.key { BY_KEY } else { 0 };
                let by_prefix = if matched_by.prefix { BY_PREFIX } else { 0 };
                put_frame(header(CHANGED, by_key | by_prefix, version), key, &[], out);
            }
            Self::Close => put_frame(header(CLOSE, 0, NO_VERSION), &[], &[], out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(frame: &[u8]) -> Result<ServerEvent<'_>, Malformed> {
        let (header, body) = frame.split_first_chunk().unwrap();
        ServerEvent::decode(&FrameHeader::decode(header)?, body)
    }

    proptest! {
        #[test]
        fn events_round_trip(
            key in prop::collection::vec(any::<u8>(), 1..60), version: u64, by in 1u8..4,
        ) {
            let matched_by = MatchedBy { key: by & 1 != 0, prefix: by & 2 != 0 };
            let changed = ServerEvent::Changed { key: &key, version, matched_by };
            for event in [changed, ServerEvent::Close] {
                let mut frame = Vec::new();
                event.encode(&mut frame);
                prop_assert_eq!(decode(&frame), Ok(event));
            }
        }
    }

    #[test]
    fn malformed_events_are_detected() {
        let matched_by = MatchedBy { key: true, prefix: false };
        let mut frame = Vec::new();
        ServerEvent::Changed { key: b"k", version: 1, matched_by }.encode(&mut frame);
        for (at, byte) in [(4, 1), (8, 128), (9, 0), (9, 4), (10, 1), (12, 0)] {
            let mut frame = frame.clone();
            frame[at] = byte;
            assert!(decode(&frame).is_err(), "byte {at} = {byte}");
        }
    }
}
