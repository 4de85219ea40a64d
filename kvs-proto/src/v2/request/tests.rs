//! Round trips of requests, and frames that are not requests.

use proptest::prelude::*;

use super::entries::EntriesBuilder;
use super::kind::{GET, PUT, PUT_MANY};
use super::limits::FrameLimits;
use super::message::{Request, WatchTarget};
use crate::v2::header::{FrameHeader, HEADER_LEN};
use crate::v2::limits::{MAX_ENTRIES, MAX_KEY, PUT_MANY_OVERHEAD};
use crate::v2::malformed::Malformed;
use crate::v2::response::Status;

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
    fn arbitrary_frames_do_not_panic(header: [u8; HEADER_LEN], body in bytes(0), key in 0u32..50) {
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
fn lengths_over_the_limit_are_refused_by_the_header() {
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
fn one_entry_over_the_limits_refuses_the_whole_put_many() {
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
fn malformed_requests_are_detected() {
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
