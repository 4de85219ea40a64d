//! What an application asks for.

use std::fmt;

use super::{
    FrameHeader, HEADER_LEN, MAX_KEY, Malformed, NO_VERSION, PUT_MANY_OVERHEAD, Version, length,
    put_frame, take, take_u32,
};
use crate::MAX_TEXT;
use crate::v2::response::Status;

const GET: u8 = 1;
const PUT: u8 = 2;
const DELETE: u8 = 3;
const PUT_MANY: u8 = 4;
const KEYS: u8 = 5;
const WATCH: u8 = 6;
const UNWATCH: u8 = 7;
const CLOSE: u8 = 8;

const IF_VERSION: u8 = 1;
const PREFIX: u8 = 1;

const LENGTH_LEN: usize = size_of::<u32>();

/// The most pairs of one message: they are stored at once, and nobody else has a turn meanwhile.
pub const MAX_ENTRIES: usize = 10_000;

/// One request. Keys are not empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Tell the value.
    Get(&'a [u8]),
    /// Store a value.
    Put {
        /// Under this key.
        key: &'a [u8],
        /// Possibly empty.
        value: &'a [u8],
        /// Only if the key has this version; [`NO_VERSION`]: only if there is no such key.
        expected: Option<Version>,
    },
    /// Delete a pair.
    Delete {
        /// Its key.
        key: &'a [u8],
        /// Only if it has this version.
        expected: Option<Version>,
    },
    /// Store several values, or none.
    PutMany(Entries<'a>),
    /// List keys.
    Keys {
        /// Those that begin with this; it may be empty.
        prefix: &'a [u8],
        /// 0 at first, then what the page before said.
        cursor: u64,
        /// About so many; 0: as many as the server likes.
        limit: u32,
    },
    /// Tell of changes from now on.
    Watch(WatchTarget<'a>),
    /// Not any more.
    Unwatch(WatchTarget<'a>),
    /// Goodbye. The only request without an answer.
    Close,
}

/// What a request is, whether or not it is well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// [`Request::Get`].
    Get,
    /// [`Request::Put`].
    Put,
    /// [`Request::Delete`].
    Delete,
    /// [`Request::PutMany`].
    PutMany,
    /// [`Request::Keys`].
    Keys,
    /// [`Request::Watch`].
    Watch,
    /// [`Request::Unwatch`].
    Unwatch,
    /// [`Request::Close`].
    Close,
    /// None of these.
    Unknown,
}

impl RequestKind {
    /// That of the request which begins with this.
    pub fn of(header: &FrameHeader) -> Self {
        match header.kind {
            GET => Self::Get,
            PUT => Self::Put,
            DELETE => Self::Delete,
            PUT_MANY => Self::PutMany,
            KEYS => Self::Keys,
            WATCH => Self::Watch,
            UNWATCH => Self::Unwatch,
            CLOSE => Self::Close,
            _ => Self::Unknown,
        }
    }
}

/// What can be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchTarget<'a> {
    /// One key that exists, until it is deleted.
    Key(&'a [u8]),
    /// All keys that begin with this.
    Prefix(&'a [u8]),
}

/// For logs: no values, keys quoted and not longer than those of an original session.
impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = |bytes: &[u8]| match bytes.split_at_checked(MAX_TEXT) {
            None => format!("\"{}\"", bytes.escape_ascii()),
            Some((first, _)) => {
                format!("\"{}\"… ({} bytes)", first.escape_ascii(), bytes.len())
            }
        };
        match self {
            Self::Get(key) => write!(f, "get {}", quote(key)),
            Self::Put { key, value, expected } => {
                let len = value.len();
                write!(f, "put {} ({len} bytes, expected version {expected:?})", quote(key))
            }
            Self::Delete { key, expected } => {
                write!(f, "delete {} (expected version {expected:?})", quote(key))
            }
            Self::PutMany(entries) => write!(f, "put {} pairs", entries.iter().count()),
            Self::Keys { prefix, cursor, limit } => {
                write!(f, "keys {} (from {cursor}, {limit} at most)", quote(prefix))
            }
            Self::Watch(WatchTarget::Key(key)) => write!(f, "watch {}", quote(key)),
            Self::Watch(WatchTarget::Prefix(prefix)) => write!(f, "watch prefix {}", quote(prefix)),
            Self::Unwatch(WatchTarget::Key(key)) => write!(f, "unwatch {}", quote(key)),
            Self::Unwatch(WatchTarget::Prefix(prefix)) => {
                write!(f, "unwatch prefix {}", quote(prefix))
            }
            Self::Close => f.write_str("close"),
        }
    }
}

impl<'a> WatchTarget<'a> {
    /// The key or the prefix.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Self::Key(bytes) | Self::Prefix(bytes) => bytes,
        }
    }
}

/// The pairs of a [`Request::PutMany`], as they stand in the message: at least one, all of them well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries<'a>(&'a [u8]);

/// Pairs for a [`Request::PutMany`].
#[derive(Debug, Clone, Default)]
pub struct EntriesBuilder(Vec<u8>);

impl EntriesBuilder {
    /// Adds a pair; the key is not empty.
    pub fn push(&mut self, key: &[u8], value: &[u8]) {
        self.0.extend_from_slice(&length(key).to_le_bytes());
        self.0.extend_from_slice(&length(value).to_le_bytes());
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
    }

    /// The bytes that a pair takes in a message.
    pub fn entry_len(key: &[u8], value: &[u8]) -> usize {
        2 * LENGTH_LEN + key.len() + value.len()
    }

    /// The bytes of all of them.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: then there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For the request.
    pub fn entries(&self) -> Entries<'_> {
        Entries(&self.0)
    }
}

impl<'a> Entries<'a> {
    /// Key and value of each.
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || next_entry(&mut rest))
    }
}

fn next_entry<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let (key, value) = (take_u32(rest)?, take_u32(rest)?);
    Some((take(rest, key)?, take(rest, value)?))
}

/// The limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// The longest value in bytes, [`MAX_VALUE`](super::MAX_VALUE) at most.
    pub max_value: usize,
}

impl FrameLimits {
    /// Whether a request with this header is one that the server reads. If not, the answer is the status.
    ///
    /// # Errors
    /// A status other than "ok": the body is to be passed over, however long it is.
    pub fn check(self, header: &FrameHeader) -> Result<(), Status> {
        let (key, body) = (header.key_len as usize, header.body_len as usize);
        let most = match header.kind {
            GET | DELETE | WATCH | UNWATCH | CLOSE => MAX_KEY,
            KEYS => MAX_KEY + LENGTH_LEN,
            PUT => self.max_value.saturating_add(key),
            PUT_MANY => self.max_value.saturating_add(PUT_MANY_OVERHEAD),
            _ => return Err(Status::Unknown),
        };
        if key > MAX_KEY || body > most { Err(Status::TooLarge) } else { Ok(()) }
    }
}

impl<'a> Request<'a> {
    /// Reads a frame that [`FrameLimits::check`] has let through.
    ///
    /// # Errors
    /// [`Malformed`] when it is none; `Err` within: the status of its answer.
    pub fn decode(
        header: &FrameHeader,
        body: &'a [u8],
        limits: FrameLimits,
    ) -> Result<Result<Self, Status>, Malformed> {
        let (key, rest) = header.split(body);
        let keyed = || match key {
            [] => Err(header.bad("an empty key")),
            key => Ok(key),
        };
        let nothing_else = || match rest {
            [] => Ok(()),
            _ => Err(header.bad("bytes after the key")),
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
                    return Err(header.bad("a key outside of the entries"));
                }
                match check_entries(header, rest, limits)? {
                    Ok(()) => Self::PutMany(Entries(rest)),
                    Err(status) => return Ok(Err(status)),
                }
            }
            KEYS => {
                header.check_flags(0)?;
                let mut rest = rest;
                let limit = take_u32(&mut rest).ok_or(header.bad("no limit"))?;
                if !rest.is_empty() {
                    return Err(header.bad("bytes after the limit"));
                }
                Self::Keys { prefix: key, cursor: header.version, limit }
            }
            WATCH => Self::Watch(watched()?),
            UNWATCH => Self::Unwatch(watched()?),
            CLOSE => {
                header.check_flags(0)?;
                header.check_no_version()?;
                if !body.is_empty() {
                    return Err(header.bad("a body"));
                }
                Self::Close
            }
            _ => return Ok(Err(Status::Unknown)),
        }))
    }

    /// Appends the frame.
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

    /// The bytes that [`encode`](Self::encode) appends.
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

fn check_entries(
    header: &FrameHeader,
    entries: &[u8],
    limits: FrameLimits,
) -> Result<Result<(), Status>, Malformed> {
    if entries.is_empty() {
        return Err(header.bad("no entries"));
    }
    let (mut rest, mut count, mut within) = (entries, 0, Ok(()));
    while !rest.is_empty() {
        let (key, value) = next_entry(&mut rest).ok_or(header.bad("an entry that does not fit"))?;
        if key.is_empty() {
            return Err(header.bad("an empty key"));
        }
        count += 1;
        if key.len() > MAX_KEY || value.len() > limits.max_value || count > MAX_ENTRIES {
            within = Err(Status::TooLarge);
        }
    }
    Ok(within)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: FrameLimits = FrameLimits { max_value: 100_000 };

    type Change = fn(&mut Vec<u8>);

    fn decode(frame: &[u8]) -> Result<(u32, Result<Request<'_>, Status>), Malformed> {
        let (header, body) = frame.split_first_chunk::<HEADER_LEN>().unwrap();
        let header = FrameHeader::decode(header)?;
        assert_eq!(header.body_len as usize, body.len());
        if let Err(status) = LIMITS.check(&header) {
            return Ok((header.number, Err(status)));
        }
        Ok((header.number, Request::decode(&header, body, LIMITS)?))
    }

    fn bytes(min: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), min..40)
    }

    proptest! {
        #[test]
        fn requests_round_trip(
            number: u32, key in bytes(1), other in bytes(0), version: Option<u64>, limit: u32,
            cursor: u64, entries in prop::collection::vec((bytes(1), bytes(0)), 1..5),
        ) {
            let mut builder = EntriesBuilder::default();
            for (key, value) in &entries {
                let before = builder.len();
                builder.push(key, value);
                prop_assert_eq!(builder.len() - before, EntriesBuilder::entry_len(key, value));
            }
            let (key, other) = (&key[..], &other[..]);
            for request in [
                Request::Get(key),
                Request::Put { key, value: other, expected: version },
                Request::Delete { key, expected: version },
                Request::PutMany(builder.entries()),
                Request::Keys { prefix: other, cursor, limit },
                Request::Watch(WatchTarget::Key(key)),
                Request::Watch(WatchTarget::Prefix(other)),
                Request::Unwatch(WatchTarget::Key(key)),
                Request::Unwatch(WatchTarget::Prefix(other)),
                Request::Close,
            ] {
                let mut frame = Vec::new();
                request.encode(number, &mut frame);
                prop_assert_eq!(frame.len(), request.encoded_len());
                prop_assert_eq!(decode(&frame), Ok((number, Ok(request))));
            }
            let read: Vec<_> =
                builder.entries().iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn no_bytes_panic(header: [u8; HEADER_LEN], body in bytes(0), key in 0u32..50) {
            let mut header = header;
            header[0..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
            header[8] %= 10;
            header[9] &= 3;
            header[10..12].fill(0);
            header[12..16].copy_from_slice(&key.to_le_bytes());
            let _ = decode(&[&header[..], &body].concat());
        }
    }

    #[test]
    fn what_is_too_long_is_refused_by_its_header() {
        let header = |kind, key: usize, rest: usize| FrameHeader {
            body_len: (key + rest) as u32,
            number: 1,
            kind,
            flags: 0,
            key_len: key as u32,
            version: 0,
        };
        assert_eq!(LIMITS.check(&header(PUT, MAX_KEY, LIMITS.max_value)), Ok(()));
        assert_eq!(LIMITS.check(&header(PUT, 1, LIMITS.max_value + 1)), Err(Status::TooLarge));
        assert_eq!(LIMITS.check(&header(PUT, MAX_KEY + 1, 0)), Err(Status::TooLarge));
        assert_eq!(LIMITS.check(&header(GET, MAX_KEY, 0)), Ok(()));
        assert_eq!(LIMITS.check(&header(GET, MAX_KEY + 1, 0)), Err(Status::TooLarge));
        let most = LIMITS.max_value + PUT_MANY_OVERHEAD;
        assert_eq!(LIMITS.check(&header(PUT_MANY, 0, most)), Ok(()));
        assert_eq!(LIMITS.check(&header(PUT_MANY, 0, most + 1)), Err(Status::TooLarge));
        assert_eq!(LIMITS.check(&header(9, 0, 0)), Err(Status::Unknown));
        assert_eq!(LIMITS.check(&header(0, 0, 0)), Err(Status::Unknown));
    }

    #[test]
    fn a_value_over_the_limit_or_an_entry_too_many_refuses_all_of_them() {
        let refused = |builder: EntriesBuilder| {
            let mut frame = Vec::new();
            Request::PutMany(builder.entries()).encode(7, &mut frame);
            decode(&frame).map(|(_, request)| request.err())
        };
        let mut builder = EntriesBuilder::default();
        (0..MAX_ENTRIES).for_each(|_| builder.push(b"k", b""));
        assert_eq!(refused(builder.clone()), Ok(None));
        builder.push(b"k", b"");
        assert_eq!(refused(builder), Ok(Some(Status::TooLarge)));
        let mut builder = EntriesBuilder::default();
        builder.push(b"a", b"1");
        builder.push(b"b", &vec![0; LIMITS.max_value + 1]);
        assert_eq!(refused(builder), Ok(Some(Status::TooLarge)));
    }

    #[test]
    fn what_is_no_request_is_found_out() {
        let malformed = |request: Request<'_>, change: Change| {
            let mut frame = Vec::new();
            request.encode(1, &mut frame);
            assert!(matches!(decode(&frame), Ok((1, Ok(_)))));
            change(&mut frame);
            let body = (frame.len() - HEADER_LEN) as u32;
            frame[0..4].copy_from_slice(&body.to_le_bytes());
            decode(&frame).expect_err("malformed")
        };
        let get = Request::Get(b"k");
        let put = Request::Put { key: b"k", value: b"v", expected: None };
        let mut builder = EntriesBuilder::default();
        builder.push(b"k", b"v");
        let many = Request::PutMany(builder.entries());
        let keys = Request::Keys { prefix: b"", cursor: 0, limit: 1 };
        let changes: [(Request<'_>, Change); 17] = [
            (get, |frame| frame[10] = 1),
            (get, |frame| frame[11] = 1),
            (get, |frame| frame[12] = 2),
            (get, |frame| frame[12] = 0),
            (get, |frame| frame[9] = 1),
            (get, |frame| frame[16] = 1),
            (get, |frame| frame.push(0)),
            (put, |frame| frame[9] = 2),
            (put, |frame| frame[16] = 1),
            (put, |frame| frame[12] = 0),
            (Request::Delete { key: b"k", expected: Some(3) }, |frame| frame.push(0)),
            (many, |frame| frame[24] = 0),
            (many, |frame| frame[24] = 2),
            (many, |frame| frame.truncate(HEADER_LEN)),
            (keys, |frame| frame.push(0)),
            (keys, |frame| frame.truncate(HEADER_LEN + 3)),
            (Request::Close, |frame| frame.push(0)),
        ];
        for (request, change) in changes {
            malformed(request, change);
        }
        let empty_key = |watched| {
            let mut frame = Vec::new();
            Request::Watch(watched).encode(1, &mut frame);
            decode(&frame).map(|(_, request)| request.is_ok())
        };
        assert_eq!(empty_key(WatchTarget::Prefix(b"")), Ok(true));
        assert!(empty_key(WatchTarget::Key(b"")).is_err());
    }
}
