//! Conversations on the main channel, legal and hostile.

use proptest::prelude::*;

use super::main_channel::MainChannel;
use super::message::{ClientMessage, ProtocolError};
use crate::protocol::Protocol;
use crate::text::Text;
use crate::v1::function_code::FunctionCode;
use crate::v1::hello::Hello;

fn t(s: &[u8]) -> Text {
    Text::new(s).unwrap()
}

fn hello(group: &[u8]) -> Hello {
    Hello { group: t(group), offer: Protocol::V1 }
}

/// The first message of `bytes` as the server decodes it.
fn decode_hello(bytes: &[u8]) -> Result<Hello, ProtocolError> {
    let mut session = MainChannel::accept(&mut Vec::new());
    let message = session.receive(bytes, &mut Vec::new())?.next();
    match message {
        Some(ClientMessage::Group(hello)) => Ok(hello),
        other => panic!("{other:?}"),
    }
}

#[test]
fn offer_of_an_unknown_protocol_is_ignored() {
    let v2 = Hello { group: t(b"g1"), offer: Protocol::V2 };
    assert_eq!(decode_hello(b"g1\0kvs2"), Ok(v2));
    assert_eq!(decode_hello(&v2.encode()), Ok(v2));
    assert_eq!(decode_hello(b"g1\0kvs432"), Ok(v2));
    assert_eq!(decode_hello(b"g1\0kvs3"), Ok(hello(b"g1")));
    assert_eq!(decode_hello(b"g1\0kvs"), Ok(hello(b"g1")));
    assert_eq!(hello(b"g1").encode(), b"g1");
    for bad in [&b"g1\0"[..], b"g1\0kv", b"g1\0xkvs2", b"g1\0\0kvs2"] {
        assert!(decode_hello(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn name_too_long_for_an_offer_is_sent_without_it() {
    let offering = |len| Hello { group: t(&vec![b'n'; len]), offer: Protocol::V2 };
    let longest = offering(95);
    assert_eq!(longest.encode().len(), 100);
    assert_eq!(decode_hello(&longest.encode()), Ok(longest));
    assert_eq!(offering(96).encode(), [b'n'; 96]);
    assert!(decode_hello(&[&[b'n'; 96][..], b"\0kvs2"].concat()).is_err());
}

#[test]
fn v2_takes_over_after_the_verdict() {
    let mut out = Vec::new();
    let mut session = MainChannel::accept(&mut out);
    assert_eq!(session.receive(b"g1\0kvs2", &mut out).unwrap().count(), 1);
    session.respond_to_group(Some(Protocol::V2), &mut out);
    assert_eq!(session.receive(b"abcde", &mut out).unwrap().count(), 1);
    session.respond_to_secret(true, &mut out);
    assert_eq!(out, [1i32, 2, 1].map(i32::to_ne_bytes).concat());
    assert_eq!((session.negotiated(), session.is_closed()), (Protocol::V2, false));
}

fn logged_in() -> MainChannel {
    let mut out = Vec::new();
    let mut session = MainChannel::accept(&mut out);
    assert_eq!(
        session.receive(b"g1", &mut out).unwrap().next(),
        Some(ClientMessage::Group(hello(b"g1")))
    );
    session.respond_to_group(Some(Protocol::V1), &mut out);
    assert_eq!(
        session.receive(b"abcde", &mut out).unwrap().next(),
        Some(ClientMessage::Secret(t(b"abcde")))
    );
    session.respond_to_secret(true, &mut out);
    assert_eq!(out, [1i32.to_ne_bytes(); 3].concat());
    session
}

/// A session that waits for the value of `k`.
fn waiting_for_value() -> MainChannel {
    let mut session = logged_in();
    let mut out = Vec::new();
    assert_eq!(session.receive(&FunctionCode::Put.encode(), &mut out).unwrap().count(), 0);
    let messages: Vec<_> = session.receive(b"k", &mut out).unwrap().collect();
    assert_eq!(messages, [ClientMessage::BeginPut(t(b"k"))]);
    session.respond_ready(true, &mut out);
    session
}

#[test]
fn refused_login_closes_the_session() {
    let mut out = Vec::new();
    let mut session = MainChannel::accept(&mut out);
    assert_eq!(session.receive(b"nogroup", &mut out).unwrap().count(), 1);
    out.clear();
    session.respond_to_group(None, &mut out);
    assert_eq!(out, 0i32.to_ne_bytes());
    assert!(session.is_closed());
    assert!(session.receive(b"more", &mut out).is_err());
}

#[test]
fn value_and_next_function_code_are_separated() {
    let cases: [(&[u8], &[u8]); 5] =
        [(b"v", b"v"), (b"", b""), (b"a\x01", b"a\x01"), (b"\x04", b"\x04"), (&[9; 99], &[9; 99])];
    for (sent, value) in cases {
        let put = ClientMessage::Put { key: t(b"k"), value: t(value) };
        for function in [FunctionCode::Put, FunctionCode::Get, FunctionCode::Delete] {
            let mut session = waiting_for_value();
            let mut out = Vec::new();
            let glued = [sent, &function.encode()].concat();
            let messages: Vec<_> = session.receive(&glued, &mut out).unwrap().collect();
            assert_eq!(messages, [put]);
            assert_eq!(out, 1i32.to_ne_bytes(), "no ready flag after the value");
        }
        let mut session = waiting_for_value();
        let mut out = Vec::new();
        let glued = [sent, &FunctionCode::Watch.encode()].concat();
        let messages: Vec<_> = session.receive(&glued, &mut out).unwrap().collect();
        assert_eq!(messages, [put, ClientMessage::BeginWatch]);
        session.respond_ready(true, &mut out);
        assert_eq!(out, 1i32.to_ne_bytes(), "no ready flag after the value");
        let mut session = waiting_for_value();
        let glued = [sent, &FunctionCode::Close.encode()].concat();
        let messages: Vec<_> = session.receive(&glued, &mut Vec::new()).unwrap().collect();
        assert_eq!(messages, [put, ClientMessage::Close]);
        assert!(session.is_closed());
    }
}

#[test]
fn malformed_value_stores_nothing() {
    let hundred = [b'x'; 100];
    let too_long = [&hundred[..], &[0; 4]].concat();
    for bad in [
        &b"v\0"[..],
        b"\0\0\0",
        b"v\x05\0\0\0",
        b"v\0\0\0\0\0",
        b"v\x01\0\0\0w",
        &hundred,
        &too_long,
    ] {
        let mut session = waiting_for_value();
        assert!(session.receive(bad, &mut Vec::new()).is_err(), "{bad:?} was accepted");
        assert!(session.is_closed());
    }
}

#[test]
fn operation_without_ready_flag_ends_and_the_next_one_begins() {
    for (function, key) in [(FunctionCode::Put, Some(b"k")), (FunctionCode::Watch, None)] {
        let mut session = logged_in();
        let mut out = Vec::new();
        let mut messages = session.receive(&function.encode(), &mut out).unwrap().count();
        if let Some(key) = key {
            assert_eq!(out, 1i32.to_ne_bytes(), "no ready flag for the key");
            out.clear();
            messages = session.receive(key, &mut out).unwrap().count();
        }
        assert_eq!(messages, 1);
        assert!(out.is_empty(), "a ready flag without the decision of the caller");
        // The application waits for the response.
        session.respond_ready(false, &mut out);
        assert_eq!(out, 0i32.to_ne_bytes());
        out.clear();
        assert_eq!(session.receive(&FunctionCode::Get.encode(), &mut out).unwrap().count(), 0);
        assert_eq!(out, 1i32.to_ne_bytes());
        let messages: Vec<_> = session.receive(b"k", &mut out).unwrap().collect();
        assert_eq!(messages, [ClientMessage::Get(t(b"k"))]);
    }
}

#[test]
fn unknown_code_is_ignored_and_an_incomplete_one_awaited() {
    let mut session = logged_in();
    let mut out = Vec::new();
    assert_eq!(session.receive(&77i32.to_ne_bytes(), &mut out).unwrap().count(), 0);
    for byte in FunctionCode::Get.encode() {
        assert!(out.is_empty());
        assert_eq!(session.receive(&[byte], &mut out).unwrap().count(), 0);
    }
    assert_eq!(out, 1i32.to_ne_bytes());
}

#[test]
fn bytes_while_a_response_is_pending_close_the_session() {
    let mut session = logged_in();
    let glued = [&FunctionCode::Get.encode()[..], b"k"].concat();
    assert_eq!(
        session.receive(&glued, &mut Vec::new()).err(),
        Some(ProtocolError::UnexpectedBytes(1))
    );
    assert!(session.is_closed());
}

proptest! {
    /// No bytes cause a panic, and each decoded put has a key and a value that were sent.
    #[test]
    fn arbitrary_bytes_are_decoded_without_panic(
        reads in prop::collection::vec(
            prop_oneof![
                (0i32..6).prop_map(|code| code.to_ne_bytes().to_vec()),
                prop::collection::vec(any::<u8>(), 0..120),
                "[a-z]{1,4}".prop_map(String::into_bytes),
            ], 0..60)
    ) {
        let mut session = logged_in();
        let mut out = Vec::new();
        let mut sent: Vec<u8> = Vec::new();
        for read in reads {
            sent.extend(&read);
            let Ok(messages) = session.receive(&read, &mut out) else { break };
            for message in messages {
                match message {
                    ClientMessage::Put { key, value } => {
                        let both = [key.as_bytes(), value.as_bytes()].concat();
                        prop_assert!(sent.windows(both.len().max(1)).any(|w| w == both));
                    }
                    ClientMessage::BeginPut(key) => {
                        session.respond_ready(!key.as_bytes().len().is_multiple_of(3), &mut out);
                    }
                    ClientMessage::BeginWatch => {
                        session.respond_ready(!sent.len().is_multiple_of(3), &mut out);
                    }
                    ClientMessage::Get(_) => session.respond_to_get(Some(b"v"), &mut out),
                    ClientMessage::Delete(_) | ClientMessage::Watch(_) => {
                        session.respond_found(false, &mut out);
                    }
                    ClientMessage::Group(_) | ClientMessage::Secret(_) => {
                        unreachable!("the session is logged in")
                    }
                    ClientMessage::Close => prop_assert!(session.is_closed()),
                }
            }
        }
    }
}
