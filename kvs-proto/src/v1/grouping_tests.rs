//! The proof of the rule in [`server`](super::server): whatever a legal client does, and however a kernel
//! cuts and glues it, the server reads back the same operations.
//!
//! The client is [`client`](super::client) itself. The kernel may glue a value to the function code that
//! follows it, and nothing else: at every other place the client waits for an answer. Each `send` of at
//! most 99 bytes arrives whole.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::Protocol;
use super::client::{Operation, OperationExchange, OperationResult, OperationStep};
use super::server::{ClientMessage, MainChannel};
use crate::Text;

/// One operation, whether the server has the key, and whether the kernel glues what this operation
/// leaves behind to what comes next.
#[derive(Debug, Clone)]
struct Played {
    operation: Operation,
    found: Option<Text>,
    glue: bool,
}

fn key() -> impl Strategy<Value = Text> {
    prop::collection::vec(1u8..=255, 1..=99).prop_map(|bytes| Text::new(&bytes).unwrap())
}

/// Values as they hurt most: empty, ending in the low byte of a function code, as long as allowed.
fn value() -> impl Strategy<Value = Text> {
    let any = prop::collection::vec(1u8..=255, 0..=99);
    let tricky = (prop::collection::vec(1u8..=255, 0..=95), prop::collection::vec(1u8..=4, 1..=4))
        .prop_map(|(head, tail)| [head, tail].concat());
    let short = prop::collection::vec(1u8..=4, 0..=4);
    let full = prop::collection::vec(1u8..=255, 99);
    prop_oneof![2 => any, 3 => tricky, 2 => short, 1 => full, 2 => Just(Vec::new())]
        .prop_map(|bytes| Text::new(&bytes).unwrap())
}

fn played() -> impl Strategy<Value = Played> {
    let operation = prop_oneof![
        3 => (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        1 => key().prop_map(Operation::Get),
        1 => key().prop_map(Operation::Delete),
        1 => key().prop_map(Operation::Watch),
    ];
    (operation, prop::option::of(value()), any::<bool>())
        .prop_map(|(operation, found, glue)| Played { operation, found, glue })
}

/// The kernel and the server: what was sent is buffered, and read whole when the server is due.
struct Pair {
    session: MainChannel,
    socket: Vec<u8>,
    answers: Vec<u8>,
    seen: Vec<ClientMessage>,
}

impl Pair {
    fn logged_in() -> Self {
        let mut answers = Vec::new();
        let mut session = MainChannel::accept(&mut answers);
        assert_eq!(session.receive(b"g", &mut answers).unwrap().count(), 1);
        session.respond_to_group(Some(Protocol::V1), &mut answers);
        assert_eq!(session.receive(b"s", &mut answers).unwrap().count(), 1);
        session.respond_to_secret(true, &mut answers);
        Self { session, socket: Vec::new(), answers: Vec::new(), seen: Vec::new() }
    }

    /// One `read` of the server, if there is anything to read.
    fn read(&mut self, found: Option<&Text>) {
        let read = std::mem::take(&mut self.socket);
        let requests = self.session.receive(&read, &mut self.answers).expect("legal");
        for request in requests {
            if let ClientMessage::BeginPut(_) | ClientMessage::BeginWatch = request {
                self.session.respond_ready(true, &mut self.answers);
                continue;
            }
            self.seen.push(request);
            match request {
                ClientMessage::Get(_) => {
                    self.session.respond_to_get(found.map(Text::as_bytes), &mut self.answers);
                }
                ClientMessage::Delete(_) | ClientMessage::Watch(_) => {
                    self.session.respond_found(found.is_some(), &mut self.answers);
                }
                _ => {}
            }
        }
    }

    fn play(&mut self, played: &Played) -> OperationResult {
        let mut exchange = OperationExchange::new(played.operation);
        loop {
            match exchange.next() {
                OperationStep::Send(_, bytes) => {
                    self.socket.extend(bytes);
                    exchange.sent();
                }
                OperationStep::Receive(_, len) => {
                    self.read(played.found.as_ref());
                    assert!(self.answers.len() >= len, "the server answers everything at once");
                    let answer: Vec<u8> = self.answers.drain(..len).collect();
                    exchange.received(&answer).expect("a legal answer");
                }
                OperationStep::Done(outcome) => {
                    if !played.glue {
                        self.read(None);
                    }
                    return outcome;
                }
            }
        }
    }
}

fn expected(played: &Played) -> (ClientMessage, OperationResult) {
    let found = |yes| if yes { OperationResult::Done } else { OperationResult::NoSuchKey };
    match played.operation {
        Operation::Put { key, value } => (ClientMessage::Put { key, value }, OperationResult::Done),
        Operation::Get(key) => (
            ClientMessage::Get(key),
            played.found.map_or(OperationResult::NoSuchKey, |value| {
                OperationResult::Value(value.as_bytes().to_vec())
            }),
        ),
        Operation::Delete(key) => (ClientMessage::Delete(key), found(played.found.is_some())),
        Operation::Watch(key) => (ClientMessage::Watch(key), found(played.found.is_some())),
        Operation::Close => unreachable!("not generated: it ends every sequence"),
    }
}

#[test]
fn every_legal_grouping_gives_back_what_was_sent() {
    let mut runner = TestRunner::new(Config { cases: 100_000, ..Config::default() });
    runner
        .run(&prop::collection::vec(played(), 1..8), |sequence| {
            let mut pair = Pair::logged_in();
            let mut requests = Vec::new();
            for played in &sequence {
                let (request, outcome) = expected(played);
                requests.push(request);
                prop_assert_eq!(pair.play(played), outcome);
            }
            // The goodbye; after a put it is glued to the value, or not.
            let goodbye = Played { operation: Operation::Close, found: None, glue: false };
            pair.play(&goodbye);
            requests.push(ClientMessage::Close);
            prop_assert_eq!(&pair.seen, &requests);
            prop_assert!(pair.session.is_closed() && pair.answers.is_empty());
            Ok(())
        })
        .unwrap();
}
