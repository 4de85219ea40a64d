//! Encoding and decoding of requests.

use super::entries::{Entries, next_entry};
use super::kind::{CLOSE, DELETE, GET, KEYS, PUT, PUT_MANY, UNWATCH, WATCH};
use super::limits::FrameLimits;
use super::message::{Request, WatchTarget};
use crate::v2::fields::{LENGTH_LEN, take_u32};
use crate::v2::header::{FrameHeader, HEADER_LEN, NO_VERSION, Version, put_frame};
use crate::v2::limits::{MAX_ENTRIES, MAX_KEY};
use crate::v2::malformed::Malformed;
use crate::v2::response::Status;

const IF_VERSION: u8 = 1;
const PREFIX: u8 = 1;

impl<'a> Request<'a> {
    /// Decodes a frame that has passed [`FrameLimits::check`].
    ///
    /// # Errors
    /// Outer: [`Malformed`], the frame is not a request. Inner: the request is well-formed, and the
    /// server refuses it with this status.
    pub fn decode(
        header: &FrameHeader,
        body: &'a [u8],
        limits: FrameLimits,
    ) -> Result<Result<Self, Status>, Malformed> {
        let (key, rest) = header.split(body);
        let keyed = || match key {
            [] => Err(header.bad_body("an empty key")),
            key => Ok(key),
        };
        let nothing_else = || match rest {
            [] => Ok(()),
            _ => Err(header.bad_body("bytes after the key")),
        };
        let expected = || match header.flags & IF_VERSION {
            0 => header.check_no_version().map(|()| None),
            _ => Ok(Some(header.version)),
        };
        let watched = || -> Result<WatchTarget<'a>, Malformed> {
            header.check_flags(PREFIX)?;
            header.check_no_version()?;
            nothing_else()?;
            match header.flags & PREFIX {
                0 => Ok(WatchTarget::Key(keyed()?)),
                _ => Ok(WatchTarget::Prefix(key)),
            }
        };
        Ok(Ok(match header.kind {
            GET => {
                header.check_flags(0)?;
                header.check_no_version()?;
                nothing_else()?;
                Self::Get(keyed()?)
            }
            PUT => {
                header.check_flags(IF_VERSION)?;
                Self::Put { key: keyed()?, value: rest, expected: expected()? }
            }
            DELETE => {
                header.check_flags(IF_VERSION)?;
                nothing_else()?;
                Self::Delete { key: keyed()?, expected: expected()? }
            }
            PUT_MANY => {
                header.check_flags(0)?;
                header.check_no_version()?;
                if !key.is_empty() {
                    return Err(header.bad_body("a key outside of the entries"));
                }
                match check_entries(header, rest, limits)? {
                    Ok(()) => Self::PutMany(Entries(rest)),
                    Err(status) => return Ok(Err(status)),
                }
            }
            KEYS => {
                header.check_flags(0)?;
                let mut rest = rest;
                let limit = take_u32(&mut rest).ok_or(header.bad_body("no complete limit"))?;
                if !rest.is_empty() {
                    return Err(header.bad_body("bytes after the limit"));
                }
                Self::Keys { prefix: key, cursor: header.version, limit }
            }
            WATCH => Self::Watch(watched()?),
            UNWATCH => Self::Unwatch(watched()?),
            CLOSE => {
                header.check_flags(0)?;
                header.check_no_version()?;
                if !body.is_empty() {
                    return Err(header.bad_body("a body in a close request"));
                }
                Self::Close
            }
            _ => return Ok(Err(Status::Unknown)),
        }))
    }

    /// Appends the frame with this request number.
    pub fn encode(&self, number: u32, out: &mut Vec<u8>) {
        let header = |kind, flags, version| FrameHeader {
            body_len: 0,
            number,
            kind,
            flags,
            key_len: 0,
            version,
        };
        let conditional = |kind, expected: Option<Version>| match expected {
            None => header(kind, 0, NO_VERSION),
            Some(version) => header(kind, IF_VERSION, version),
        };
        match *self {
            Self::Get(key) => put_frame(header(GET, 0, NO_VERSION), key, &[], out),
            Self::Put { key, value, expected } => {
                put_frame(conditional(PUT, expected), key, value, out);
            }
            Self::Delete { key, expected } => {
                put_frame(conditional(DELETE, expected), key, &[], out);
            }
            Self::PutMany(Entries(entries)) => {
                put_frame(header(PUT_MANY, 0, NO_VERSION), &[], entries, out);
            }
            Self::Keys { prefix, cursor, limit } => {
                put_frame(header(KEYS, 0, cursor), prefix, &limit.to_le_bytes(), out);
            }
            Self::Watch(watched) | Self::Unwatch(watched) => {
                let kind = if matches!(self, Self::Watch(_)) { WATCH } else { UNWATCH };
                let flags = if matches!(watched, WatchTarget::Prefix(_)) { PREFIX } else { 0 };
                put_frame(header(kind, flags, NO_VERSION), watched.bytes(), &[], out);
            }
            Self::Close => put_frame(header(CLOSE, 0, NO_VERSION), &[], &[], out),
        }
    }

    /// The number of bytes that [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN
            + match *self {
                Self::Get(key) | Self::Delete { key, .. } => key.len(),
                Self::Put { key, value, .. } => key.len() + value.len(),
                Self::PutMany(Entries(entries)) => entries.len(),
                Self::Keys { prefix, .. } => prefix.len() + LENGTH_LEN,
                Self::Watch(watched) | Self::Unwatch(watched) => watched.bytes().len(),
                Self::Close => 0,
            }
    }
}

/// Checks the pairs of a PUT_MANY. Results as in [`Request::decode`].
fn check_entries(
    header: &FrameHeader,
    entries: &[u8],
    limits: FrameLimits,
) -> Result<Result<(), Status>, Malformed> {
    if entries.is_empty() {
        return Err(header.bad_body("no entries"));
    }
    let (mut rest, mut count, mut within) = (entries, 0, Ok(()));
    while !rest.is_empty() {
        let (key, value) =
            next_entry(&mut rest).ok_or(header.bad_body("an entry that is cut off"))?;
        if key.is_empty() {
            return Err(header.bad_body("an empty key"));
        }
        count += 1;
        if key.len() > MAX_KEY || value.len() > limits.max_value || count > MAX_ENTRIES {
            within = Err(Status::TooLarge);
        }
    }
    Ok(within)
}
