//! Finds frames in a stream of bytes, wherever the stream is cut.
//!
//! A frame that arrives whole is returned where it lies, without a copy. Only an incomplete frame
//! is buffered, and the buffer grows with the bytes received. The body of a rejected frame is
//! skipped and never buffered.

use std::mem;

use super::header::{FrameHeader, HEADER_LEN};
use super::malformed::Malformed;

/// Bodies up to this length, in bytes, are buffered without consulting the caller about memory.
const SMALL_BODY: usize = 4096;

/// Decodes one stream.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// The received part of an incomplete frame, or the frame that was returned last.
    buffer: Vec<u8>,
    /// The header of the frame in `buffer`, when it is complete and the caller has accepted it.
    accepted: Option<FrameHeader>,
    /// The number of bytes still to skip of a rejected frame.
    skip: u64,
    /// Whether the frame in `buffer` was returned.
    is_returned: bool,
}

/// The next item of a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A complete frame.
    Frame(FrameHeader, &'a [u8]),
    /// A frame that the caller has rejected. Its body is skipped.
    Rejected(FrameHeader),
    /// The remaining bytes are not a complete frame: more must be received.
    Incomplete,
}

impl FrameDecoder {
    /// Removes the next frame from the front of `bytes`. The caller repeats this until it returns
    /// [`Decoded::Incomplete`]; then `bytes` is empty.
    ///
    /// `accepts` decides about each frame once, as soon as its header is complete. Its second
    /// argument says whether a body of more than a few KiB must be buffered.
    ///
    /// # Errors
    /// [`Malformed`]: a header is invalid, and the rest of the stream cannot be decoded.
    pub fn next<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
        accepts: impl FnOnce(&FrameHeader, bool) -> bool,
    ) -> Result<Decoded<'a>, Malformed> {
        if mem::take(&mut self.is_returned) {
            self.release();
        }
        if self.skip > 0 {
            let here = self.skip.min(bytes.len() as u64);
            // `here` is at most the length of `bytes`.
            *bytes = &bytes[here as usize..];
            self.skip -= here;
        }
        if bytes.is_empty() {
            return Ok(Decoded::Incomplete);
        }
        if self.buffer.is_empty() {
            return self.decode_in_place(bytes, accepts);
        }
        let header = match self.accepted {
            Some(header) => header,
            None => {
                if !self.fill(bytes, HEADER_LEN) {
                    return Ok(Decoded::Incomplete);
                }
                let header = match self.buffer.first_chunk() {
                    Some(header) => FrameHeader::decode(header)?,
                    None => return Ok(Decoded::Incomplete),
                };
                let is_complete = bytes.len() >= header.body_len as usize;
                if !accepts(&header, !is_complete && header.body_len as usize > SMALL_BODY) {
                    self.buffer.clear();
                    self.skip = header.body_len.into();
                    return Ok(Decoded::Rejected(header));
                }
                self.accepted = Some(header);
                header
            }
        };
        if !self.fill(bytes, HEADER_LEN + header.body_len as usize) {
            return Ok(Decoded::Incomplete);
        }
        self.is_returned = true;
        Ok(Decoded::Frame(header, &self.buffer[HEADER_LEN..]))
    }

    /// Decodes a frame that begins in `bytes`, when nothing is buffered.
    fn decode_in_place<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
        accepts: impl FnOnce(&FrameHeader, bool) -> bool,
    ) -> Result<Decoded<'a>, Malformed> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            self.buffer.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(Decoded::Incomplete);
        };
        let header = FrameHeader::decode(header)?;
        let whole = rest.split_at_checked(header.body_len as usize);
        let buffers = whole.is_none() && header.body_len as usize > SMALL_BODY;
        if !accepts(&header, buffers) {
            *bytes = rest;
            self.skip = header.body_len.into();
            return Ok(Decoded::Rejected(header));
        }
        match whole {
            Some((body, rest)) => {
                *bytes = rest;
                Ok(Decoded::Frame(header, body))
            }
            None => {
                self.accepted = Some(header);
                self.buffer.extend_from_slice(bytes);
                *bytes = &[];
                Ok(Decoded::Incomplete)
            }
        }
    }

    /// Moves bytes to the buffer until it has `len`; `false` when `bytes` has too few.
    fn fill(&mut self, bytes: &mut &[u8], len: usize) -> bool {
        let missing = len.saturating_sub(self.buffer.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.buffer.extend_from_slice(taken);
        *bytes = rest;
        self.buffer.len() >= len
    }

    /// Drops the frame that was returned, and the memory of a long one.
    fn release(&mut self) {
        self.accepted = None;
        if self.buffer.capacity() > SMALL_BODY {
            self.buffer = Vec::new();
        } else {
            self.buffer.clear();
        }
    }

    /// The number of bytes that the incomplete frame in the buffer still lacks; 0 without one.
    pub fn missing_bytes(&self) -> usize {
        match self.accepted {
            Some(header) if !self.is_returned => {
                (HEADER_LEN + header.body_len as usize).saturating_sub(self.buffer.len())
            }
            _ => 0,
        }
    }

    /// The size of the buffer in bytes.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v2::header::put_frame;

    /// Frames with these bodies. The tests reject those of an odd number.
    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            let number = number as u32;
            let header =
                FrameHeader { body_len: 0, number, kind: 7, flags: 0, key_len: 0, version: 1 };
            put_frame(header, &[], body, &mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn frames_do_not_depend_on_the_cuts_of_the_stream(
            bodies in prop::collection::vec(
                prop_oneof![
                    prop::collection::vec(any::<u8>(), 0..40),
                    prop::collection::vec(any::<u8>(), 4000..9000),
                ],
                0..8,
            ),
            cuts in prop::collection::vec(1usize..3000, 0..60),
        ) {
            let stream = stream(&bodies);
            let (mut decoder, mut found) = (FrameDecoder::default(), Vec::new());
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.into_iter());
            while !rest.is_empty() {
                let at = cuts.next().unwrap_or(usize::MAX).min(rest.len());
                let (mut now, later) = rest.split_at(at);
                rest = later;
                loop {
                    let (mut calls, len) = (0, now.len());
                    let next = decoder.next(&mut now, |header, buffers| {
                        calls += 1;
                        assert!(!buffers || header.body_len as usize > SMALL_BODY);
                        let received = len.saturating_sub(HEADER_LEN);
                        assert!(!buffers || header.body_len as usize > received);
                        header.number % 2 == 0
                    });
                    match next.unwrap() {
                        Decoded::Frame(header, body) => {
                            found.push((header.number, Some(body.to_vec())));
                        }
                        Decoded::Rejected(header) => {
                            prop_assert_eq!(calls, 1);
                            found.push((header.number, None));
                        }
                        Decoded::Incomplete => break,
                    }
                }
                prop_assert!(now.is_empty());
            }
            let expected = bodies.into_iter().enumerate();
            let expected: Vec<_> =
                expected.map(|(n, body)| (n as u32, (n % 2 == 0).then_some(body))).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn announced_length_reserves_no_memory() {
        let header = FrameHeader {
            body_len: u32::MAX,
            number: 1,
            kind: 1,
            flags: 0,
            key_len: 0,
            version: 0,
        }
        .encode();
        let mut decoder = FrameDecoder::default();
        let mut bytes = &header[..];
        assert_eq!(decoder.next(&mut bytes, |_, _| true), Ok(Decoded::Incomplete));
        assert!(decoder.buffered() < 100);
        assert_eq!(decoder.missing_bytes(), u32::MAX as usize);
        let mut decoder = FrameDecoder::default();
        let mut bytes = &header[..];
        assert!(matches!(decoder.next(&mut bytes, |_, _| false), Ok(Decoded::Rejected(_))));
        let mut more = &[0; 1000][..];
        assert_eq!(decoder.next(&mut more, |_, _| true), Ok(Decoded::Incomplete));
        assert!(more.is_empty() && decoder.buffered() == 0);
    }
}
