//! Responses of a server, on the main channel.

use super::fields::{length, take, take_u32};
use super::header::{FrameHeader, HEADER_LEN, Version, put_frame};
use super::limits::MAX_KEY;
use super::malformed::Malformed;

pub use super::limits::MAX_PAGE_LEN;

/// The status of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The request is done.
    Ok = 128,
    /// The key, or the subscription, does not exist.
    NoSuchKey = 129,
    /// The key has another version than expected.
    Conflict = 130,
    /// A key, a value or a message exceeds its maximum length.
    TooLarge = 131,
    /// The user has reached a resource limit.
    Limit = 132,
    /// The server does not know this kind of request.
    Unknown = 133,
    /// Not a response: the first frame of a server, with its limits.
    Welcome = 134,
}

impl Status {
    fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind {
            128 => Self::Ok,
            129 => Self::NoSuchKey,
            130 => Self::Conflict,
            131 => Self::TooLarge,
            132 => Self::Limit,
            133 => Self::Unknown,
            134 => Self::Welcome,
            _ => return None,
        })
    }
}

/// A response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response<'a> {
    /// The number of the request.
    pub number: u32,
    /// The status of the request.
    pub status: Status,
    /// By request: the version of the key, the cursor of the next page, or the maximum length of a
    /// value.
    pub version: Version,
    /// A value, or a page of keys.
    pub body: &'a [u8],
}

impl<'a> Response<'a> {
    /// A response without a body.
    pub fn new(number: u32, status: Status, version: Version) -> Self {
        Self { number, status, version, body: &[] }
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// [`Malformed`]: the frame is not a response.
    pub fn decode(header: &FrameHeader, body: &'a [u8]) -> Result<Self, Malformed> {
        let status = Status::from_kind(header.kind).ok_or(Malformed::Kind(header.kind))?;
        header.check_flags(0)?;
        if header.key_len != 0 {
            return Err(header.bad_body("a key in a response"));
        }
        if !body.is_empty() && status != Status::Ok {
            return Err(header.bad_body("a body in a response without success"));
        }
        Ok(Self { number: header.number, status, version: header.version, body })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_frame(self.header(), &[], self.body, out);
    }

    /// The header of the frame, for a caller that sends the body separately.
    pub fn encode_header(&self, body_len: usize) -> [u8; HEADER_LEN] {
        let body_len = u32::try_from(body_len).unwrap_or(u32::MAX);
        FrameHeader { body_len, ..self.header() }.encode()
    }

    fn header(&self) -> FrameHeader {
        FrameHeader {
            body_len: 0,
            number: self.number,
            kind: self.status as u8,
            flags: 0,
            key_len: 0,
            version: self.version,
        }
    }
}

/// Appends a key to the body of a page of keys.
pub fn push_key(key: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&length(key).to_le_bytes());
    body.extend_from_slice(key);
}

/// Decodes the body of a page of keys.
///
/// # Errors
/// [`Malformed`]: the body is not a page of keys.
pub fn decode_keys(body: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let bad = |why| Malformed::Body { kind: Status::Ok as u8, why };
    if body.len() > MAX_PAGE_LEN {
        return Err(bad("a page over the maximum length"));
    }
    let (mut rest, mut keys) = (body, Vec::new());
    while !rest.is_empty() {
        let key = take_u32(&mut rest).and_then(|len| take(&mut rest, len));
        match key.ok_or(bad("a key that is cut off"))? {
            key if key.is_empty() || key.len() > MAX_KEY => {
                return Err(bad("a key of invalid length"));
            }
            key => keys.push(key),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn responses_round_trip(
            number: u32, version: u64, body in prop::collection::vec(any::<u8>(), 0..60),
            kind in 128u8..135,
        ) {
            let status = Status::from_kind(kind).unwrap();
            let body = if status == Status::Ok { &body[..] } else { &[] };
            let response = Response { number, status, version, body };
            let mut frame = Vec::new();
            response.encode(&mut frame);
            let (header, rest) = frame.split_first_chunk().unwrap();
            prop_assert_eq!(&response.encode_header(body.len()), header);
            let header = FrameHeader::decode(header).unwrap();
            prop_assert_eq!(Response::decode(&header, rest), Ok(response));
        }

        #[test]
        fn pages_round_trip(
            page in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..9), 0..9),
            cut in 1usize..5,
        ) {
            let mut body = Vec::new();
            page.iter().for_each(|key| push_key(key, &mut body));
            let expected: Vec<_> = page.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(decode_keys(&body).unwrap(), expected);
            if let Some(last) = page.last() {
                let cut = cut.min(last.len());
                prop_assert!(decode_keys(&body[..body.len() - cut]).is_err());
            }
        }
    }

    #[test]
    fn malformed_pages_are_detected() {
        assert!(decode_keys(&[0; 4]).is_err(), "an empty key");
        let mut long = Vec::new();
        push_key(&vec![b'k'; MAX_KEY + 1], &mut long);
        assert!(decode_keys(&long).is_err(), "a key over the maximum length");
        for len in [u32::MAX, u32::MAX - 3, 1 << 31, 2] {
            // A valid key precedes the one that is cut off.
            let page = [&[1, 0, 0, 0, b'k'][..], &len.to_le_bytes(), b"k"].concat();
            assert!(decode_keys(&page).is_err(), "a key of {len} bytes, of which one is there");
        }
        let mut page = Vec::new();
        while page.len() < MAX_PAGE_LEN {
            push_key(&[b'k'; 60], &mut page);
        }
        assert_eq!(page.len(), MAX_PAGE_LEN);
        assert!(decode_keys(&page).is_ok());
        push_key(b"k", &mut page);
        assert!(decode_keys(&page).is_err(), "a page over the maximum length");
    }

    #[test]
    fn malformed_responses_are_detected() {
        let header = |kind, flags, key_len, body_len| FrameHeader {
            body_len,
            number: 1,
            kind,
            flags,
            key_len,
            version: 0,
        };
        assert_eq!(Response::decode(&header(1, 0, 0, 0), &[]), Err(Malformed::Kind(1)));
        assert_eq!(Response::decode(&header(192, 0, 0, 0), &[]), Err(Malformed::Kind(192)));
        assert!(Response::decode(&header(128, 1, 0, 0), &[]).is_err());
        assert!(Response::decode(&header(128, 0, 1, 1), b"k").is_err());
        assert!(Response::decode(&header(129, 0, 0, 1), b"v").is_err());
    }
}
