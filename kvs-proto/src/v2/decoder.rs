//! Finds the frames in a stream of bytes.
//!
//! Frames that came whole are handed out where they lie; only of one that has not come whole a copy is kept,
//! which grows as its bytes come. A frame that the caller does not want is passed over without being kept.

use std::mem;

use super::{FrameHeader, HEADER_LEN, Malformed};

/// A body of this length or less is collected without asking.
const COLLECTED_UNASKED: usize = 4096;

/// One stream.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// The beginning of a frame that has not come whole; or one that has, and was handed out last.
    partial: Vec<u8>,
    /// Its header, once that is complete and somebody wants the body.
    wanted: Option<FrameHeader>,
    /// So many bytes belong to a frame that nobody wants.
    skipping: u64,
    /// What stands in `partial` was handed out.
    spent: bool,
}

/// What comes next in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A whole frame.
    Frame(FrameHeader, &'a [u8]),
    /// A frame that is not wanted, whose body will be passed over.
    Rejected(FrameHeader),
    /// Incomplete more in these bytes.
    Incomplete,
}

impl FrameDecoder {
    /// Takes the next frame off the front of `bytes`. Call it until it says [`Decoded::Incomplete`]; then all of
    /// them are taken.
    ///
    /// `wants` is asked once for each frame, as soon as its header is here: whether it is wanted, given
    /// whether its body will have to be collected.
    ///
    /// # Errors
    /// [`Malformed`] for a header that cannot be: nothing after it can be told.
    pub fn next<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
        wants: impl FnOnce(&FrameHeader, bool) -> bool,
    ) -> Result<Decoded<'a>, Malformed> {
        if mem::take(&mut self.spent) {
            self.release();
        }
        if self.skipping > 0 {
            let here = self.skipping.min(bytes.len() as u64);
            // Not more than there are bytes.
            *bytes = &bytes[here as usize..];
            self.skipping -= here;
        }
        if bytes.is_empty() {
            return Ok(Decoded::Incomplete);
        }
        if self.partial.is_empty() {
            return self.cut(bytes, wants);
        }
        let header = match self.wanted {
            Some(header) => header,
            None => {
                if !self.collect(bytes, HEADER_LEN) {
                    return Ok(Decoded::Incomplete);
                }
                let header = match self.partial.first_chunk() {
                    Some(header) => FrameHeader::decode(header)?,
                    None => return Ok(Decoded::Incomplete),
                };
                let is_whole = bytes.len() >= header.body_len as usize;
                if !wants(&header, !is_whole && header.body_len as usize > COLLECTED_UNASKED) {
                    self.partial.clear();
                    self.skipping = header.body_len.into();
                    return Ok(Decoded::Rejected(header));
                }
                self.wanted = Some(header);
                header
            }
        };
        if !self.collect(bytes, HEADER_LEN + header.body_len as usize) {
            return Ok(Decoded::Incomplete);
        }
        self.spent = true;
        Ok(Decoded::Frame(header, &self.partial[HEADER_LEN..]))
    }

    /// With nothing kept: the frame may lie in `bytes`.
    fn cut<'a, 'b: 'a>(
        &'a mut self,
        bytes: &mut &'b [u8],
        wants: impl FnOnce(&FrameHeader, bool) -> bool,
    ) -> Result<Decoded<'a>, Malformed> {
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            self.partial.extend_from_slice(bytes);
            *bytes = &[];
            return Ok(Decoded::Incomplete);
        };
        let header = FrameHeader::decode(header)?;
        let whole = rest.split_at_checked(header.body_len as usize);
        let collected = whole.is_none() && header.body_len as usize > COLLECTED_UNASKED;
        if !wants(&header, collected) {
            *bytes = rest;
            self.skipping = header.body_len.into();
            return Ok(Decoded::Rejected(header));
        }
        match whole {
            Some((body, rest)) => {
                *bytes = rest;
                Ok(Decoded::Frame(header, body))
            }
            None => {
                self.wanted = Some(header);
                self.partial.extend_from_slice(bytes);
                *bytes = &[];
                Ok(Decoded::Incomplete)
            }
        }
    }

    /// Moves bytes over until `len` are kept; `false`: there are not enough.
    fn collect(&mut self, bytes: &mut &[u8], len: usize) -> bool {
        let missing = len.saturating_sub(self.partial.len()).min(bytes.len());
        let (taken, rest) = bytes.split_at(missing);
        self.partial.extend_from_slice(taken);
        *bytes = rest;
        self.partial.len() >= len
    }

    /// Forgets the frame that was handed out; memory for a long one is given back.
    fn release(&mut self) {
        self.wanted = None;
        if self.partial.capacity() > COLLECTED_UNASKED {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
        }
    }

    /// How many bytes of the frame under way are missing, if it is one that is being collected.
    pub fn missing_bytes(&self) -> usize {
        match self.wanted {
            Some(header) if !self.spent => {
                (HEADER_LEN + header.body_len as usize).saturating_sub(self.partial.len())
            }
            _ => 0,
        }
    }

    /// How many bytes it keeps.
    pub fn buffered(&self) -> usize {
        self.partial.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Frames of these bodies; those of an odd number are not wanted.
    fn stream(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, body) in bodies.iter().enumerate() {
            let number = number as u32;
            let header =
                FrameHeader { body_len: 0, number, kind: 7, flags: 0, key_len: 0, version: 1 };
            super::super::put_frame(header, &[], body, &mut out);
        }
        out
    }

    proptest! {
        #[test]
        fn however_the_stream_is_cut_the_same_frames_come_out(
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
            let (mut cutter, mut found) = (FrameDecoder::default(), Vec::new());
            let (mut rest, mut cuts) = (stream.as_slice(), cuts.into_iter());
            while !rest.is_empty() {
                let at = cuts.next().unwrap_or(usize::MAX).min(rest.len());
                let (mut now, later) = rest.split_at(at);
                rest = later;
                loop {
                    let (mut asked, len) = (0, now.len());
                    let next = cutter.next(&mut now, |header, collected| {
                        asked += 1;
                        assert!(!collected || header.body_len as usize > COLLECTED_UNASKED);
                        assert!(!collected || (header.body_len as usize) > len.saturating_sub(HEADER_LEN));
                        header.number % 2 == 0
                    });
                    match next.unwrap() {
                        Decoded::Frame(header, body) => found.push((header.number, Some(body.to_vec()))),
                        Decoded::Rejected(header) => {
                            prop_assert_eq!(asked, 1);
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

    #[test]
    fn an_announced_length_reserves_nothing() {
        let header = FrameHeader {
            body_len: u32::MAX,
            number: 1,
            kind: 1,
            flags: 0,
            key_len: 0,
            version: 0,
        }
        .encode();
        let mut cutter = FrameDecoder::default();
        let mut bytes = &header[..];
        assert_eq!(cutter.next(&mut bytes, |_, _| true), Ok(Decoded::Incomplete));
        assert!(cutter.buffered() < 100);
        assert_eq!(cutter.missing_bytes(), u32::MAX as usize);
        let mut cutter = FrameDecoder::default();
        let mut bytes = &header[..];
        assert!(matches!(cutter.next(&mut bytes, |_, _| false), Ok(Decoded::Rejected(_))));
        let mut more = &[0; 1000][..];
        assert_eq!(cutter.next(&mut more, |_, _| true), Ok(Decoded::Incomplete));
        assert!(more.is_empty() && cutter.buffered() == 0);
    }
}
