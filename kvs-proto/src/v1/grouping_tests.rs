//! Property: whatever a legal application sends, and however the kernel cuts and merges it, the
//! server decodes the same operations.
//!
//! The application is [`client`](super::client). The kernel can merge a value with the function
//! code after it, and nothing else: after every other message the application waits for a response.
//! Each `send` of at most 99 bytes arrives whole.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::client::{Operation, OperationExchange, OperationResult, OperationStep};
use super::server::{ClientMessage, MainChannel};
use crate::{Protocol, Text};

/// An operation, the value that the server has for its key, and whether the kernel merges the value
/// that this operation leaves in the socket with the next message.
#[derive(Debug, Clone)]
struct Step {
    operation: Operation,
    found: Option<Text>,
    merge: bool,
}

fn key() -> impl Strategy<Value = Text> {
    prop::collection::vec(1u8..=255, 1..=99).prop_map(|bytes| Text::new(&bytes).unwrap())
}

/// Values at the edges of the rule: empty, with a function code at the end, of maximum length.
fn value() -> impl Strategy<Value = Text> {
    let any = prop::collection::vec(1u8..=255, 0..=99);
    let tricky = (prop::collection::vec(1u8..=255, 0..=95), prop::collection::vec(1u8..=4, 1..=4))
        .prop_map(|(head, tail)| [head, tail].concat());
    let short = prop::collection::vec(1u8..=4, 0..=4);
    let full = prop::collection::vec(1u8..=255, 99);
    prop_oneof![2 => any, 3 => tricky, 2 => short, 1 => full, 2 => Just(Vec::new())]
        .prop_map(|bytes| Text::new(&bytes).unwrap())
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        1 => key().prop_map(Operation::Get),
        1 => key().prop_map(Operation::Delete),
        1 => key().prop_map(Operation::Watch),
    ];
    (operation, prop::option::of(value()), any::<bool>())
        .prop_map(|(operation, found, merge)| Step { operation, found, merge })
}

/// The kernel and the server: the socket buffers what is sent, and the server reads all of it at
/// once.
struct Pair {
    session: MainChannel,
    socket: Vec<u8>,
    responses: Vec<u8>,
    seen: Vec<ClientMessage>,
}

impl Pair {
    fn logged_in() -> Self {
        let mut responses = Vec::new();
        let mut session = MainChannel::accept(&mut responses);
        assert_eq!(session.receive(b"g", &mut responses).unwrap().count(), 1);
        session.respond_to_group(Some(Protocol::V1), &mut responses);
        assert_eq!(session.receive(b"s", &mut responses).unwrap().count(), 1);
        session.respond_to_secret(true, &mut responses);
        Self { session, socket: Vec::new(), responses: Vec::new(), seen: Vec::new() }
    }

    /// One `read` of the server, if the socket has data.
    fn read(&mut self, found: Option<&Text>) {
        let read = std::mem::take(&mut self.socket);
        let requests = self.session.receive(&read, &mut self.responses).expect("legal");
        for request in requests {
            if let ClientMessage::BeginPut(_) | ClientMessage::BeginWatch = request {
                self.session.respond_ready(true, &mut self.responses);
                continue;
            }
            self.seen.push(request);
            match request {
                ClientMessage::Get(_) => {
                    self.session.respond_to_get(found.map(Text::as_bytes), &mut self.responses);
                }
                ClientMessage::Delete(_) | ClientMessage::Watch(_) => {
                    self.session.respond_found(found.is_some(), &mut self.responses);
                }
                _ => {}
            }
        }
    }

    fn play(&mut self, step: &Step) -> OperationResult {
        let mut exchange = OperationExchange::new(step.operation);
        loop {
            match exchange.next() {
                OperationStep::Send(_, bytes) => {
                    self.socket.extend(bytes);
                    exchange.sent();
                }
                OperationStep::Receive(_, len) => {
                    self.read(step.found.as_ref());
                    assert!(
                        self.responses.len() >= len,
                        "the server responds to everything at once"
                    );
                    let response: Vec<u8> = self.responses.drain(..len).collect();
                    exchange.received(&response).expect("a legal response");
                }
                OperationStep::Done(result) => {
                    if !step.merge {
                        self.read(None);
                    }
                    return result;
                }
            }
        }
    }
}

fn expected(step: &Step) -> (ClientMessage, OperationResult) {
    let found = |yes| if yes { OperationResult::Done } else { OperationResult::NoSuchKey };
    match step.operation {
        Operation::Put { key, value } => (ClientMessage::Put { key, value }, OperationResult::Done),
        Operation::Get(key) => (
            ClientMessage::Get(key),
            step.found.map_or(OperationResult::NoSuchKey, |value| {
                OperationResult::Value(value.as_bytes().to_vec())
            }),
        ),
        Operation::Delete(key) => (ClientMessage::Delete(key), found(step.found.is_some())),
        Operation::Watch(key) => (ClientMessage::Watch(key), found(step.found.is_some())),
        Operation::Close => unreachable!("appended to every sequence, not generated"),
    }
}

#[test]
fn every_legal_grouping_decodes_to_what_was_sent() {
    let mut runner = TestRunner::new(Config { cases: 100_000, ..Config::default() });
    runner
        .run(&prop::collection::vec(step(), 1..8), |sequence| {
            let mut pair = Pair::logged_in();
            let mut requests = Vec::new();
            for step in &sequence {
                let (request, result) = expected(step);
                requests.push(request);
                prop_assert_eq!(pair.play(step), result);
            }
            // Close. After a put it is merged with the value, or not.
            let close = Step { operation: Operation::Close, found: None, merge: false };
            pair.play(&close);
            requests.push(ClientMessage::Close);
            prop_assert_eq!(&pair.seen, &requests);
            prop_assert!(pair.session.is_closed() && pair.responses.is_empty());
            Ok(())
        })
        .unwrap();
}
