//! Protocol v2: every decoder against a model that implements the tables of `docs/PROTOCOL.md` §7
//! independently, for any cuts of the stream. Decoded frames encode to the same bytes, and buffered
//! memory is bounded by the bytes received.

use kvs_proto::v2::event::{MatchedBy, ServerEvent};
use kvs_proto::v2::request::{Entries, EntriesBuilder, FrameLimits, Request, WatchTarget};
use kvs_proto::v2::response::{self, Response, Status};
use kvs_proto::v2::{Decoded, FrameDecoder, FrameHeader, HEADER_LEN, MAX_KEY};

use crate::Input;

/// A limit that scripts can reach.
const LIMITS: FrameLimits = FrameLimits { max_value: 600 };

/// Replays one script: a stream of frames, and its cuts.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut stream = Vec::new();
    let mut cuts = Vec::new();
    while let Some(kind) = input.byte() {
        match kind % 4 {
            0 => stream.extend(input.chunk()),
            1 => frame(&mut input, &mut stream),
            2 => cuts.push(usize::from(input.choice(u8::MAX))),
            _ => request(&mut input, &mut stream),
        }
    }
    let expected = StreamModel::of(&stream);
    decode(&stream, &cuts, &expected);
    decode(&stream, &[], &expected);
    bodies(&stream);
}

/// Appends a frame that may be malformed: the length of its body may differ from the header.
fn frame(input: &mut Input<'_>, stream: &mut Vec<u8>) {
    let (kind, flags, key, version) =
        (input.choice(u8::MAX), input.choice(4), input.choice(6), input.choice(3));
    let times = usize::from(input.choice(8));
    let body = input.chunk().repeat(times.max(1));
    let header = FrameHeader {
        body_len: body.len() as u32 + u32::from(input.choice(16) == 15),
        number: u32::from(input.choice(4)),
        kind: if kind < 128 { kind % 12 } else { kind },
        flags,
        key_len: u32::from(key),
        version: version.into(),
    };
    stream.extend(header.encode());
    stream.extend(body);
}

/// Appends a valid request.
fn request(input: &mut Input<'_>, stream: &mut Vec<u8>) {
    let number = u32::from(input.choice(u8::MAX));
    let expected = match input.choice(3) {
        0 => None,
        version => Some(u64::from(version) - 1),
    };
    let kind = input.choice(10);
    let (first, second) = (input.chunk(), input.chunk());
    let key = if first.is_empty() { b"k" } else { first };
    let mut entries = EntriesBuilder::default();
    let watched =
        if input.choice(2) == 0 { WatchTarget::Key(key) } else { WatchTarget::Prefix(first) };
    let request = match kind {
        0 => Request::Get(key),
        1 | 2 => Request::Put { key, value: second, expected },
        3 => Request::Delete { key, expected },
        4 | 5 => {
            for _ in 0..=input.choice(4) {
                entries.push(key, second);
            }
            Request::PutMany(entries.entries())
        }
        6 => Request::Keys { prefix: first, cursor: expected.unwrap_or(0), limit: number },
        7 => Request::Watch(watched),
        8 => Request::Unwatch(watched),
        _ => Request::Close,
    };
    let before = stream.len();
    request.encode(number, stream);
    assert_eq!(stream.len() - before, request.encoded_len());
    let Some(FirstFrame { rest, outcome: Some(outcome) }) =
        StreamModel::first_frame(&stream[before..])
    else {
        // The request exceeds `LIMITS`.
        return;
    };
    assert!(rest.is_empty(), "more than one frame");
    assert!(!matches!(outcome, Outcome::Malformed), "{request:?} is malformed to the model");
}

/// The result of a frame on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// The session ends.
    Malformed,
    /// The request is refused by its header or its contents, with this kind of response.
    Refused(u8),
    /// A request with these bytes.
    Request(Vec<u8>),
}

/// The results of a stream, by the model.
struct StreamModel {
    frames: Vec<Outcome>,
}

/// The first frame of a stream: its result, unless it is incomplete, and the rest of the stream.
struct FirstFrame<'a> {
    rest: &'a [u8],
    outcome: Option<Outcome>,
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum * 256 + usize::from(*byte))
}

impl StreamModel {
    fn of(mut stream: &[u8]) -> Self {
        let mut frames = Vec::new();
        while let Some(FirstFrame { rest, outcome }) = Self::first_frame(stream) {
            let over = matches!(outcome, None | Some(Outcome::Malformed));
            frames.extend(outcome);
            if over {
                break;
            }
            stream = rest;
        }
        Self { frames }
    }

    /// The first frame of a stream; `None` when the stream is incomplete.
    fn first_frame(stream: &[u8]) -> Option<FirstFrame<'_>> {
        if stream.len() < HEADER_LEN {
            return None;
        }
        let (header, rest) = stream.split_at(HEADER_LEN);
        let (body, key, kind) = (u32_at(header, 0), u32_at(header, 12), header[8]);
        if header[10] != 0 || header[11] != 0 || key > body {
            return Some(FirstFrame { rest: &[], outcome: Some(Outcome::Malformed) });
        }
        let max_len = match kind {
            1 | 3 | 6 | 7 | 8 => MAX_KEY,
            2 => LIMITS.max_value + key,
            4 => LIMITS.max_value + MAX_KEY + 64,
            5 => MAX_KEY + 4,
            _ => 0,
        };
        let refused = match kind {
            1..=8 if key <= MAX_KEY && body <= max_len => None,
            1..=8 => Some(Outcome::Refused(131)),
            _ => Some(Outcome::Refused(133)),
        };
        if refused.is_some() {
            let rest = rest.get(body..).unwrap_or(&[]);
            return Some(FirstFrame { rest, outcome: refused });
        }
        let (bytes, rest) = rest.split_at_checked(body)?;
        let outcome = Self::request(header, bytes, key, kind);
        Some(FirstFrame { rest, outcome: Some(outcome) })
    }

    fn request(header: &[u8], body: &[u8], key: usize, kind: u8) -> Outcome {
        let (flags, has_version) = (header[9], header[16..24].iter().any(|byte| *byte != 0));
        let known = if matches!(kind, 2 | 3 | 6 | 7) { 1 } else { 0 };
        let versioned = kind == 5 || (matches!(kind, 2 | 3) && flags == 1);
        let may_be_empty = matches!(kind, 4 | 5 | 8) || (matches!(kind, 6 | 7) && flags == 1);
        let rest = body.len() - key;
        let fits = match kind {
            2 => true,
            4 => key == 0 && rest > 0,
            5 => rest == 4,
            8 => body.is_empty(),
            _ => rest == 0,
        };
        if flags > known || (has_version && !versioned) || (key == 0 && !may_be_empty) || !fits {
            return Outcome::Malformed;
        }
        if kind == 4 {
            let (mut at, mut count, mut too_large) = (0, 0, false);
            while at < body.len() {
                if body.len() - at < 8 {
                    return Outcome::Malformed;
                }
                let (key, value) = (u32_at(body, at), u32_at(body, at + 4));
                if key == 0 || key + value > body.len() - at - 8 {
                    return Outcome::Malformed;
                }
                at += 8 + key + value;
                count += 1;
                too_large |= key > MAX_KEY || value > LIMITS.max_value || count > 10_000;
            }
            if too_large {
                return Outcome::Refused(131);
            }
        }
        Outcome::Request([header, body].concat())
    }
}

/// Decodes the stream in pieces of these lengths, repeated, and compares the results with the
/// model.
fn decode(stream: &[u8], cuts: &[usize], expected: &StreamModel) {
    let mut decoder = FrameDecoder::default();
    let mut found = Vec::new();
    let mut cuts = cuts.iter().cycle();
    let (mut left, mut fed) = (stream, 0);
    'stream: while !left.is_empty() {
        let len = cuts.next().map_or(left.len(), |cut| cut + 1).min(left.len());
        let (mut piece, later) = left.split_at(len);
        left = later;
        fed += len;
        loop {
            let mut refused = None;
            let next = decoder.next(&mut piece, |header, _| {
                refused = LIMITS.check(header).err();
                refused.is_none()
            });
            let outcome = match next {
                Err(_) => Outcome::Malformed,
                Ok(Decoded::Incomplete) => break,
                Ok(Decoded::Rejected(_)) => {
                    Outcome::Refused(refused.map_or(0, |status: Status| status as u8))
                }
                Ok(Decoded::Frame(header, body)) => {
                    assert_eq!(header.body_len as usize, body.len());
                    match Request::decode(&header, body, LIMITS) {
                        Err(_) => Outcome::Malformed,
                        Ok(Err(status)) => Outcome::Refused(status as u8),
                        Ok(Ok(request)) => {
                            let mut bytes = Vec::new();
                            request.encode(header.number, &mut bytes);
                            // The representation for logs has no control characters.
                            assert!(format!("{request:?}").chars().all(|c| !c.is_control()));
                            Outcome::Request(bytes)
                        }
                    }
                }
            };
            let over = outcome == Outcome::Malformed;
            found.push(outcome);
            if over {
                break 'stream;
            }
        }
        assert!(piece.is_empty(), "unconsumed bytes");
        // The buffer grows by doubling, and has a minimum size.
        assert!(
            decoder.buffered() <= 2 * fed + 64,
            "{} of {fed} bytes are buffered",
            decoder.buffered()
        );
    }
    assert_eq!(found, expected.frames, "cut after {cuts:?}");
}

/// The frames of a server: each that decodes encodes to the same bytes.
fn bodies(stream: &[u8]) {
    let Some((header, body)) = stream.split_first_chunk::<HEADER_LEN>() else { return };
    let Ok(mut header) = FrameHeader::decode(header) else { return };
    let body = &body[..body.len().min(1000)];
    header.body_len = body.len() as u32;
    header.key_len = header.key_len.min(header.body_len);
    let whole = [&header.encode()[..], body].concat();
    let mut again = Vec::new();
    if let Ok(response) = Response::decode(&header, body) {
        assert!((128..=134).contains(&header.kind) && header.flags == 0 && header.key_len == 0);
        response.encode(&mut again);
        assert_eq!(again, whole);
        if let Ok(keys) = response::decode_keys(response.body) {
            let mut page = Vec::new();
            keys.iter().for_each(|key| response::push_key(key, &mut page));
            assert_eq!(page, response.body);
        }
    }
    again.clear();
    if let Ok(event) = ServerEvent::decode(&header, body) {
        assert_eq!(header.number, 0);
        if let ServerEvent::Changed { key, matched_by: watches, .. } = event {
            assert!(!key.is_empty() && watches != MatchedBy::default());
            assert_eq!(watches.union(watches), watches);
        }
        event.encode(&mut again);
        assert_eq!(again, whole);
    }
    let length = FrameHeader::renumber(&mut again, 77);
    assert!(again.is_empty() || length == again.len());
    // The entries cover the body exactly.
    let entries: Option<Entries<'_>> = match Request::decode(&header, body, LIMITS) {
        Ok(Ok(Request::PutMany(entries))) => Some(entries),
        _ => None,
    };
    if let Some(entries) = entries {
        let bytes: usize = entries.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        assert_eq!(bytes, body.len());
    }
}
